"""The Results tab: who may see which study, under which names, with the numbers of its report."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import gradio as gr
import pytest

from tests.studies import Clock, answered_study, settings_for
from ttmpref.study.errors import NotFound, TooMany, Unauthorised, Unavailable
from ttmpref.study.report import words as number_words
from ttmpref.study.results import Results
from ttmpref.study.store import Store
from ttmpref.study.store.admins import WRONG_TOKENS_PER_MINUTE
from ttmpref.ui.results import ResultsPage, results_html

TOKEN = "an admin token of tests"
TITLE = "<b>Which</b> clip?"
SLUGS = {"shown": "close", "own": "session", "hidden": "never", "running": "close"}


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def store(clock: Clock, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Four studies with votes; all but "running" have closed."""
    root = tmp_path_factory.mktemp("results")
    store = Store(settings_for(root, ""), clock)
    for slug, reveal in SLUGS.items():
        answered_study(root, store, clock, slug, title=TITLE, reveal=reveal)
        if slug != "running":
            store.studies.move(slug, "closed", "tester")
    yield store
    store.close()


def names(entries):
    return {entry.name for entry in entries}


def test_everybody_sees_studies_that_have_ended_and_may_be_revealed(store):
    assert names(Results(store).entries()) == {"shown-v1", "own-v1"}


def test_operators_see_all_and_a_wrong_token_sees_nothing(store):
    entries = Results(store).entries(TOKEN)
    assert names(entries) == {f"{slug}-v1" for slug in SLUGS}
    assert {entry.name for entry in entries if entry.blind} == {"running-v1"}
    for wrong in ("no", "é", TOKEN + " "):
        with pytest.raises(Unauthorised):
            Results(store).entries(wrong)


def test_guessing_the_token_ends_soon_for_one_network_whichever_door_it_tries(store, clock):
    results, (here, there) = Results(store), ("203.0.113.7", "198.51.100.7")
    for _ in range(WRONG_TOKENS_PER_MINUTE):
        with pytest.raises(Unauthorised):
            results.entries("a wrong token", here)
    for token in ("a wrong token", TOKEN):
        with pytest.raises(TooMany):
            store.admins.check(token, "203.0.113.200")
        with pytest.raises(TooMany):
            results.entries(token, here)
    assert results.entries(TOKEN, there)
    clock.pass_(60)
    assert results.entries(TOKEN, here)


@pytest.mark.parametrize("name", ["hidden-v1", "running-v1", "running", "nothing", "../shown-v1"])
def test_no_name_opens_what_is_not_listed(store, name):
    with pytest.raises(NotFound):
        Results(store).analysis(name)


def test_a_running_study_stands_under_codes_even_for_operators(store):
    results = Results(store)
    entry = next(one for one in results.entries(TOKEN) if one.name == "running-v1")
    analysis = results.analysis(entry.name, TOKEN)
    html = results_html(entry, analysis)
    assert "system-1" in html and ">old" not in html and "new over" not in html
    assert analysis.ranker is not None and "It still runs" in html


def test_the_tab_shows_the_numbers_of_the_report_and_escapes_titles(store):
    results = Results(store)
    entry = next(one for one in results.entries() if one.name == "shown-v1")
    analysis = results.analysis(entry.name)
    html = results_html(entry, analysis)
    for estimate in (
        analysis.ranker.accuracy,
        analysis.ranker.ceiling.leave_one_out,
        analysis.contrasts[0].found.preference,
    ):
        assert number_words(estimate) in html
    assert "perfect calibration: " in html and "louder wins" in html and "new over old" in html
    assert TITLE not in html and "&lt;b&gt;Which" in html
    assert f"{analysis.counts.votes} answers of 4 listeners" in html


def test_an_analysis_is_kept_until_the_study_changes(store, clock):
    results = Results(store)
    first = results.analysis("running-v1", TOKEN)
    assert results.analysis("running-v1", TOKEN) is first
    rater = store.reading.dump("running").participants[0]["id"]
    store.studies.exclude("running", "participant", rater, "a test of exclusions", "tester")
    again = results.analysis("running-v1", TOKEN)
    assert again.counts.raters_analysed == first.counts.raters_analysed - 1


class Database:
    """What stands in `LateApi`'s place: a store, or why there is none."""

    def __init__(self, store: Store | None) -> None:
        self._store = store

    def store(self) -> Store:
        if self._store is None:
            raise Unavailable("the database cannot be reached")
        return self._store


def page_over(store: Store | None) -> ResultsPage:
    with gr.Blocks():
        return ResultsPage(Database(store), gr.Dropdown([]), gr.HTML())


def test_the_tab_offers_the_listed_studies_and_shows_the_chosen_one(store):
    page = page_over(store)
    shown = page.show(None, "")
    assert [value for _, value in shown[page.study]["choices"]] == ["own-v1", "shown-v1"]
    assert shown[page.study]["value"] == "own-v1"
    assert page.show("shown-v1", "")[page.study]["value"] == "shown-v1"
    assert page.show("running-v1", "")[page.study]["value"] == "own-v1"
    assert page.show("running-v1", f" {TOKEN} ")[page.study]["value"] == "running-v1"
    assert "not the admin token" in page.show("shown-v1", "no")[page.view]


def test_the_tab_says_when_there_is_nothing_to_show(store, tmp_path: Path):
    empty = Store(settings_for(tmp_path, ""))
    page = page_over(empty)
    assert "No results yet" in page.show(None, "")[page.view]
    empty.close()
    broken = page_over(None)
    said = broken.show(None, "")[broken.view]
    assert "cannot be shown just now" in said and "reached" not in said  # that is for the log
    entry = dataclasses.replace(Results(store).entries()[0], votes=0)
    assert "no votes to analyse yet" in results_html(entry, None)
