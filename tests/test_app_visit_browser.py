"""A longer visit in a real browser: sweep, share, look back, compare two, many prompts at once."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import browser as driver
from tests.browser import RunningApp, Visit
from tests.test_app_browser import generate, set_number


@pytest.fixture(scope="module")
def app(scoring_preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    with driver.running_app(scoring_preset, tmp_path_factory.mktemp("app")) as running:
        yield running


def choose_stage(page: Any, title: str) -> None:
    page.get_by_role("combobox", name="Stage").click()
    page.get_by_role("option", name=title).click()


def test_a_sweep_draws_its_curve_clip_by_clip(visitor: Visit) -> None:
    page = visitor.page
    assert page.get_by_label("Sweep the score").is_disabled()
    choose_stage(page, "Scored")
    page.wait_for_selector("#sweep input:enabled")
    page.get_by_label("Sweep the score").check()
    page.fill("#prompt textarea", "calm piano")
    page.click("#generate")
    page.wait_for_function("document.querySelectorAll('article.clip').length === 7")
    page.wait_for_selector("#generate:not([disabled])")
    marks = page.locator("article.clip .badge").all_inner_texts()
    assert marks == [f"s = {score}" for score in range(7)]
    assert page.locator("#choice polyline").get_attribute("points").count(",") == 7
    visitor.picture("desktop-light-sweep")


def test_a_copied_link_fills_the_form_of_whoever_opens_it(
    chromium: Any, app: RunningApp, visitor: Visit
) -> None:
    page = visitor.page
    set_number(page, "Guidance w", 1.5)
    generate(page, "loud drums & bass?")
    page.get_by_role("button", name="Copy link").click()
    page.get_by_role("button", name="Copied").wait_for()
    link = page.evaluate("navigator.clipboard.readText()")
    with driver.visit(chromium, link) as other:
        other.page.wait_for_function(
            "document.querySelector('#prompt textarea').value === 'loud drums & bass?'"
        )
        assert other.page.input_value("#seed input") == page.input_value("#seed input")
        assert other.page.is_checked("#lock input")
        assert other.page.get_by_label("number input for Guidance w").input_value() == "1.5"


def test_a_link_with_a_mistake_is_explained_and_the_page_works(
    chromium: Any, app: RunningApp
) -> None:
    with driver.visit(chromium, f"{app.url}/?prompt=calm+piano&seed=x") as visit:
        visit.page.get_by_text("Seed is 'x'; it must be a number").wait_for()
        generate(visit.page)


def test_history_brings_back_settings_also_of_clips_that_were_removed(visitor: Visit) -> None:
    page = visitor.page
    generate(page, "loud drums")
    seed = page.input_value("#seed input")
    page.get_by_role("button", name="Remove this clip").click()
    generate(page, "calm piano")
    page.reload()
    page.get_by_text("History of this visit").click()
    rows = page.locator(".history li")
    assert [row.locator("b").inner_text() for row in rows.all()] == ["calm piano", "loud drums"]
    visitor.picture("desktop-light-history")
    rows.nth(1).get_by_role("button", name="Restore settings").click()
    page.wait_for_function("document.querySelector('#prompt textarea').value === 'loud drums'")
    assert page.input_value("#seed input") == seed


def test_two_clips_are_compared_on_one_transport(visitor: Visit) -> None:
    page = visitor.page
    set_number(page, "Variations", 2)
    generate(page)
    assert page.locator("#pair").is_hidden()
    for button in page.get_by_role("button", name="Compare", exact=True).all():
        if button.is_visible():
            button.click()
    page.wait_for_function(
        "document.querySelectorAll('#pair input[type=radio]:enabled').length === 2"
    )
    page.locator("#pair input[type=radio]").nth(1).check()
    page.wait_for_selector("#pair .transport.playing")
    assert page.locator("#pair .entry.heard kbd").inner_text() == "2"
    visitor.picture("desktop-light-pair")
    page.locator("article.clip [data-pair][aria-pressed=true]").first.click()
    page.locator("#pair").wait_for(state="hidden")


def test_a_csv_of_prompts_becomes_a_table_and_an_archive(visitor: Visit, tmp_path: Path) -> None:
    page = visitor.page
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("prompt,seed\ncalm piano,1\nloud drums,2\n")
    page.get_by_role("button", name="Many prompts from a CSV file").click()
    page.set_input_files("#batch-file input[type=file]", prompts)
    page.get_by_text("prompts.csv").first.wait_for()
    page.click("#batch-start")
    page.locator("#batch-archive a").wait_for()
    assert page.locator("#batch-table tbody tr").count() == 2
    with page.expect_download() as waiting:
        page.locator("#batch-archive a").click()
    with zipfile.ZipFile(waiting.value.path()) as archive:
        assert len(archive.namelist()) == 5
    assert visitor.overflow() <= 0
    visitor.picture("desktop-light-batch")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_two_clips_and_the_history_fit_a_phone(chromium: Any, app: RunningApp, scheme: str) -> None:
    with driver.visit(chromium, app.url, (360, 780), scheme) as visit:
        page = visit.page
        set_number(page, "Variations", 2)
        generate(page)
        for button in page.locator("article.clip [data-pair]").all():
            button.click()
        page.wait_for_function(
            "document.querySelectorAll('#pair input[type=radio]:enabled').length === 2"
        )
        page.get_by_text("History of this visit").click()
        assert visit.overflow() <= 0
        visit.picture(f"phone-360-{scheme}-pair")
