"""Does the study server lose, double or delay votes? Many raters at once, and a server that dies.

Specification of listening studies, checks 1 to 3 of section 7.1: 200 raters with 24 trials each, 50
at once, every vote sent one to three times, on SQLite and PostgreSQL with one and three server
processes; then the same while all server processes are killed at 20 random moments. Nothing here
needs weights or audio; `--clips` gives the number of raters.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.common import Figure, Report, Setting, run
from benchmarks.postgres_server import NoPostgres, create_database, postgres_server
from benchmarks.study_raters import Load, Outcome, run_load

WORKERS = (1, 3)
KILLS = 20
MOST_SECONDS = 0.25


@contextmanager
def _servers() -> Iterator[dict[str, str | None]]:
    """Databases to measure on: name -> address of its server, None for SQLite."""
    try:
        with postgres_server() as address:
            yield {"SQLite": None, "PostgreSQL": address}
    except NoPostgres as missing:
        print(f"without PostgreSQL: {missing}")
        yield {"SQLite": None}


def outcome_of(load: Load, server: str | None) -> Outcome:
    """One run in a folder and a database of its own."""
    url = "" if server is None else create_database(server)
    with tempfile.TemporaryDirectory() as folder:
        return run_load(Path(folder), load, url)


def figures_of(where: str, load: Load, outcome: Outcome) -> Iterator[Figure]:
    """What must be zero, and how long votes took."""
    wrong = outcome.missing + outcome.doubled + abs(outcome.stored - load.votes)
    wrong += len(outcome.problems)
    words = f"{outcome.stored} of {load.votes} votes stored"
    if load.kills:
        words += f", killed {outcome.kills} times"
    yield Figure(f"votes lost, doubled or damaged, {where}", wrong, at_most=0, note=words)
    yield Figure(f"answers 5xx, {where}", outcome.server_errors, at_most=0)
    if load.kills == 0:
        yield Figure(
            f"95th percentile of a vote's answer, {where}", outcome.latency(95), "s",
            at_most=MOST_SECONDS,
            note=f"median {outcome.latency(50):.3f} s, {len(outcome.latencies)} posts",
        )  # fmt: skip


def measure(setting: Setting) -> Report:
    figures: list[Figure] = []
    raters = setting.clips
    with _servers() as servers:
        for name, server in servers.items():
            for workers in WORKERS:
                load = Load(raters=raters, workers=workers)
                where = f"{name}, {workers} server process{'es' * (workers > 1)}"
                figures += figures_of(where, load, outcome_of(load, server))
            load = Load(raters=raters, kills=KILLS)
            figures += figures_of(f"{name}, killed", load, outcome_of(load, server))
    return Report(
        title="Listening study under load",
        question=f"{raters} raters with 24 trials, 50 at once, each vote sent one to three times.",
        figures=tuple(figures),
        recipe={"load": vars(Load(raters=raters)), "workers": WORKERS, "kills": KILLS},
        parts=(),
    )


if __name__ == "__main__":
    run("study_load", measure, __doc__)
