"""The Results tab in a real browser: a closed study is shown, a running one to operators alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import browser as driver
from tests.browser import PHONE, RunningApp
from tests.studies import Clock, answered_study, settings_for
from ttmpref.study.settings import ADMIN_TOKEN
from ttmpref.study.store import Store

TOKEN = "an admin token of tests"


@pytest.fixture(scope="module")
def app(tiny_preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    folder = tmp_path_factory.mktemp("app")
    clock, data = Clock(), folder / "data"
    store = Store(settings_for(data, ""), clock)
    for slug in ("ended", "running"):
        answered_study(data, store, clock, slug, reveal="close")
    store.studies.move("ended", "closed", "tester")
    store.close()
    with driver.running_app(tiny_preset, folder, **{ADMIN_TOKEN: TOKEN}) as running:
        yield running


def test_results_of_closed_studies_are_for_all_and_of_running_ones_for_operators(
    chromium: Any, app: RunningApp
) -> None:
    with driver.visit(chromium, app.url) as visitor:
        page = visitor.page
        page.get_by_role("tab", name="Results").click()
        page.get_by_text("is closed: 24 answers of 4 listeners").wait_for()
        assert page.locator("#study-results figure svg").count() == 4
        page.get_by_text("Ranker against people", exact=True).click()
        page.get_by_role("cell", name="ceiling: majority of the other listeners").wait_for()
        assert "running-v1" not in page.content()
        visitor.picture("results")
        page.get_by_label("Admin token").fill(TOKEN)
        page.get_by_label("Admin token").press("Enter")
        page.get_by_label("Study").click()
        page.get_by_role("option", name="running-v1").click()
        page.get_by_text("It still runs, so its systems stand under codes.").wait_for()
        shown = page.locator("#study-results").inner_text()
        assert "system-1" in shown and "new over" not in shown


def test_results_fit_a_phone_in_the_dark(chromium: Any, app: RunningApp) -> None:
    with driver.visit(chromium, app.url, scheme="dark") as visitor:
        visitor.page.get_by_role("tab", name="Results").click()
        visitor.page.locator("#study-results figure").first.wait_for()
        width, height = PHONE
        visitor.page.set_viewport_size({"width": width, "height": height})
        assert visitor.overflow() <= 0
        visitor.picture("results-phone-dark")


def test_the_admin_page_stands_beside_the_app(chromium: Any, app: RunningApp) -> None:
    with driver.visit(chromium, f"{app.url}/admin", landmark="#token") as visitor:
        visitor.page.get_by_label("Admin token").fill(TOKEN)
        visitor.page.get_by_role("button", name="Enter").click()
        visitor.page.get_by_role("button", name="running-v1").wait_for()
