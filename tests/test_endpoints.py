"""What programs may ask of the app: documented endpoints, the tools of assistants, nothing else."""

from __future__ import annotations

import asyncio
import json
import re
import select
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from tests import browser as driver
from tests.browser import PATIENCE_SECONDS, ROOT, RunningApp, fetch
from tests.scoring import noise
from ttmpref.audio import read_clip, write_clip
from ttmpref.ui.shield import POLICY
from ttmpref.uploads import MAX_BYTES

VERBS = {"generate", "compare", "score"}
SECRET = "4711-session"
MULTIPART = {"Content-Type": "multipart/form-data; boundary=x"}


@pytest.fixture(scope="module")
def app(scoring_preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    with driver.running_app(scoring_preset, tmp_path_factory.mktemp("app")) as running:
        yield running


@pytest.fixture(scope="module")
def client(app: RunningApp, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(app.url, verbose=False, download_files=str(tmp_path_factory.mktemp("files")))


def post(url: str, **options: Any) -> httpx.Response:
    """One call on a connection of its own: a server may close one that a slow test left idle."""
    return httpx.post(url, timeout=PATIENCE_SECONDS, **options)


def left_behind(app: RunningApp) -> list[Path]:
    """Files of the app that are no clips."""
    found = app.temporary.glob("ttmpref-app-*/**/*")
    return [path for path in found if path.is_file() and "clips" not in path.parts]


def test_a_clip_comes_with_everything_that_made_it(client: Client) -> None:
    file, facts = client.predict("calm piano", seed=7, num_steps=2, api_name="/generate")
    assert read_clip(file).seconds == pytest.approx(1.0)
    assert facts["request"]["seed"] == 7 and facts["request"]["prompt"] == "calm piano"
    assert facts["measurements"]["reward"] is not None and facts["provenance"]["preset"] == "tiny"
    _, again = client.predict("calm piano", seed=7, num_steps=2, api_name="/generate")
    assert again["measurements"] == facts["measurements"]


def test_every_available_stage_is_compared_from_one_seed(client: Client) -> None:
    files, facts = client.predict("calm piano", num_steps=2, api_name="/compare")
    assert [one["request"]["stage"] for one in facts] == ["baseline", "scored"]
    assert len({one["request"]["seed"] for one in facts}) == 1
    assert len({Path(file).read_bytes() for file in files}) == 2


def test_uploads_are_scored_in_order_and_deleted(client: Client, app: RunningApp) -> None:
    files, _ = client.predict("calm piano", num_steps=1, api_name="/compare")
    sent = [handle_file(file) for file in [*files, __file__]]
    scores = client.predict(sent, "calm piano", api_name="/score")
    assert [one["score"] is not None for one in scores] == [True, True, False]
    assert scores[2]["error"] and str(app.temporary) not in json.dumps(scores)
    assert scores[0]["score"]["prompt"] == "calm piano"
    assert left_behind(app) == []


@pytest.mark.parametrize(
    ("arguments", "verb", "said"),
    [
        ({"prompt": " "}, "generate", "prompt is empty"),
        ({"prompt": "x", "guidance": 99}, "generate", "guidance is 99"),
        ({"prompt": "x", "stage": "lost"}, "generate", "lost"),
        ({"prompt": "x", "seed": -1}, "compare", "seed is -1"),
        ({"files": []}, "score", "no file"),
    ],
)
def test_mistakes_are_named_in_one_line(
    client: Client, arguments: dict[str, Any], verb: str, said: str
) -> None:
    with pytest.raises(AppError, match=re.compile(said, re.IGNORECASE)) as raised:
        client.predict(**arguments, api_name=f"/{verb}")
    assert "\n" not in str(raised.value) and "Traceback" not in str(raised.value)


def test_a_call_that_crashes_leaves_those_before_and_after_it_alone(
    client: Client, app: RunningApp
) -> None:
    steps = (1, {"no": "number"}, 1)
    calls = [client.submit("calm piano", num_steps=n, api_name="/generate") for n in steps]
    made = [call.result()[1] for call in (calls[0], calls[2])]
    assert [facts["request"]["num_steps"] for facts in made] == [1, 1]
    with pytest.raises(AppError) as raised:
        calls[1].result()
    assert "Traceback" not in str(raised.value)
    assert app.process.poll() is None


@pytest.mark.parametrize("path", ["/etc/passwd", str(ROOT / "app.py"), "../../etc/passwd"])
def test_a_path_on_the_server_is_no_upload(app: RunningApp, path: str) -> None:
    """Sent raw: the client library would upload a file of that name from its own disk."""
    for file in ({"path": path, "meta": {"_type": "gradio.FileData"}}, {"path": path}, path):
        called = post(f"{app.url}/gradio_api/call/score", json={"data": [[file], ""]})
        said = fetch(f"{app.url}/gradio_api/call/score/{called.json()['event_id']}").decode()
        assert "event: error" in said and "root:" not in said


def test_check_22_nothing_else_is_offered_and_raw_calls_change_nothing(app: RunningApp) -> None:
    offered = json.loads(fetch(f"{app.url}/gradio_api/info"))
    assert {name.strip("/") for name in offered["named_endpoints"]} == VERBS
    assert offered["unnamed_endpoints"] == {}
    fetch(f"{app.url}/api/v1/readyz")  # the database is there
    before = rows(app)
    events = json.loads(fetch(f"{app.url}/config"))["dependencies"]
    for number in range(len(events) + 2):
        body = {"data": [], "fn_index": number, "session_hash": "raw"}
        post(f"{app.url}/gradio_api/run/predict", json=body)
    assert rows(app) == before


def rows(app: RunningApp) -> dict[str, int]:
    """How many rows each table of the studies' database has."""
    path = app.temporary.parent / "data" / "studies.sqlite3"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {
            name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]
            for (name,) in names
        }


def test_an_assistant_finds_the_three_tools_with_their_help_and_can_use_them(
    app: RunningApp,
) -> None:
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def talk() -> tuple[list[Any], str]:
        async with (
            streamablehttp_client(f"{app.url}/gradio_api/mcp/") as (reading, writing, _),
            ClientSession(reading, writing) as session,
        ):
            await session.initialize()
            tools = (await session.list_tools()).tools
            made = await session.call_tool("generate", {"prompt": "calm piano", "num_steps": 1})
            assert not made.isError, made
            return tools, made.model_dump_json()

    tools, made = asyncio.run(talk())
    assert {tool.name for tool in tools} == VERBS
    for tool in tools:
        assert len(tool.description) > 40
        assert all(one.get("description") for one in tool.inputSchema["properties"].values())
    assert ".wav" in made and "calm piano" in made


def test_the_examples_of_the_about_tab_run_as_they_stand(
    app: RunningApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ttmpref.ui.about import PROGRAMS

    (code,) = re.findall(r"```python\n(.*?)```", PROGRAMS, re.DOTALL)
    assert "http://127.0.0.1:7860" in code
    monkeypatch.chdir(tmp_path)
    values: dict[str, Any] = {}
    exec(code.replace("http://127.0.0.1:7860", app.url), values)
    assert len(values["clips"]) == 2 and values["scores"][0]["score"] is not None


# ------------------------------------------------------------------------------ what leaves


def test_check_21_no_path_reaches_a_file_of_the_server(app: RunningApp) -> None:
    data = app.temporary.parent / "data"
    paths = [
        "/etc/passwd", "/etc%2fpasswd", "..%2f..%2fetc%2fpasswd", "%252fetc%252fpasswd",
        str(ROOT / "app.py"), str(ROOT / "README.md"), "app.py", str(data / "studies.sqlite3"),
        str(data / "secret.key"), str(ROOT / "ttmpref" / "presets" / "demo.yaml"), "file:///etc/passwd",
    ]  # fmt: skip
    link = next(app.temporary.glob("ttmpref-app-*")) / "link.wav"
    link.symlink_to("/etc/passwd")
    try:
        for path in (*paths, str(link)):
            for prefix in ("gradio_api/file=", "file=", "gradio_api/file/"):
                answer = httpx.get(f"{app.url}/{prefix}{path}", timeout=PATIENCE_SECONDS)
                assert answer.status_code in (403, 404), (prefix, path)
                assert "root:" not in answer.text
    finally:
        link.unlink()


def test_check_21_a_part_of_a_clip_comes_without_the_headers_that_asked_for_it(
    app: RunningApp, client: Client
) -> None:
    client.predict("calm piano", num_steps=1, api_name="/generate")
    path = next(app.temporary.glob("ttmpref-app-*/clips/*/*.wav"))
    headers = {"Range": "bytes=0-3", "Cookie": SECRET, "Authorization": SECRET, "X-Any": SECRET}
    answer = httpx.get(
        f"{app.url}/gradio_api/file={path}", headers=headers, timeout=PATIENCE_SECONDS
    )
    assert (answer.status_code, answer.content) == (206, b"RIFF")
    assert SECRET not in str(answer.headers)


def test_the_page_comes_under_the_policy_and_speaks_to_nobody_else(app: RunningApp) -> None:
    answer = httpx.get(app.url, timeout=PATIENCE_SECONDS)
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    config = json.loads(fetch(f"{app.url}/config"))
    assert config["analytics_enabled"] is False


def test_a_call_beyond_the_limit_is_refused_and_a_broken_upload_leaves_nothing(
    app: RunningApp,
) -> None:
    assert post(f"{app.url}/gradio_api/queue/join", content=b" " * 3_000_000).status_code == 413
    post(f"{app.url}/gradio_api/upload", content=b"--x\r\nbroken", headers=MULTIPART)
    assert left_behind(app) == []


def test_check_18_visitors_with_the_same_file_do_not_take_it_from_each_other(
    app: RunningApp, tmp_path: Path
) -> None:
    """Uploaded at once under one name; each is deleted when its own visitor has its score."""
    file = write_clip(noise(1.0), tmp_path / "song.wav")
    with ThreadPoolExecutor(3) as visitors:
        paths = list(visitors.map(lambda _: uploaded(app, "song.wav", file.read_bytes()), range(3)))
    assert len(set(paths)) == 3 and len(left_behind(app)) == 3
    for still_there, path in zip((2, 1, 0), paths, strict=True):
        score = scored(app, path)
        assert score["score"] is not None, score["error"]
        assert len(left_behind(app)) == still_there


@pytest.mark.parametrize(
    "name",
    ["../../../../evil.wav", "..\\..\\evil.wav", "/etc/evil.wav", "a\x00b.wav", "x" * 300 + ".wav",
     "\u202egnp.wav", "🎹.wav", "=1+1.wav", "<img src=x onerror=alert(1)>.wav", "..", "x/..", "???",
     ""],
)  # fmt: skip
def test_check_18_a_name_is_only_a_name(app: RunningApp, name: str) -> None:
    path = uploaded(app, name, b"no music")
    (folder,) = app.temporary.glob("ttmpref-app-*")
    assert Path(path).resolve().parent.parent == folder.resolve()
    score = scored(app, path)
    assert score["score"] is None and "\n" not in score["error"]
    assert str(app.temporary) not in json.dumps(score)
    assert left_behind(app) == [] and list(app.temporary.parent.rglob("*evil*")) == []


def test_check_18_a_file_beyond_the_limit_is_cut_off_and_leaves_nothing(
    app: RunningApp,
) -> None:
    """200 MB in pieces, so that nothing says beforehand how long it will be."""
    status, text, sent = send_until_answered(app, 200_000_000)
    assert status == 413 and str(MAX_BYTES) in text
    assert sent < MAX_BYTES + 2**24  # and what lies in buffers on the way
    assert left_behind(app) == []


def uploaded(app: RunningApp, name: str, content: bytes) -> str:
    """Path on the server of an upload, which is called exactly so."""
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    whole = head.encode() + content + b"\r\n--x--\r\n"
    (path,) = post(f"{app.url}/gradio_api/upload", content=whole, headers=MULTIPART).json()
    return path


def scored(app: RunningApp, path: str) -> dict[str, Any]:
    """What is said of an upload. Asked raw: the client library would upload the file once more."""
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    called = post(f"{app.url}/gradio_api/call/score", json={"data": [[file], ""]})
    said = fetch(f"{app.url}/gradio_api/call/score/{called.json()['event_id']}").decode()
    ((score,),) = json.loads(said.partition("event: complete\ndata: ")[2])
    return score


def send_until_answered(app: RunningApp, most: int) -> tuple[int, str, int]:
    """Upload a file without saying its length, until the server answers: how, and after how much.

    Args:
        most: bytes of the whole file.
    """
    host, port = app.url.removeprefix("http://").split(":")
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'
    piece, sent = bytes(2**16), 0
    with closing(HTTPConnection(host, int(port), timeout=PATIENCE_SECONDS)) as line:
        line.putrequest("POST", "/gradio_api/upload")
        for field, value in {**MULTIPART, "Transfer-Encoding": "chunked"}.items():
            line.putheader(field, value)
        line.endheaders(b"%x\r\n%b\r\n" % (len(head), head))
        while sent < most and not select.select([line.sock], [], [], 0)[0]:
            line.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            sent += len(piece)
        answer = line.getresponse()
        return answer.status, answer.read().decode(), sent

