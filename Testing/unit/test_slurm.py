"""A real SLURM of one node: a job array of shards, and workers that dask-jobqueue submits."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_tasks import Squares

from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.batch.explaining import explain_batch
from ADAttributionLogic.batch.question import BatchOptions
from ADAttributionLogic.cohort.scan_list import find_scans
from ADAttributionLogic.engines.tasks import Task
from ADAttributionLogic.explain import MethodRequest
from ADAttributionLogic.networks.loading import load_model

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None for name in NEEDED),
        reason="SLURM is not installed (Debian: slurmctld slurmd slurm-client munge)",
    ),
]

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
NodeName={host} CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Its daemons, of this user and for this test alone; yields the folder."""
    import getpass

    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "key").touch(mode=0o600)
    (folder / "key").write_bytes(os.urandom(128))
    text = CONFIGURATION.format(
        host=socket.gethostname().partition(".")[0], user=getpass.getuser(), folder=folder, ports=free_ports(2)
    )
    (folder / "slurm.conf").write_text(text)
    found = pytest.MonkeyPatch()
    found.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    found.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin")
    found.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    munge = ["munged", "--force", "--foreground", f"--key-file={folder}/key", f"--socket={folder}/munge.socket"]
    munge += [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
    daemons = []
    try:
        with open(folder / "out.log", "wb") as log:
            for command in (munge, ["slurmctld", "-D"], ["slurmd", "-D"]):
                daemons.append(subprocess.Popen(command, stdout=log, stderr=log))
                time.sleep(0.5)
        stop = time.monotonic() + 60
        while "idle" not in asked("sinfo", "--noheader"):
            if time.monotonic() > stop:
                logs = [
                    (folder / name).read_text() for name in ("slurmctld.log", "slurmd.log") if (folder / name).exists()
                ]
                pytest.skip(f"SLURM does not start here: {' '.join(logs)[-500:]}")
            time.sleep(0.5)
        yield folder
    finally:
        asked("scancel", "--full", "--user", getpass.getuser())
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()
        found.undo()


def asked(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def bytes_of(folder: Path) -> dict[str, bytes]:
    wanted = [*folder.rglob("*.nii.gz"), *folder.rglob("tables/*.csv")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in wanted}


def test_a_job_array_needs_no_scheduler_of_ours(
    slurm: Path, small_package: Path, small_scan_file: Path, tmp_path: Path
) -> None:
    """As README.md has it; the same bytes as without SLURM."""
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in range(3):
        shutil.copy(small_scan_file, scans / f"sub-{number}.nii.gz")
    words = ["ad-attribution", "batch", str(scans), "--model", str(small_package), "--method", "lrp", "--atlas", "aal"]
    words += ["--no-figure", "--no-report", "--out", str(tmp_path / "out"), "--shard", "slurm"]
    log = tmp_path / "job-%a.log"
    done = asked("sbatch", "--wait", "--array=1-2", f"--output={log}", "--mem=900", "--wrap", " ".join(words))
    said = "".join(p.read_text() for p in sorted(tmp_path.glob("job-*.log")))
    assert "Submitted batch job" in done, done
    options = BatchOptions([MethodRequest("lrp")], figure=False, page=False)
    here = tmp_path / "here"
    explain_batch(find_scans(scans), load_model(small_package), options, here, atlas=load_atlas("aal"))
    assert bytes_of(tmp_path / "out") == bytes_of(here) != {}, said
    assert len((tmp_path / "out" / "summary.csv").read_text().splitlines()) == 4


def test_dask_jobqueue_submits_workers_and_loses_nothing_with_a_job(slurm: Path, tmp_path: Path) -> None:
    """As ``--cluster slurm --jobs 2``; one job is cancelled in the middle."""
    dask = pytest.importorskip("dask")
    pytest.importorskip("dask_jobqueue")
    from ADAttributionLogic.engines.dask_cluster import DaskCluster

    configured = {"cores": 1, "memory": "900MB", "processes": 1, "interface": "lo", "death-timeout": 60}
    configured |= {"log-directory": str(tmp_path), "job-script-prologue": [], "python": sys.executable}
    with dask.config.set({f"jobqueue.slurm.{key}": value for key, value in configured.items()}):
        tasks = [Task(f"t{n}", (n, 0.3)) for n in range(12)]
        found = []
        for outcome in DaskCluster(kind="slurm", jobs=2).run(tasks, Squares()):
            found.append(outcome)
            if len(found) == 3:
                running = asked("squeue", "--noheader", "--format=%i").split()
                assert running
                asked("scancel", running[0])
    assert sorted(o.value for o in found) == [n * n for n in range(12)]
