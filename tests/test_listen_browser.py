"""The listener's page in a real browser: whole sessions, and whatever may go wrong during one."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from sqlalchemy import func, select

from tests import browser as driver
from tests.browser import RunningApp
from tests.studies import settings_for, write_study
from ttmpref.loudness import integrated_loudness
from ttmpref.study.app import mount
from ttmpref.study.listening import Event, listening
from ttmpref.study.records import build_folder
from ttmpref.study.stimuli import build_study
from ttmpref.study.store import Store, tables
from ttmpref.types import Clip

LABELS = ("quokka", "zebu")  # of the systems: words that nothing else would contain
CODE = "THANKS-4711"
CODE_VARIABLE = "TTMPREF_TEST_CODE"
PHONE = (360, 740)
RELOADS = 20  # of a page; a fair coin falls alike each time once in a million such tests
SHORT = {"trials": 1, "attention": 0, "repeats": 0, "practice": 1}
SYSTEMS: dict[str, Any] = {
    "systems": [
        {"label": LABELS[0], "role": "baseline", "audio": "old"},
        {"label": LABELS[1], "audio": "new"},
    ],
    "pairs": {"main": [list(LABELS)], "votes_per_pair": 50},
    "analysis": {"primary": "<".join(LABELS)},
}
NASTY = "<img src=x onerror=window.hit=1><script>window.hit=1</script>"
STUDIES: dict[str, dict[str, Any]] = {
    "whole": {"recruitment": {"complete_code_env": CODE_VARIABLE}},
    "short": {"session": SHORT},
    "graded": {
        "session": SHORT,
        "method": {"type": "cmos", "confidence": 0},
        "question": {"en": "Which is better?", "fr": "Lequel est le meilleur ?"},
        "recruitment": {"source": "prolific"},
        "screening": {"headphones": "hp"},
        "reveal": "close",
    },
    "nasty": {
        "session": SHORT,
        "title": NASTY,
        "question": {"en": NASTY},
        "consent": {"text": {"en": NASTY}},
        "recruitment": {"source": "prolific"},
    },
}


class Server:
    """API and page of the studies on one port, in a thread; can be stopped and started again."""

    def __init__(self, data: Path, results: Path) -> None:
        self._settings, self._results = settings_for(data, ""), results
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = probe.getsockname()[1]
        self.origin = f"http://127.0.0.1:{self._port}"
        self.store = Store(self._settings)

    def start(self) -> None:
        app = FastAPI()
        mount(app, self.store, self._results)
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        self._listening = socket.create_server(("127.0.0.1", self._port))  # answers when it can
        self._thread = threading.Thread(target=self._server.run, args=([self._listening],))
        self._thread.start()

    def stop(self) -> None:
        """As a restart does: connections are dropped, nothing in memory remains."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()
        self._listening.close()
        self.store.close()
        self.store = Store(self._settings)

    def url(self, slug: str) -> str:
        return f"{self.origin}/listen/{slug}"

    def votes(self) -> int:
        with self.store.database.read() as connection:
            return connection.scalar(select(func.count()).select_from(tables.vote))

    def last_vote(self) -> Any:
        with self.store.database.read() as connection:
            newest = select(tables.vote).order_by(tables.vote.c.server_ts.desc()).limit(1)
            return connection.execute(newest).one()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("listen")
    running = Server(root / "data", root / "results")
    for slug, changes in STUDIES.items():
        study = write_study(root / slug, slug=slug, **{**SYSTEMS, **changes})
        build_study(study, build_folder(root / "data", study.definition))
        running.store.studies.open(study, "tester", waive="synthetic tones")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CODE_VARIABLE, CODE)
        running.start()
        yield running
        running.stop()
        running.store.close()


def opened(chromium: Any, url: str, *size_and_scheme: Any, **options: Any) -> Any:
    """A visit to a study's page."""
    return driver.visit(
        chromium, url, *size_and_scheme, landmark="h1", **{"expected": (), **options}
    )


# ------------------------------------------------------------------------------ what people do


def join(page: Any) -> None:
    """Consent, say what one listens with, and set the volume."""
    page.get_by_role("checkbox").check()
    page.get_by_role("button", name="Continue").click()
    page.get_by_label("Headphones", exact=True).check()
    page.get_by_role("button", name="Begin").click()
    set_volume(page)


def set_volume(page: Any) -> None:
    page.get_by_role("button", name="Play the noise").click()
    page.get_by_role("button", name="The volume is comfortable").click()


def listen(page: Any) -> None:
    """Hear enough of both clips."""
    for side in ("A", "B"):
        page.get_by_role("button", name=f"Clip {side}").click()
        page.locator(f"button.side.heard[aria-label='Clip {side}']").wait_for()


