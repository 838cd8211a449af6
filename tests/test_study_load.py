"""The load and crash harness at a reduced size; `benchmarks.study_load` is the full one."""

from __future__ import annotations

import os

import pytest

from benchmarks.postgres_server import NoPostgres, create_database, postgres_server
from benchmarks.study_raters import Load, run_load

SMALL = {"trials": 8, "prompts": 10, "sample_rate": 8_000, "pace": 0.0}


@pytest.fixture
def database(request):
    """DATABASE_URL of an empty database: SQLite's default, or PostgreSQL."""
    if request.param == "sqlite":
        yield ""
        return
    try:
        with postgres_server(safe=False) as server:
            yield create_database(server)
    except NoPostgres as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


def check(load, outcome):
    assert outcome.stored == outcome.acknowledged == load.votes
    assert outcome.missing == outcome.doubled == outcome.server_errors == 0
    assert outcome.problems == []


@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
def test_checks_1_and_3_every_vote_is_stored_once_by_two_server_processes(database, tmp_path):
    load = Load(raters=8, at_once=8, workers=2, **SMALL)
    check(load, run_load(tmp_path / "load", load, database))


def test_check_2_nothing_acknowledged_is_lost_when_the_server_is_killed(tmp_path):
    load = Load(raters=8, at_once=4, kills=3, **{**SMALL, "pace": 0.1})
    outcome = run_load(tmp_path / "load", load)
    check(load, outcome)
    assert outcome.kills >= 1
