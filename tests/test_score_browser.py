"""Scoring in a real browser: uploads on the Score tab, and the best of several clips."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import browser as driver
from tests.browser import PHONE, RunningApp, Visit
from tests.scoring import noise
from tests.test_app_browser import PROMPT, generate, set_number, start
from tests.test_uploads import video
from ttmpref.audio import write_clip


@pytest.fixture(scope="module")
def app(scoring_preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    with driver.running_app(scoring_preset, tmp_path_factory.mktemp("app")) as running:
        yield running


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, ffmpeg: Any) -> list[Path]:
    """A short clip, a long one, a video, and something else under a nasty name."""
    folder = tmp_path_factory.mktemp("uploads")
    short = write_clip(noise(1.0), folder / "short.wav")
    long = write_clip(noise(3.5, seed=1), folder / "long.flac")
    film = video(ffmpeg, short, folder / "film.mp4")
    nasty = folder / "=<b>x<b>.mp3"
    nasty.write_bytes(b"no audio")
    return [short, long, film, nasty]


def open_score_tab(page: Any) -> None:
    page.get_by_role("tab", name="Score").click()
    page.locator("#score-text textarea").wait_for()


def upload(page: Any, paths: list[Path]) -> None:
    page.locator("#uploads input[type=file]").set_input_files(paths)
    page.wait_for_function(
        f"document.querySelectorAll('#uploads td.filename').length === {len(paths)}"
    )


def score(page: Any, paths: list[Path]) -> None:
    upload(page, paths)
    page.click("#score-start")
    page.wait_for_selector("#score-report table")
    page.wait_for_selector("#score-start:not([disabled])")


def kept(app: RunningApp) -> list[Path]:
    """Files with any content that the app keeps, but for clips it made."""
    (folder,) = app.temporary.glob("ttmpref-app-*")
    found = (path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    return [path for path in found if "clips" not in path.parts]


def test_uploads_are_scored_shown_and_gone(
    app: RunningApp, visitor: Visit, files: list[Path]
) -> None:
    page = visitor.page
    open_score_tab(page)
    visitor.picture("desktop-light-score-empty")
    page.fill("#score-text textarea", "calm piano")
    score(page, files)
    rows = page.locator("#score-report table").first.locator("tbody tr")
    names = [row.locator("th").inner_text() for row in rows.all()]
    assert names[:3] == ["short.wav", "long.flac", "film.mp4"] and len(names) == 4
    assert "Not scored: cannot be decoded as audio" in rows.nth(3).inner_text()
    assert "3 files scored. 1 could not be scored" in page.locator("#score-status").inner_text()
    page.wait_for_selector("#score-distribution .js-plotly-plot")
    page.wait_for_selector("#score-timeline .js-plotly-plot")
    assert page.locator("#score-report .comparison tbody tr").count() == 3
    page.get_by_text("Protocol").click()
    assert "centre, 1 s heard by CLAP" in page.locator(".protocol").inner_text()
    assert page.locator("#uploads td.filename").count() == 0
    assert kept(app) == []
    visitor.picture("desktop-light-score")


def test_results_are_downloaded_as_tables_without_paths(
    app: RunningApp, visitor: Visit, files: list[Path]
) -> None:
    open_score_tab(visitor.page)
    score(visitor.page, files[:2])
    texts = {}
    for kind in ("csv", "json"):
        with visitor.page.expect_download() as waiting:
            visitor.page.get_by_role("link", name=f"Download {kind.upper()}").last.click()
        assert waiting.value.suggested_filename == f"scores.{kind}"
        texts[kind] = Path(waiting.value.path()).read_text()
        assert str(app.temporary) not in texts[kind]
    rewards = [float(row["reward"]) for row in csv.DictReader(texts["csv"].splitlines())]
    assert rewards == [row["score"]["reward"] for row in json.loads(texts["json"])]


def test_nothing_chosen_is_explained_and_the_page_fits_a_phone(
    chromium: Any, app: RunningApp, files: list[Path]
) -> None:
    with driver.visit(chromium, app.url, PHONE, "dark") as visit:
        open_score_tab(visit.page)
        visit.page.click("#score-start")
        visit.page.get_by_text("There is no file to score").wait_for()
        score(visit.page, files[:2])
        assert visit.overflow() <= 0
        visit.picture("phone-390-dark-score")


def test_the_best_of_several_clips_is_marked_and_what_it_is_worth_is_drawn(
    visitor: Visit,
) -> None:
    page = visitor.page
    page.get_by_label("Choose the best by reward").check()
    page.get_by_label("number input for Candidates").wait_for()
    set_number(page, "Candidates", 3)
    generate(page)
    cards = page.locator("article.clip")
    assert cards.count() == 3
    assert cards.first.locator(".badge").inner_text() == "Best of 3"
    assert page.locator(".badge").count() == 1
    assert all("Reward" in facts for facts in page.locator(".facts").all_inner_texts())
    assert page.locator(".choice svg polyline").count() == 1
    assert "Best of 3: seed" in page.locator(".choice").inner_text()
    visitor.picture("desktop-light-best-of")
    page.set_viewport_size(dict(zip(("width", "height"), PHONE, strict=True)))
    card, badge = cards.first.bounding_box(), page.locator(".badge").bounding_box()
    assert card["x"] <= badge["x"] and badge["x"] + badge["width"] <= card["x"] + card["width"]


def test_a_choice_can_be_cancelled_and_the_next_run_starts(visitor: Visit) -> None:
    page = visitor.page
    page.fill("#prompt textarea", PROMPT)
    page.get_by_label("Choose the best by reward").check()
    page.get_by_role("button", name="More settings").click()
    page.get_by_label("Heun").check()
    set_number(page, "Steps", 200)
    start(page)
    page.click("#cancel")
    page.get_by_text("Stopped before the clips were compared").wait_for()
    page.wait_for_selector("#generate:not([disabled])")
    assert page.locator("article.clip").count() == 0
    page.get_by_label("Choose the best by reward").uncheck()
    set_number(page, "Steps", 1)
    generate(page)
