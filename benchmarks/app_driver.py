"""Drive the web app the way its own page does: over HTTP, by the queue's protocol.

The app offers no public programming interface for its form (what a browser may call is private to
the page), so a generation is asked for as the page asks: join the queue with the form's values,
read the stream of events, then fire the event that follows.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

POLL_SECONDS = 0.05
START_LIMIT_SECONDS = 120.0
RUN_LIMIT_SECONDS = 120.0
BUTTON, PROMPT = "generate", "prompt"  # element ids of the page


@dataclass(frozen=True)
class RunningApp:
    """A started app.

    Attributes:
        usable_after: seconds from the start of the process to a page that can be used: it answers,
            and its configuration lists the Generate button's event.
        config: what the page was built from.
    """

    process: subprocess.Popen[bytes]
    url: str
    usable_after: float
    config: dict[str, Any]

    def peak_memory(self) -> int:
        """Largest resident size so far, bytes (Linux)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    def generate(self, prompt: str) -> float:
        """Fill in the prompt, press the button, wait for the clip; returns the seconds."""
        started = time.perf_counter()
        session = uuid4().hex
        begin = press_event(self.config)
        follow = next(
            d for d in self.config["dependencies"] if d.get("trigger_after") == begin["id"]
        )
        with httpx.Client(base_url=self.url, timeout=RUN_LIMIT_SECONDS) as client:
            self._fire(client, session, begin, prompt)
            last = self._fire(client, session, follow, prompt)
        if "<audio" not in last:
            raise RuntimeError(f"the app finished without a clip: {last[:500]}")
        return time.perf_counter() - started

    def _fire(
        self, client: httpx.Client, session: str, event: dict[str, Any], prompt: str
    ) -> str:
        """Queue one event with the form's values; the text of everything it answered."""
        job = {
            "data": [self._value(component, prompt) for component in event["inputs"]],
            "fn_index": event["id"],
            "session_hash": session,
            "trigger_id": event["targets"][0][0],
        }
        client.post("gradio_api/queue/join", json=job).raise_for_status()
        answered = []
        with client.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as s:
            for line in s.iter_lines():
                if not line.startswith("data:"):
                    continue
                message = json.loads(line.removeprefix("data:"))
                answered.append(line)
                if message["msg"] == "process_completed":
                    if not message["success"]:
                        raise RuntimeError(f"the app refused: {message['output']}")
                    return "\n".join(answered)
        raise RuntimeError("the app closed the stream before the event was done")

    def _value(self, number: int, prompt: str) -> Any:
        """What the form holds in a component: its first value, but for the prompt."""
        props = next(c["props"] for c in self.config["components"] if c["id"] == number)
        return prompt if props.get("elem_id") == PROMPT else props.get("value")


def press_event(config: dict[str, Any]) -> dict[str, Any]:
    """The event that a click on the Generate button fires."""
    button = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == BUTTON)
    return next(d for d in config["dependencies"] if [button, "click"] in d["targets"])


@contextmanager
def running_app(preset: str, port: int, folder: Path) -> Iterator[RunningApp]:
    """Start `python app.py` in `folder`, wait until its page is usable, stop it at the end."""
    url = f"http://127.0.0.1:{port}/"
    command = [sys.executable, "app.py", "--preset", preset, "--port", str(port)]
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        config = _wait_until_usable(process, url, started)
        yield RunningApp(process, url, time.perf_counter() - started, config)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        process.kill()
        process.wait()


def _wait_until_usable(
    process: subprocess.Popen[bytes], url: str, started: float
) -> dict[str, Any]:
    """Poll the page and its configuration; raises where the app ends or never answers."""
    while time.perf_counter() - started < START_LIMIT_SECONDS:
        if process.poll() is not None:
            raise RuntimeError(f"the app ended with code {process.returncode} before it answered")
        with suppress(httpx.HTTPError, StopIteration, ValueError):
            page, config = httpx.get(url), httpx.get(f"{url}config")
            if page.status_code == config.status_code == 200:
                press_event(config.json())
                return config.json()
        time.sleep(POLL_SECONDS)
    raise RuntimeError(f"the app did not answer within {START_LIMIT_SECONDS:g} s")
