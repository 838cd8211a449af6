"""Which held-out pieces play which part, and which of their captions become prompts.

The evaluation split is divided once, by a seeded shuffle of its rows: *prompt pieces* lend captions
to generated clips (and their real audio stands beside the clips as what a perfect model would
give), *other pieces* train the tagger and are the reference of the Frechet distances. No piece is
in both parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.corpus.vocabulary import GENRES, LEADS, TEMPO_WORDS
from training.data import CORPUS_RATE, Corpus
from ttmpref.types import Clip

SPLIT_SEED = 71
WINDOW_SEED = 72
TAGS = ("lead", "genre", "tempo_class")
# "It moves at a medium pace" drops the second half of "medium-tempo".
EXTRA_TEMPO_WORDS = {"slow": (), "medium": ("medium", "moderate"), "fast": ()}


@dataclass(frozen=True)
class Prompt:
    """A caption used as a prompt.

    Attributes:
        row: the piece's row in the evaluation split.
        tags: tags of the piece.
        stated: names of the tags, out of TAGS, that the caption says in words.
    """

    row: int
    text: str
    tags: dict[str, Any]
    stated: frozenset[str]


def divide(pieces: int, prompts: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the prompt pieces and of all others.

    Raises:
        ValueError: fewer than `prompts` pieces would be left over.
    """
    if pieces < 2 * prompts:
        raise ValueError(f"{prompts} prompt pieces need a split of {2 * prompts}, got {pieces}")
    order = np.random.default_rng(SPLIT_SEED).permutation(pieces)
    return order[:prompts], np.sort(order[prompts:])


def prompts(corpus: Corpus, count: int) -> list[Prompt]:
    """One caption of each prompt piece: the first that states most of TAGS."""
    rows, _ = divide(len(corpus.pieces), count)
    return [_prompt(corpus, int(row)) for row in rows]


def _prompt(corpus: Corpus, row: int) -> Prompt:
    piece = corpus.pieces[row]
    stated = [stated_tags(caption, piece.tags) for caption in piece.captions]
    best = max(range(len(stated)), key=lambda i: len(stated[i]))  # the first of equals
    return Prompt(row, piece.captions[best], piece.tags, stated[best])


def stated_tags(caption: str, tags: dict[str, Any]) -> frozenset[str]:
    """Which of lead, genre and tempo class a caption says in the corpus's own words."""
    genre = GENRES[tags["genre"]]
    nouns = [noun.removeprefix("an ").removeprefix("a ") for noun in genre.nouns]
    found = {
        "lead": _says(caption, LEADS[tags["lead"]].names),
        "genre": _says(caption, (*genre.styles, *nouns)),
        "tempo_class": _says_tempo(caption, tags["tempo_class"]),
    }
    return frozenset(name for name, said in found.items() if said)


def _says(text: str, phrases: Sequence[str]) -> bool:
    """Whether one of the phrases stands in the text as whole words."""
    alternatives = "|".join(re.escape(phrase) for phrase in phrases)
    return re.search(rf"(?<![\w-])(?:{alternatives})(?![\w-])", text, re.IGNORECASE) is not None


def _says_tempo(caption: str, tempo_class: str) -> bool:
    text = caption.replace("a slow dance", "")  # a use, not a tempo
    words = (*TEMPO_WORDS[tempo_class], *EXTRA_TEMPO_WORDS[tempo_class])
    return _says(text, words) or re.search(r"\b\d+ bpm\b", text, re.IGNORECASE) is not None


def window(corpus: Corpus, row: int, samples: int) -> Clip:
    """A window of a piece, at a place that depends on the row alone.

    Args:
        samples: length at the corpus's rate.
    """
    length = corpus.waveforms.shape[1]
    start = int(np.random.default_rng([WINDOW_SEED, row]).integers(length - samples + 1))
    waveform = corpus.cut(np.array([row]), np.array([start]), samples)
    return Clip(waveform.numpy(), CORPUS_RATE)


def windows(corpus: Corpus, rows: Sequence[int], seconds: float) -> Iterator[Clip]:
    """One window of each row, in order."""
    return (window(corpus, int(row), round(seconds * CORPUS_RATE)) for row in rows)


def other_rows(corpus: Corpus, prompt_count: int, count: int) -> np.ndarray:
    """`count` evenly spread rows that lend no prompt."""
    _, others = divide(len(corpus.pieces), prompt_count)
    return others[np.linspace(0, len(others) - 1, count).round().astype(int)]
