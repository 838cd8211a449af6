"""Does the study server lose, double or delay votes? Many raters at once, and a server that dies.

Specification of listening studies, checks 1 to 3 of section 7.1: 200 raters with 24 trials each, 50
at once, every vote sent one to three times, on SQLite and PostgreSQL with one and three server
processes; then the same while the server is killed at 20 random moments. Nothing here needs weights
or audio; `--clips` gives the number of raters. Six runs, under ten minutes on two idle cores.

Raters answer sooner than people can: two clips of ten seconds take twenty seconds to hear, here a
trial lasts `PACE` of two seconds, so that a run is some twenty times as busy as its 50 listeners.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import Figure, Report, Setting, run
from benchmarks.postgres_server import create_database, postgres_server
from benchmarks.study_raters import Load, Outcome, run_load

WORKERS = (1, 3)
KILLS = 20
MOST_SECONDS = 0.25
PACE = 0.4  # of the timed runs
KILLED_PACE = 0.2  # of the others, which time nothing


def loads(raters: int) -> dict[str, Load]:
    """What is done to each database, by name."""
    timed = Load(raters=raters, pace=PACE)
    found = {
        f"{workers} server process{'es' * (workers > 1)}": dataclasses.replace(
            timed, workers=workers
        )
        for workers in WORKERS
    }
    return found | {"killed": dataclasses.replace(timed, pace=KILLED_PACE, kills=KILLS)}


def outcome_of(load: Load, server: str | None) -> Outcome:
    """One run in a folder and a database of its own."""
    url = "" if server is None else create_database(server)
    with tempfile.TemporaryDirectory() as folder:
        return run_load(Path(folder), load, url)


def figures_of(where: str, load: Load, outcome: Outcome) -> Iterator[Figure]:
    """What must be zero, and how long votes took."""
    wrong = outcome.missing + outcome.doubled + abs(outcome.stored - load.votes)
    wrong += len(outcome.problems)
    yield Figure(
        f"votes lost, doubled or damaged, {where}", wrong, at_most=0,
        note=f"{outcome.stored} of {load.votes} votes stored in {outcome.seconds:.0f} s",
    )  # fmt: skip
    yield Figure(f"answers 5xx, {where}", outcome.server_errors, at_most=0)
    if load.kills:
        yield Figure(f"times that the server was killed, {where}", outcome.kills, at_least=KILLS)
    else:
        yield Figure(
            f"95th percentile of a vote's answer, {where}", outcome.latency(95), "s",
            at_most=MOST_SECONDS,
            note=f"median {outcome.latency(50):.3f} s, {len(outcome.latencies)} votes, repeats "
            "with the same key aside",
        )  # fmt: skip


def measure(setting: Setting) -> Report:
    figures: list[Figure] = []
    raters, planned = setting.clips, loads(setting.clips)
    with postgres_server() as address:
        for name, server in (("SQLite", None), ("PostgreSQL", address)):
            for words, load in planned.items():
                print(f"{name}, {words} ...", flush=True)
                figures += figures_of(f"{name}, {words}", load, outcome_of(load, server))
    return Report(
        title="Listening study under load",
        question=f"{raters} raters with 24 trials, 50 at once, each vote sent one to three times.",
        figures=tuple(figures),
        recipe={words: dataclasses.asdict(load) for words, load in planned.items()},
        parts=(),
    )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # servers end with it
    run("study_load", measure, __doc__)
