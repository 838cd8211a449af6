"""How long does a clip take beside another process that wants the processor, too?

Threads that compute one matrix product wait for each other by spinning. On two cores, of which a
listener's vote, a second server or anything else takes one now and then, they spin in vain. The
app's process spins less (`ttmpref.ui.process`). Here the demo makes clips in a fresh process as
torch has it and in one with the app's manners, alone and beside a busy process, in turns.
"""

from __future__ import annotations

import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.common import ALL_PARTS, REPOSITORY, Figure, Report, Setting, cores, run, status_of
from ttmpref.ui.process import SPINS, share_the_machine

ROUNDS, CLIPS_ALONE, CLIPS_BESIDE = 3, 4, 3
WAYS = {"plain": "torch's own", "shared": "the app's"}
BESIDE_TARGET, ALONE_TARGET = 1.5, 0.8
GB = 1e9


def measure(setting: Setting) -> Report:
    found: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS}
    for _ in range(ROUNDS):
        for way, results in found.items():
            results.append(_in_fresh_process(setting.preset, way))
    alone, beside, memory = (
        {way: statistics.median(one[k] for one in results) for way, results in found.items()}
        for k in range(3)
    )
    figures = [
        Figure(f"{name} threads, {place}", seconds[way], "s")
        for place, seconds in (("alone", alone), ("beside a busy process", beside))
        for way, name in WAYS.items()
    ]
    figures += [
        Figure(
            "torch's own / the app's, alone", alone["plain"] / alone["shared"], "x",
            at_least=ALONE_TARGET,
        ),
        Figure(
            "torch's own / the app's, beside a busy process", beside["plain"] / beside["shared"],
            "x", at_least=BESIDE_TARGET,
        ),
        *(Figure(f"peak memory, {name}", memory[way] / GB, "GB") for way, name in WAYS.items()),
    ]  # fmt: skip
    return Report(
        title="A clip on a busy machine",
        question=f"What does it cost that another process keeps one of {cores()} cores?",
        figures=tuple(figures),
        recipe={
            "rounds": ROUNDS, "clips alone": CLIPS_ALONE, "clips beside": CLIPS_BESIDE,
            "spins": SPINS,
        },
        parts=ALL_PARTS,
    )  # fmt: skip


def _in_fresh_process(preset: str, way: str) -> tuple[float, float, float]:
    """Seconds of a clip alone and beside a busy process, and the peak memory in bytes."""
    call = f"from benchmarks.busy_machine import worker; worker({preset!r}, {way!r})"
    done = subprocess.run(
        [sys.executable, "-c", call], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    alone, beside, memory = map(float, done.stdout.split()[-3:])
    return alone, beside, memory


def worker(preset: str, way: str) -> None:
    """Print what `_in_fresh_process` returns; the way must be chosen before torch is loaded."""
    if way == "shared":
        share_the_machine()
    from ttmpref.studio import Studio

    studio = Studio.open(preset, "cpu")
    studio.warm_up()

    def seconds(i: int) -> float:
        request = studio.request(f"Calm piano, take {i}", seed=i)
        started = time.perf_counter()
        studio.generate(request)
        return time.perf_counter() - started

    seconds(0)
    alone = statistics.median(map(seconds, range(CLIPS_ALONE)))
    with _busy_process():
        beside = statistics.median(map(seconds, range(CLIPS_BESIDE)))
    print(alone, beside, 1024 * status_of("self", "VmHWM"))


@contextmanager
def _busy_process() -> Iterator[None]:
    process = multiprocessing.get_context("spawn").Process(target=_spin, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def _spin() -> None:
    while True:
        pass


if __name__ == "__main__":
    run("busy_machine", measure, __doc__)