def answer(page: Any, choice: str = "A is better") -> None:
    page.get_by_label(choice, exact=True).check()
    page.get_by_label("Certain").check()
    page.get_by_role("button", name="Save and go on").click()


def step(page: Any, number: int) -> Any:
    """The line that says how far one is, once it says so."""
    line = page.get_by_text(f"Comparison {number} of")
    line.wait_for()
    return line


def go_through(page: Any, trials: int, choice: str = "A is better") -> None:
    for number in range(1, trials + 1):
        step(page, number)
        listen(page)
        answer(page, choice)
    page.get_by_role("heading", name="Thank you").wait_for()


# ------------------------------------------------------------------------------ whole sessions


def test_a_session_from_consent_to_reveal_names_no_system_before_its_end(
    chromium: Any, server: Server
) -> None:
    before = server.votes()
    with opened(chromium, server.url("whole")) as visit:
        page, answers = visit.page, []
        page.on("response", lambda response: answers.append(response))
        visit.picture("listen-1-consent")
        page.get_by_role("checkbox").check()
        page.get_by_role("button", name="Continue").click()
        visit.picture("listen-2-about")
        page.get_by_label("Headphones", exact=True).check()
        page.get_by_role("button", name="Begin").click()
        page.get_by_role("heading", name="Set your volume").wait_for()
        visit.picture("listen-3-volume")
        set_volume(page)
        step(page, 1)
        assert page.get_by_text("Practice").is_visible()
        go_through(page, 7)
        told = [page.content(), page.evaluate("JSON.stringify({...localStorage})")]
        told += map(told_by, answers)
        assert len({one.url for one in answers if "/stimuli/" in one.url}) == 2 * 7
        assert len({one.url for one in answers if one.url.endswith("/vote")}) == 7
        assert not any(word in text.lower() for text in told for word in (*LABELS, ".wav"))
        assert page.get_by_label("Copy").first.input_value() == CODE
        visit.picture("listen-6-done")
        page.get_by_role("button", name="Show what I compared").click()
        page.get_by_role("heading", name="What you compared").wait_for()
        assert page.locator(".compared li").count() == 4
        assert all(label in page.inner_text(".compared") for label in LABELS)
        visit.picture("listen-7-reveal")
    assert server.votes() == before + 6  # all but the practice
    vote = server.last_vote()
    assert (vote.choice, vote.confidence) == ("A", 3)
    assert min(vote.cover_a, vote.cover_b) >= 0.7
    assert vote.switches >= 1


def told_by(response: Any) -> str:
    """A request and its answer as text; of a clip no more than the headers."""
    request = response.request
    facts = f"{request.url} {request.post_data} {request.all_headers()} {response.all_headers()}"
    if "audio/" in response.headers["content-type"]:
        assert response.headers["cache-control"] == "no-store"
        return facts
    return f"{facts} {response.text()}"


def test_a_graded_session_in_french_on_a_phone_in_the_dark(chromium: Any, server: Server) -> None:
    before = server.votes()
    url = f"{server.url('graded')}?PROLIFIC_PID=5f0c"
    phone = {"locale": "fr-FR", "has_touch": True, "is_mobile": True}
    with opened(chromium, url, PHONE, "dark", **phone) as visit:
        page = visit.page

        def screen(name: str) -> None:
            assert visit.overflow() <= 0
            visit.picture(f"listen-phone-{name}")

        screen("consent")
        page.get_by_role("checkbox").check()
        page.get_by_role("button", name="Continuer").tap()
        page.get_by_label("Écouteurs").tap()
        screen("about")
        page.get_by_role("button", name="Commencer").tap()
        page.get_by_role("button", name="Lancer le bruit").tap()
        screen("volume")
        page.get_by_role("button", name="Le volume est agréable").tap()
        for number in range(1, 7):
            page.get_by_text(f"Son {number} sur 6").wait_for()
            page.get_by_role("button", name="Lancer les trois sons").tap()
            page.get_by_role("button", name="Numéro 2").tap()
        for number in (1, 2):
            page.get_by_text(f"Comparaison {number} sur 2").wait_for()
            assert page.get_by_role("heading", name="Lequel est le meilleur ?").is_visible()
            for side in ("A", "B"):
                page.get_by_role("button", name=f"Extrait {side}").tap()
                page.locator(f"button.heard[aria-label='Extrait {side}']").wait_for()
            page.get_by_label("B est un peu meilleur").tap()
            screen(f"graded-{number}")
            page.get_by_role("button", name="Enregistrer et continuer").tap()
        page.get_by_role("heading", name="Merci").wait_for()
        screen("done")
    assert server.votes() == before + 1
    assert (server.last_vote().choice, server.last_vote().grade) == ("B", 1)
    with server.store.database.read() as connection:
        scores = list(connection.scalars(select(tables.screening.c.score)))
    assert [round(6 * score) / 6 for score in scores] == scores


