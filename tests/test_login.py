"""An app for invited people: who gets in, where, and what stays open to listeners."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client

from tests import browser as driver
from tests.browser import PATIENCE_SECONDS, RunningApp
from ttmpref.types import ConfigError
from ttmpref.ui.login import VARIABLE, logins

NAME, PASSWORD = "anna", "a long password: 4711"


@pytest.fixture(scope="module")
def app(tiny_preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    folder = tmp_path_factory.mktemp("app")
    given = {VARIABLE: f"{NAME}:{PASSWORD},bert:another password"}
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


@pytest.mark.parametrize(
    "path",
    ["config", "gradio_api/info", "gradio_api/call/generate/x", "gradio_api/queue/data",
     "gradio_api/file=/etc/hostname"],
)  # fmt: skip
def test_strangers_get_nothing(app: RunningApp, path: str) -> None:
    assert httpx.get(f"{app.url}/{path}", timeout=PATIENCE_SECONDS).status_code == 401


@pytest.mark.parametrize("path", ["upload", "queue/join", "call/generate", "run/generate"])
def test_strangers_start_nothing(app: RunningApp, path: str) -> None:
    address = f"{app.url}/gradio_api/{path}"
    answer = httpx.post(address, json={"data": ["calm piano"]}, timeout=PATIENCE_SECONDS)
    assert answer.status_code == 401


def test_tools_of_assistants_know_no_logins_and_are_off(app: RunningApp) -> None:
    answer = httpx.post(f"{app.url}/gradio_api/mcp/", json={}, timeout=PATIENCE_SECONDS)
    assert answer.status_code in (401, 404, 405)


def test_studies_stay_open_to_listeners(app: RunningApp) -> None:
    for path in ("api/v1/healthz", "listen/any", "listen/static/listen.js"):
        assert httpx.get(f"{app.url}/{path}", timeout=PATIENCE_SECONDS).status_code == 200


def test_programs_log_in(app: RunningApp) -> None:
    client = Client(app.url, auth=(NAME, PASSWORD), verbose=False, download_files=False)
    _, facts = client.predict("calm piano", num_steps=1, api_name="/generate")
    assert facts["request"]["prompt"] == "calm piano"


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
