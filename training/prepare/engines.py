"""Who works: this process, or any Dask cluster. One option names it; results are the same.

    here             this process, the next track decoded while one is encoded
    dask             processes on this machine
    slurm            jobs of a SLURM cluster (dask-jobqueue, settings in Dask's own configuration)
    kubernetes       pods (dask-kubernetes, settings in Dask's own configuration)
    tcp://host:port  a Dask scheduler that runs already

Workers of other machines need this project, the audio and the data set's folder under the same
paths. A worker that dies is no loss: its jobs go to others. A job that kills several workers is a
fault of its track.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from types import ModuleType
from typing import TYPE_CHECKING, Any

from training.prepare.work import Done, Job, Loaded, Order, TextJob, finish, load, whole
from ttmpref.reward.files import one_ahead
from ttmpref.types import InvalidRequest

if TYPE_CHECKING:
    from distributed import Client, Future

Engine = Callable[[Order, Iterable[Job]], Iterator[Done]]

ENGINES = ("here", "dask", "slurm", "kubernetes")
ADDRESSES = ("tcp://", "tls://", "ucx://", "ws://")
JOBS_IN_FLIGHT = 256  # the scheduler is told no more at once
# A process of ours that restarts after it was killed may take longer to load than Dask waits.
RESTART = {"distributed.deploy.lost-worker-timeout": "1h"}


def run_here(order: Order, jobs: Iterable[Job]) -> Iterator[Done]:
    """In order, in this process."""
    loaded: Iterator[Loaded] = (load(order, job) for job in jobs)
    return (finish(order, one) for one in one_ahead(loaded))


def run_on(client: Client, order: Order, jobs: Iterable[Job]) -> Iterator[Done]:
    """As they are done, on the workers of a cluster."""
    from distributed import KilledWorker, as_completed

    waiting = iter(jobs)
    sent: dict[str, Job] = {}

    def send(count: int) -> list[Future]:
        some = list(islice(waiting, count))
        futures = [client.submit(whole, order, job, pure=False) for job in some]
        sent.update((future.key, job) for future, job in zip(futures, some, strict=True))
        return futures

    suspects = []
    running = as_completed(send(JOBS_IN_FLIGHT))
    for future in running:
        job = sent.pop(future.key)
        try:
            yield future.result()
        except KilledWorker:
            suspects.append(job)
        running.update(send(1))
    # Dask blames every job that waited on a worker that died: each is tried again, alone.
    for job in suspects:
        try:
            yield client.submit(whole, order, job, pure=False).result()
        except KilledWorker:
            yield Done(job, faults=(f"{_name(job)}: killed every worker that took it",))


def _name(job: Job) -> str:
    return f"text {job.number}" if isinstance(job, TextJob) else job.track.path


@contextmanager
def engine(name: str, workers: int) -> Iterator[Engine]:
    """What runs jobs; its cluster, where it has one of its own, ends with the block.

    Raises:
        InvalidRequest: unknown name, a package is missing, or no scheduler answers.
    """
    if name == "here":
        yield run_here
        return
    if name not in ENGINES and not name.startswith(ADDRESSES):
        accepted = ", ".join((*ENGINES, "tcp://host:port"))
        raise InvalidRequest(f"engine is {name!r}; accepted: {accepted}")
    distributed, dask = (_package(one, "distributed") for one in ("distributed", "dask"))
    with dask.config.set(RESTART), _cluster(name, workers) as cluster:
        try:
            client = distributed.Client(cluster)
        except OSError as error:
            raise InvalidRequest(f"engine {name!r} does not answer ({error})") from None
        with client:
            yield lambda order, jobs: run_on(client, order, jobs)


def _cluster(name: str, workers: int) -> AbstractContextManager[Any]:
    """A cluster of so many workers, or the address of one that is there."""
    match name:
        case "dask":
            distributed = _package("distributed", "distributed")
            return distributed.LocalCluster(
                n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
            )
        case "slurm":
            cluster = _slurm()
            cluster.adapt(minimum=workers, maximum=workers)  # jobs that ended are replaced
            return cluster
        case "kubernetes":
            package = _package("dask_kubernetes.operator", "dask-kubernetes")
            cluster = package.KubeCluster()
            cluster.adapt(minimum=workers, maximum=workers)
            return cluster
        case _:
            return nullcontext(name)


def _slurm() -> Any:
    """A cluster whose jobs are as Dask's own configuration says."""
    package = _package("dask_jobqueue", "dask-jobqueue")
    if shutil.which("sbatch") is None:
        raise InvalidRequest("engine 'slurm' needs sbatch, which is not on the PATH")
    try:
        return package.SLURMCluster()
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise InvalidRequest(f"jobqueue.slurm of Dask's configuration: {reason}") from None


def _package(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InvalidRequest(f"this engine needs a package: pip install {package}") from None
