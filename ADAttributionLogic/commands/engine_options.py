"""Options that say where many scans are computed: on this machine, on a cluster, or as a share of a job array."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING, Any

from ADAttributionLogic.errors import UsageError

if TYPE_CHECKING:
    from ADAttributionLogic.batch import BatchOptions
    from ADAttributionLogic.engines.shards import Shard
    from ADAttributionLogic.engines.tasks import Engine
    from ADAttributionLogic.networks.packages import Model

#: Fewer scans than this are computed before other processes have begun.
_WORTH_PROCESSES = 3


def add_engine_options(command: Any, *also: str) -> None:
    """Add ``--workers``, ``--threads``, ``--mem-gb``, ``--scheduler``, ``--cluster``, ``--jobs`` and ``--shard``.

    Parameters
    ----------
    command
        Parser of the command.
    *also : str
        Other names of ``--workers``.
    """
    group = command.add_argument_group("where scans are computed")
    group.add_argument(
        "--workers",
        *also,
        dest="workers",
        type=int,
        metavar="N",
        help="processes on this machine, 1 for none beside this one (default: as many as cores and free memory allow)",
    )
    group.add_argument(
        "--threads", type=int, metavar="N", help="of each worker (default: the cores divided by the workers)"
    )
    group.add_argument("--mem-gb", type=float, metavar="GB", help="of all workers together (default: what is free)")
    group.add_argument(
        "--scheduler", metavar="ADDRESS", help="of a Dask cluster, e.g. tcp://head:8786, or the file of its scheduler"
    )
    group.add_argument(
        "--cluster",
        metavar="KIND",
        help="start workers by dask-jobqueue as your configuration of it says: slurm, pbs, sge, lsf, oar, htcondor",
    )
    group.add_argument("--jobs", type=int, metavar="N", help="workers that --cluster starts")
    group.add_argument(
        "--shard", metavar="I/N", help="only the I-th of N shares of the scans; 'slurm' in a job array of SLURM"
    )


def asked_shard(options: argparse.Namespace) -> Shard | None:
    """The share that was asked for; None for all.

    Raises
    ------
    UsageError
    """
    from ADAttributionLogic.engines.shards import read_shard

    return None if options.shard is None else read_shard(options.shard)


def asked_engine(options: argparse.Namespace, count: int, model: Model, asked: BatchOptions) -> Engine:
    """The engine for so many scans; how the machine is filled is said.

    Raises
    ------
    UsageError
    """
    from ADAttributionLogic.engines.local import LocalProcesses
    from ADAttributionLogic.engines.machine import plan_for

    _check(options)
    if options.scheduler is not None or options.cluster is not None:
        raise UsageError("Dask clusters come soon.")
    if options.workers is None and count < _WORTH_PROCESSES:
        return _here(options)
    plan = plan_for(
        max(count, 1),
        memory_need_mb(model, asked),
        workers=options.workers,
        threads=options.threads,
        total_mb=None if options.mem_gb is None else 1024 * options.mem_gb,
    )
    if plan.workers == 1:
        return _here(options)
    print(plan.reason, file=sys.stderr)
    return LocalProcesses(plan)


def _here(options: argparse.Namespace) -> Engine:
    from ADAttributionLogic.engines.here import Here

    if options.threads is not None:
        import torch

        torch.set_num_threads(options.threads)
    return Here()


def _check(options: argparse.Namespace) -> None:
    for name in ("workers", "threads", "jobs"):
        given = getattr(options, name)
        if given is not None and given < 1:
            raise UsageError(f"--{name} must be 1 or more, but is {given}.")
    if options.mem_gb is not None and not (math.isfinite(options.mem_gb) and options.mem_gb > 0):
        raise UsageError(f"--mem-gb must be more than 0, but is {options.mem_gb}.")
    where = [f"--{name}" for name in ("scheduler", "cluster", "workers") if getattr(options, name) is not None]
    if len(where) > 1:
        raise UsageError(f"{' and '.join(where)} are different places to compute; choose one.")
    if options.jobs is not None and options.cluster is None:
        raise UsageError("--jobs is the number of workers that --cluster starts; say which cluster.")


def memory_need_mb(model: Model, asked: BatchOptions) -> float:
    """Memory of a worker that explains scans with these options, at most.

    Measured (``make bench BENCH=throughput``), as a base for the program and its libraries and a number of bytes per
    voxel of the network's grid: activations, relevances, maps, and the scan at its own resolution.
    """
    voxels = math.prod(model.shape)
    registered = asked.preparation is not None
    return _BASE_MB + voxels * (_BYTES_PREPARED if registered else _BYTES_EXPLAINED) / 2**20


_BASE_MB = 700.0
_BYTES_EXPLAINED, _BYTES_PREPARED = 250, 320


def sources_of(options: argparse.Namespace, atlas: str | None) -> Any:
    """Where workers read what was asked with; `atlas` as given, None without one."""
    from ADAttributionLogic.batch import Sources

    return Sources.named(options.model, options.output, atlas, options.grouping)
