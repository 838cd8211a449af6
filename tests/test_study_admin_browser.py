"""The operator's page in a real browser: entering, watching votes come in, pausing, exporting."""

from __future__ import annotations

import io
import socket
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import uvicorn
from fastapi import FastAPI

from tests import browser as driver
from tests.browser import Visit
from tests.studies import Clock, ballot, settings_for, write_study
from ttmpref.study.app import mount
from ttmpref.study.records import build_folder
from ttmpref.study.settings import ADMIN_TOKEN
from ttmpref.study.stimuli import build_study
from ttmpref.study.store import Store
from ttmpref.study.store.people import Joining

TOKEN = "an admin token of tests"
TITLE = "<img src=x onerror=alert(1)> Which clip?"
SESSION = {"trials": 4, "attention": 0, "repeats": 0, "practice": 0}
NARROW = (320, 700)


class Running:
    """A server with one open study, and the clock and store behind it."""

    def __init__(self, url: str, store: Store, clock: Clock) -> None:
        self.url, self.store, self.clock = url, store, clock

    def vote(self) -> None:
        """Somebody joins and answers one trial."""
        token, _ = self.store.people.join("tiny", Joining("1", True, network="test"))
        trial = self.store.trials.next(token)
        self.clock.pass_(20)
        self.store.trials.vote(token, trial.id, str(uuid4()), ballot())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    root = tmp_path_factory.mktemp("admin")
    study = write_study(root / "study", title=TITLE, session=SESSION)
    build_study(study, build_folder(root, study.definition))
    return study, root


@pytest.fixture
def running(
    built: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Running]:
    study, root = built
    monkeypatch.setenv(ADMIN_TOKEN, TOKEN)
    clock = Clock()
    store = Store(settings_for(root, f"sqlite:///{tmp_path / 'studies.sqlite3'}"), clock)
    store.studies.open(study, "tester")
    app = FastAPI()
    mount(app, store, tmp_path / "results")
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listening:  # answers as soon as it can
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield Running(f"http://127.0.0.1:{listening.getsockname()[1]}", store, clock)
        server.should_exit = True
        thread.join()
    store.close()


@pytest.fixture
def visitor(chromium: Any, running: Running) -> Iterator[Visit]:
    with driver.visit(chromium, f"{running.url}/admin", landmark="#token") as visit:
        yield visit


def enter(page: Any, token: str = TOKEN) -> None:
    page.get_by_label("Admin token").fill(token)
    page.get_by_role("button", name="Enter").click()


def choose(page: Any) -> None:
    enter(page)
    page.get_by_role("button", name="tiny-v1").click()
    page.get_by_role("heading", name="Leak report").wait_for()


def test_an_operator_enters_with_the_token_and_no_other(visitor: Visit) -> None:
    page = visitor.page
    for wrong in ("a wrong token, long enough", "ключ от дома"):
        enter(page, wrong)
        page.locator("#message.bad").wait_for()
        assert page.get_by_role("button", name="tiny-v1").count() == 0
    choose(page)
    assert page.get_by_role("heading", name=TITLE).is_visible()  # as text, not as markup
    page.reload()
    page.get_by_role("button", name="tiny-v1").wait_for()  # the tab still knows the token
    page.get_by_role("button", name="Forget the token").click()
    page.reload()
    page.get_by_label("Admin token").wait_for()
    assert page.evaluate("sessionStorage.length + localStorage.length") == 0
    assert visitor.context.cookies() == []


def test_the_page_follows_the_votes_and_shows_design_leaks_balance_and_stopping(
    running: Running, visitor: Visit
) -> None:
    page = visitor.page
    choose(page)
    page.get_by_text("0 of 24 wanted").wait_for()
    running.vote()
    page.get_by_text("1 of 24 wanted").wait_for()  # by itself
    text = page.locator("#live").inner_text()
    for words in ("Stopping rule", "go on", "Pairs complete", "old / new", "at chance"):
        assert words in text
    page.get_by_text("Definition, hash").click()
    assert "votes_per_pair: 4" in page.locator("#definition").inner_text()
    visitor.picture("admin")


def test_an_operator_pauses_reopens_and_closes(running: Running, visitor: Visit) -> None:
    page = visitor.page
    choose(page)
    page.get_by_role("button", name="Pause").click()
    page.get_by_text("tiny-v1 is paused.").wait_for()
    page.get_by_role("button", name="Reopen").click()
    page.get_by_text("tiny-v1 is open.").wait_for()
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Close for good").click()
    assert running.store.reading.overview("tiny")["status"] == "open"
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Close for good").click()
    page.get_by_role("button", name="Archive").wait_for()
    assert running.store.reading.overview("tiny")["status"] == "closed"
    page.get_by_role("button", name="Check the audit chain").click()
    page.get_by_text("tiny-v1 is whole.").wait_for()


@pytest.mark.parametrize("unblind", [False, True])
def test_an_export_is_downloaded_and_names_systems_only_when_told_to(
    running: Running, visitor: Visit, unblind: bool
) -> None:
    page = visitor.page
    running.vote()
    choose(page)
    page.get_by_label("name the systems").set_checked(unblind)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Export and download").click()
    assert waiting.value.suggested_filename.startswith("tiny-v1-")
    with zipfile.ZipFile(io.BytesIO(Path(waiting.value.path()).read_bytes())) as archive:
        votes = next(name for name in archive.namelist() if name.endswith("/votes.csv"))
        row = archive.read(votes).decode().splitlines()[1]
    assert ("system-" in row) != unblind


def test_the_page_fits_a_narrow_dark_screen(chromium: Any, running: Running) -> None:
    address = f"{running.url}/admin"
    with driver.visit(chromium, address, NARROW, "dark", landmark="#token") as visit:
        choose(visit.page)
        assert visit.overflow() <= 0
        visit.picture("admin-narrow-dark")
