"""Checks 12 and 17: how long an answer takes to begin tells nothing about what it is about.

Two kinds of requests are sent in random order, so that whatever else a busy machine does hits both
alike; then their times are compared. A server that treats them differently is there to show that
the comparison would find it.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from tests.studies import settings_for, write_study
from ttmpref.study.api import build_api
from ttmpref.study.definition import Study
from ttmpref.study.records import build_folder
from ttmpref.study.stimuli import build_study
from ttmpref.study.store import Store
from ttmpref.study.store.people import Joining

REQUESTS = 2_000
MOST_SECONDS = 0.001
LEVEL = 1e-4  # of a rank test; a sound server fails once in ten thousand runs
OLD, NEW = "old", "new"


class Answered:
    """An app, a store behind it, two listeners, and the clips that they were given."""

    def __init__(self, root: Path, study: Study) -> None:
        self.store = Store(settings_for(root / "data", ""))
        self.store.studies.open(study, "tester")
        self.app = build_api(self.store, root / "results")
        self.token, self.other = (
            self.store.people.join("tiny", Joining("1", True, "203.0.113.7"))[0] for _ in range(2)
        )
        folder = build_folder(root / "data", study.definition)
        build = json.loads((folder / "build.json").read_text())
        systems = {one["delivered_sha256"]: one["system"] for one in build["stimuli"]}
        trial = self.store.trials.next(self.token)
        names = (trial.token_a, trial.token_b)
        found = {systems[self.store.trials.clip(self.token, name).stem]: name for name in names}
        self.clips = {system: f"/stimuli/{name}" for system, name in found.items()}
        self.foreign = f"/stimuli/{self.store.trials.next(self.other).token_a}"


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("timing")
    study = write_study(root / "study", session={"attention": 0, "repeats": 0, "practice": 0})
    build_study(study, build_folder(root / "data", study.definition))
    found = Answered(root, study)
    yield found
    found.store.close()


async def first_byte(app: Any, path: str, token: str) -> tuple[int, float]:
    """Status of an answer, and the seconds until its first byte left the app."""
    scope = {
        "type": "http", "http_version": "1.1", "method": "GET", "path": path, "root_path": "",
        "raw_path": path.encode(), "query_string": b"", "client": ("203.0.113.7", 1),
        "headers": [(b"authorization", f"Bearer {token}".encode())],
    }  # fmt: skip
    told: list[tuple[str, Any, float]] = []

    async def nothing() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def note(message: Any) -> None:
        told.append((message["type"], message.get("status"), time.perf_counter()))

    started = time.perf_counter()
    await app(scope, nothing, note)
    begun = next(at for kind, _, at in told if kind == "http.response.body")
    return told[0][1], begun - started


def times(answered: Answered, paths: Callable[[], tuple[str, str]], status: int) -> np.ndarray:
    """(2, requests / 2) seconds to the first byte of two kinds of requests.

    Args:
        paths: draws an address of either kind.
        status: of every answer.
    """
    order = [0, 1] * (REQUESTS // 2)
    random.Random(17).shuffle(order)
    found: list[list[float]] = [[], []]

    async def ask_all() -> None:
        for kind in (0, 1, *order):  # the first of either kind warms up
            seen, seconds = await first_byte(answered.app, paths()[kind], answered.token)
            assert seen == status
            found[kind].append(seconds)

    asyncio.run(ask_all())
    return np.array([kind[1:] for kind in found])


def told_apart(seconds: np.ndarray) -> bool:
    """Whether times of two kinds differ by a millisecond, or more than chance would have them."""
    first, second = seconds
    apart = abs(np.median(first) - np.median(second))
    return bool(apart >= MOST_SECONDS or mannwhitneyu(first, second).pvalue < LEVEL)


def test_check_17_no_system_answers_later_than_the_other(answered: Answered) -> None:
    paths = answered.clips[OLD], answered.clips[NEW]
    assert not told_apart(times(answered, lambda: paths, 200))


def test_check_12_a_clip_of_somebody_else_takes_as_long_as_one_that_does_not_exist(
    answered: Answered,
) -> None:
    draw = random.Random(12)

    def paths() -> tuple[str, str]:
        return answered.foreign, f"/stimuli/{draw.getrandbits(128):032x}"

    assert not told_apart(times(answered, paths, 404))


@contextmanager
def slower(system: str, answered: Answered, seconds: float) -> Any:
    """A server that takes longer over the clips of one system."""
    clip, slow = answered.store.trials.clip, answered.clips[system].rpartition("/")[2]

    def delayed(token: str, stimulus: str) -> Path:
        time.sleep(seconds * (stimulus == slow))
        return clip(token, stimulus)

    answered.store.trials.clip = delayed
    try:
        yield
    finally:
        del answered.store.trials.clip


def test_a_server_that_takes_longer_over_one_system_is_found(answered: Answered) -> None:
    paths = answered.clips[OLD], answered.clips[NEW]
    with slower(NEW, answered, 1.5 * MOST_SECONDS):
        assert told_apart(times(answered, lambda: paths, 200))
