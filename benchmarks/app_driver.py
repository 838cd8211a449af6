"""Drive the web app the way its own page does: over HTTP, by the queue's protocol.

The app offers no public programming interface for its form (what a browser may call is private to
the page), so a generation is asked for as the page asks: join the queue with the form's values,
read the stream of events, then fire the event that follows.
"""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import uuid4

import httpx

from benchmarks.common import status_of

POLL_SECONDS = 0.05
START_LIMIT_SECONDS = 600.0  # shared machines can be very busy
RUN_LIMIT_SECONDS = 600.0
BUTTON, PROMPT = "generate", "prompt"  # element ids of the page


class Resources(NamedTuple):
    """Resident bytes, open files and threads of a process."""

    memory: int
    files: int
    threads: int


@dataclass(frozen=True)
class RunningApp:
    """A started app.

    Attributes:
        usable_after: seconds from the start of the process to a page that can be used: it answers,
            and its configuration lists the Generate button's event.
        answered: when the page was answered first, of `time.perf_counter`.
        config: what the page was built from.
    """

    process: subprocess.Popen[bytes]
    port: int
    url: str
    usable_after: float
    answered: float
    config: dict[str, Any]

    def peak_memory(self) -> int:
        """Largest resident size so far, bytes (Linux)."""
        return 1024 * status_of(self.process.pid, "VmHWM")

    def resources(self) -> Resources:
        """What the process holds just now (Linux)."""
        files = len(os.listdir(f"/proc/{self.process.pid}/fd"))
        resident, threads = (status_of(self.process.pid, name) for name in ("VmRSS", "Threads"))
        return Resources(1024 * resident, files, threads)

    def generate(self, prompt: str) -> float:
        """Fill in the prompt, press the button, wait for the clip; returns the seconds."""
        started = time.perf_counter()
        with self.ask(prompt) as visitor:
            visitor.wait()
        return time.perf_counter() - started

    def ask(self, prompt: str) -> Visitor:
        """Fill in the prompt and press the button; returns when the run stands in line."""
        begin = press_event(self.config)
        follow = next(
            d for d in self.config["dependencies"] if d.get("trigger_after") == begin["id"]
        )
        visitor = Visitor(httpx.Client(base_url=self.url, timeout=RUN_LIMIT_SECONDS))
        visitor.join(self._job(begin, prompt))
        for _ in visitor.messages():
            pass
        visitor.join(self._job(follow, prompt))
        return visitor

    def _job(self, event: dict[str, Any], prompt: str) -> dict[str, Any]:
        """One event with the form's values."""
        return {
            "data": [self._value(component, prompt) for component in event["inputs"]],
            "fn_index": event["id"],
            "trigger_id": event["targets"][0][0],
        }

    def _value(self, number: int, prompt: str) -> Any:
        """What the form holds in a component: its first value, but for the prompt."""
        props = next(c["props"] for c in self.config["components"] if c["id"] == number)
        return prompt if props.get("elem_id") == PROMPT else props.get("value")


class Visitor:
    """One open page: its session, and what the app sends to it. Leaves at the end of a `with`.

    Attributes:
        place: in the line, as the page was told last; 0 is next, None if it never was told.
        started: when the run's turn came, of `time.perf_counter`.
    """

    def __init__(self, client: httpx.Client) -> None:
        self._client, self._session = client, uuid4().hex
        # By this a page is known to be open; when it ends the app forgets the session.
        beat = client.build_request("GET", f"gradio_api/heartbeat/{self._session}")
        self._heartbeat = client.send(beat, stream=True)
        self.place: int | None = None
        self.started = math.inf

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *_: object) -> None:
        self._heartbeat.close()
        self._client.close()

    def join(self, job: dict[str, Any]) -> None:
        """Put one event into the line."""
        job = {**job, "session_hash": self._session}
        self._client.post("gradio_api/queue/join", json=job).raise_for_status()

    def wait(self) -> None:
        """Until the clip is there.

        Raises:
            RuntimeError: the run ended without one.
        """
        made = False
        for message in self.messages():
            if message["msg"] == "estimation":
                self.place = message["rank"]
            elif message["msg"] == "process_starts":
                self.started = time.perf_counter()
            elif "<audio" in json.dumps(message):
                made = True
        if not made:
            raise RuntimeError("the app finished without a clip")

    def messages(self) -> Iterator[dict[str, Any]]:
        """What the app says of the event that joined last, up to its end.

        Raises:
            RuntimeError: the app refuses, or ends the stream before the event.
        """
        query = {"session_hash": self._session}
        with self._client.stream("GET", "gradio_api/queue/data", params=query) as stream:
            for line in stream.iter_lines():
                if not line.startswith("data:"):
                    continue
                message = json.loads(line.removeprefix("data:"))
                yield message
                if message["msg"] == "process_completed":
                    if not message["success"]:
                        raise RuntimeError(f"the app refused: {message['output']}")
                    return
        raise RuntimeError("the app closed the stream before the event was done")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def press_event(config: dict[str, Any]) -> dict[str, Any]:
    """The event that a click on the Generate button fires."""
    button = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == BUTTON)
    return next(d for d in config["dependencies"] if [button, "click"] in d["targets"])


@contextmanager
def running_app(
    preset: str, port: int, folder: Path, environment: Mapping[str, str] = MappingProxyType({})
) -> Iterator[RunningApp]:
    """Start `python app.py` in `folder`, wait until its page is usable, stop it at the end.

    Args:
        environment: variables beside those of this process.
    """
    url = f"http://127.0.0.1:{port}/"
    command = [sys.executable, "app.py", "--preset", preset, "--port", str(port)]
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, **environment},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        answered, config = _wait_until_usable(process, url, started)
        yield RunningApp(process, port, url, time.perf_counter() - started, answered, config)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        process.kill()
        process.wait()


def _wait_until_usable(
    process: subprocess.Popen[bytes], url: str, started: float
) -> tuple[float, dict[str, Any]]:
    """Poll the page and its configuration; raises where the app ends or never answers."""
    while time.perf_counter() - started < START_LIMIT_SECONDS:
        if process.poll() is not None:
            raise RuntimeError(f"the app ended with code {process.returncode} before it answered")
        with suppress(httpx.HTTPError, StopIteration, ValueError):
            page, answered = httpx.get(url, timeout=START_LIMIT_SECONDS), time.perf_counter()
            config = httpx.get(f"{url}config", timeout=START_LIMIT_SECONDS)
            if page.status_code == config.status_code == 200:
                press_event(config.json())
                return answered, config.json()
        time.sleep(POLL_SECONDS)
    raise RuntimeError(f"the app did not answer within {START_LIMIT_SECONDS:g} s")
