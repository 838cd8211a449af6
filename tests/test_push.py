"""Votes to a dataset: a hub of our own hears what is sent, and what a broken one costs."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest

from tests.stand_in import Site, serving
from tests.studies import Clock, answered_study, settings_for, take_part
from ttmpref.study.push import VotesPush
from ttmpref.study.settings import PushSettings
from ttmpref.study.store import Store
from ttmpref.study.store.people import Joining
from ttmpref.types import ConfigError

DATASET, TOKEN = "somebody/votes", "hf_a_token_of_tests"
PEER = "203.0.113.7"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as takes commits of small files; keeps what it was told."""

    site: Site
    made: list[dict[str, Any]]
    commits: list[dict[str, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.site.asked.append((self.path, dict(self.headers)))
        assert self.site.gate.wait(60)
        if self.site.answers:
            return self._reply(self.site.answers.pop(0)[0], {})
        if self.path == "/api/repos/create":
            self.made.append(json.loads(body))
            return self._reply(200, {"url": f"{self.site.address}/datasets/{DATASET}"})
        if self.path == f"/api/datasets/{DATASET}/preupload/main":
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            return self._reply(200, {"files": [{"path": name, **modes} for name in names]})
        assert self.path == f"/api/datasets/{DATASET}/commit/main"
        lines = [json.loads(line) for line in body.splitlines()]
        files = [line["value"] for line in lines if line["key"] == "file"]
        self.commits.append({file["path"]: base64.b64decode(file["content"]) for file in files})
        commit = f"{self.site.address}/datasets/{DATASET}/commit/1"
        return self._reply(200, {"commitUrl": commit, "commitOid": "1", "success": True})

    def _reply(self, status: int, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Requests are kept; nothing is printed."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    heard = SimpleNamespace(made=[], commits=[], site=Site())
    with serving(heard.site, Hub, made=heard.made, commits=heard.commits):
        yield heard


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    """With a study that three people have answered and that wants a fourth."""
    store = Store(settings_for(tmp_path, ""), clock)
    answered_study(tmp_path, store, clock, "answered", raters=3)
    yield store
    store.close()


def pusher(store: Store, hub: Any) -> VotesPush:
    return VotesPush(PushSettings(DATASET, TOKEN), lambda: store, hub.site.address)


def test_what_was_answered_goes_into_a_private_dataset_once(
    store: Store, clock: Clock, hub: Any
) -> None:
    push = pusher(store, hub)
    assert (push.push(), push.push()) == (1, 0)
    assert hub.made[0]["visibility"] == "private" and hub.made[0]["type"] == "dataset"
    (files,) = hub.commits
    assert {name.partition("/")[0] for name in files} == {"answered-v1"}
    assert files["answered-v1/votes.csv"].count(b"\n") == 1 + 3 * 6
    assert take_part(store, clock, "answered", 1, lambda a, b: "A") == 6
    assert push.push() == 1
    assert hub.commits[1]["answered-v1/votes.csv"].count(b"\n") == 1 + 4 * 6


def test_neither_tokens_nor_addresses_nor_names_of_systems_leave(store: Store, hub: Any) -> None:
    token, _ = store.people.join("answered", Joining("1", True, network=PEER))
    pusher(store, hub).push()
    sent = b"\n".join(hub.commits[0].values())
    assert token.encode() not in sent and PEER.encode() not in sent
    votes = hub.commits[0]["answered-v1/votes.jsonl"]
    assert b'"old"' not in votes and b'"new"' not in votes  # the study is open: codes


def test_a_hub_that_fails_loses_nothing_and_says_no_token(
    store: Store, hub: Any, caplog: pytest.LogCaptureFixture
) -> None:
    push = pusher(store, hub)
    hub.site.answers = [(403, {})]
    assert push.push() == 0 and hub.commits == []
    assert DATASET in caplog.text and TOKEN not in caplog.text
    assert push.push() == 1 and len(hub.commits) == 1


def test_a_database_that_is_gone_is_tried_again(
    store: Store, hub: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def gone() -> Store:
        raise ConfigError("no database")

    assert VotesPush(PushSettings(DATASET, TOKEN), gone, hub.site.address).push() == 0
    assert "no database" in caplog.text


def test_a_hub_that_does_not_answer_delays_no_vote(store: Store, hub: Any) -> None:
    hub.site.gate.clear()
    push = pusher(store, hub)
    push.start()
    while not hub.site.asked:
        time.sleep(0.01)
    token, _ = store.people.join("answered", Joining("1", True, network=PEER))
    store.trials.next(token)
    assert hub.commits == []
    push.stop()
    hub.site.gate.set()
    while not hub.commits:
        time.sleep(0.01)


def test_without_a_dataset_nothing_is_sent_and_half_a_setting_is_refused() -> None:
    assert PushSettings.from_environment({"HF_TOKEN": TOKEN}) is None
    named = {"TTMPREF_VOTES_DATASET": DATASET}
    with pytest.raises(ConfigError, match="HF_TOKEN must hold"):
        PushSettings.from_environment(named)
    with pytest.raises(ConfigError, match="owner/name"):
        PushSettings.from_environment({"TTMPREF_VOTES_DATASET": "votes", "HF_TOKEN": TOKEN})
    found = PushSettings.from_environment({**named, "HF_TOKEN": TOKEN})
    assert (found.dataset, found.minutes) == (DATASET, 15) and TOKEN not in repr(found)