def test_the_keyboard_alone_is_enough(chromium: Any, server: Server) -> None:
    with opened(chromium, server.url("short")) as visit:
        page, press = visit.page, visit.page.keyboard.press

        def tab_to(name: str) -> None:
            for _ in range(30):
                press("Tab")
                label = page.evaluate(
                    "(document.activeElement.ariaLabel || document.activeElement.labels?.[0]"
                    "?.textContent || document.activeElement.textContent).trim()"
                )
                if label.startswith(name):
                    return
            raise AssertionError(f"no way to {name!r} by the keyboard")

        tab_to("I am 18")
        press("Space")
        tab_to("Continue")
        press("Enter")
        page.get_by_role("heading", name="About you").wait_for()
        tab_to("Headphones")
        press("Space")
        tab_to("Begin")
        press("Enter")
        page.get_by_role("heading", name="Set your volume").wait_for()
        tab_to("Play the noise")
        press("Space")
        tab_to("The volume")
        press("Enter")
        for number in (1, 2):
            step(page, number)
            page.locator("section.player:focus").wait_for()
            press("2")
            page.locator("button.playing[aria-label='Clip B']").wait_for()
            page.locator("button.heard[aria-label='Clip B']").wait_for()
            press("a")
            page.locator("button.heard[aria-label='Clip A']").wait_for()
            press("Space")
            page.get_by_role("button", name="Play", exact=True).wait_for()
            press("l")
            page.locator("button.loop[aria-pressed='false']").wait_for()
            tab_to("A is better")
            press("ArrowRight")  # radio buttons: to the next answer, and it is chosen
            tab_to("Guessing")
            press("Space")
            press("Enter")
        page.get_by_role("heading", name="Thank you").wait_for()
    assert server.last_vote().choice == "B"


def test_single_keys_can_be_switched_off_and_do_nothing_outside_the_player(
    chromium: Any, server: Server
) -> None:
    with opened(chromium, server.url("short")) as visit:
        page = visit.page
        join(page)
        page.locator("button.side:enabled").first.wait_for()
        page.get_by_text("Add a comment").click()
        page.get_by_text("Add a comment").focus()
        page.keyboard.press("b")
        page.get_by_text("Keyboard shortcuts").click()
        page.get_by_role("button", name="Clip A").focus()
        page.keyboard.press("b")
        assert page.get_by_role("button", name="Clip B").get_attribute("aria-pressed") == "false"
        page.get_by_text("Keyboard shortcuts").click()
        page.get_by_role("button", name="Clip A").focus()
        page.keyboard.press("b")
        page.locator("button[aria-label='Clip B'][aria-pressed='true']").wait_for()


def test_every_control_has_a_name_and_every_screen_one_heading(
    chromium: Any, server: Server
) -> None:
    nameless = """() => [...document.querySelectorAll('button, a, input, select, textarea')]
      .filter((e) => !(e.labels?.length || e.ariaLabel || e.textContent.trim()))
      .map((e) => e.outerHTML)"""
    with opened(chromium, server.url("short")) as visit:
        page = visit.page

        def named() -> None:
            assert page.evaluate(nameless) == []
            assert page.locator("h1").count() == 1
            assert page.evaluate("document.activeElement.closest('main') !== null")

        named()
        page.get_by_role("checkbox").check()
        page.get_by_role("button", name="Continue").click()
        named()
        page.get_by_label("Headphones", exact=True).check()
        page.get_by_role("button", name="Begin").click()
        page.get_by_role("heading", name="Set your volume").wait_for()
        named()
        set_volume(page)
        page.locator("button.side:enabled").first.wait_for()
        named()
        assert "ready" in page.locator("#notice[aria-live=polite]").text_content()


def test_check_20_what_a_study_or_a_listener_writes_is_text_and_nothing_else(
    chromium: Any, server: Server
) -> None:
    """The visit fails by itself when anything is asked elsewhere, or the policy is broken."""
    before = server.votes()
    with opened(chromium, f"{server.url('nasty')}?PROLIFIC_PID={quote(NASTY)}") as visit:
        page = visit.page
        assert page.title() == NASTY and page.get_by_text(NASTY).first.is_visible()
        join(page)
        for number in (1, 2):
            step(page, number)
            assert page.get_by_role("heading", name=NASTY).is_visible()
            listen(page)
            page.get_by_text("Add a comment").click()
            page.locator("textarea").fill(NASTY)
            answer(page)
        page.get_by_role("heading", name="Thank you").wait_for()
        assert page.evaluate("window.hit") is None and page.locator("main img").count() == 0
    assert server.votes() == before + 1


# ------------------------------------------------------------------------------ nothing is lost


