"""Scores of files: a few in memory at a time, one result per entry, tables for people and programs.

The result of an entry that could not be scored says why and keeps its place.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ttmpref.audio import read_clip
from ttmpref.reward.entries import ScoreEntry
from ttmpref.reward.guards import check_clip
from ttmpref.reward.scorer import in_groups
from ttmpref.types import Clip, RewardScore, TtmprefError, check_text

ScoreClips = Callable[[Sequence[Clip], Sequence[str]], list[RewardScore]]
ReadClip = Callable[[Path], Clip]
Item = TypeVar("Item")


@dataclass(frozen=True)
class FileScore:
    """An entry with its score, or with the reason why there is none."""

    entry: ScoreEntry
    score: RewardScore | None
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        return {
            "id": self.entry.id,
            "file": str(self.entry.path),
            "vote": self.entry.vote,
            "error": self.error or None,
            "score": None if self.score is None else self.score.to_dict(),
        }


def score_files(
    score: ScoreClips, entries: Iterable[ScoreEntry], read: ReadClip = read_clip
) -> Iterator[FileScore]:
    """Results in the order of the entries; a few files are in memory at a time.

    Args:
        score: clips and their prompts to their scores; what it raises is raised here.
        read: the clip in a file; a `TtmprefError` that it raises becomes the file's result.
    """
    found = ((entry, *_clip_of(entry, read)) for entry in entries)
    groups = in_groups(found, lambda item: 0.0 if item[1] is None else item[1].seconds)
    for group in one_ahead(groups):
        good = [(entry, clip) for entry, clip, _ in group if clip is not None]
        scores = score([clip for _, clip in good], [entry.prompt for entry, _ in good])
        left = iter(scores)
        for entry, clip, error in group:
            yield FileScore(entry, None if clip is None else next(left), error)


def one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The items, each fetched in a thread while the one before it is worked on."""
    last = object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, last)
        while (item := coming.result()) is not last:
            coming = pool.submit(next, items, last)
            yield item


def _clip_of(entry: ScoreEntry, read: ReadClip) -> tuple[Clip | None, str]:
    """The entry's clip and no fault, or no clip and what is wrong."""
    if entry.fault:
        return None, entry.fault
    try:
        check_text("prompt", entry.prompt, may_be_empty=True)
        clip = read(entry.path)
        check_clip(clip)
        return clip, ""
    except TtmprefError as error:
        return None, str(error)


def agreement(results: Iterable[FileScore]) -> tuple[int, int]:
    """How many decisive votes on pairs the rewards agree with, and how many there are."""
    pairs: dict[str, dict[str, FileScore]] = {}
    for result in results:
        if result.entry.vote in ("A", "B") and result.score is not None:
            pairs.setdefault(result.entry.pair, {})[result.entry.side] = result
    whole = [pair for pair in pairs.values() if len(pair) == 2]
    hits = 0
    for pair in whole:
        a, b = pair["A"].score.reward, pair["B"].score.reward
        hits += a > b if pair["A"].entry.vote == "A" else b > a
    return hits, len(whole)


def results_json(results: Sequence[FileScore]) -> str:
    """Everything, one object per entry."""
    return json.dumps([r.to_dict() for r in results], indent=1, ensure_ascii=False) + "\n"


def results_csv(results: Sequence[FileScore]) -> str:
    """A table with one row per entry; the timeline is `start-end:reward` in seconds."""
    scored = (result.score for result in results if result.score is not None)
    collections = next((tuple(score.percentiles) for score in scored), ())
    rows = [_flat(result, collections) for result in results]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["id"])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(result: FileScore, collections: Sequence[str]) -> dict[str, Any]:
    """The cells of a result; those of a failed one are empty but for its name and error."""
    cells = {"id": result.entry.id, "file": result.entry.path, "prompt": result.entry.prompt}
    cells |= {"vote": result.entry.vote, "error": result.error}
    score = result.score
    names = (
        "reward", "low", "high", "reward_without_prompt", "seconds", "sample_rate", "channels",
        "lufs", "flags", "timeline",
        *(f"percentile_{name}" for name in collections),
        "window", "band", "encoders", "heads", "ttmpref",
    )  # fmt: skip
    if score is None:
        return cells | dict.fromkeys(names)
    low, high = score.interval or (None, None)
    protocol = score.protocol
    values = (
        score.reward, low, high, score.reward_without_prompt, score.seconds, score.sample_rate,
        score.channels, score.lufs, " ".join(flag.code for flag in score.flags),
        " ".join(f"{w.start:.2f}-{w.end:.2f}:{w.reward:.4f}" for w in score.timeline),
        *(score.percentiles[name] for name in collections),
        protocol["window"], protocol["band"], " ".join(protocol["encoders"].values()),
        " ".join(protocol["heads"].values()), protocol["ttmpref"],
    )  # fmt: skip
    return cells | dict(zip(names, values, strict=True))
