"""Which tracks there are, what their captions say, and in which split they lie.

A catalogue is written beside the prepared data and only ever grows: a later run adds tracks, it
never moves one, so row numbers of tracks and captions stay what they are. Caption 0 is the empty
text, which training puts in place of others.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from training.loop import write_aside
from training.preferences import Row, read_rows
from training.prepare.recipe import PrepareRecipe
from ttmpref.audio import READABLE_SUFFIXES
from ttmpref.types import DamagedWeights, InvalidRequest, check_text

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Track:
    """A file with its caption.

    Attributes:
        id: unique in a catalogue.
        path: of the file, inside the audio folder.
        split: one of `SPLITS`.
    """

    id: str
    path: str
    caption: str
    split: str = "train"


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Tracks in a fixed order."""

    tracks: tuple[Track, ...]

    @cached_property
    def captions(self) -> tuple[str, ...]:
        """The texts that occur, each once, after the empty one."""
        return tuple(dict.fromkeys(["", *(track.caption for track in self.tracks)]))

    @cached_property
    def caption_rows(self) -> tuple[int, ...]:
        """Row of every track's caption."""
        rows = {caption: row for row, caption in enumerate(self.captions)}
        return tuple(rows[track.caption] for track in self.tracks)

    def grown(self, found: Sequence[Track]) -> Catalogue:
        """These tracks, then those of `found` that are new; once there are some, new ones train.

        Raises:
            InvalidRequest: a known track has another file or caption now.
        """
        known = {track.id: track for track in self.tracks}
        for track in found:
            before = known.get(track.id, track)
            if (before.path, before.caption) != (track.path, track.caption):
                raise InvalidRequest(
                    f"track {track.id!r} had another file or caption when this folder was begun; "
                    "name another folder"
                )
        new = [track for track in found if track.id not in known]
        if self.tracks:
            new = [replace(track, split="train") for track in new]
        return Catalogue((*self.tracks, *new))

    def write(self, path: Path) -> None:
        lines = [json.dumps(asdict(track), ensure_ascii=False) + "\n" for track in self.tracks]
        write_aside(path, lambda aside: aside.write_text("".join(lines), "utf-8"))

    @classmethod
    def read(cls, path: Path) -> Catalogue:
        """The catalogue in a file, empty where there is none.

        Raises:
            DamagedWeights: the file is something else.
        """
        if not path.exists():
            return cls(())
        try:
            lines = path.read_text("utf-8").splitlines()
            return cls(tuple(Track(**json.loads(line)) for line in lines))
        except (TypeError, ValueError) as error:
            raise DamagedWeights(f"{path} is not a catalogue ({error})") from None


def read_tracks(
    audio: Path, captions: Path, recipe: PrepareRecipe
) -> tuple[list[Track], list[str]]:
    """The tracks that a table of captions names, and a line for each row or file of no use.

    Args:
        audio: folder of the files.
        captions: the table (`training.preferences.read_rows`).

    Raises:
        InvalidRequest: the table cannot be read at all, or so many tracks are to be held out that
            none is left.
    """
    tracks: dict[str, Track] = {}
    faults: list[str] = []
    named: set[str] = set()
    for row in read_rows(captions):
        named.add(Path(str(row.values.get(recipe.path_column))).as_posix())
        try:
            track = _track(row, recipe)
            if track.id in tracks:
                raise InvalidRequest(f"id {track.id!r} was given to an earlier track")
        except InvalidRequest as error:
            faults.append(f"{row.place}: {error}")
            continue
        tracks[track.id] = track
    faults += _without_caption(audio, named)
    if not tracks:
        first = faults[0] if faults else "it is empty"
        raise InvalidRequest(f"{captions} names no track that can be used; {first}")
    return _divided(list(tracks.values()), recipe), faults


def _track(row: Row, recipe: PrepareRecipe) -> Track:
    path, caption = row.text(recipe.path_column), row.text(recipe.caption_column)
    check_text(recipe.caption_column, caption, may_be_empty=False)
    name = row.text(recipe.id_column, Path(path).with_suffix("").as_posix())
    return Track(name, Path(path).as_posix(), caption)


def _without_caption(audio: Path, named: Collection[str]) -> list[str]:
    """A line for every audio file below a folder that no row names."""
    files = sorted(f for f in audio.rglob("*") if f.suffix.lower() in READABLE_SUFFIXES)
    return [
        f"{file}: has no caption"
        for file in files
        if file.relative_to(audio).as_posix() not in named
    ]


def _divided(tracks: list[Track], recipe: PrepareRecipe) -> list[Track]:
    """Tracks in order, with the held-out ones drawn by the recipe's seed: test, then validation."""
    test, validation = (_count(n, len(tracks)) for n in (recipe.test, recipe.validation))
    held_out = test + validation
    if held_out >= len(tracks):
        raise InvalidRequest(f"{held_out} tracks are to be held out, but there are {len(tracks)}")
    drawn = list(range(len(tracks)))
    random.Random(recipe.seed).shuffle(drawn)
    split = dict.fromkeys(drawn[:test], "test")
    split |= dict.fromkeys(drawn[test:held_out], "validation")
    return [replace(track, split=split.get(i, "train")) for i, track in enumerate(tracks)]


def _count(held_out: float, tracks: int) -> int:
    """A number of tracks from a number or a share."""
    return math.ceil(held_out * tracks) if held_out < 1 else int(held_out)
