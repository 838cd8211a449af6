"""The operator's page and what it reads: who may, what it says, and that it is there by choice."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.studies import Clock, ballot, settings_for, write_study
from ttmpref.study.admin_page import FILES, POLICY, admin_routes
from ttmpref.study.app import mount
from ttmpref.study.records import build_folder
from ttmpref.study.settings import ADMIN_TOKEN
from ttmpref.study.stimuli import build_study
from ttmpref.study.store import Store
from ttmpref.study.store.people import Joining

TOKEN = "an admin token of tests"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
STUDIES = "/api/v1/admin/studies"
SESSION = {"trials": 4, "attention": 0, "repeats": 0, "practice": 0}


@pytest.fixture(scope="module")
def clock():
    return Clock()


@pytest.fixture(scope="module")
def store(clock, tmp_path_factory):
    root = tmp_path_factory.mktemp("admin")
    study = write_study(root / "study", session=SESSION)
    build_study(study, build_folder(root / "data", study.definition))
    store = Store(settings_for(root / "data", ""), clock)
    store.studies.open(study, "tester")
    yield store
    store.close()


def client(store, folder):
    app = FastAPI()

    @app.get("/{anything:path}")
    def catch_all(anything: str) -> str:
        return "the app"

    mount(app, store, folder)
    return TestClient(app, raise_server_exceptions=False)


def test_without_an_admin_token_there_is_no_page(store, tmp_path, monkeypatch):
    monkeypatch.delenv(ADMIN_TOKEN, raising=False)
    http = client(store, tmp_path)
    assert {http.get(path).json() for path in FILES} == {"the app"}
    assert admin_routes({}) == admin_routes({ADMIN_TOKEN: ""}) == []


def test_with_one_the_page_comes_under_a_strict_policy(store, tmp_path, monkeypatch):
    monkeypatch.setenv(ADMIN_TOKEN, TOKEN)
    http = client(store, tmp_path)
    for path, (_, kind) in FILES.items():
        answer = http.get(path)
        assert answer.status_code == 200 and answer.headers["content-type"].startswith(kind)
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["cache-control"] == "no-store"
    assert "unsafe" not in POLICY and "default-src 'none'" in POLICY


def test_every_answer_for_operators_needs_the_token(store, tmp_path):
    http = client(store, tmp_path)
    for path in ("", "/tiny", "/tiny/definition", "/tiny/audit"):
        assert http.get(STUDIES + path).status_code == 401
        assert http.get(STUDIES + path, headers={"Authorization": "Bearer no"}).status_code == 401
        assert http.get(STUDIES + path, headers=ADMIN).status_code == 200


def test_the_overview_says_coverage_and_whose_clip_came_first(store, clock, tmp_path):
    http = client(store, tmp_path)
    token, _ = store.people.join("tiny", Joining("1", True, network="test"))
    for number in range(2):
        trial = store.trials.next(token)
        clock.pass_(20)
        store.trials.vote(token, trial.id, f"00000000-0000-4000-8000-00000000000{number}", ballot())
    found = http.get(f"{STUDIES}/tiny", headers=ADMIN).json()
    contrast, given_out = found["contrasts"][0], found["trials"]
    assert (contrast["first"], contrast["second"], contrast["votes"]) == ("old", "new", 2)
    assert contrast["assigned"] == sum(given_out.values())
    assert 0 <= contrast["first_on_a"] <= contrast["assigned"]
    assert found["coverage"] == {"0": 4, "1": 2}
    assert found["can_become"] == ["paused", "closed"]


def test_the_definition_is_shown_as_it_was_written(store, tmp_path):
    found = client(store, tmp_path).get(f"{STUDIES}/tiny-v1/definition", headers=ADMIN).json()
    assert found["yaml"].startswith("schema: 1\n") and len(found["sha256"]) == 64
    missing = client(store, tmp_path).get(f"{STUDIES}/nothing/definition", headers=ADMIN)
    assert missing.status_code == 404
