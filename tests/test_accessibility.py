"""axe-core on every page, light and dark: nothing serious; and pages that fit 320 pixels.

320 CSS pixels are also what a window of 640 has at 200 % zoom.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT

from benchmarks.browser import SETTLED
from tests import browser as driver
from tests.browser import DESKTOP, RunningApp, Visit
from tests.studies import Clock, answered_study, settings_for, write_study
from ttmpref.study.records import build_folder
from ttmpref.study.settings import ADMIN_TOKEN
from ttmpref.study.stimuli import build_study
from ttmpref.study.store import Store

TOKEN = "an admin token of tests"
NARROW = (320, 640)
SCHEMES = ("light", "dark")
NAMELESS = "fieldset:not([aria-label], [role=none], :has(> legend:not(:empty)))"
GRAVE = ("serious", "critical")


@pytest.fixture(scope="module")
def app(tiny_preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """The app with a closed study and an open one."""
    folder = tmp_path_factory.mktemp("app")
    clock, data = Clock(), folder / "data"
    store = Store(settings_for(data, ""), clock)
    answered_study(data, store, clock, "ended", reveal="close")
    store.studies.move("ended", "closed", "tester")
    session = {"trials": 1, "attention": 0, "repeats": 0, "practice": 0}
    study = write_study(
        folder / "open", slug="open", session=session, screening={"headphones": "hp"}
    )
    build_study(study, build_folder(data, study.definition))
    store.studies.open(study, "tester", waive="synthetic tones")
    store.close()
    safe = {ADMIN_TOKEN: TOKEN, "TTMPREF_STORAGE_IS_SAFE": "1"}
    with driver.running_app(tiny_preset, folder, **safe) as running:
        yield running


def grave(page: Any) -> list[str]:
    """What axe-core finds serious or critical: rule and place."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    found = page.evaluate("axe.run(document, { iframes: false, resultTypes: ['violations'] })")
    return [
        f"{rule['id']}: {node['target'][0]} {node['any'][0]['message'] if node['any'] else ''}"
        for rule in found["violations"]
        if rule["impact"] in GRAVE
        for node in rule["nodes"]
    ]


def looked_at(visit: Visit, name: str, found: dict[str, list[str]]) -> None:
    """Examine the page as it stands; on narrow ones nothing may stick out either."""
    visit.page.evaluate(SETTLED)  # colours on their way to others are no colours to judge
    problems = grave(visit.page)
    nameless = visit.page.locator(NAMELESS).count()
    if nameless:
        problems.append(f"{nameless} groups of choices without a name")
    if visit.overflow() > 0:
        problems.append(f"wider than the window by {visit.overflow()} pixels")
    if problems:
        found[name] = problems


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", [DESKTOP, NARROW], ids=["desktop", "narrow"])
def test_every_tab_of_the_app(chromium: Any, app: RunningApp, scheme: str, size: Any) -> None:
    found: dict[str, list[str]] = {}
    with driver.visit(chromium, app.url, size, scheme) as visit:
        page = visit.page
        page.fill("#prompt textarea", "calm piano")
        page.click("#generate")
        page.locator("article.clip").wait_for()
        for tab in page.get_by_role("tab").all_inner_texts():
            page.get_by_role("tab", name=tab).click()
            page.get_by_role("tabpanel").filter(visible=True).first.wait_for()
            if tab == "Listen":
                page.locator("#listen li").first.wait_for()
            if tab == "Results":
                page.locator("#study-results figure").first.wait_for()
            looked_at(visit, tab, found)
            visit.picture(f"axe-{tab}-{scheme}-{size[0]}")
    assert found == {}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_screen_of_the_listeners_page(chromium: Any, app: RunningApp, scheme: str) -> None:
    found: dict[str, list[str]] = {}
    address = f"{app.url}/listen/open"
    with driver.visit(chromium, address, NARROW, scheme, landmark="h1", expected=()) as visit:
        page = visit.page

        def screen(name: str, heading: str) -> None:
            page.get_by_role("heading", name=heading).wait_for()
            looked_at(visit, name, found)
            visit.picture(f"axe-listen-{name}-{scheme}")

        screen("consent", "Which clip do you prefer?")
        page.get_by_role("checkbox").check()
        page.get_by_role("button", name="Continue").click()
        screen("about", "About you")
        page.get_by_label("Headphones", exact=True).check()
        page.get_by_role("button", name="Begin").click()
        screen("volume", "Set your volume")
        page.get_by_role("button", name="Play the noise").click()
        page.get_by_role("button", name="The volume is comfortable").click()
        screen("headphones", "Headphone check")
        page.get_by_role("button", name="I have no headphones").click()
        page.locator("button.side:enabled").first.wait_for()
        screen("trial", "Which do you prefer?")
        for side in ("A", "B"):
            page.get_by_role("button", name=f"Clip {side}").click()
            page.locator(f"button.heard[aria-label='Clip {side}']").wait_for()
        page.get_by_label("A is better").check()
        screen("answer", "Which do you prefer?")
        page.get_by_label("Certain").check()
        page.get_by_role("button", name="Withdraw from the study").click()
        screen("withdraw", "Withdraw from the study")
        page.get_by_role("button", name="Stay").click()
        page.get_by_role("button", name="Save and go on").click()
        screen("done", "Thank you")
    assert found == {}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_state_of_the_admin_page(chromium: Any, app: RunningApp, scheme: str) -> None:
    found: dict[str, list[str]] = {}
    address = f"{app.url}/admin"
    with driver.visit(chromium, address, NARROW, scheme, landmark="#token") as visit:
        page = visit.page
        looked_at(visit, "outside", found)
        page.get_by_label("Admin token").fill(TOKEN)
        page.get_by_role("button", name="Enter").click()
        page.get_by_role("button", name="open-v1").click()
        page.get_by_role("heading", name="Leak report").wait_for()
        looked_at(visit, "inside", found)
        visit.picture(f"axe-admin-{scheme}")
    assert found == {}
