"""A real browser for tests: start the app, open pages, notice everything that is wrong.

Every visit in a browser (the fixture `chromium`) records console errors, failed scripts and
requests that leave this computer; `Visit.assert_clean` is called for each when it ends.
Set TTMPREF_SCREENSHOTS to a folder to keep pictures of the pages.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PATIENCE_SECONDS = 300  # shared machines can be very busy
DESKTOP, PHONE = (1280, 900), (390, 844)


@dataclass
class RunningApp:
    """The app in a process of its own.

    Attributes:
        url: address of its page.
        seconds_to_start: of the processor, until the first answer.
        temporary: the folder it was given for temporary files.
        process: the process; ended by whoever started it.
    """

    url: str
    seconds_to_start: float
    temporary: Path
    process: subprocess.Popen[bytes]


@contextmanager
def running_app(preset: Path, folder: Path, **environment: str) -> Iterator[RunningApp]:
    """`python app.py --preset ...` on a free port, with all its files inside `folder`.

    Args:
        environment: variables beside those that keep the app inside the folder.
    """
    port = free_port()
    temporary = folder / "tmp"
    temporary.mkdir(parents=True)
    kept_inside = {"TMPDIR": str(temporary), "TTMPREF_DATA_DIR": str(folder / "data")}
    log = folder / "app.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "app.py", "--preset", str(preset), "--port", str(port)],
            cwd=ROOT,
            env=os.environ | kept_inside | {"HF_HUB_OFFLINE": "1"} | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for_answer(url, process, log)
        yield RunningApp(url, processor_seconds(process.pid), temporary, process)
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE_SECONDS)


def processor_seconds(pid: int) -> float:
    """Seconds of the processor that a process has used; on a busy machine the clock says little."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = map(int, fields[11:13])
    return (user + system) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_answer(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when `url` answers; fail with the log when the process ends or takes too long."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=PATIENCE_SECONDS).close()
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"the app did not answer at {url}; its log:\n{log.read_text()}")


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
        return answer.read()


def refused(url: str, status: int) -> bytes:
    """Body of an answer that must have the given status of an error."""
    with pytest.raises(urllib.error.HTTPError) as raised:
        fetch(url)
    assert raised.value.code == status
    return raised.value.read()


@dataclass
class Visit:
    """One visitor: a page in a browser context of its own, and what went wrong on it.

    Attributes:
        expected: parts of console errors that belong to the test.
    """

    page: Any
    context: Any
    expected: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def picture(self, name: str) -> None:
        """Keep a picture of the whole page, where pictures are wanted."""
        folder = os.environ.get("TTMPREF_SCREENSHOTS")
        if folder:
            self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        width = self.page.evaluate("document.documentElement.scrollWidth")
        return width - self.page.viewport_size["width"]  # a phone's innerWidth grows with the page

    def assert_clean(self) -> None:
        assert self.problems == []
        assert self.outside == []


@contextmanager
def visit(
    browser: Any,
    url: str,
    size: tuple[int, int] = DESKTOP,
    scheme: str = "light",
    landmark: str = "#generate",
    expected: tuple[str, ...] = ("401", "422"),
    **context_options: Any,
) -> Iterator[Visit]:
    """Open `url` and wait for the landmark; on leaving, the console must be clean and nothing may
    have left the computer.

    Args:
        expected: see `Visit`; by default a wrong token (401) and a refused form (422), which the
            browser calls failed resources.
        context_options: of Playwright's browser context.
    """
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,
        accept_downloads=True,
        permissions=["clipboard-read", "clipboard-write"],
        **context_options,
    )
    context.set_default_timeout(1000 * PATIENCE_SECONDS)
    visitor = Visit(context.new_page(), context, expected)
    watch(visitor, visitor.page, "/".join(url.split("/")[:3]))
    try:
        visitor.page.goto(url)
        visitor.page.locator(landmark).wait_for()
        yield visitor
        visitor.assert_clean()
    finally:
        context.close()


def watch(visitor: Visit, page: Any, url: str) -> None:
    """Record console errors, uncaught exceptions and requests to anywhere but the origin `url`."""

    def on_console(message: Any) -> None:
        if message.type == "error" and not any(part in message.text for part in visitor.expected):
            visitor.problems.append(message.text)

    def on_request(request: Any) -> None:
        if not request.url.startswith((url, "data:", "blob:")):
            visitor.outside.append(request.url)

    page.on("console", on_console)
    page.on("pageerror", lambda error: visitor.problems.append(str(error)))
    page.on("request", on_request)