def test_an_answer_opens_when_both_clips_were_heard_enough(chromium: Any, server: Server) -> None:
    with opened(chromium, server.url("short")) as visit:
        page = visit.page
        join(page)
        page.locator("button.side:enabled").first.wait_for()
        visit.picture("listen-4-trial")
        assert page.get_by_text("listen to 1 s more of A and 1 s more of B").is_visible()
        assert page.get_by_label("A is better").is_disabled()
        page.get_by_role("button", name="Clip A").click()
        page.locator("button.heard[aria-label='Clip A']").wait_for()
        page.get_by_role("button", name="Pause").click()
        assert page.get_by_text("listen to 1 s more of B").is_visible()
        assert page.get_by_role("button", name="Save and go on").is_disabled()
        listen(page)
        page.get_by_label("A is better").check()
        visit.picture("listen-5-heard")
        assert page.get_by_role("button", name="Save and go on").is_enabled()


def test_a_vote_waits_for_the_network_and_is_stored_once(chromium: Any, server: Server) -> None:
    before = server.votes()
    with opened(chromium, server.url("short"), expected=("ERR_", "503")) as visit:
        page = visit.page
        join(page)
        go_through_practice(page)
        listen(page)
        visit.context.set_offline(True)
        answer(page, "No preference")
        page.get_by_text("Not saved yet").wait_for()
        visit.picture("listen-8-offline")
        assert server.votes() == before
        lost, full = [], {"status": 503, "json": {"error": {"code": "unavailable"}}}

        def lose_the_answer(route: Any) -> None:
            """The server's disk is full; then it stores the vote, but its answer never arrives."""
            if not lost:
                lost.append(503)
                route.fulfill(**full, headers={"Retry-After": "1"})
            elif len(lost) == 1:
                lost.append(route.fetch().status)
                route.abort()
            else:
                route.continue_()

        page.route("**/vote", lose_the_answer)
        visit.context.set_offline(False)
        page.get_by_role("heading", name="Thank you").wait_for()
        assert page.evaluate("Object.keys(localStorage).filter((k) => k.includes('vote'))") == []
    assert lost == [503, 200]
    assert server.votes() == before + 1
    assert server.last_vote().choice == "TIE"


def go_through_practice(page: Any) -> None:
    step(page, 1)
    listen(page)
    answer(page)
    step(page, 2)


def test_a_vote_survives_a_dead_server_and_a_closed_tab(chromium: Any, server: Server) -> None:
    before = server.votes()
    with opened(chromium, server.url("short"), expected=("ERR_",)) as visit:
        page = visit.page
        join(page)
        go_through_practice(page)
        listen(page)
        server.stop()
        answer(page, "B is better")
        page.get_by_text("Not saved yet").wait_for()
        link = page.url
        page.close()
        server.start()
        visit.page = page = visit.context.new_page()
        driver.watch(visit, page, server.origin)
        page.goto(link)
        page.get_by_role("heading", name="Thank you").wait_for()
    assert server.votes() == before + 1
    assert server.last_vote().choice == "B"


def test_a_reload_and_another_browser_go_on_with_the_same_trial(
    chromium: Any, server: Server
) -> None:
    def clips_of(page: Any, act: Any) -> set[str]:
        """Addresses of the clips that are fetched while `act` runs."""
        asked: set[str] = set()
        page.on("request", lambda r: "/stimuli/" in r.url and asked.add(r.url))
        act()
        page.locator("button.side:enabled").first.wait_for()
        return asked

    with opened(chromium, server.url("short")) as visit:
        page = visit.page
        first = clips_of(page, lambda: join(page))
        again = clips_of(page, page.reload)  # the volume is not asked for again
        link = page.url
    with opened(chromium, link) as other:
        there = clips_of(other.page, lambda: set_volume(other.page))
        assert len(first) == 2 and first == again == there
        listen(other.page)
        answer(other.page)
        step(other.page, 2)


def test_check_17_both_clips_are_asked_for_in_an_order_that_tells_no_side(
    chromium: Any, server: Server
) -> None:
    """Whoever sees only which address is asked for first learns nothing: it is a coin."""
    with opened(chromium, server.url("short")) as visit:
        page, asked, trials = visit.page, [], []
        page.on("request", lambda r: "/stimuli/" in r.url and asked.append(r.url.rsplit("/")[-1]))
        page.on("response", lambda r: r.url.endswith("/trials/next") and trials.append(r.json()))
        join(page)
        for _ in range(RELOADS):
            page.locator("button.side:enabled").first.wait_for()
            page.reload()
        page.locator("button.side:enabled").first.wait_for()
    sides = {token: side for side, token in trials[0]["trial"]["stimuli"].items()}
    order = "".join(sides[token] for token in asked)
    pairs = [order[i : i + 2] for i in range(0, len(order), 2)]
    assert len(pairs) == RELOADS + 1 and set(pairs) == {"AB", "BA"}


