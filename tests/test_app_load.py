"""The app under load at a reduced size; `benchmarks.app_load` is the full one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import app_load
from benchmarks.app_driver import Resources
from benchmarks.app_load import Served, Size, Soak, overtaken, thinned
from benchmarks.browser import NoBrowser
from benchmarks.common import DEFAULT_CLIPS, parse_setting, write_result
from tests.parts import lacking

FEW = "1"  # as `--clips`: nine seconds of traffic
TIMED = ("usable page", "button to clip", "a vote's answer", "growth of")


def test_one_command_measures_and_nobody_is_lost_overtaken_or_left_in_the_dark(
    scoring_preset: Path, tmp_path: Path
) -> None:
    setting = parse_setting("", ["--preset", str(scoring_preset), "--clips", FEW,
                                 "--out", str(tmp_path)])  # fmt: skip
    try:
        write_result(setting, "app_load", app_load.measure(setting), 1.0)
    except NoBrowser as error:
        lacking(str(error))
    record = json.loads((tmp_path / "app_load.json").read_text())
    missed = {
        figure["name"]: figure["value"]
        for figure in record["figures"]
        if figure["met"] is False and not any(words in figure["name"] for words in TIMED)
    }
    assert missed == {}  # times and growth of seconds on a busy machine aside
    done = record["details"]["done"]
    assert set(done) == {"make", "score", "leave", "look", "vote"} and all(done.values())


def test_the_full_size_is_what_was_asked_for() -> None:
    assert Size.of(DEFAULT_CLIPS) == Size()
    assert (app_load.VISITORS, Size().soak_seconds) == (10, 30 * 60)


@pytest.mark.parametrize(
    ("started", "count"), [([1, 2, 3], 0), ([2, 1, 3], 1), ([3, 1, 2], 1), ([3, 2, 1], 2)]
)
def test_somebody_who_is_begun_after_a_later_visitor_was_overtaken(
    started: list[float], count: int
) -> None:
    assert overtaken(started) == count


def test_growth_is_seen_and_warming_up_is_not() -> None:
    soak = object.__new__(Soak)
    soak.failures, soak.done = [], {}
    soak.samples = [(t, Resources(min(t, 10), 5, 5 if t < 30 else 6)) for t in range(1, 41)]
    assert [soak.growth(name) for name in Resources._fields] == [0, 0, pytest.approx(0.2)]
    met = {figure.name: figure.met for figure in app_load._figures_of_soak(soak)}
    assert met["growth of memory"] and not met["growth of threads"]
    assert len(thinned(soak.samples * 100)) <= app_load.SHOWN_SAMPLES


@pytest.mark.parametrize("wrong", ["failed", "overtaken", "unaware"])
def test_whatever_goes_wrong_misses_a_target(wrong: str) -> None:
    served = Served(visitors=10, waits=[1.0])
    served.votes.latencies.append(0.01)
    setattr(served, wrong, 1)
    missed = [figure.name for figure in app_load._figures_of_load(served) if figure.met is False]
    assert len(missed) == 1
