"""What every part of the store shares: database, settings, clock, and studies held in memory.

An opened study never changes, apart from its status, so its definition, pairs and clips are read
once per process; everything that changes is read in the transaction that needs it.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from ttmpref.study.assignment import Candidate
from ttmpref.study.definition import Definition
from ttmpref.study.errors import TooMany
from ttmpref.study.records import build_folder, clip_path
from ttmpref.study.settings import StudySettings
from ttmpref.study.store import statements, tables
from ttmpref.study.store.engine import Database

MICROSECONDS = 1_000_000
MINUTE, DAY = 60 * MICROSECONDS, 86_400 * MICROSECONDS


def now_us() -> int:
    """Microseconds of UTC since 1970."""
    return time.time_ns() // 1_000


@dataclass(frozen=True)
class PairView:
    """A pair as assignment needs it. `candidate` has nothing assigned yet."""

    candidate: Candidate
    kind: str
    expected: str | None
    target: int


@dataclass(frozen=True)
class StudyView:
    """The unchanging part of an opened study.

    Attributes:
        folder: build folder with the delivered clips.
        pairs, prompts, clips, systems: by database id; a clip is (hash, system id).
    """

    id: int
    definition: Definition
    folder: Path
    pairs: Mapping[int, PairView]
    prompts: Mapping[int, str]
    clips: Mapping[int, tuple[str, int]]
    systems: Mapping[int, str]

    @property
    def session_length(self) -> int:
        """Trials of one person, practice included, who hears each pair once; a study may have fewer
        pairs than its sessions have room for.
        """
        kinds = Counter(pair.kind for pair in self.pairs.values())
        return self.definition.session.within(kinds).length

    def clip_path(self, stimulus_id: int) -> Path:
        """File of a delivered clip."""
        return clip_path(self.folder, self.clips[stimulus_id][0])


@dataclass
class Context:
    """See the module's docstring."""

    database: Database
    settings: StudySettings
    clock: Callable[[], int] = now_us
    _views: dict[int, StudyView] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bucket = tables.rate_bucket
        self._count_use = (
            self.database.insert(bucket)
            .on_conflict_do_update(
                index_elements=[bucket.c.key_hmac, bucket.c.window_start],
                set_={"count": bucket.c.count + 1},
            )
            .returning(bucket.c.count)
        )
        # Two batches with the same events may arrive at once: the second changes nothing.
        self.insert_events = self.database.insert(tables.playback_event).on_conflict_do_nothing()

    def view(self, connection: Connection, study_id: int) -> StudyView:
        """The unchanging part of a study, from memory after the first time."""
        if study_id not in self._views:
            self._views[study_id] = self._read_view(connection, study_id)
        return self._views[study_id]

    def _read_view(self, connection: Connection, study_id: int) -> StudyView:
        def rows(table: Any) -> list[Any]:
            return list(connection.execute(select(table).where(table.c.study_id == study_id)))

        json_text = connection.scalar(
            select(tables.study.c.definition_json).where(tables.study.c.id == study_id)
        )
        definition = Definition.model_validate_json(json_text)
        return StudyView(
            id=study_id,
            definition=definition,
            folder=build_folder(self.settings.data_dir, definition),
            pairs={
                row.id: PairView(
                    Candidate(row.id, row.prompt_id, row.stim_lo, row.stim_hi),
                    row.kind, row.expected, row.target,
                )
                for row in rows(tables.pair)
            },
            prompts={row.id: row.text for row in rows(tables.prompt)},
            clips={row.id: (row.delivered_sha256, row.system_id) for row in rows(tables.stimulus)},
            systems={row.id: row.label for row in rows(tables.system)},
        )  # fmt: skip

    def pseudonym(self, *parts: str) -> bytes:
        """Keyed hash of something personal; without the key nobody can test a guess."""
        return hmac.digest(self.settings.secret, "\0".join(parts).encode("utf-8"), hashlib.sha256)

    def count(self, connection: Connection, what: str, limit: int, window: int) -> None:
        """Count one use of `what` in the present window (µs), across all processes.

        Raises:
            TooMany: it was used `limit` times in this window; nothing is counted then.
        """
        values = {**self._bucket(what, window), "count": 1}
        if connection.scalar(self._count_use, values) > limit:
            raise self._too_many(limit, window)

    def refuse_at(self, connection: Connection, what: str, limit: int, window: int) -> None:
        """Count nothing, but refuse what has been used up.

        Raises:
            TooMany: as `count` would.
        """
        bucket, place = tables.rate_bucket, self._bucket(what, window)
        used = connection.scalar(
            select(bucket.c.count).where(
                bucket.c.key_hmac == place["key_hmac"],
                bucket.c.window_start == place["window_start"],
            )
        )
        if used is not None and used >= limit:
            raise self._too_many(limit, window)

    def _bucket(self, what: str, window: int) -> dict[str, Any]:
        """Key of the counter of `what` in the present window."""
        now = self.clock()
        return {"key_hmac": self.pseudonym("rate", what), "window_start": now - now % window}

    def _too_many(self, limit: int, window: int) -> TooMany:
        seconds = -(-(window - self.clock() % window) // MICROSECONDS)
        return TooMany(f"more than {limit} requests; try again in {seconds} s", seconds)


def lock_study(connection: Connection, study_id: int) -> str:
    """The status of a study, held until the transaction ends; see `statements.LOCK_STUDY`."""
    return connection.scalar(statements.LOCK_STUDY, {"p_study": study_id})


def count_pair(
    connection: Connection, pair_id: int, assigned: int = 0, lo_on_a: int = 0, valid: int = 0
) -> None:
    """Add to the counters of a pair, in the transaction that changes what they count."""
    changes = {"p_assigned": assigned, "p_lo_on_a": lo_on_a, "p_valid": valid}
    connection.execute(statements.COUNT_PAIR, {"p_pair": pair_id, **changes})