def test_a_reload_keeps_what_was_heard(chromium: Any, server: Server) -> None:
    with opened(chromium, server.url("short")) as visit:
        page = visit.page
        join(page)
        page.get_by_role("button", name="Clip A").click()
        page.locator("button.heard[aria-label='Clip A']").wait_for()
        with page.expect_response(lambda one: stored_pause(one.request)):
            page.get_by_role("button", name="Pause").click()
        page.reload()
        page.locator("button.heard[aria-label='Clip A']:enabled").wait_for()
        assert page.get_by_text("listen to 1 s more of B").is_visible()
        page.get_by_role("button", name="Clip B").click()
        page.locator("button.heard[aria-label='Clip B']").wait_for()
        answer(page)  # and the server has counted the same
        step(page, 2)


def slow_line(page: Any, latency_ms: float, bytes_per_second: float) -> Any:
    """Make the page's network slow from now on; gives what can change it again."""
    line = page.context.new_cdp_session(page)
    line.send("Network.enable")
    set_line(line, latency_ms, bytes_per_second)
    return line


def set_line(line: Any, latency_ms: float, bytes_per_second: float) -> None:
    speed = {"downloadThroughput": bytes_per_second, "uploadThroughput": bytes_per_second}
    conditions = {"offline": False, "latency": latency_ms, **speed}
    line.send("Network.emulateNetworkConditions", conditions)


def test_on_a_slow_line_nothing_plays_before_both_clips_are_there(
    chromium: Any, server: Server
) -> None:
    before = server.votes()
    with opened(chromium, server.url("short")) as visit:
        page, asked = visit.page, []
        page.on("request", lambda one: "/stimuli/" in one.url and asked.append(one.url))
        page.get_by_role("checkbox").check()
        page.get_by_role("button", name="Continue").click()
        page.get_by_label("Headphones", exact=True).check()
        page.get_by_role("button", name="Begin").click()
        page.get_by_role("button", name="Play the noise").click()
        line = slow_line(page, 300, 4_000)  # bytes a second; a clip has 16,044
        page.evaluate(WATCH_LOADING)
        page.get_by_role("button", name="The volume is comfortable").click()
        page.locator("button.side:enabled").first.wait_for()
        states = page.evaluate("loading")
        visit.picture("listen-slow-loaded")
        shares = [share for share, _, _ in states]
        assert shares == sorted(shares) and any(0 < share < 0.6 for share in shares)
        assert {(sides, others) for _, sides, others in states} == {(0, 0)}
        assert page.locator("button.side:enabled").count() == 2
        assert len(asked) == 2
        go_through(page, 2, "B is better")
        set_line(line, 0, -1)
    assert server.votes() == before + 1
    vote = server.last_vote()
    assert vote.choice == "B" and min(vote.cover_a, vote.cover_b) >= 0.7


# What stands on the page whenever the loading bar moves: its value, and how many of the clips'
# buttons and of the other controls can be used.
WATCH_LOADING = """() => {
  window.loading = [];
  const usable = (what) => document.querySelectorAll(what).length;
  const note = () => {
    const bar = document.querySelector(".loading progress");
    if (!bar || bar.closest("[hidden]")) return;
    loading.push([bar.value, usable(".side:enabled"),
      usable(".transport :enabled, .answers:enabled")]);
  };
  new MutationObserver(note).observe(document.body,
    { subtree: true, childList: true, attributes: true });
}"""


def test_a_vote_on_a_slow_line_survives_the_tab_that_sent_it(
    chromium: Any, server: Server
) -> None:
    before = server.votes()
    with opened(chromium, server.url("short")) as visit:
        page = visit.page
        join(page)
        go_through_practice(page)
        listen(page)
        slow_line(page, 2_000, 1_000)
        with page.expect_request("**/vote"):
            answer(page, "B is better")
        link = page.url
        page.close()  # the vote is on its way, or was never sent: nobody can tell
        visit.page = page = visit.context.new_page()
        driver.watch(visit, page, server.origin)
        page.goto(link)
        page.get_by_role("heading", name="Thank you").wait_for()
        assert page.evaluate("Object.keys(localStorage).filter((k) => k.includes('vote'))") == []
    assert server.votes() == before + 1
    assert server.last_vote().choice == "B"


# Chromium without a window has no tab that is out of sight: the page is told that it were.
SIGHT = """(hidden) => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
  document.dispatchEvent(new Event("visibilitychange"));
}"""
HIDE_AT_ONCE = f"""() => {{
  const sight = {SIGHT};
  const button = document.querySelector("button[aria-label='Clip A']");
  const seen = new MutationObserver(() => {{
    if (!button.classList.contains("playing")) return;
    seen.disconnect();
    sight(true);
  }});
  seen.observe(button, {{ attributes: true }});
  button.click();
}}"""


