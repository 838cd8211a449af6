"""An app for invited people: who gets in, where, and what stays open to listeners."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client

from benchmarks.study_raters import Load, Outcome, Rater, prepare
from tests import browser as driver
from tests.browser import PATIENCE_SECONDS, RunningApp
from ttmpref.types import ConfigError
from ttmpref.ui.login import SWITCHES, VARIABLE, logins, refuse_switches

NAME, PASSWORD = "anna", "a long password: 4711"
VERBS = ("generate", "compare", "score")
VISIT = Load(raters=1, trials=2, prompts=2, sample_rate=8_000)


@pytest.fixture(scope="module")
def app(tiny_preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    folder = tmp_path_factory.mktemp("app")
    given = prepare(folder, VISIT, "") | {VARIABLE: f"{NAME}:{PASSWORD},bert:another password"}
    with driver.running_app(tiny_preset, folder, **given) as running:
        yield running


def test_without_the_variable_everybody_is_let_in() -> None:
    assert logins({}) is None and logins({VARIABLE: ""}) is None


def test_names_and_passwords_are_read_and_colons_belong_to_passwords() -> None:
    text = f"{NAME}:{PASSWORD}, bert:another password"
    assert logins({VARIABLE: text}) == [(NAME, PASSWORD), ("bert", "another password")]


@pytest.mark.parametrize(
    "entry", ["anna", ":a long password", "anna:short", "anna:a long password,", "bert:" + "x" * 12]
)
def test_a_wrong_entry_is_named_by_its_number_and_never_repeated(entry: str) -> None:
    with pytest.raises(ConfigError, match=f"^{VARIABLE}: entry [23] is not") as raised:
        logins({VARIABLE: f"bert:another password,{entry}"})
    assert entry.rpartition(":")[2].strip(",") not in str(raised.value)


@pytest.mark.parametrize("name", sorted(SWITCHES))
def test_switches_that_open_the_app_to_anybody_are_refused(name: str) -> None:
    refuse_switches({name: ""})
    with pytest.raises(ConfigError, match=f"^{name} lets visitors .*; unset it"):
        refuse_switches({name: "1"})


@pytest.mark.parametrize(
    "path",
    ["config", "gradio_api/info", "gradio_api/call/generate/x", "gradio_api/queue/data",
     "gradio_api/file=/etc/hostname"],
)  # fmt: skip
def test_strangers_get_nothing(app: RunningApp, path: str) -> None:
    assert httpx.get(f"{app.url}/{path}", timeout=PATIENCE_SECONDS).status_code == 401


@pytest.mark.parametrize(
    "path",
    ["upload", "queue/join", *(f"{way}/{verb}" for way in ("call", "run") for verb in VERBS)],
)
def test_strangers_start_nothing(app: RunningApp, path: str) -> None:
    address = f"{app.url}/gradio_api/{path}"
    answer = httpx.post(address, json={"data": ["calm piano"]}, timeout=PATIENCE_SECONDS)
    assert answer.status_code == 401


@pytest.mark.parametrize("path", ["", "sse", "schema", "messages/"])
@pytest.mark.parametrize("verb", VERBS)
def test_tools_of_assistants_know_no_logins_and_are_off(
    app: RunningApp, path: str, verb: str
) -> None:
    arguments = {"name": verb, "arguments": {"prompt": "calm piano"}}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": arguments}
    address = f"{app.url}/gradio_api/mcp/{path}"
    accepted = {"Accept": "application/json, text/event-stream"}
    for answer in (
        httpx.post(address, json=call, headers=accepted, timeout=PATIENCE_SECONDS),
        httpx.get(address, headers=accepted, timeout=PATIENCE_SECONDS),
    ):
        assert answer.status_code in (401, 404, 405)


def test_a_recruited_listener_needs_no_login_from_the_page_to_the_last_vote(
    app: RunningApp,
) -> None:
    for path in ("api/v1/healthz", "listen/load", "listen/static/listen.js"):
        assert httpx.get(f"{app.url}/{path}", timeout=PATIENCE_SECONDS).status_code == 200
    outcome, votes = Outcome(), {}
    port = int(app.url.rpartition(":")[2])
    asyncio.run(Rater(0, port, 1.0, outcome, votes).run())
    assert len(votes) == VISIT.trials
    assert all(status < 300 for status in outcome.statuses)


def test_programs_log_in(app: RunningApp) -> None:
    client = Client(app.url, auth=(NAME, PASSWORD), verbose=False, download_files=False)
    _, facts = client.predict("calm piano", num_steps=1, api_name="/generate")
    assert facts["request"]["prompt"] == "calm piano"


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_the_form_fits_narrow_pages_and_does_not_fill_wide_ones(
    chromium: Any, app: RunningApp, width: int
) -> None:
    box = "input[type=password]"
    with driver.visit(chromium, app.url, (width, 740), landmark=box, expected=("401",)) as visitor:
        assert visitor.overflow() <= 0
        panel = visitor.page.locator(".panel").bounding_box()
        assert panel["width"] <= min(width, 480)
        assert panel["x"] + panel["width"] / 2 == pytest.approx(width / 2, abs=2)


def test_people_log_in_on_the_page(chromium: Any, app: RunningApp) -> None:
    wrong = ("400", "401")  # what the browser calls failed resources
    box = "input[type=password]"
    with driver.visit(chromium, app.url, landmark=box, expected=wrong) as visitor:
        page = visitor.page
        name, password = page.get_by_test_id("textbox"), page.get_by_test_id("password")
        button = page.get_by_role("button", name="Login")
        visitor.picture("login")
        name.fill(NAME)
        password.fill("a wrong password")
        button.click()
        page.get_by_text("Incorrect").first.wait_for()
        assert page.locator("#generate").count() == 0
        name.fill(NAME)  # the form was emptied
        password.fill(PASSWORD)
        button.click()
        page.locator("#generate").wait_for()
        page.fill("#prompt textarea", "calm piano")
        page.click("#generate")
        page.locator("article.clip").wait_for()
