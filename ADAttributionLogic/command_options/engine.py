"""Options that say where many scans are computed: on this machine, on a cluster, or as a share of a job array."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING, Any

from ADAttributionLogic.errors import UsageError

if TYPE_CHECKING:
    from ADAttributionLogic.batch.question import BatchOptions
    from ADAttributionLogic.engines.shards import Shard
    from ADAttributionLogic.engines.tasks import Engine
    from ADAttributionLogic.networks.packages import Model

#: Fewer scans than this are computed before other processes have begun: of those to be registered, and of others.
_WORTH_REGISTERED, _WORTH_PROCESSES = 3, 8
#: Of a GPU, in MB: what each process that uses it takes for itself; and which share of it may be taken so.
_CONTEXT_MB, _CONTEXT_SHARE = 600.0, 0.5


#: What the options say where nobody asked.
UNASKED: dict[str, Any] = {
    "workers": None,
    "threads": None,
    "explaining": None,
    "mem_gb": None,
    "scheduler": None,
    "cluster": None,
    "jobs": None,
    "json_lines": False,
    "shard": None,
}


def add_engine_options(command: Any, *also: str, shards: bool = True) -> None:
    """Add ``--workers``, ``--threads``, ``--mem-gb``, ``--scheduler``, ``--cluster``, ``--jobs`` and ``--shard``.

    Parameters
    ----------
    command
        Parser of the command.
    *also : str
        Other names of ``--workers``.
    shards : bool
        Whether a share can be asked for.
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
    group.add_argument(
        "--explaining",
        type=int,
        metavar="N",
        help="so many workers explain at a time, the others prepare and write (default: as many as a GPU's memory "
        "suffices for, at most 4; on processors all)",
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
        "--json-lines", action="store_true", help="what happens as JSON, a line each, on stdout; for other programs"
    )
    if shards:
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
        from ADAttributionLogic.engines.dask_cluster import DaskCluster

        return DaskCluster(options.scheduler or "", kind=options.cluster or "", jobs=options.jobs or 0)
    if options.workers is None and count < (_WORTH_PROCESSES if asked.preparation is None else _WORTH_REGISTERED):
        return _here(options)
    plan = plan_for(
        max(min(count, _most_on_device(asked.device)), 1),
        memory_need_mb(model, asked),
        workers=options.workers,
        threads=options.threads,
        total_mb=None if options.mem_gb is None else 1024 * options.mem_gb,
    )
    if plan.workers == 1:
        return _here(options)
    print(plan.reason, file=sys.stderr)
    return LocalProcesses(plan)


def _most_on_device(device: str) -> int:
    """So many processes that a GPU's memory is not used up by their being there."""
    import torch

    from ADAttributionLogic.device import choose_device

    chosen = choose_device(device)
    if chosen.type != "cuda":
        return sys.maxsize
    memory = torch.cuda.get_device_properties(chosen).total_memory / 2**20
    return max(int(_CONTEXT_SHARE * memory / _CONTEXT_MB), 1)


def _here(options: argparse.Namespace) -> Engine:
    from ADAttributionLogic.engines.here import Here
    from ADAttributionLogic.engines.machine import keep_freed_memory

    keep_freed_memory()
    if options.threads is not None:
        import torch

        torch.set_num_threads(options.threads)
    return Here()


def _check(options: argparse.Namespace) -> None:
    for name in ("workers", "threads", "explaining", "jobs"):
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
    graph = model.network.graph
    # A network whose layers are unknown is taken for one of the published size.
    values = _USUAL_VALUES * voxels if graph is None else sum(math.prod(layer.shape) for layer in graph.layers)
    of_scan = _BYTES_PREPARED if asked.preparation is not None else _BYTES_GIVEN
    return _BASE_MB + (voxels * of_scan + values * _BYTES_OF_VALUES) / 2**20


_BASE_MB = 850.0
_BYTES_GIVEN, _BYTES_PREPARED = 30, 60
_USUAL_VALUES, _BYTES_OF_VALUES = 30, 4


def sources_of(options: argparse.Namespace, atlas: str | None) -> Any:
    """Where workers read what was asked with; `atlas` as given, None without one."""
    from ADAttributionLogic.batch.workers import Sources

    return Sources.named(options.model, options.output, atlas, options.grouping)
