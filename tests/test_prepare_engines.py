"""A Dask cluster makes the same data set as one process, also when its workers are killed."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import dask
import dask_jobqueue  # noqa: F401  its defaults must stand before a test sets some of them
import pytest
from distributed import LocalCluster, default_client

from tests.prepared import files_of, order_of, prepared, write_tracks
from training.prepare import engines
from training.prepare.catalogue import Track
from training.prepare.engines import engine
from training.prepare.work import Done, Order, TrackJob
from ttmpref.types import InvalidRequest

SBATCH = """\
#!/bin/sh
# Runs a job's script at once, in the background, as SLURM would on a node: from a copy, because
# the script itself is gone as soon as it is submitted.
for script; do :; done
cp "$script" "$(dirname "$0")/job.$$"
setsid sh "$(dirname "$0")/job.$$" >/dev/null 2>&1 &
echo $! >>"$(dirname "$0")/jobs"
echo "Submitted batch job $!"
"""
SCANCEL = """\
#!/bin/sh
for job; do kill -- "-$job"; done
"""


@pytest.fixture(scope="module")
def order(tiny_preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Order:
    """Audio with the data set that one process makes of it."""
    audio = write_tracks(tmp_path_factory.mktemp("audio"))
    order = order_of(tiny_preset, audio, tmp_path_factory.mktemp("alone") / "out")
    prepared(order)
    return order


@pytest.fixture
def elsewhere(tiny_preset: Path, order: Order, tmp_path: Path) -> Order:
    return order_of(tiny_preset, order.audio, tmp_path / "out")


def test_a_killed_worker_loses_nothing(order: Order, elsewhere: Order) -> None:
    killed = []

    def kill_one(done: Done) -> None:
        if not killed:
            workers = default_client().run(os.getpid)
            killed.append(next(iter(workers.values())))
            os.kill(killed[0], signal.SIGKILL)

    report = prepared(elsewhere, engine_name="dask", workers=2, on_done=kill_one)
    assert killed and killed[0] != os.getpid()
    assert report.faults == [] and files_of(elsewhere.out) == files_of(order.out)


def test_a_scheduler_that_runs_already_is_used(order: Order, elsewhere: Order) -> None:
    settings = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**settings, processes=False, protocol="tcp") as one:
        prepared(elsewhere, engine_name=one.scheduler_address)
        assert one.scheduler.total_nthreads > 0, "a cluster that is not ours goes on"
    assert files_of(elsewhere.out) == files_of(order.out)


def test_slurm_jobs_do_the_work(
    order: Order, elsewhere: Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything but SLURM itself: two scripts stand for `sbatch` and `scancel`."""
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    settings = {
        "cores": 1, "memory": "2GB", "processes": 1, "interface": "lo", "python": sys.executable,
        "local-directory": str(tmp_path / "scratch"),
    }  # fmt: skip
    with dask.config.set({f"jobqueue.slurm.{name}": value for name, value in settings.items()}):
        prepared(elsewhere, engine_name="slurm", workers=1)
    assert len((tmp_path / "jobs").read_text().split()) >= 1
    assert files_of(elsewhere.out) == files_of(order.out)


def poisoned(order: Order, job: TrackJob) -> Done:
    if job.track.path == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    return Done(job, clips=1)


def test_a_track_that_kills_its_workers_is_a_fault_of_its_own(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "whole", poisoned)
    jobs = [TrackJob(row, Track(name, name, "")) for row, name in enumerate(("poison", "good"))]
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        engine("dask", 1) as run,
    ):
        done = {one.job.row: one for one in run(order, jobs)}
    assert done[0].faults == ("poison: killed every worker that took it",) and not done[0].clips
    assert done[1].clips == 1


def test_an_engine_that_is_not_there_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_kubernetes.operator", None)
    for name, words in {
        "ray": "engine is 'ray'; accepted: here, dask, slurm, kubernetes, tcp://host:port",
        "kubernetes": "pip install dask-kubernetes",
        "tcp://127.0.0.1:1": "engine 'tcp://127.0.0.1:1' does not answer",
    }.items():
        with (
            dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
            pytest.raises(InvalidRequest, match=words),
            engine(name, 1),
        ):
            pass


def test_slurm_without_its_command_or_settings_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InvalidRequest, match="needs sbatch"), engine("slurm", 1):
        pass
    (tmp_path / "sbatch").write_text("")
    (tmp_path / "sbatch").chmod(0o755)
    with (
        dask.config.set({"jobqueue.slurm.cores": None}),
        pytest.raises(InvalidRequest, match="jobqueue.slurm .* cores"),
        engine("slurm", 1),
    ):
        pass
