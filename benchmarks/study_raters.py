"""Simulated raters that take part in a study over HTTP, and a server that is killed under them.

They do what a browser does: join, fetch both clips in random order, send events, listen, vote,
retry what was not answered. Every vote is sent one to three times with the same key, and some
requests are cut off half way. A vote counts as acknowledged when its 200 was read; afterwards the
database is asked whether each of those is there once.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import yaml
from sqlalchemy import select

from ttmpref.audio import write_clip
from ttmpref.study.app import PREFIX
from ttmpref.study.definition import Study, load_study
from ttmpref.study.records import build_folder
from ttmpref.study.settings import SQLITE_PREFIX, StudySettings
from ttmpref.study.stimuli import build_study
from ttmpref.study.store import Store, tables
from ttmpref.types import Clip

CLIP_SECONDS = 1.0
CUT_OFF = 0.02  # share of requests whose connection is dropped before the answer
PATIENCE_SECONDS = 180.0  # how long a rater retries one request
START_SECONDS = 120.0
RETRY_SECONDS = (0.02, 0.2)
SLUG = "load"
ADMIN = "an admin token of the load test"


@dataclass(frozen=True)
class Load:
    """What to do to a server.

    Attributes:
        raters, trials: people, and votes that each of them casts.
        at_once: people who work at the same time.
        workers: server processes.
        kills: how often all server processes are killed, at random moments.
        pace: seconds of listening before each vote, as share of what the rater claims to have
            heard; 0 sends votes as fast as the server answers.
        prompts, sample_rate: size of the study.
    """

    raters: int = 200
    trials: int = 24
    at_once: int = 50
    workers: int = 1
    kills: int = 0
    pace: float = 1.0
    prompts: int = 40
    sample_rate: int = 44_100
    seed: int = 0

    @property
    def votes(self) -> int:
        return self.raters * self.trials


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        stored: votes in the database.
        acknowledged: votes whose 200 a rater has read.
        missing: acknowledged votes that the database does not hold.
        doubled: trials with more than one vote, or keys that occur twice.
        statuses: answers by HTTP status.
        problems: what the audit, the counters and the database's own check complain about.
        latencies: seconds from sending a vote to its first answer.
        seconds: from the first join to the last vote.
        kills: how often the server was killed.
    """

    stored: int = 0
    acknowledged: int = 0
    missing: int = 0
    doubled: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    kills: int = 0

    @property
    def server_errors(self) -> int:
        return sum(count for status, count in self.statuses.items() if status >= 500)

    def latency(self, percentile: float) -> float:
        """Seconds within which that share of votes was answered."""
        return float(np.percentile(self.latencies, percentile))


def prepare(folder: Path, load: Load, database_url: str) -> dict[str, str]:
    """Build and open a study of synthetic clips; the environment of its server."""
    environment = {
        "TTMPREF_DATA_DIR": str(folder / "data"),
        "DATABASE_URL": database_url,
        "TTMPREF_ADMIN_TOKEN": ADMIN,
        "TTMPREF_TRIALS_PER_MINUTE": "1000000",
        "TTMPREF_JOINS_PER_DAY": "1000000",
        "TTMPREF_STORAGE_IS_SAFE": "1",
    }
    settings = StudySettings.from_environment(environment)
    study = _write_study(folder / "study", load)
    build_study(study, build_folder(settings.data_dir, study.definition))
    store = Store(settings)
    store.studies.open(study, "load test")
    store.close()
    return environment


