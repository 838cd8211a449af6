"""The API: what listeners may learn, what is refused and how, and that bad input loses nothing."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
import zipfile
from uuid import uuid4

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from tests.studies import Clock, heard, settings_for, write_study
from ttmpref.study.api import MAX_BODY_BYTES, peer_of
from ttmpref.study.app import mount
from ttmpref.study.records import build_folder
from ttmpref.study.stimuli import build_study
from ttmpref.study.store import Store, tables
from ttmpref.study.store.admins import WRONG_TOKENS_PER_MINUTE

API = "/api/v1"
CONSENT = {"consent_version": "1", "accepted": True}
ADMIN = {"Authorization": "Bearer an admin token of tests"}
INJECTIONS = [
    "<script>alert(1)</script>", "=HYPERLINK(\"http://x\")", "'; DROP TABLE vote; --", "{{7*7}}",
    "\x00\x1b[31m", "\u202egnp.exe", "🎹" * 50, "a\nb\r\nSet-Cookie: x", "../../etc/passwd",
    '"><img src=x onerror=alert(1)>', "@SUM(A1)", "\t=1+1",
]  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("api")
    study = write_study(root / "study", privacy={"publish": {"comments": True}})
    build_study(study, build_folder(root / "data", study.definition))
    store = Store(settings_for(root / "data", ""), Clock())
    store.studies.open(study, "tester")
    store.close()
    return study, root / "data"


class Api:
    """A client and the clock and store behind it."""

    def __init__(self, settings, results):
        self.clock = Clock()
        self.settings = settings
        self.store = Store(settings, self.clock)
        app = FastAPI()

        @app.get("/{anything:path}")
        def catch_all(anything: str) -> str:
            return "the page"

        mount(app, self.store, results)
        self.http = TestClient(app, raise_server_exceptions=False)

    def get(self, path, token=None, **options):
        return self.http.get(API + path, headers=bearer(token), **options)

    def post(self, path, body=None, token=None, headers=(), **options):
        given = {**bearer(token), **dict(headers)}
        return self.http.post(API + path, json=body or {}, headers=given, **options)

    def join(self, **changes):
        return self.post("/studies/tiny/participants", {**CONSENT, **changes}).json()["token"]

    def next(self, token):
        return self.post("/trials/next", token=token).json()

    def vote(self, token, trial, key=None, **changes):
        key = {"Idempotency-Key": key or str(uuid4())}
        return self.post(f"/trials/{trial['id']}/vote", answer(**changes), token, key)

    def finish(self, token):
        step = self.next(token)
        while not step["done"]:
            self.clock.pass_(20)
            step = self.vote(token, step["trial"]).json()["next"]
        return step

    def votes(self):
        with self.store.database.read() as connection:
            return connection.scalar(select(func.count()).select_from(tables.vote))


def bearer(token):
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def events(seconds=1.0):
    rows = [dataclasses.asdict(event) for event in heard(seconds)]
    return [{key: value for key, value in row.items() if key != "client"} for row in rows]


def answer(**changes):
    return {"choice": "A", "rt_ms": 4_000, "client": "page", "events": events(), **changes}


@pytest.fixture(scope="module")
def steady(built, tmp_path_factory):
    """An API for tests that leave at most a lease behind."""
    root = tmp_path_factory.mktemp("steady")
    shutil.copytree(built[1], root / "data")
    api = Api(settings_for(root / "data", ""), root / "results")
    yield api
    api.store.close()


@pytest.fixture
def api(built, tmp_path):
    _, data = built
    shutil.copytree(data, tmp_path / "data")
    api = Api(settings_for(tmp_path / "data", ""), tmp_path / "results")
    yield api
    api.store.close()


def test_a_session_from_consent_to_reveal(api):
    study = api.get("/studies/tiny").json()
    assert study["trials"] == 7 and study["consent"]["version"] == "1"
    token = api.join(questionnaire={"device": "headphones"})
    assert api.get("/session/reveal", token).status_code == 403
    assert api.finish(token) == {"done": True, "code": None}
    assert api.get("/session", token).json()["status"] == "completed"
    assert {row["system_a"] for row in api.get("/session/reveal", token).json()} <= {"old", "new"}
    assert api.votes() == 6


def test_check_5_statuses_of_votes_that_come_wrong(api):
    token, other = api.join(), api.join()
    trial = api.next(token)["trial"]
    assert api.vote(token, trial, events=[]).status_code == 409  # not presented
    assert api.vote(other, trial).status_code == 403
    assert api.vote("nobody", trial).status_code == 401
    assert api.vote(token, {"id": "0" * 32}).status_code == 404
    assert api.vote(token, trial, events=events(0.1)).json()["error"]["code"] == "not_heard"
    assert api.vote(token, trial).status_code == 200
    key = str(uuid4())
    trial = api.next(token)["trial"]
    api.clock.pass_(20)
    first, again = (api.vote(token, trial, key) for _ in range(2))
    assert first.status_code == again.status_code == 200 and first.json() == again.json()
    assert api.vote(token, trial, key, choice="B").status_code == 409
    assert api.vote(token, trial).status_code == 409
    trial = api.next(token)["trial"]
    api.clock.pass_(3600)
    gone = api.vote(token, trial)
    assert gone.status_code == 410 and gone.json()["error"]["code"] == "lease_expired"
    assert api.post("/session/withdraw", token=token).status_code == 200
    assert api.vote(token, trial).status_code == 410


def test_check_7_resume_on_another_browser(api):
    token = api.join()
    first = api.next(token)
    api.clock.pass_(5)
    again = Api(api.settings, "unused")
    again.clock.now = api.clock.now
    resumed = again.next(token)
    assert resumed["trial"]["id"] == first["trial"]["id"]
    assert resumed["trial"]["stimuli"] == first["trial"]["stimuli"]


def test_check_11_clips_come_with_the_same_headers_and_nothing_that_names_them(api):
    token = api.join()
    seen = []
    for _ in range(3):
        trial = api.next(token)["trial"]
        seen += [api.get(f"/stimuli/{name}", token) for name in trial["stimuli"].values()]
        api.clock.pass_(20)
        api.vote(token, trial)
    headers = {tuple(response.headers.items()) for response in seen}
    assert len(headers) == 1 and len({len(response.content) for response in seen}) == 1
    names = [name for name, _ in headers.pop()]
    assert "etag" not in names and "last-modified" not in names
    assert "content-disposition" not in names
    assert seen[0].headers["content-type"] == "audio/wav"
    assert seen[0].headers["cache-control"] == "no-store"
    assert seen[0].content[:4] == b"RIFF" and seen[0].content[36:40] == b"data"


def test_check_12_tokens_of_clips_are_random_and_of_one_session(api):
    token, other = api.join(), api.join()
    mine, foreign = api.next(token)["trial"]["stimuli"], api.next(other)["trial"]["stimuli"]
    names = [*mine.values(), *foreign.values()]
    assert len(set(names)) == 4 and all(len(bytes.fromhex(name)) == 16 for name in names)
    refusals = [
        api.get(f"/stimuli/{name}", token)
        for name in (foreign["A"], "0" * 32, "1", "%00", "..%2f..%2fsecret.key", "é")
    ]
    assert {response.status_code for response in refusals} == {404}
    stolen, unknown = refusals[0], refusals[1]
    assert stolen.content == unknown.content and stolen.headers == unknown.headers
    assert api.get(f"/stimuli/{mine['A']}").status_code == 401


def test_check_13_nothing_sent_to_a_listener_names_what_is_compared(api, built):
    study, data = built
    build = json.loads((build_folder(data, study.definition) / "build.json").read_text())
    secrets = {"first_label", "old", "new", "degraded", "baseline", "candidate", str(data)}
    secrets |= {s["delivered_sha256"] for s in build["stimuli"]}
    secrets |= {s["source_sha256"] for s in build["stimuli"] if s["source_sha256"]}
    token = api.join()
    texts = [json.dumps(api.get("/studies/tiny").json()), api.http.get(API + "/openapi.json").text]
    step = api.next(token)
    while not step["done"]:
        texts.append(json.dumps(step))
        for name in step["trial"]["stimuli"].values():
            texts.append(str(api.get(f"/stimuli/{name}", token).headers))
        api.clock.pass_(20)
        step = api.vote(token, step["trial"]).json()["next"]
    texts.append(json.dumps(api.get("/session", token).json()))
    words = {word.strip("\"':,.{}[]()") for text in texts[2:] for word in text.split()}
    assert not words & secrets
    assert not any(secret in text for secret in secrets if len(secret) > 20 for text in texts)
    assert {"kind", "pair_id", "score", "system"} & words == set()


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"choice": "C"}, "body.choice"),
        ({"choice": None}, "choice or grade"),
        ({"grade": 1}, "choice or grade"),
        ({"choice": None, "grade": 1}, "asks for a choice"),
        ({"choice": None, "grade": 9}, "body.grade"),
        ({"confidence": 4}, "3 levels"),
        ({"confidence": 0}, "body.confidence"),
        ({"rt_ms": -1}, "body.rt_ms"),
        ({"rt_ms": 1e400}, "body.rt_ms"),
        ({"comment": "x" * 2001}, "body.comment"),
        ({"comment": "\ud800"}, "body.comment"),
        ({"tags": ["x"] * 11}, "body.tags"),
        ({"client": "../x"}, "body.client"),
        ({"client_ts": "yesterday"}, "body.client_ts"),
        ({"extra": 1}, "body.extra"),
        ({"events": [{}]}, "body.events.0.seq"),
        ({"events": [{**events()[0], "media_ms": float("nan")}]}, "body.events.0.media_ms"),
        ({"events": [{**events()[0], "kind": "hear"}]}, "body.events.0.kind"),
        ({"events": [events()[0]] * 501}, "body.events"),
    ],
)
def test_a_bad_body_is_refused_with_its_place_and_stores_nothing(steady, changes, where):
    token = steady.join()
    trial = steady.next(token)["trial"]
    headers = {**bearer(token), "Idempotency-Key": str(uuid4()), "Content-Type": "application/json"}
    body = json.dumps(answer(**changes))  # NaN and Infinity as JavaScript would never send them
    refused = steady.http.post(f"{API}/trials/{trial['id']}/vote", content=body, headers=headers)
    assert refused.status_code == 422 and where in refused.json()["error"]["message"]
    assert "\n" not in refused.json()["error"]["message"]
    assert steady.vote(token, trial).status_code == 200


@pytest.mark.parametrize("key", [None, "", "1", "not-a-uuid", "x" * 500])
def test_a_vote_needs_an_idempotency_key(steady, key):
    token = steady.join()
    trial = steady.next(token)["trial"]
    headers = {} if key is None else {"Idempotency-Key": key}
    refused = steady.post(f"/trials/{trial['id']}/vote", answer(), token, headers)
    assert refused.status_code == 422 and "idempotency-key" in refused.json()["error"]["message"]


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '"text"', "\x00", "[" * 100_000])
def test_what_is_no_json_object_is_refused(steady, body):
    headers = {"Content-Type": "application/json"}
    refused = steady.http.post(f"{API}/studies/tiny/participants", content=body, headers=headers)
    assert refused.status_code in (400, 422) and refused.json()["error"]["message"]
    assert steady.get("/healthz").is_success


def test_a_long_body_is_refused_before_it_is_read(steady):
    def chunks():
        for _ in range(MAX_BODY_BYTES // 1000 + 2):
            yield b" " * 1000

    for content in (b" " * (MAX_BODY_BYTES + 1), chunks()):
        refused = steady.http.post(f"{API}/studies/tiny/participants", content=content)
        assert refused.status_code == 413
        assert refused.json()["error"]["code"] == "too_large"


def test_check_20_injections_are_text_and_nothing_else(api):
    for text in INJECTIONS:
        joined = api.post("/studies/tiny/participants", {**CONSENT, "external_id": text[:200]})
        token = joined.json()["token"]
        trial = api.vote(token, api.next(token)["trial"]).json()["next"]["trial"]
        api.clock.pass_(20)
        assert api.vote(token, trial, comment=text, tags=[text[:40]]).status_code == 200
    exported = api.http.post(f"{API}/admin/studies/tiny/exports", json={}, headers=ADMIN).json()
    path = f"{API}/admin/exports/{exported['study']}/{exported['name']}"
    with zipfile.ZipFile(io.BytesIO(api.http.get(path, headers=ADMIN).content)) as files:
        names = {name.rpartition("/")[2]: name for name in files.namelist()}
        comments = [json.loads(line)["comment"] for line in files.open(names["votes.jsonl"])]
        table = list(csv.DictReader(io.StringIO(files.read(names["votes.csv"]).decode())))
    assert len(comments) == len(table) == len(INJECTIONS)
    for comment, row in zip(comments, table, strict=True):
        assert not any(ord(character) < 32 and character not in "\n\t" for character in comment)
        assert "\u202e" not in comment
        assert row["comment"] in (comment, f"'{comment}") and row["comment"][0] not in "=+-@\t"
    assert api.store.studies.verify("tiny") == []


@pytest.mark.parametrize(
    "path", ["/studies/..%2f..", "/studies/%00", "/nothing", "/stimuli/", "/admin/exports/x/..%2fy"]
)
def test_check_21_no_path_reaches_a_file(steady, path):
    answer = steady.http.get(API + path, headers=ADMIN)
    assert answer.status_code in (404, 405) and answer.json()["error"]
    assert "the page" not in answer.text


def test_check_23_limits_answer_429_and_forged_addresses_do_not_evade_them(built, tmp_path):
    _, data = built
    shutil.copytree(data, tmp_path / "data")
    settings = dataclasses.replace(settings_for(tmp_path / "data", ""), joins_per_day=2)
    api = Api(settings, tmp_path)
    for _ in range(2):
        api.join()
    forged = {"X-Forwarded-For": "6.6.6.6", "X-Real-IP": "6.6.6.6", "Forwarded": "for=6.6.6.6"}
    refused = api.post("/studies/tiny/participants", CONSENT, headers=forged)
    assert refused.status_code == 429 and int(refused.headers["Retry-After"]) > 0


def test_only_our_own_proxies_are_believed():
    class Request:
        headers = {"x-forwarded-for": "6.6.6.6, 203.0.113.7, 10.0.0.1"}
        client = dataclasses.make_dataclass("Peer", ["host"])("10.0.0.2")

    assert [peer_of(Request, n) for n in (0, 1, 2, 9)] == [
        "10.0.0.2", "10.0.0.1", "203.0.113.7", "10.0.0.2",
    ]  # fmt: skip


def test_check_4_a_full_disk_answers_503_and_the_retry_is_stored_once(api, monkeypatch):
    from contextlib import contextmanager

    from sqlalchemy.exc import OperationalError

    token = api.join()
    trial = api.vote(token, api.next(token)["trial"]).json()["next"]["trial"]
    api.clock.pass_(20)
    key = str(uuid4())
    engine = api.store.database._writing

    class Full:
        @contextmanager
        def begin(self):
            with engine.begin() as connection:
                yield connection
                raise OperationalError("COMMIT", {}, Exception("database or disk is full"))

    monkeypatch.setattr(api.store.database, "_writing", Full())
    refused = api.vote(token, trial, key)
    assert refused.status_code == 503 and "disk" not in refused.text  # that is for the log
    assert refused.headers["Retry-After"] == "2"
    monkeypatch.undo()
    assert api.votes() == 0
    assert api.vote(token, trial, key).status_code == 200
    assert api.votes() == 1 and api.store.studies.verify("tiny") == []


def test_clock_skew_of_the_client_changes_nothing(api):
    token = api.join()
    trial = api.vote(token, api.next(token)["trial"]).json()["next"]["trial"]
    api.clock.pass_(20)
    skewed = [{**event, "mono_ms": event["mono_ms"] - 1e11} for event in events()]
    assert api.vote(token, trial, events=skewed, client_ts="1970-01-01T00:00:00Z").is_success


def test_a_beacon_carries_its_token_in_the_body(steady):
    token = steady.join()
    trial = steady.next(token)["trial"]
    body = {"client": "page", "events": events(), "token": token}
    assert steady.post(f"/trials/{trial['id']}/events", body).json() == {"stored": 5}
    assert steady.post(f"/trials/{trial['id']}/events", body).json() == {"stored": 5}
    nobody = {"client": "page", "events": events()}
    assert steady.post(f"/trials/{trial['id']}/events", nobody).status_code == 401


def test_consent_and_study_states_have_their_statuses(api):
    join = "/studies/tiny/participants"
    assert api.post(join, {**CONSENT, "accepted": False}).json()["error"]["code"] == "no_consent"
    assert api.post(join, {**CONSENT, "consent_version": "0"}).status_code == 409
    assert api.post("/studies/none/participants", CONSENT).status_code == 404
    for status, expected in (("paused", 409), ("closed", 410)):
        moved = api.http.post(f"{API}/admin/studies/tiny/status", json={"status": status},
                              headers=ADMIN)  # fmt: skip
        assert moved.json()["status"] == status
        assert api.post(join, CONSENT).status_code == expected
        assert api.get("/studies/tiny").status_code == expected


def test_the_admin_sees_all_and_nobody_else_does(api):
    api.finish(api.join())
    for path in ("/admin/studies", "/admin/studies/tiny", "/admin/studies/tiny/audit"):
        assert api.get(path).status_code == 401
        assert api.get(path, "wrong").status_code == 401
        assert api.http.get(API + path, headers=ADMIN).status_code == 200
    overview = api.http.get(f"{API}/admin/studies/tiny", headers=ADMIN).json()
    assert overview["votes"] == 4 and overview["participants"] == {"completed": 1}
    assert overview["pairs"]["largest_side_difference"] <= 1
    whole = api.http.get(f"{API}/admin/studies/tiny/audit", headers=ADMIN).json()
    assert whole == {"whole": True, "problems": []}


def test_guessing_the_admin_token_is_limited_and_forged_addresses_do_not_help(api):
    studies = "/admin/studies"
    for _ in range(WRONG_TOKENS_PER_MINUTE):
        assert api.get(studies, "wrong").status_code == 401
    forged = {**ADMIN, "X-Forwarded-For": "6.6.6.6"}
    refused = api.http.get(API + studies, headers=forged)
    assert refused.status_code == 429 and 0 < int(refused.headers["Retry-After"]) <= 60
    api.clock.pass_(60)
    assert api.http.get(API + studies, headers=ADMIN).status_code == 200


def test_only_the_headphone_check_of_the_study_is_taken(steady):
    token = steady.join()
    for kind in ("hp", "volume", "hearing_self"):
        body = {"kind": kind, "score": 1.0}
        assert steady.post("/session/screening", body, token).status_code == 422


def test_without_a_token_there_is_no_admin_api(built, tmp_path):
    _, data = built
    settings = dataclasses.replace(settings_for(data, ""), admin_token=None)
    api = Api(settings, tmp_path)
    assert api.http.get(f"{API}/admin/studies", headers=ADMIN).status_code == 404


def test_the_api_stands_in_front_of_a_page_that_takes_every_address(steady):
    assert steady.http.get("/anything").json() == "the page"
    assert steady.get("/healthz").json() == {"status": "ok"}
    assert steady.get("/readyz").json() == {"status": "ready"}
    schema = steady.get("/openapi.json").json()
    assert "/trials/{trial}/vote" in schema["paths"]


def test_every_answer_carries_the_security_headers(steady):
    for answer in (steady.get("/healthz"), steady.get("/nothing"), steady.post("/trials/next")):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_fewer_pairs_than_a_session_has_room_for_make_it_shorter_and_it_says_so(tmp_path):
    """A researcher's first study: ten clips of each system, and the shipped file as it is."""
    study = write_study(tmp_path / "study", prompts=4, session={"trials": 20})
    build_study(study, build_folder(tmp_path / "data", study.definition))
    api = Api(settings_for(tmp_path / "data", ""), tmp_path / "results")
    api.store.studies.open(study, "tester")
    assert api.get("/studies/tiny").json()["trials"] == 7
    token = api.join()
    step, told = api.next(token), []
    while not step["done"]:
        told.append((step["trial"]["answered"], step["trial"]["total"]))
        api.clock.pass_(20)
        step = api.vote(token, step["trial"]).json()["next"]
    assert told == [(number, 7) for number in range(7)]
    api.store.close()
