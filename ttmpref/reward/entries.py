"""What is to be scored: files, folders and CSV manifests to one entry per clip.

An entry that cannot be scored keeps its place with the reason, so nothing is dropped in silence. A
manifest has one row per clip (`clip`, and optionally `id`, `prompt`) or per pair (`clip_a`,
`clip_b`, and optionally `id`, `prompt`, `vote`: the columns of a training table). Its paths count
from its own folder.
"""

from __future__ import annotations

import csv
import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ttmpref.audio import READABLE_SUFFIXES
from ttmpref.types import VOTES, InvalidRequest, Vote, check_choice

logger = logging.getLogger(__name__)

MANIFEST_SUFFIX = ".csv"
CLIP_COLUMNS = ("clip", "id", "prompt")
PAIR_COLUMNS = ("clip_a", "clip_b", "id", "prompt", "vote")


@dataclass(frozen=True)
class ScoreEntry:
    """A file to be scored.

    Attributes:
        id: unique among the entries; the clips of a pair are `<pair>/A` and `<pair>/B`.
        fault: why it cannot be scored; empty where it may be tried.
        pair, side: of a pair's clip, else empty.
        vote: what a listener said of the pair, where that is known.
    """

    id: str
    path: Path
    prompt: str = ""
    fault: str = ""
    pair: str = ""
    side: Literal["", "A", "B"] = ""
    vote: Vote | None = None


def entries_of(paths: Iterable[Path], prompt: str = "") -> list[ScoreEntry]:
    """What the paths name: audio files, folders of them (all below, by name), CSV manifests.

    Args:
        prompt: of every clip whose manifest row has none of its own.
    """
    seen: set[str] = set()
    entries = []
    for path in paths:
        for entry in _named(path, prompt):
            fault = entry.fault or ("" if entry.id not in seen else _repeated(entry.id))
            entries.append(dataclasses.replace(entry, fault=fault))
            seen.add(entry.id)
    return entries


def _repeated(name: str) -> str:
    return f"id {name!r} was given to an earlier clip"


def _named(path: Path, prompt: str) -> Iterator[ScoreEntry]:
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix.lower() in READABLE_SUFFIXES)
        for file in files:
            yield ScoreEntry(str(file), file, prompt)
        if not files:
            accepted = ", ".join(READABLE_SUFFIXES)
            fault = f"{path}: no audio in this folder; accepted: {accepted}"
            yield ScoreEntry(str(path), path, prompt, fault=fault)
    elif path.suffix.lower() == MANIFEST_SUFFIX:
        yield from _manifest(path, prompt)
    else:
        yield ScoreEntry(str(path), path, prompt)


def _manifest(path: Path, prompt: str) -> Iterator[ScoreEntry]:
    """Entries of a CSV file; a file that is no manifest is one entry with that fault."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = _columns(path, reader.fieldnames or ())
            for row in reader:
                yield from _row_entries(path, f"{path}:{reader.line_num}", columns, row, prompt)
    except (OSError, UnicodeDecodeError, csv.Error, InvalidRequest) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        yield ScoreEntry(str(path), path, fault=f"manifest {path}: {reason}")


def _columns(path: Path, found: Sequence[str]) -> Sequence[str]:
    """The columns of this kind of manifest; those of no use are mentioned."""
    columns = next((c for c in (CLIP_COLUMNS, PAIR_COLUMNS) if c[0] in found), None)
    if columns is None or columns is PAIR_COLUMNS and "clip_b" not in found:
        raise InvalidRequest(f"columns {', '.join(found)}; needed: clip, or clip_a and clip_b")
    unused = [name for name in found if name not in columns]
    if unused:
        logger.warning("manifest %s: columns not used: %s", path, ", ".join(unused))
    return columns


def _row_entries(
    path: Path, place: str, columns: Sequence[str], row: Mapping[Any, Any], prompt: str
) -> Iterator[ScoreEntry]:
    """The one or two entries of a manifest's row, or one that says what is wrong with it."""
    try:
        if None in row or None in row.values():
            raise InvalidRequest("has another number of cells than the first line")
        told = row.get("prompt") or prompt
        if columns is CLIP_COLUMNS:
            yield _entry(path, row.get("id") or row["clip"], row["clip"], told)
            return
        name = row.get("id") or place
        vote = row.get("vote") or None
        if vote is not None:
            check_choice("vote", vote, VOTES)
        for side, clip in (("A", row["clip_a"]), ("B", row["clip_b"])):
            entry = _entry(path, f"{name}/{side}", clip, told)
            yield dataclasses.replace(entry, pair=name, side=side, vote=vote)
    except InvalidRequest as error:
        yield ScoreEntry(row.get("id") or place, path, fault=f"{place}: {error}")


def _entry(manifest: Path, name: str, clip: str, prompt: str) -> ScoreEntry:
    if not clip:
        raise InvalidRequest("names no clip")
    return ScoreEntry(name, manifest.parent / clip, prompt)
