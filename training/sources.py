"""Where the stages of the preference chain get their windows and prompts from.

Two sources: the takes that the demo's simulated listeners heard, and a folder that
`python -m training prepare` made of anybody's recordings.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from training.data import Corpus
from training.demo_ranker import Hearing
from training.flow_matching import Batch, Windows, as_float
from training.listeners import Listeners, takes_of
from training.loop import numpy_draws
from training.prepare.reader import PreparedData, ScoredClips
from training.recipe import SFTRecipe, recipe_hash
from training.scored import ScoredSplit, ScoreScale, played, take_latents
from training.takes import Takes
from training.workplace import Workplace, latent_encoder
from ttmpref.reward.features import CLAP_TEXT
from ttmpref.reward.ranker import read_ranker
from ttmpref.types import InvalidRequest

Prompts = tuple[list[str], tuple[Tensor, Tensor]]
PROMPTS = "prompts of the chain"


class SizedWindows(Windows, Protocol):
    def __len__(self) -> int: ...


class Source(Protocol):
    """Windows with scores, and captions to sample for.

    Attributes:
        scale: from rewards to the scores of the windows.
        splits: training and held-out windows.
        facts: what it is, for the record of a stage.
    """

    scale: ScoreScale
    splits: tuple[SizedWindows, SizedWindows]
    facts: dict[str, str]

    def prompts(self, count: int) -> Prompts:
        """Captions of `count` different training pieces, with text (n, T, D) and pooled (n, E).

        Raises:
            InvalidRequest: there are fewer.
        """
        ...


def source_of(place: Workplace) -> Source:
    """The prepared folder where one is named, else the takes of the recipe's corpus."""
    if place.prepared is not None:
        return PreparedSource(place.prepared, place.recipe.sft)
    return TakesSource(place)


def _chosen(available: int, count: int, seed: int) -> np.random.Generator:
    if count > available:
        raise InvalidRequest(f"{count} prompts are asked for; there are {available}")
    return numpy_draws(seed, PROMPTS, 0)


class TakesSource:
    """What the simulated listeners heard (`training.scored`)."""

    def __init__(self, place: Workplace) -> None:
        self.place = place
        self.facts = {"windows": f"takes of listeners {recipe_hash(place.recipe.listeners)}"}

    @cached_property
    def _rewards(self) -> list[np.ndarray]:
        return [self._rewards_of(corpus) for corpus in self.place.corpora]

    @cached_property
    def scale(self) -> ScoreScale:
        return ScoreScale.normal(self._rewards[0])

    @cached_property
    def splits(self) -> tuple[ScoredSplit, ScoredSplit]:
        train_split, held_out = (
            replace(split, scores=self.scale.score(rewards))
            for split, rewards in zip(self.collection, self._rewards, strict=True)
        )
        return train_split, held_out

    @cached_property
    def collection(self) -> tuple[ScoredSplit, ScoredSplit]:
        """The takes without their scores; no reward need have been trained yet."""
        train_split, held_out = (self._split(corpus) for corpus in self.place.corpora)
        return train_split, held_out

    def prompts(self, count: int) -> Prompts:
        corpus = self.place.corpora[0]
        captions = self.place.captions_of(corpus)
        rng = _chosen(len(corpus.pieces), count, self.place.recipe.corpus.seed)
        pieces = rng.choice(len(corpus.pieces), count, replace=False)
        picks = [int(rng.integers(len(corpus.captions[piece]))) for piece in pieces]
        rows = captions.first[pieces] + picks
        texts = [corpus.captions[piece][pick] for piece, pick in zip(pieces, picks, strict=True)]
        return texts, (as_float(captions.text[rows]), as_float(captions.pooled[rows]))

    def latents(self, listeners: Listeners) -> np.ndarray:
        """(takes, 2, N, C), cached by the takes and the network that encodes them."""
        preset, corpus = self.place.recipe.target, listeners.corpus
        encode, folder = latent_encoder(self.place)
        names = takes_of(list(listeners.votes(range(len(corpus.pieces)))))
        takes = Takes(listeners, preset, names, self._caches, self.place.workers)
        samples = preset.backbone.latent_frames * preset.autoencoder.samples_per_latent
        return take_latents(takes, encode, samples, folder / takes.path.name)

    @property
    def _caches(self) -> Path:
        return self.place.corpus_folder / "cache"

    def _split(self, corpus: Corpus) -> ScoredSplit:
        listeners = Listeners(self.place.recipe.listeners, corpus)
        names = takes_of(list(listeners.votes(range(len(corpus.pieces)))))
        captions, metres = self.place.captions_of(corpus), self.place.metres_of(corpus)
        rows = played(names)
        known = None if metres is None else metres[rows]
        return ScoredSplit(self.latents(listeners), rows, None, captions, known)

    def _rewards_of(self, corpus: Corpus) -> np.ndarray:
        """The reward is asked with a caption of the piece played, so it speaks of the sound."""
        preset = self.place.recipe.target
        listeners = Listeners(self.place.recipe.listeners, corpus)
        votes = list(listeners.votes(range(len(corpus.pieces))))
        hearing = Hearing(listeners, preset, self._caches, self.place.workers)
        store = hearing.store([vote.preference for vote in votes])
        names = takes_of(votes)
        order = {name: row for row, name in enumerate(store.clips)}
        rows = [order[name] for name in names]
        blocks = {name: block[rows] for name, block in store.blocks.items() if name != CLAP_TEXT}
        words = hearing.features.of_prompts([captions[0] for captions in corpus.captions])
        blocks |= {name: block[played(names)] for name, block in words.items()}
        head = read_ranker(preset.ranker.weights)
        with torch.no_grad():
            return head(head.layout.join(blocks)).numpy()


@dataclass(frozen=True)
class PreparedSplit:
    """Prepared clips with scores on the chain's scale."""

    clips: ScoredClips
    scale: ScoreScale

    def __len__(self) -> int:
        return len(self.clips.data)

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        drawn = self.clips.batch(size, generator)
        return replace(drawn, score=torch.from_numpy(self.scale.score(drawn.score.numpy())))


class PreparedSource:
    """A folder of prepared clips, scored by one of its reward columns.

    Raises:
        InvalidRequest: the folder holds no rewards.
    """

    def __init__(self, folder: Path, recipe: SFTRecipe) -> None:
        self.data, self.seed = PreparedData(folder, "train"), recipe.seed
        clips = [
            PreparedData(folder, split).windows(recipe.score_column)
            for split in ("train", "validation")
        ]
        rewards = self.data.reward(recipe.score_column).numpy()
        self.scale = ScoreScale.normal(rewards) if recipe.scores == "normal" else ScoreScale()
        self.splits = PreparedSplit(clips[0], self.scale), PreparedSplit(clips[1], self.scale)
        told = hashlib.sha256(repr(self.data.protocol).encode()).hexdigest()[:16]
        self.facts = {"windows": f"prepared clips, {recipe.score_column}, protocol {told}"}

    def prompts(self, count: int) -> Prompts:
        tracks, first = np.unique(self.data.tracks.numpy(), return_index=True)
        rng = _chosen(len(tracks), count, self.seed)
        rows = first[rng.choice(len(tracks), count, replace=False)].tolist()
        batch = self.data.batch(rows)
        return [self.data.caption(row) for row in rows], (batch.text, batch.pooled)