def test_what_plays_out_of_sight_is_not_heard_and_the_place_is_kept(
    chromium: Any, server: Server
) -> None:
    hidden_ms = 1_500
    with opened(chromium, server.url("short")) as visit:
        page = visit.page
        join(page)
        go_through_practice(page)
        page.locator("button.side:enabled").first.wait_for()
        page.evaluate(HIDE_AT_ONCE)
        page.get_by_role("button", name="Play", exact=True).wait_for()  # it has paused by itself
        place = page.locator("input[type=range]").input_value()
        page.wait_for_timeout(hidden_ms)  # longer than the clip
        assert page.locator("button.heard").count() == 0
        page.evaluate(f"({SIGHT})(false)")
        assert page.locator("input[type=range]").input_value() == place
        assert page.get_by_text("listen to 1 s more of A and 1 s more of B").is_visible()
        assert page.get_by_role("button", name="Save and go on").is_disabled()
        listen(page)
        page.get_by_label("A is better", exact=True).check()
        page.get_by_label("Certain").check()
        visit.context.set_offline(True)
        visit.expected = ("ERR_INTERNET",)
        page.get_by_role("button", name="Save and go on").click()
        page.get_by_text("Not saved yet").wait_for()
        page.evaluate(f"({SIGHT})(true)")  # and the vote is sent from there, too
        visit.context.set_offline(False)
        page.get_by_role("heading", name="Thank you").wait_for()
    vote = server.last_vote()
    assert vote.hidden_ms >= hidden_ms
    assert min(vote.cover_a, vote.cover_b) >= 0.7
    assert vote.heard_a_ms + vote.heard_b_ms + vote.hidden_ms <= vote.rt_ms + 100
    assert vote.switches == 1


def stored_pause(request: Any) -> bool:
    return request.url.endswith("/events") and '"pause"' in request.post_data


def test_a_device_without_sound_output_is_told_so(chromium: Any, server: Server) -> None:
    def devices(kinds: list[dict[str, str]]) -> str:
        return f"navigator.mediaDevices.enumerateDevices = async () => {json.dumps(kinds)}"

    with opened(chromium, server.url("short")) as visit:
        page = visit.page
        page.evaluate(devices([]))
        page.get_by_role("checkbox").check()
        page.get_by_role("button", name="Continue").click()
        page.get_by_label("Headphones", exact=True).check()
        page.get_by_role("button", name="Begin").click()
        warning = page.get_by_text("no sound output")
        warning.wait_for()
        visit.picture("listen-no-output")
        page.evaluate(devices([{"kind": "audiooutput"}]))
        page.evaluate("navigator.mediaDevices.dispatchEvent(new Event('devicechange'))")
        warning.wait_for(state="hidden")


def test_sound_that_does_not_begin_is_said_and_waited_for(chromium: Any, server: Server) -> None:
    """As Firefox does without a device, and others before they allow sound."""
    with opened(chromium, server.url("short")) as visit:
        page = visit.page
        join(page)
        page.locator("button.side:enabled").first.wait_for()
        page.evaluate(
            """() => {
              const resume = AudioContext.prototype.resume;
              const held = new Promise((resolve) => { window.plugIn = resolve; });
              AudioContext.prototype.resume = async function () { await held; resume.call(this); };
            }"""
        )
        page.get_by_role("button", name="Clip A").click()
        page.get_by_text("No sound can be played just now").wait_for()
        assert page.locator("button.playing").count() == 0
        page.evaluate("plugIn()")
        page.locator("button.playing[aria-label='Clip A']").wait_for()
        page.get_by_text("No sound can be played just now").wait_for(state="hidden")
        listen(page)


def test_a_shared_computer_offers_the_old_session_and_a_new_one(
    chromium: Any, server: Server
) -> None:
    with opened(chromium, server.url("short")) as visit:
        page = visit.page
        join(page)
        token = page.url.split("#resume=")[1]
        page.goto("about:blank")
        page.goto(server.url("short"))
        page.get_by_role("button", name="Go on with it").click()
        step(page, 1)
        assert page.url.endswith(token)
        page.goto("about:blank")
        page.goto(server.url("short"))
        page.get_by_role("button", name="Begin as somebody else").click()
        page.get_by_role("checkbox").wait_for()
        assert token not in page.url


def test_withdrawing_asks_once_and_ends_the_session(chromium: Any, server: Server) -> None:
    with opened(chromium, server.url("short"), expected=("410",)) as visit:
        page = visit.page
        join(page)
        step(page, 1)
        page.get_by_role("button", name="Withdraw from the study").click()
        page.get_by_role("button", name="Stay").click()
        page.get_by_role("button", name="Withdraw from the study").click()
        page.get_by_role("button", name="Withdraw", exact=True).click()
        page.get_by_role("heading", name="You have withdrawn").wait_for()
        assert page.evaluate("localStorage.length") == 0
        page.reload()
        page.get_by_role("heading", name="You have withdrawn").wait_for()


