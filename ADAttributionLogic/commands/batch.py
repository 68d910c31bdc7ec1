"""``ad-attribution batch``: the command line of :mod:`ADAttributionLogic.batch.explaining`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ADAttributionLogic.command_options.batch import add_question_options, asked_atlas, asked_options
from ADAttributionLogic.command_options.batch import parse_method as parse_method
from ADAttributionLogic.command_options.engine import add_engine_options, asked_engine, asked_shard, sources_of
from ADAttributionLogic.command_options.preparation import cache_folder
from ADAttributionLogic.commands.run_page import view_of
from ADAttributionLogic.errors import Cancelled, UsageError

#: Exit code when the batch is complete but for scans that failed.
SOME_FAILED = 3


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "batch",
        help="explain all scans of a folder or a CSV",
        description="Explain all scans of a folder, or of a CSV with a column 'scan', into one folder per scan and a "
        "summary table. Started again with the same question, it goes on where it was interrupted.",
    )
    command.add_argument("input", metavar="INPUT", help="folder with scans, or CSV with a column 'scan'")
    add_question_options(command, "none")
    command.add_argument("--out", required=True, metavar="DIR", help="new folder, or one of an interrupted batch")
    command.add_argument("--private", action="store_true", help="as for explain, also in the summary")
    add_engine_options(command)
    command.set_defaults(run=_batch)


def _batch(options: argparse.Namespace) -> int:
    from ADAttributionLogic.batch.explaining import count_open, explain_batch
    from ADAttributionLogic.cohort.scan_list import find_scans
    from ADAttributionLogic.networks.loading import load_model

    if options.private and options.keep_identifiers:
        raise UsageError("--private leaves out what --keep-identifiers keeps. Say one of them.")
    scans = find_scans(options.input, without=[options.out])
    asked, atlas = asked_options(options, options.private), asked_atlas(options)
    model, shard = load_model(options.model, output=options.output), asked_shard(options)
    print(f"{len(scans)} scans" + (f", shard {shard}" if shard else ""), file=sys.stderr)
    share = list(scans) if shard is None else shard.of(scans)
    engine = asked_engine(options, count_open(share, options.out), model, asked)
    with cache_folder(options.no_cache) as cache, going_on_later(), view_of(options.json_lines) as view:
        result = explain_batch(
            scans,
            model,
            replace(asked, cache=cache),
            options.out,
            atlas=atlas,
            on_row=view.row,
            listener=view.event,
            on_progress=view.progress,
            engine=engine,
            sources=sources_of(options, None if atlas is None else options.atlas),
            shard=shard,
        )
    told = f"{result.done} computed, {result.kept} complete from before, {result.failed} failed: {result.summary}"
    print(told, file=sys.stderr if options.json_lines else sys.stdout)
    return SOME_FAILED if result.failed else 0


@contextmanager
def going_on_later() -> Iterator[None]:
    """An interruption by the user is no failure: what is complete is kept, and started again it goes on."""
    try:
        yield
    except KeyboardInterrupt as cause:
        raise Cancelled("Cancelled; the results that are complete are kept. Start it again to go on.") from cause
