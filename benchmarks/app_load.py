"""Does the app hold when many use it at once, and does it stay as it is when they go on?

- Usable: from the server's first answer to a page whose button can be pressed, in a real browser.
- Ten visitors press Generate, each before the first has a clip: all are served, in the order in
  which they came, and those who wait are told their place. Meanwhile listeners of a study vote on
  the same server. Repeated until enough votes were timed.
- Thirty minutes of mixed traffic: clips, uploads to score, visitors who leave half way, page loads
  and votes. Memory, open files and threads are medians over the last quarter held against those
  over the second; the first warms up.

Needs Linux and Debian's chromium. `--clips` shortens the traffic: 200 are the 30 minutes.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from gradio_client import Client, handle_file

from benchmarks.app_driver import (
    RUN_LIMIT_SECONDS,
    Resources,
    RunningApp,
    Visitor,
    free_port,
    running_app,
)
from benchmarks.browser import chromium
from benchmarks.common import (
    ALL_PARTS,
    DEFAULT_CLIPS,
    REPOSITORY,
    Figure,
    Report,
    Setting,
    cores,
    run,
)
from benchmarks.study_raters import SLUG, Load, Outcome, Rater, prepare
from ttmpref.audio import write_clip
from ttmpref.types import Clip
from ttmpref.ui.clips import CLIPS, MAX_CLIPS

VISITORS = 10
LISTENERS = 5  # who vote at once
PACE = 0.5  # listeners answer sooner than people can
USABLE_TARGET, VOTE_TARGET, MEMORY_TARGET, GROWTH_TARGET = 3.0, 0.25, 2.5, 0.05
GB = 1e9
PAGES = ("", "config", "theme.css", f"listen/{SLUG}", "listen/static/listen.js")
SHOWN_SAMPLES = 200


@dataclass(frozen=True)
class Size:
    """How much is asked of the app.

    Attributes:
        starts: of the app, for the time to a usable page.
        votes: timed under the load, at least.
        soak_seconds: of mixed traffic.
    """

    starts: int = 3
    votes: int = 300
    soak_seconds: float = 1800.0

    @classmethod
    def of(cls, clips: int) -> Size:
        """The full size, or as much less as fewer clips stand for."""
        part = min(1.0, clips / DEFAULT_CLIPS)
        return cls(
            starts=max(1, round(cls.starts * part)),
            votes=max(5, round(cls.votes * part)),
            soak_seconds=cls.soak_seconds * part,
        )


def measure(setting: Setting) -> Report:
    size = Size.of(setting.clips)
    prompts = (f"{setting.studio.settings.examples[0]}, take {i}" for i in itertools.count(1))
    raters = itertools.count()  # nobody comes twice: a rater's number decides the keys of the votes
    with tempfile.TemporaryDirectory() as folder:
        hosted = Hosted(setting, Path(folder))
        figures = [_usable(hosted, size.starts)]
        with hosted.app() as app:
            load = _load(app, size, prompts, raters)
            soak = Soak(app, Path(folder), prompts, raters).run(size.soak_seconds)
            peak = app.peak_memory() / GB
            kept = hosted.clips_kept()
    figures += [
        *_figures_of_load(load),
        Figure("peak memory of the app", peak, "GB", at_most=MEMORY_TARGET,
               note="over load and soak; decoding of uploads in child processes aside"),
        *_figures_of_soak(soak),
        Figure("finished clips on the disk at the end", kept, at_most=MAX_CLIPS),
    ]  # fmt: skip
    return Report(
        title="The app under load",
        question=f"{VISITORS} visitors at once, {LISTENERS} listeners voting meanwhile, then "
        f"{size.soak_seconds / 60:g} minutes of mixed traffic, on {cores()} cores.",
        figures=tuple(figures),
        recipe={"visitors": VISITORS, "listeners": LISTENERS, "pace": PACE, **vars(size)},
        parts=(*ALL_PARTS, "ranker"),
        details={"samples": thinned(soak.samples), "done": soak.done},
    )


class Hosted:
    """Where the app and its study live."""

    def __init__(self, setting: Setting, folder: Path) -> None:
        raters = 10_000  # as many sessions as anybody may begin
        load = Load(raters=raters, trials=6, prompts=8, sample_rate=8_000)
        self._temporary = folder / "tmp"
        self._temporary.mkdir()
        self._preset = setting.preset
        self._environment = prepare(folder, load, "") | {"TMPDIR": str(self._temporary)}

    @contextmanager
    def app(self) -> Iterator[RunningApp]:
        with running_app(self._preset, free_port(), REPOSITORY, self._environment) as app:
            yield app

    def clips_kept(self) -> int:
        return sum(1 for _ in self._temporary.glob(f"*/{CLIPS}/*"))


def _usable(hosted: Hosted, starts: int) -> Figure:
    """How long somebody waits who opens the page as soon as there is one."""
    taken = []
    for _ in range(starts):
        with chromium() as browser, hosted.app() as app:
            page = browser.new_page()
            page.set_default_timeout(1000 * RUN_LIMIT_SECONDS)
            page.goto(app.url)
            page.locator("#generate:enabled").wait_for()
            taken.append(time.perf_counter() - app.answered)
    return Figure(
        "first answer of the server to usable page", statistics.median(taken), "s",
        at_most=USABLE_TARGET, note=f"{starts} starts, {min(taken):.2f} to {max(taken):.2f} s",
    )  # fmt: skip


# ------------------------------------------------------------------------------ load


@dataclass
class Served:
    """What became of the visitors who came at once.

    Attributes:
        visitors: who asked for a clip.
        failed: who got none.
        overtaken: who were served after somebody who came later.
        unaware: who had to wait and were not told their place.
        waits: seconds from pressing the button to the clip.
    """

    visitors: int = 0
    failed: int = 0
    overtaken: int = 0
    unaware: int = 0
    waits: list[float] = field(default_factory=list)
    votes: Outcome = field(default_factory=Outcome)


def _load(app: RunningApp, size: Size, prompts: Iterator[str], raters: Iterator[int]) -> Served:
    """Rounds of visitors until so many votes were timed."""
    served = Served()
    with voting(app, served.votes, raters) as listening:
        while len(served.votes.latencies) < size.votes and not listening.done():
            _round(app, prompts, served)
    return served


def _round(app: RunningApp, prompts: Iterator[str], served: Served) -> None:
    """All visitors press the button in turn and wait at once."""
    with ExitStack() as stack, ThreadPoolExecutor(VISITORS) as pool:
        line: list[Visitor] = []
        waits = []
        for _ in range(VISITORS):
            pressed = time.perf_counter()
            line.append(stack.enter_context(app.ask(next(prompts))))
            waits.append(pool.submit(_seconds_to_clip, line[-1], pressed))
        failures = [wait.exception() for wait in waits]
    served.visitors += VISITORS
    served.failed += sum(failure is not None for failure in failures)
    served.overtaken += overtaken([visitor.started for visitor in line])
    served.unaware += sum(visitor.place is None for visitor in line)
    served.waits += [wait.result() for wait in waits if wait.exception() is None]


def _seconds_to_clip(visitor: Visitor, pressed: float) -> float:
    visitor.wait()
    return time.perf_counter() - pressed


def overtaken(started: list[float]) -> int:
    """How many were begun later than one who came after them; times in the order of arrival."""
    return sum(one > min(started[i:]) for i, one in enumerate(started))


@contextmanager
def voting(app: RunningApp, outcome: Outcome, raters: Iterator[int]) -> Iterator[Future[None]]:
    """Listeners who vote, session after session, until the block ends; done before if one fails.

    Args:
        raters: numbers of people who have not been there.

    Raises:
        RuntimeError: one of them was refused.
    """
    over = threading.Event()

    async def listener() -> None:
        while not over.is_set():
            await Rater(next(raters), app.port, PACE, outcome, {}).run()

    async def listeners() -> None:
        await asyncio.gather(*(listener() for _ in range(LISTENERS)))

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(asyncio.run, listeners())
        try:
            yield running
        finally:
            over.set()
        running.result()


def _figures_of_load(served: Served) -> list[Figure]:
    votes = served.votes
    return [
        Figure("visitors without a clip", served.failed, at_most=0,
               note=f"of {served.visitors}, {VISITORS} at once"),
        Figure("visitors served out of turn", served.overtaken, at_most=0),
        Figure("visitors who were not told their place", served.unaware, at_most=0),
        Figure("button to clip, median of the visitors", statistics.median(served.waits), "s",
               note=f"the last of {VISITORS} waits for all; at most {max(served.waits):.1f} s"),
        Figure("95th percentile of a vote's answer meanwhile", votes.latency(95), "s",
               at_most=VOTE_TARGET,
               note=f"median {votes.latency(50):.3f} s, {len(votes.latencies)} votes"),
        Figure("answers 5xx to listeners", votes.server_errors, at_most=0),
    ]  # fmt: skip


# ------------------------------------------------------------------------------ soak


class Soak:
    """Mixed traffic for as long as asked, while somebody watches what the app holds.

    Attributes:
        samples: seconds since the beginning, and what the app held.
        done: how often each kind of visitor did what it does.
        failures: what went wrong.
        votes: of the listeners.
    """

    def __init__(
        self, app: RunningApp, folder: Path, prompts: Iterator[str], raters: Iterator[int]
    ) -> None:
        self._app, self._prompts, self._raters = app, prompts, raters
        self._over = threading.Event()
        self._upload = write_clip(_noise(), folder / "upload.wav")
        self._client = Client(app.url, verbose=False)
        self.samples: list[tuple[float, Resources]] = []
        self.done: dict[str, int] = {}
        self.failures: list[str] = []
        self.votes = Outcome()

    def run(self, seconds: float) -> Soak:
        kinds = (self.make, self.make, self.score, self.leave, self.look)
        with voting(self._app, self.votes, self._raters), ThreadPoolExecutor(len(kinds)) as pool:
            for kind in kinds:
                pool.submit(self._again_and_again, kind)
            self._watch(seconds)
        self.done["vote"] = len(self.votes.latencies)
        return self

    def _again_and_again(self, kind: Callable[[], None]) -> None:
        name = kind.__name__
        while not self._over.is_set():
            try:
                kind()
                self.done[name] = self.done.get(name, 0) + 1
            except Exception as error:
                self.failures.append(f"{name}: {error}")
                self._over.wait(1.0)  # a server that refuses is not asked at once again

    def _watch(self, seconds: float) -> None:
        """Take a sample every second, or more often in a short run."""
        started, pause = time.monotonic(), min(1.0, seconds / 20)
        try:
            while (passed := time.monotonic() - started) < seconds:
                self.samples.append((round(passed, 2), self._app.resources()))
                self._over.wait(pause)
        finally:
            self._over.set()

    def make(self) -> None:
        """Somebody who waits for a clip."""
        self._app.generate(next(self._prompts))

    def score(self) -> None:
        """A program that has a file scored."""
        (result,) = self._client.predict([handle_file(self._upload)], "noise", api_name="/score")
        if result["error"]:
            raise RuntimeError(result["error"])

    def leave(self) -> None:
        """Somebody who asks for a clip and closes the page."""
        with (
            self._app.ask(next(self._prompts)) as visitor,
            closing(visitor.messages()) as messages,
        ):
            next(messages)
            self._over.wait(0.5)

    def look(self) -> None:
        """Somebody who opens the page and a study's."""
        with httpx.Client(base_url=self._app.url, timeout=RUN_LIMIT_SECONDS) as client:
            for page in PAGES:
                client.get(page).raise_for_status()
        self._over.wait(0.5)

    def growth(self, what: str) -> float:
        """Median over the last quarter relative to that over the second, less one."""
        values = [getattr(sample, what) for _, sample in self.samples]
        quarter = max(1, len(values) // 4)
        before, after = values[quarter : 2 * quarter], values[-quarter:]
        return statistics.median(after) / statistics.median(before) - 1


def _noise() -> Clip:
    """Two seconds of it."""
    rng = np.random.default_rng(0)
    return Clip(0.1 * rng.standard_normal((1, 2 * 44_100)).astype(np.float32), 44_100)


def _figures_of_soak(soak: Soak) -> list[Figure]:
    done = ", ".join(f"{count} times {name}" for name, count in sorted(soak.done.items()))
    figures = [Figure("failures under mixed traffic", len(soak.failures), at_most=0,
                      note="; ".join([done, *soak.failures[:3]]))]  # fmt: skip
    for name in Resources._fields:
        last = getattr(soak.samples[-1][1], name)
        held = f"{last / GB:.2f} GB" if name == "memory" else str(last)
        figures.append(
            Figure(f"growth of {name.replace('files', 'open files')}", soak.growth(name), "%",
                   at_most=GROWTH_TARGET, note=f"{held} at the end")
        )  # fmt: skip
    return figures


def thinned(samples: list[tuple[float, Resources]]) -> list[list[float]]:
    """Seconds, bytes, files and threads, at most `SHOWN_SAMPLES` rows."""
    step = -(-len(samples) // SHOWN_SAMPLES)
    return [[seconds, *sample] for seconds, sample in samples[::step]]


if __name__ == "__main__":
    run("app_load", measure, __doc__)
