"""The layer around the app: what it refuses to read, and which headers leave the server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from ttmpref.ui import shield
from ttmpref.ui.shield import MAX_BODY_BYTES, POLICY, UPLOADS, Shield

SECRETS = {"cookie": "session=4711", "authorization": "Bearer 4711", "x-any": "4711"}


async def length(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


async def part(request: Request) -> Response:
    """A part of a file with the request's headers in it, as Gradio sends one."""
    headers = {**request.headers, "content-range": "bytes 0-3/9", "etag": '"1"'}
    return Response(b"RIFF", 206, headers, "audio/wav")


async def strict(request: Request) -> Response:
    return Response(b"", headers={"Content-Security-Policy": "default-src 'none'"})


def client(folder: Path, **options: Any) -> TestClient:
    return TestClient(application(folder, **options))


def application(folder: Path, **options: Any) -> Starlette:
    routes = [Route("/", length, methods=["GET", "POST"]), Route(UPLOADS, length, methods=["POST"]),
              Route("/part", part), Route("/strict", strict)]  # fmt: skip
    layer = Middleware(Shield, folder=folder, **options)
    return Starlette(routes=routes, middleware=[layer])


def test_every_answer_carries_the_policy_and_stricter_ones_stay(tmp_path: Path) -> None:
    http = client(tmp_path)
    for path in ("/", "/part", "/nowhere"):
        headers = http.get(path).headers
        assert headers["content-security-policy"] == POLICY
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
    assert http.get("/strict").headers["content-security-policy"] == "default-src 'none'"


def test_the_policy_reaches_no_other_server_but_the_host_of_a_space_may_frame(
    tmp_path: Path,
) -> None:
    assert "http" not in POLICY and "*" not in POLICY
    framed = client(tmp_path, space_id="someone/space").get("/").headers
    assert framed["content-security-policy"].endswith(
        "frame-ancestors 'self' https://huggingface.co"
    )


def test_check_21_parts_of_files_come_without_the_headers_of_the_request(tmp_path: Path) -> None:
    answer = client(tmp_path).get("/part", headers=SECRETS)
    assert "4711" not in str(answer.headers)
    assert answer.headers["content-range"] == "bytes 0-3/9" and answer.headers["etag"] == '"1"'
    assert "host" not in answer.headers and "user-agent" not in answer.headers


def test_a_body_beyond_the_limit_is_refused_whether_or_not_it_says_how_long_it_is(
    tmp_path: Path,
) -> None:
    http = client(tmp_path)
    assert http.post("/", content=bytes(MAX_BODY_BYTES)).text == str(MAX_BODY_BYTES)
    pieces = (bytes(2**16) for _ in range(MAX_BODY_BYTES // 2**16 + 1))
    for content in (bytes(MAX_BODY_BYTES + 1), pieces):
        assert http.post("/", content=content).status_code == 413


def test_a_body_that_says_that_it_is_too_long_is_not_read_at_all(tmp_path: Path) -> None:
    asked: list[None] = []
    statuses: list[int | None] = []

    async def body() -> Any:
        asked.append(None)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def note(message: Any) -> None:
        statuses.append(message.get("status"))

    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b""}
    length_field = (b"content-length", str(MAX_BODY_BYTES + 1).encode())
    asyncio.run(application(tmp_path)({**scope, "headers": [length_field]}, body, note))
    assert (asked, statuses[0]) == ([], 413)


def test_uploads_may_be_longer_but_never_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    http, content = client(tmp_path), bytes(MAX_BODY_BYTES + 1)
    assert http.post(UPLOADS, content=content).status_code == 200
    monkeypatch.setattr(shield, "ROOM_BYTES", 2**60)
    assert http.post(UPLOADS, content=content).status_code == 413


def test_a_body_that_stands_still_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shield, "PIECE_SECONDS", 0.0)
    statuses = []

    async def never() -> Any:
        await asyncio.Event().wait()

    async def note(message: Any) -> None:
        statuses.append(message.get("status"))

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}
    asyncio.run(application(tmp_path)(scope, never, note))
    assert statuses[0] == 408


def test_mounted_apps_are_found_below_a_path_whether_or_not_the_proxy_takes_it_away(
    tmp_path: Path,
) -> None:
    mounted = Starlette(routes=[Route("/ready", length)])
    layer = Middleware(Shield, folder=tmp_path)
    app = FastAPI(routes=[Mount("/api/v1", mounted)], middleware=[layer])
    app.root_path = "/music"  # as Gradio sets it
    http = TestClient(app)
    for path in ("/api/v1/ready", "/music/api/v1/ready"):
        assert http.get(path).status_code == 200