def test_whoever_declines_leaves_nothing(chromium: Any, server: Server) -> None:
    with opened(chromium, server.url("short")) as visit:
        asked = []
        visit.page.on("request", lambda request: asked.append(request.method))
        visit.page.get_by_role("button", name="No, thank you").click()
        visit.page.get_by_text("Nothing was stored").wait_for()
        assert "POST" not in asked
        assert visit.page.evaluate("localStorage.length") == 0


def test_what_cannot_be_listened_to_is_said_plainly(chromium: Any, server: Server) -> None:
    with opened(chromium, server.url("nothing"), expected=("404",)) as visit:
        assert visit.page.get_by_text("There is no such study").is_visible()
    bad_link = f"{server.url('short')}#resume=invented"
    with opened(chromium, bad_link, expected=("401",)) as visit:
        visit.page.get_by_text("This session is over").wait_for()
    server.store.studies.move("graded", "paused", "tester")
    with opened(chromium, server.url("graded"), expected=("409",)) as visit:
        visit.page.get_by_text("The study is paused").wait_for()
        server.store.studies.move("graded", "open", "tester")
        visit.page.get_by_role("button", name="Try again").click()
        visit.page.get_by_role("checkbox").wait_for()


# ------------------------------------------------------------------------------ its parts


@pytest.fixture(scope="module")
def modules(chromium: Any, server: Server) -> Iterator[Any]:
    """A page on which the scripts' own functions can be called."""
    with opened(chromium, server.url("short")) as visit:
        yield visit.page


def test_switching_keeps_the_place_and_leaves_no_gap(modules: Any) -> None:
    """A is a rising ramp and B the same one below zero: |sound| says where, its sign says which."""
    rate, seconds, switched = 44_100, 2.0, 0.5
    sound = modules.evaluate(
        """async ([rate, seconds, switched]) => {
          const { Transport } = await import("/listen/static/transport.js");
          const context = new OfflineAudioContext(1, rate * seconds, rate);
          const ramp = (sign) => {
            const buffer = new AudioBuffer({ length: rate * 10, sampleRate: rate });
            const samples = buffer.getChannelData(0);
            samples.forEach((_, i) => { samples[i] = sign * (0.1 + i / rate / 20); });
            return buffer;
          };
          const transport = new Transport(context, { A: ramp(1), B: ramp(-1) });
          transport.play();
          context.suspend(switched).then(() => { transport.select("B"); context.resume(); });
          const rendered = await context.startRendering();
          return [...rendered.getChannelData(0)];
        }""",
        [rate, seconds, switched],
    )
    wave = np.array(sound)
    lead = 0.02  # before anything starts
    times = np.arange(len(wave)) / rate - lead
    expected = 0.1 + times / 20
    fading = 0.014  # 10 ms, and the block of samples in which it begins
    steady_a = (times > fading) & (times < switched - lead)
    steady_b = times > switched - lead + fading
    assert wave[steady_a] == pytest.approx(expected[steady_a], abs=1e-6)  # within a sample
    assert wave[steady_b] == pytest.approx(-expected[steady_b], abs=1e-6)


def test_the_page_counts_listening_as_the_server_does(modules: Any) -> None:
    rng = random.Random(7)
    for _ in range(40):
        events = random_events(rng)
        theirs = modules.evaluate(
            """async (events) => {
              const { Heard } = await import("/listen/static/heard.js");
              const heard = new Heard(1000);
              events.forEach((event) => heard.take(event));
              return heard.cover(events.at(-1).mono_ms);
            }""",
            [{name: value for name, value in vars(event).items()} for event in events],
        )
        ours = listening(events, duration_ms=1000.0, elapsed_ms=1e9)
        assert theirs["A"] == pytest.approx(ours.cover_a, abs=1e-4)
        assert theirs["B"] == pytest.approx(ours.cover_b, abs=1e-4)


def random_events(rng: random.Random) -> list[Event]:
    """What a restless listener might do with a clip of a second."""
    kinds = ("play", "pause", "switch", "seek", "loop", "ended", "hidden", "visible")
    clock, events = 0.0, []
    for seq in range(rng.randint(1, 25)):
        clock += rng.choice((0.0, 30.0, 250.0, 1_300.0)) * rng.random()
        side = rng.choice("AB")
        events.append(Event("page", seq, side, rng.choice(kinds), 1000 * rng.random(), clock))
    return events


def test_the_noise_is_as_loud_as_the_clips(modules: Any) -> None:
    samples = modules.evaluate(
        """async () => {
          const { loudNoise } = await import("/listen/static/sounds.js");
          return [...(await loudNoise(-16.5)).getChannelData(0)];
        }"""
    )
    noise = Clip(np.array(samples, np.float32)[None], 44_100)
    assert integrated_loudness(noise) == pytest.approx(-16.5, abs=0.3)
    assert np.abs(noise.waveform).max() < 1


