"""A whole preparation: what is missing is worked on, shards are packed, a report says the rest.

A run that was stopped goes on where it was; tracks that were faulty are tried again, and rows that
were added or mended since are taken in.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from training.loop import write_json
from training.preferences import write_faults
from training.prepare.catalogue import Catalogue
from training.prepare.encoders import protocol
from training.prepare.engines import engine
from training.prepare.store import CATALOGUE, Store, held
from training.prepare.work import Done, Order, TextJob, TrackJob
from ttmpref.types import OutputError, TtmprefError

log = logging.getLogger(__name__)
LOG_EVERY_SECONDS = 10.0


@dataclass
class Report:
    """What a run found and did.

    Attributes:
        tracks, clips, captions: in the data set.
        clip_bytes, text_bytes: of the shards and of the text files.
        clips_made: by this run, in `seconds`.
        work: seconds of each kind of work, summed over processes.
        faults: a line for everything that could not be used.
    """

    tracks: int = 0
    clips: int = 0
    captions: int = 0
    clip_bytes: int = 0
    text_bytes: int = 0
    clips_made: int = 0
    seconds: float = 0.0
    work: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def bytes_per_clip(self) -> float:
        """Text included."""
        return (self.clip_bytes + self.text_bytes) / max(1, self.clips)

    @property
    def clips_per_second(self) -> float:
        return self.clips_made / self.seconds if self.seconds else 0.0

    def enter(self, done: Done) -> None:
        """Add a job. What was left out of a track that is in comes from the store."""
        self.clips_made += done.clips
        self.work = dict(Counter(self.work) + Counter(done.seconds))
        if not done.clips:
            self.faults += done.faults

    def measure(self, store: Store) -> None:
        """Take counts and sizes from the shards."""
        shards, text = store.index.shards.values(), store.index.text.values()
        self.tracks = len(store.packed_tracks())
        self.clips = sum(shard.rows for shard in shards)
        self.captions = sum(file.rows for file in text)
        self.clip_bytes = sum(shard.bytes for shard in shards)
        self.text_bytes = sum(file.bytes for file in text)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values; the faults only as their number."""
        rates = {
            "bytes_per_clip": round(self.bytes_per_clip, 1),
            "clips_per_second": round(self.clips_per_second, 3),
        }
        work = {kind: round(spent, 3) for kind, spent in self.work.items()}
        counts = {"seconds": round(self.seconds, 3), "work": work, "faults": len(self.faults)}
        return asdict(self) | counts | rates


def prepare(
    order: Order,
    found: Catalogue,
    faults: list[str],
    engine_name: str = "here",
    workers: int = 1,
    on_done: Callable[[Done], None] | None = None,
) -> Report:
    """Make the data set of `found`, or what is missing of it.

    Args:
        found: the tracks as the table of captions names them now.
        faults: what was wrong with that table; goes into the report.
        engine_name, workers: see `training.prepare.engines`.
        on_done: called after every job.

    Raises:
        InvalidRequest: the folder was begun with other numbers, or another run is at work in it.
        MissingWeights, DamagedWeights: of the preset or the data set.
        OutputError: the disk is full or cannot be written.
    """
    began = time.perf_counter()
    report = Report(faults=list(faults))
    said = protocol(order.preset, order.recipe)
    with _disk_errors(order), held(order.out):
        catalogue = Catalogue.read(order.out / CATALOGUE).grown(found.tracks)
        store = Store(order.out, said, order.recipe.tracks_per_shard)
        catalogue.write(order.out / CATALOGUE)
        packing = Packing(store, catalogue)
        jobs = [*_text_jobs(order, store, catalogue), *packing.missing()]
        log.info("%d tracks, %d jobs to do", len(catalogue.tracks), len(jobs))
        with engine(engine_name, workers) as run:
            for done in _logged(run(order, jobs), len(jobs)):
                report.enter(done)
                packing.enter(done)
                if on_done is not None:
                    on_done(done)
        report.faults += store.faults()
        report.seconds = time.perf_counter() - began
        report.measure(store)
        write_json(order.out / "report.json", report.to_dict())
        write_faults(report.faults, order.out / "faults.txt")
    return report


class Packing:
    """Which tracks are missing, and which shards wait for none any more."""

    def __init__(self, store: Store, catalogue: Catalogue) -> None:
        self.store, self.catalogue = store, catalogue
        made = store.packed_tracks() | store.parts()
        self.rows = [row for row in range(len(catalogue.tracks)) if row not in made]
        self.left = Counter(self._shard(row) for row in self.rows)
        for number in sorted({self._shard(row) for row in store.parts()} - self.left.keys()):
            store.pack(number)

    def _shard(self, row: int) -> int:
        return row // self.store.tracks_per_shard

    def missing(self) -> Iterator[TrackJob]:
        """In order."""
        return (TrackJob(row, self.catalogue.tracks[row]) for row in self.rows)

    def enter(self, done: Done) -> None:
        """Keep what a job made; the last one of a shard makes it whole."""
        if isinstance(done.job, TextJob):
            if done.text is not None:
                self.store.add_text(done.text)
            return
        number = self._shard(done.job.row)
        self.left[number] -= 1
        if not self.left[number]:
            self.store.pack(number)


def _text_jobs(order: Order, store: Store, catalogue: Catalogue) -> Iterator[TextJob]:
    """The text files that are missing or have grown."""
    size = order.recipe.captions_per_shard
    for number, first in enumerate(range(0, len(catalogue.captions), size)):
        captions = catalogue.captions[first : first + size]
        made = store.index.text.get(number)
        if made is None or made.rows < len(captions):
            yield TextJob(number, captions)


def _logged(results: Iterable[Done], jobs: int) -> Iterator[Done]:
    """The results, with a line of progress now and then."""
    began = last = time.monotonic()
    clips = 0
    for count, done in enumerate(results, 1):
        clips += done.clips
        now = time.monotonic()
        if now - last > LOG_EVERY_SECONDS or count == jobs:
            spent, last = max(now - began, 1e-9), now
            left = (jobs - count) * spent / count / 60
            rate = clips / spent
            log.info("%d of %d jobs, %.1f clips/s, %.0f min left", count, jobs, rate, left)
        yield done


@contextmanager
def _disk_errors(order: Order) -> Iterator[None]:
    """What the file system says, in one line."""
    try:
        yield
    except OSError as error:
        if isinstance(error, TtmprefError):
            raise
        place = error.filename or order.out
        raise OutputError(f"{place}: cannot be written ({error.strerror or error})") from None
