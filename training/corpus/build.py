"""Building the corpus on disk: any piece alone, in any order, by any number of workers.

Piece `i` is a function of (recipe, i) only: its randomness comes from (seed, i, purpose). Splits
are ranges of the index in the order of the recipe: with the default recipe pieces 0..2799 train,
2800..2899 validate and the rest evaluate.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from pydantic import BaseModel, ConfigDict, Field

from .captions import describe_many
from .composer import compose
from .render import Renderer
from .sampler import find_sound_font
from .score import Piece, Tags
from .tags import on_grid, sample_tags

FORMAT = 1  # raise when the same recipe gives other music
_REPORT_EVERY = 50
_TAGS, _MUSIC, _WORDS = 0, 1, 2  # separate streams: new wordings leave the music alone


class CorpusRecipe(BaseModel):
    """What the corpus is.

    Attributes:
        seed: base seed, >= 0.
        piece_seconds: length of every piece, seconds, >= 2.
        sample_rate: hertz.
        beat_step: a beat lasts a whole number of this many samples; 0 leaves the tempi free.
        captions_per_piece: how many wordings each piece gets, 1..20.
        splits: pieces per split, in index order.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    seed: int = Field(default=20240607, ge=0)
    piece_seconds: float = Field(default=30.0, ge=2.0, le=600.0)
    sample_rate: int = Field(default=44100, ge=8000, le=96000)
    beat_step: int = Field(default=0, ge=0, le=4410)
    captions_per_piece: int = Field(default=6, ge=1, le=20)
    splits: dict[str, int] = Field(
        default_factory=lambda: {"train": 2800, "validation": 100, "evaluation": 700}
    )

    @property
    def pieces(self) -> int:
        """Number of pieces in all splits."""
        return sum(self.splits.values())

    def draw_tags(self, rng: np.random.Generator) -> Tags:
        """Tags of a piece that the corpus might hold."""
        tags = sample_tags(rng)
        return on_grid(tags, self.beat_step / self.sample_rate) if self.beat_step else tags

    def split_of(self, index: int) -> str:
        """Returns the split of a piece.

        Raises:
            ValueError: if the index is outside the corpus.
        """
        first = 0
        for name, count in self.splits.items():
            if first <= index < first + count:
                return name
            first += count
        raise ValueError(f"index {index} is outside the corpus of {first} pieces")

    def digest(self) -> str:
        """Hash of everything that decides the corpus."""
        text = json.dumps({"format": FORMAT, **self.model_dump()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class PieceRecord:
    """One line of index.jsonl; `file` is relative to the corpus folder, `seconds` its length."""

    id: int
    split: str
    file: str
    seconds: float
    captions: tuple[str, ...]
    tags: dict[str, Any]


def compose_index(recipe: CorpusRecipe, index: int) -> tuple[Piece, tuple[str, ...]]:
    """Composes piece `index` of the corpus and its captions, without sound.

    Args:
        recipe: the corpus.
        index: 0..recipe.pieces - 1.

    Returns:
        The piece and its captions.
    """
    tags, captions = _describe_index(recipe, index)
    music = np.random.default_rng([recipe.seed, index, _MUSIC])
    return compose(tags, music, recipe.piece_seconds), captions


def build_corpus(
    recipe: CorpusRecipe,
    folder: Path,
    workers: int = 1,
    limit: int | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> list[PieceRecord]:
    """Renders what is missing and writes the index.

    Args:
        recipe: the corpus to build.
        folder: where to put it; made if missing.
        workers: processes, >= 1.
        limit: build only the first so many pieces; None builds all.
        log: called with a line now and then.

    Returns:
        The records, sorted by id.

    Raises:
        ValueError: if `workers` is not positive or the folder holds another corpus.
        MissingSoundFont: if the sound font is not installed.
        OSError: if the folder cannot be written.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; use 1 or more")
    find_sound_font()
    _claim(recipe, folder)
    count = recipe.pieces if limit is None else min(limit, recipe.pieces)
    missing = [i for i in range(count) if not (folder / piece_file(i)).is_file()]
    log(f"corpus: {count} pieces, {count - len(missing)} there already, {workers} workers")
    _render_all(recipe, folder, missing, workers, log)
    records = [_record(recipe, i) for i in range(count)]
    lines = "".join(json.dumps(r.__dict__, ensure_ascii=False) + "\n" for r in records)
    _write_text(folder / "index.jsonl", lines)
    log(f"corpus: index of {count} pieces written")
    return records


def load_index(folder: Path) -> list[PieceRecord]:
    """Reads index.jsonl of a corpus.

    Args:
        folder: a folder made by `build_corpus`.

    Returns:
        The records, sorted by id.

    Raises:
        FileNotFoundError: if there is no index; the message says how to make one.
    """
    path = folder / "index.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; build the corpus first: python -m training corpus")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    records = [PieceRecord(**{**row, "captions": tuple(row["captions"])}) for row in rows]
    return sorted(records, key=lambda record: record.id)


def piece_file(index: int) -> str:
    """Path of a piece's sound relative to the corpus folder."""
    return f"audio/{index // 100:03d}/{index:06d}.flac"


def _describe_index(recipe: CorpusRecipe, index: int) -> tuple[Tags, tuple[str, ...]]:
    tags = recipe.draw_tags(np.random.default_rng([recipe.seed, index, _TAGS]))
    words = np.random.default_rng([recipe.seed, index, _WORDS])
    return tags, tuple(describe_many(tags, recipe.captions_per_piece, words))


def _record(recipe: CorpusRecipe, index: int) -> PieceRecord:
    tags, captions = _describe_index(recipe, index)
    return PieceRecord(
        id=index,
        split=recipe.split_of(index),
        file=piece_file(index),
        seconds=recipe.piece_seconds,
        captions=captions,
        tags=tags.to_dict(),
    )


def _claim(recipe: CorpusRecipe, folder: Path) -> None:
    """Writes corpus.json, or checks that the folder's is of the same recipe."""
    path = folder / "corpus.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8")).get("hash")
        if found != recipe.digest():
            raise ValueError(
                f"{folder} holds another corpus (hash {found}, wanted {recipe.digest()}); "
                "delete it or choose another folder"
            )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        body = {"format": FORMAT, "recipe": recipe.model_dump(), "hash": recipe.digest()}
        _write_text(path, json.dumps(body, indent=2) + "\n")
    except OSError as error:
        raise OSError(f"cannot write the corpus to {folder}: {error}") from error


def _render_all(
    recipe: CorpusRecipe, folder: Path, missing: list[int], workers: int,
    log: Callable[[str], None],
) -> None:  # fmt: skip
    if not missing:
        return
    if workers == 1:
        _start_worker(recipe, folder)
        _watch(map(_render_one, missing), len(missing), log)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, _start_worker, (recipe, folder)) as pool:
        _watch(pool.imap_unordered(_render_one, missing, chunksize=4), len(missing), log)


def _watch(done: Any, total: int, log: Callable[[str], None]) -> None:
    for number, _ in enumerate(done, start=1):
        if number % _REPORT_EVERY == 0 or number == total:
            log(f"corpus: {number}/{total} rendered")


_worker: tuple[CorpusRecipe, Path, Renderer] | None = None  # one per process, set once


def _start_worker(recipe: CorpusRecipe, folder: Path) -> None:
    global _worker
    _worker = (recipe, folder, Renderer(sample_rate=recipe.sample_rate))


def _render_one(index: int) -> int:
    assert _worker is not None
    recipe, folder, renderer = _worker
    piece, _ = compose_index(recipe, index)
    audio = renderer.render(piece)
    path = folder / piece_file(index)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    samples = np.round(audio.T * 32767.0).astype(np.int16)
    soundfile.write(aside, samples, recipe.sample_rate, subtype="PCM_16", format="FLAC",
                    compression_level=0.3)  # fmt: skip
    os.replace(aside, path)
    return index


def _write_text(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)
