"""The load and crash harness at a reduced size; `benchmarks.study_load` is the full one."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest

from benchmarks import study_load
from benchmarks.common import parse_setting, write_result
from benchmarks.postgres_server import create_database
from benchmarks.study_load import KILLS, MOST_SECONDS, figures_of, loads
from benchmarks.study_raters import Load, Outcome, run_load

SMALL = {"trials": 8, "prompts": 10, "sample_rate": 8_000, "pace": 0.0}


@pytest.fixture
def database(request):
    """DATABASE_URL of an empty database: SQLite's default, or PostgreSQL."""
    if request.param == "sqlite":
        return ""
    return create_database(request.getfixturevalue("postgres"))


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


def test_the_full_size_is_what_checks_1_and_2_ask_for():
    planned = loads(200).values()
    assert {(load.votes, load.at_once) for load in planned} == {(4_800, 50)}
    assert [(load.workers, load.kills) for load in planned] == [(1, 0), (3, 0), (1, KILLS)]


def test_one_command_measures_both_databases_and_its_record_can_be_written(monkeypatch, tmp_path):
    done: list[tuple[str | None, Load]] = []

    def perfect(load, server):
        done.append((server, load))
        return Outcome(stored=load.votes, kills=load.kills, latencies=[0.01])

    monkeypatch.setattr(study_load, "postgres_server", lambda: nullcontext("its address"))
    monkeypatch.setattr(study_load, "outcome_of", perfect)
    setting = parse_setting("", ["--clips", "3", "--out", str(tmp_path)])
    write_result(setting, "study_load", study_load.measure(setting), 1.0)
    planned = list(loads(3).values())
    assert done == [(server, load) for server in (None, "its address") for load in planned]
    record = json.loads((tmp_path / "study_load.json").read_text())
    assert [figure["met"] for figure in record["figures"]] == [True] * 3 * len(done)
    assert len({figure["name"] for figure in record["figures"]}) == len(record["figures"])


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({}, None),
        ({"missing": 1}, "lost"),
        ({"stored": 3}, "lost"),
        ({"doubled": 1}, "doubled"),
        ({"problems": ["a broken seal"]}, "damaged"),
        ({"statuses": {500: 1}}, "5xx"),
        ({"latencies": [2 * MOST_SECONDS] * 4}, "95th percentile"),
    ],
)
def test_whatever_goes_wrong_misses_a_target(change, missed):
    load = Load(raters=2, trials=2)
    right = {"stored": 4, "acknowledged": 4, "statuses": {200: 9}, "latencies": [0.01] * 4}
    figures = list(figures_of("somewhere", load, Outcome(**{**right, **change})))
    assert len(figures) == 3
    assert [missed in figure.name for figure in figures if not figure.met] == [True] * bool(missed)


def test_a_server_that_was_not_killed_often_enough_misses_a_target():
    load = Load(raters=2, trials=2, kills=KILLS)
    for kills in (KILLS - 1, KILLS):
        last = list(figures_of("somewhere", load, Outcome(stored=4, kills=kills)))[-1]
        assert last.met == (kills == KILLS)