def _write_study(folder: Path, load: Load) -> Study:
    """Two systems of decaying noise on so many prompts."""
    checks = min(2, load.trials // 6)
    main = load.trials - 2 * checks
    per_pair = -(-load.raters * main // load.prompts)
    definition = {
        "schema": 1,
        "slug": SLUG,
        "title": "Load",
        "question": {"en": "Which?"},
        "systems": [{"label": "x", "audio": "x"}, {"label": "y", "audio": "y"}],
        "prompts": {"file": "prompts.txt"},
        # Some slack, so that nobody runs out of pairs near the end.
        "pairs": {"main": [["x", "y"]], "votes_per_pair": per_pair + per_pair // 4 + 2},
        "audio": {"sample_rate": load.sample_rate, "seconds": CLIP_SECONDS, "min_seconds": 0.5},
        "session": {"trials": main, "attention": checks, "repeats": checks, "practice": 0},
        "stopping": {"rule": "fixed", "participants": load.raters},
    }
    folder.mkdir(parents=True)
    rng = np.random.default_rng(load.seed)
    samples = round(1.1 * CLIP_SECONDS * load.sample_rate)
    fall = np.exp(-4 * (np.arange(samples) / load.sample_rate % 0.25))
    for system in ("x", "y"):
        for number in range(1, load.prompts + 1):
            wave = (0.1 * rng.standard_normal(samples) * fall).astype(np.float32)
            write_clip(Clip(wave[None], load.sample_rate), folder / system / f"{number}.wav")
    lines = [f"prompt {number}" for number in range(1, load.prompts + 1)]
    (folder / "prompts.txt").write_text("\n".join(lines), encoding="utf-8")
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(definition), encoding="utf-8")
    return load_study(path)


class Server:
    """Server processes that can be killed and started again on the same port."""

    def __init__(self, environment: dict[str, str], workers: int) -> None:
        self._environment = {**os.environ, **environment}
        self._workers = workers
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "ttmpref", "study", "serve"]
        command += ["--port", str(self.port), "--workers", str(self._workers)]
        self._process = subprocess.Popen(
            command, env=self._environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    async def ready(self) -> None:
        """Wait until the server answers.

        Raises:
            RuntimeError: it ended, or does not answer in time.
        """
        started = time.monotonic()
        while time.monotonic() - started < START_SECONDS:
            if self._process.poll() is not None:
                raise RuntimeError(f"the server ended with code {self._process.returncode}")
            with suppress(OSError, asyncio.IncompleteReadError):
                async with Connection(self.port) as connection:
                    if (await connection.request("GET", "/readyz"))[0] == 200:
                        return
            await asyncio.sleep(0.05)
        raise RuntimeError(f"the server did not answer within {START_SECONDS:g} s")

    def kill(self) -> None:
        """SIGKILL to all of its processes: no handler runs, no buffer is written."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    @contextmanager
    def running(self) -> Iterator[Server]:
        self.start()
        try:
            yield self
        finally:
            with suppress(ProcessLookupError):
                self.kill()


class Connection:
    """HTTP/1.1 over one kept connection: as little as a load test may cost itself."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None

    async def send(
        self, method: str, path: str, token: str = "", body: Any = None, key: str = ""
    ) -> None:
        """Write one request."""
        if self._writer is None:
            opened = asyncio.open_connection("127.0.0.1", self._port)
            self._reader, self._writer = await opened
        data = b"" if body is None else json.dumps(body).encode("utf-8")
        lines = [f"{method} {PREFIX}{path} HTTP/1.1", "Host: localhost"]
        lines += [f"Authorization: Bearer {token}"] * bool(token)
        lines += [f"Idempotency-Key: {key}"] * bool(key)
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}", "", ""]
        self._writer.write("\r\n".join(lines).encode("ascii") + data)
        await self._writer.drain()

    async def receive(self) -> tuple[int, bytes]:
        """Read one answer: status and body."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split()[1])
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await self._reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            self.close()
        return status, body

    async def request(self, *arguments: Any, **options: Any) -> tuple[int, bytes]:
        """Send and receive; the connection is dropped on any trouble.

        Raises:
            OSError, IncompleteReadError: there was no answer.
        """
        try:
            await self.send(*arguments, **options)
            return await self.receive()
        except BaseException:
            self.close()
            raise


class Rater:
    """One person from consent to the end of the session."""

    def __init__(
        self, number: int, port: int, pace: float, outcome: Outcome, keys: dict[str, str]
    ) -> None:
        self._rng = random.Random(f"rater {number}")
        self._connection = Connection(port)
        self._seconds = 2 * CLIP_SECONDS * pace
        self._outcome = outcome
        self._keys = keys

    async def run(self) -> None:
        consent = {"consent_version": "1", "accepted": True}
        joined = await self._ask("POST", f"/studies/{SLUG}/participants", body=consent)
        token = joined["token"]
        step = await self._ask("POST", "/trials/next", token)
        while step is not None and not step["done"]:
            step = await self._trial(token, step["trial"])
            if step is None:
                step = await self._ask("POST", "/trials/next", token)
        self._connection.close()

    async def _trial(self, token: str, trial: dict[str, Any]) -> dict[str, Any] | None:
        """Listen and vote; what comes next."""
        sides = list(trial["stimuli"].values())
        self._rng.shuffle(sides)
        for name in sides:
            await self._ask("GET", f"/stimuli/{name}", token)
        events = _events()
        await self._ask("POST", f"/trials/{trial['id']}/events", token,
                        {"client": "page", "events": events[:3]})  # fmt: skip
        await asyncio.sleep(self._seconds * self._rng.uniform(0.8, 1.2))
        key = str(UUID(int=self._rng.getrandbits(128), version=4))
        answer = {
            "choice": self._rng.choice(["A", "B", "TIE", "BOTH_BAD"]),
            "rt_ms": self._rng.randrange(2_000, 30_000),
            "client": "page",
            "events": events[3:],
        }
        following = None
        for _ in range(self._rng.randint(1, 3)):
            stored = await self._ask("POST", f"/trials/{trial['id']}/vote", token, answer, key)
            self._keys[key] = trial["id"]
            following = stored["next"]
        return following

    async def _ask(
        self, method: str, path: str, token: str = "", body: Any = None, key: str = ""
    ) -> Any:
        """Ask until there is an answer; JSON, or None for a clip.

        Raises:
            RuntimeError: the answer is a refusal, or there is none for too long.
        """
        started = time.monotonic()
        while time.monotonic() - started < PATIENCE_SECONDS:
            sent = time.perf_counter()
            try:
                if self._rng.random() < CUT_OFF:
                    await self._connection.send(method, path, token, body, key)
                    self._connection.close()  # and never learn what came of it
                    continue
                status, data = await self._connection.request(method, path, token, body, key=key)
            except (OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(self._rng.uniform(*RETRY_SECONDS))
                continue
            self._outcome.statuses[status] += 1
            if key and key not in self._keys:  # the same vote again costs less
                self._outcome.latencies.append(time.perf_counter() - sent)
            if status == 503:
                await asyncio.sleep(self._rng.uniform(*RETRY_SECONDS))
                continue
            if status >= 400:
                raise RuntimeError(f"{method} {path}: {status} {data[:300]!r}")
            return json.loads(data) if data[:1] == b"{" else None
        raise RuntimeError(f"{method} {path}: no answer for {PATIENCE_SECONDS:g} s")


def _events() -> list[dict[str, Any]]:
    """Both clips loaded and heard once, as fast as the server's grace allows."""
    ms = 1000 * CLIP_SECONDS
    rows = (
        ("A", "loaded", 0.0, 0.0),
        ("B", "loaded", 0.0, 0.0),
        ("A", "play", 0.0, 0.0),
        ("B", "switch", 0.0, ms),
        ("none", "pause", 0.0, 2 * ms),
    )
    names = ("side", "kind", "media_ms", "mono_ms")
    return [{"seq": seq, **dict(zip(names, row, strict=True))} for seq, row in enumerate(rows)]


def run_load(folder: Path, load: Load, database_url: str = "") -> Outcome:
    """Prepare a study, set the raters on its server, and see what the database holds afterwards.

    Args:
        folder: empty; everything is written below it.
        database_url: default: SQLite in the folder.

    Raises:
        RuntimeError: a rater was refused, or the server did not come up.
    """
    environment = prepare(folder, load, database_url)
    server = Server(environment, load.workers)
    with server.running():
        outcome, keys = asyncio.run(_drive(server, load))
    return _check(StudySettings.from_environment(environment), outcome, keys)


async def _drive(server: Server, load: Load) -> tuple[Outcome, dict[str, str]]:
    """All raters, so many at once, while the server is killed as often as asked."""
    outcome, keys = Outcome(), {}
    await server.ready()
    places = asyncio.Semaphore(load.at_once)
    started = time.perf_counter()

    async def take_part(number: int) -> None:
        async with places:
            await Rater(number, server.port, load.pace, outcome, keys).run()

    killer = asyncio.create_task(_kill(server, load, outcome))
    try:
        await asyncio.gather(*(take_part(number) for number in range(load.raters)))
    finally:
        killer.cancel()
        with suppress(asyncio.CancelledError):
            await killer
    outcome.seconds = time.perf_counter() - started
    return outcome, keys


async def _kill(server: Server, load: Load, outcome: Outcome) -> None:
    rng = random.Random(f"kills {load.seed}")
    for _ in range(load.kills):
        await asyncio.sleep(rng.uniform(0.1, 1.5))
        server.kill()
        outcome.kills += 1
        server.start()
        await server.ready()


def _check(settings: StudySettings, outcome: Outcome, keys: dict[str, str]) -> Outcome:
    """Compare what was acknowledged with what is stored."""
    store = Store(settings)
    with store.database.read() as connection:
        vote = tables.vote
        rows = connection.execute(select(vote.c.idempotency_key, vote.c.trial_id)).all()
    stored = {row.idempotency_key: row.trial_id for row in rows}
    outcome.stored = len(rows)
    outcome.acknowledged = len(keys)
    outcome.missing = sum(stored.get(key) != trial for key, trial in keys.items())
    outcome.doubled = len(rows) - len({row.trial_id for row in rows}) + len(rows) - len(stored)
    outcome.problems = store.studies.verify(SLUG)
    store.close()
    if settings.uses_sqlite:
        path = settings.database_url.removeprefix(SQLITE_PREFIX)
        with closing(sqlite3.connect(path)) as connection:
            verdict = connection.execute("PRAGMA integrity_check").fetchone()[0]
            outcome.problems += [] if verdict == "ok" else [verdict]
    return outcome
