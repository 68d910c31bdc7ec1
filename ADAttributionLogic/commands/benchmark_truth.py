"""``ad-attribution benchmark-truth``: maps of simulated patients against the truth."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ADAttributionLogic.errors import OutputError, UsageError


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "benchmark-truth",
        help="score methods on simulated patients whose atrophy is known",
        description="Simulate patients by seed, explain each by every method and by what must lose (an edge filter, "
        "noise, an untrained network), and score the maps against the displacement that made them patients. Started "
        "again, it goes on where it stopped. Maps of another tool are scored with --map-folder.",
    )
    command.add_argument("--out", required=True, metavar="FOLDER", help="results, table.tsv and figure.png")
    command.add_argument("--data", metavar="FOLDER", help="where the simulated scans are kept (default: in --out)")
    command.add_argument("--subjects", type=int, default=30, metavar="N", help="patients (default: %(default)s)")
    command.add_argument("--contestants", default="all", metavar="A,B", help="some only (default: all)")
    command.add_argument(
        "--map-folder", metavar="FOLDER", help="score these maps instead: patient-01.nii.gz … on the scans' grid"
    )
    command.add_argument("--export", metavar="FOLDER", help="only write the patients' scans as NIfTI, for another tool")
    command.add_argument("--model", default="simulated-atrophy", help="(default: %(default)s)")
    command.add_argument(
        "--device", default="cpu", help="for maps and answers: auto, cpu, cuda, … (default: %(default)s)"
    )
    command.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="processes, of one thread each; same bits (default: %(default)s)",
    )
    command.set_defaults(run=_benchmark)


def make_bench(data: str, model: str, device: str) -> Any:
    """What all patients share, from what a process can be told."""
    from ADAttributionLogic.device import choose_device
    from ADAttributionLogic.networks.loading import load_model
    from ADAttributionLogic.simulation.anatomy import icbm152_anatomy
    from ADAttributionLogic.truth.patients import BenchmarkData
    from ADAttributionLogic.truth.scoring import prepare_bench

    return prepare_bench(BenchmarkData(icbm152_anatomy(), data), load_model(model), choose_device(device))


def _benchmark(options: argparse.Namespace) -> int:
    from ADAttributionLogic.device import choose_device
    from ADAttributionLogic.networks.loading import load_model
    from ADAttributionLogic.simulation.anatomy import icbm152_anatomy
    from ADAttributionLogic.truth.contestants import choose_contestants
    from ADAttributionLogic.truth.patients import BenchmarkData
    from ADAttributionLogic.truth.scoring import run_maps, run_shared
    from ADAttributionLogic.truth.summary import summarise, write_figure, write_table

    if options.subjects < 1:
        raise UsageError(f"--subjects must be 1 or more, but is {options.subjects}.")
    if options.jobs < 1:
        raise UsageError(f"--jobs must be 1 or more, but is {options.jobs}.")
    device = str(choose_device(options.device))
    load_model(options.model)  # what is wrong with it is said at once, not in each process
    if options.map_folder and not Path(options.map_folder).is_dir():
        raise UsageError(f"{options.map_folder} is no folder with maps.")
    contestants = choose_contestants(options.contestants)
    numbers = range(1, options.subjects + 1)
    out = Path(options.out)
    kept = str(options.data or out / "data")
    data = BenchmarkData(icbm152_anatomy(), kept)
    for name in data.make_all(numbers, options.jobs):
        print(f"{name} simulated", file=sys.stderr)
    if options.export:
        data.export(numbers, options.export)
        print(f"The scans of {options.subjects} patients: {options.export}")
        return 0
    results = out / "results"
    try:
        results.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise OutputError(f"{results} cannot be made: {cause.strerror}.") from cause
    done = (
        run_maps(make_bench(kept, options.model, device), numbers, Path(options.map_folder), results)
        if options.map_folder
        else run_shared(make_bench, (kept, options.model, device), numbers, contestants, results, options.jobs)
    )
    for patient, contestant, was_kept in done:
        print(f"{patient} {contestant}{' (kept)' if was_kept else ''}", file=sys.stderr)
    rows = summarise(results, numbers)
    write_table(rows, out / "table.tsv")
    write_figure(rows, out / "figure.png")
    _print(rows)
    print(f"\nTable: {out / 'table.tsv'}\nFigure: {out / 'figure.png'}")
    return 0


def _print(rows: Any) -> None:
    print(f"{'':32} {'n':>3}  first five  precision  average  EMD mm  P after  area")
    for row in rows:
        f = {name: values[0] for name, values in row.figures.items()}
        print(
            f"{row.contestant:32} {row.patients:>3}  {f['top_five_regions']:>10.2f}  {f['precision_at_1000']:>9.2f}  "
            f"{f['average_precision']:>7.2f}  {f['region_distance_mm']:>6.1f}  {f['deletion_5']:>7.2f}  "
            f"{f['deletion_area']:>4.2f}"
        )