@pytest.mark.parametrize("odd", [0, 1, 2])
@pytest.mark.parametrize("kind", ["hp", "ap"])
def test_one_of_three_sounds_of_a_headphone_check_is_odd(modules: Any, kind: str, odd: int) -> None:
    left, right = np.array(
        modules.evaluate(
            """async ([kind, odd]) => {
              const { headphoneSound } = await import("/listen/static/sounds.js");
              const sound = await headphoneSound(kind, odd);
              return [0, 1].map((channel) => [...sound.getChannelData(channel)]);
            }""",
            [kind, odd],
        )
    )
    second = 44_100
    sounds = [slice(int(1.5 * i * second), int((1.5 * i + 1) * second)) for i in range(3)]
    power = np.array([np.mean(left[part] ** 2) for part in sounds])
    between = np.array([np.corrcoef(left[part], right[part])[0, 1] for part in sounds])
    if kind == "hp":  # the ears differ in the odd one, a little, and not in loudness
        assert [index for index in range(3) if between[index] < 0.9999] == [odd]
        assert between[odd] > 0.8
    else:  # 6 dB quieter; one of the others has its ears in opposite phase
        assert 10 * np.log10(power / power.max()).min() == pytest.approx(-6, abs=0.05)
        assert power.argmin() == odd
        assert sorted(np.round(between)) == [-1, 1, 1] and between[odd] > 0


# ------------------------------------------------------------------------------ inside the app


@pytest.fixture(scope="module")
def app(
    server: Server, tiny_preset: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningApp]:
    """The whole app over the same database."""
    data = {"TTMPREF_DATA_DIR": str(server.store.settings.data_dir)}
    with driver.running_app(tiny_preset, tmp_path_factory.mktemp("app"), **data) as running:
        yield running


def test_the_listen_tab_shows_open_studies_and_a_whole_session_runs_in_its_frame(
    chromium: Any, server: Server, app: RunningApp
) -> None:
    before = server.votes()
    with driver.visit(chromium, app.url) as visit:
        page = visit.page
        page.get_by_role("tab", name="Listen").click()
        page.locator("#listen li").first.wait_for()
        assert page.locator("#listen li").count() == len(STUDIES)
        links = [link.get_attribute("href") for link in page.locator("#listen a").all()]
        page.locator("#listen a[target=listen-frame][href$='/short']").click()
        frame = page.frame_locator("#listen iframe")
        frame.get_by_role("checkbox").wait_for()
        visit.picture("app-listen")
        join(frame)
        go_through(frame, 2)
        assert visit.overflow() <= 0
        assert sorted(set(links)) == [f"listen/{slug}" for slug in sorted(STUDIES)]
    assert server.votes() == before + 1


def test_check_13_nothing_that_the_app_tells_every_visitor_names_a_system(
    server: Server, app: RunningApp
) -> None:
    clips = server.store.settings.data_dir.rglob("clips/*.wav")
    hashes = {path.stem for path in clips}
    assert hashes
    pages = ("", "config", "gradio_api/info", "gradio_api/openapi.json", "listen/whole",
             "api/v1/openapi.json", "api/v1/studies/whole")  # fmt: skip
    for page in pages:
        answer = httpx.get(f"{app.url}/{page}", timeout=driver.PATIENCE_SECONDS)
        assert answer.status_code == 200, page
        assert "whole" in answer.text or page not in ("", "config")  # the tab lists the study
        told = f"{answer.text} {answer.headers}".lower()
        assert not any(word in told for word in (*LABELS, "pair_id", *hashes)), page


def test_without_a_database_the_tab_says_so_and_the_rest_of_the_app_works(
    chromium: Any, tiny_preset: Path, tmp_path: Path
) -> None:
    nowhere = {"DATABASE_URL": f"sqlite:///{tmp_path / 'missing' / 'studies.sqlite3'}"}
    with driver.running_app(tiny_preset, tmp_path / "app", **nowhere) as app:
        answer = json.loads(driver.refused(f"{app.url}/api/v1/studies/short", 503))
        assert answer["error"]["code"] == "unavailable"
        with driver.visit(chromium, app.url) as visit:
            visit.page.get_by_role("tab", name="Listen").click()
            alert = visit.page.locator("#listen [role=alert]")
            alert.wait_for()
            assert "cannot be shown just now" in alert.inner_text()
            assert str(tmp_path) not in visit.page.content()  # where it lies is for the log
            assert visit.overflow() <= 0
            visit.picture("app-listen-broken")
            visit.page.get_by_role("tab", name="About").click()
            visit.page.get_by_text("Words on these pages").wait_for()
