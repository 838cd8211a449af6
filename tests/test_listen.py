"""The Listen tab and the API behind it without a browser: what stands there, and when."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from tests.studies import write_study
from ttmpref.study import app as study_app
from ttmpref.study.app import PREFIX, LateApi, routes
from ttmpref.study.page import ADDRESS, STATIC, build_page
from ttmpref.study.records import build_folder
from ttmpref.study.stimuli import build_study
from ttmpref.ui.listen import listen_html

TITLE = "<b>Which</b> & why?"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder that the environment names."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("TTMPREF_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TTMPREF_STORAGE_IS_SAFE", "1")
    return tmp_path / "data"


def test_the_tab_shows_open_studies_and_names_paused_ones(data: Path, tmp_path: Path) -> None:
    api = LateApi()
    assert "study open" in listen_html(api)  # how to open the first one
    study = write_study(tmp_path / "study", prompts=4, title=TITLE)
    build_study(study, build_folder(data, study.definition))
    api.store().studies.open(study, "tester")
    shown = listen_html(api)
    assert "&lt;b&gt;Which&lt;/b&gt; &amp; why?" in shown and TITLE not in shown
    assert 'href="listen/tiny"' in shown and "<iframe" in shown
    api.store().studies.move("tiny", "paused", "tester")
    assert "paused" in listen_html(api) and "<iframe" not in listen_html(api)
    api.store().studies.move("tiny", "closed", "tester")
    assert "study open" in listen_html(api)
    api.store().close()


def test_a_database_that_cannot_be_used_is_named_in_the_log_and_used_as_soon_as_it_can_be(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'later' / 'studies.sqlite3'}")
    monkeypatch.setattr(study_app, "SECONDS_BETWEEN_TRIALS", 0.0)
    api = LateApi()
    client = TestClient(Starlette(routes=routes(api)))
    caplog.clear()
    shown = listen_html(api)
    assert "cannot be shown just now" in shown and "later" not in shown
    assert "cannot be written" in caplog.text  # with its path, for whoever runs the app
    refusal = client.get(f"{PREFIX}/studies/tiny")
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "unavailable")
    assert "retry-after" in refusal.headers and "later" not in refusal.text
    assert client.get(f"{ADDRESS}/tiny").status_code == 200  # the page itself needs no database
    (tmp_path / "later").mkdir()
    assert client.get(f"{PREFIX}/studies/tiny").status_code == 404  # asked, and not there
    assert "study open" in listen_html(api)
    api.store().close()


def test_a_database_that_just_failed_is_not_asked_again_at_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'later' / 'studies.sqlite3'}")
    monkeypatch.setattr(study_app, "SECONDS_BETWEEN_TRIALS", 3600.0)
    api = LateApi()
    first = listen_html(api)
    (tmp_path / "later").mkdir()
    assert listen_html(api) == first


def test_the_page_is_served_with_a_policy_that_lets_nothing_else_in() -> None:
    client = TestClient(build_page())
    for path in STATIC.glob("*.*"):
        served = client.get(f"/static/{path.name}")
        assert served.content == path.read_bytes()
        policy = served.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert "frame-ancestors 'self'" in policy
        assert served.headers["x-content-type-options"] == "nosniff"
        assert served.headers["referrer-policy"] == "no-referrer"
    assert client.get("/any-study").content == (STATIC / "index.html").read_bytes()
    assert (
        "https://huggingface.co"
        in (TestClient(build_page("owner/space")).get("/a").headers["content-security-policy"])
    )


@pytest.mark.parametrize(
    "path", ["/", "/static/page.py", "/static/..%2fpage.py", "/static/admin/x", "/a/b"]
)
def test_nothing_but_the_page_is_served(path: str) -> None:
    assert TestClient(build_page()).get(path).status_code == 404
