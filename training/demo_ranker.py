"""The demo's reward: heads trained on the votes of simulated listeners (`training.listeners`).

Listeners of the training split's pieces give the training and validation pairs, those of the
evaluation split's the test pairs, so no piece is heard in two parts. The features are those of the
preset's own encoders, cached by what made them. Beside the heads lie their report and the rewards
of the held-out corpus, against which the app draws percentiles.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from training.data import Corpus
from training.listeners import Listeners, Take, oracle_accuracy
from training.pair_features import FeatureStore, PairFeatures, encode_pairs, pair_features
from training.ranker_runs import LAYOUTS, Material, preset_features
from training.recipe import Recipe, recipe_hash
from training.takes import Takes
from ttmpref import assets
from ttmpref.config import Preset
from ttmpref.reward.ranker import FeatureLayout, RankerHead
from ttmpref.types import Preference

TRAINING_ROUNDS = 24  # of votes on the same takes: a take costs more to make than to judge again
VALIDATION_EVERY = 10  # of the training pieces, one in so many is for early stopping
COLLECTION = "demo corpus, held out"


class Hearing:
    """Features of takes of one split, encoded where the cache has none.

    Args:
        folder: of the caches.
        workers: processes that make takes.
    """

    def __init__(self, listeners: Listeners, preset: Preset, folder: Path, workers: int) -> None:
        self.listeners, self.preset, self.folder = listeners, preset, folder
        self.workers = workers
        self.blocks = LAYOUTS[preset.ranker.layout]
        self.features, encoders = preset_features(preset, self.blocks)
        vocoder = preset.autoencoder.vocoder.weights
        parts = [encoders, *(assets.digest(u) for u in (preset.autoencoder.vae_weights, vocoder))]
        self.protocol = json.dumps(parts + [recipe_hash(listeners.recipe), "16 bit"])

    def __call__(self, pairs: Sequence[Preference]) -> PairFeatures:
        store = self.store(pairs)
        layout = FeatureLayout(tuple((n, store.blocks[n].shape[1]) for n in self.blocks))
        return pair_features(pairs, store, layout)[0]

    def store(self, pairs: Sequence[Preference]) -> FeatureStore:
        """Features of all takes and prompts of the pairs."""
        key = hashlib.sha256(self.protocol.encode()).hexdigest()[:16]
        path = self.folder / f"takes.{self.listeners.corpus.split}.{key}.safetensors"
        names = dict.fromkeys(name for pair in pairs for name in (pair.clip_a, pair.clip_b))
        takes = Takes(self.listeners, self.preset, tuple(names), self.folder, self.workers)
        store, faults = encode_pairs(pairs, self.features, takes.hear, path, self.protocol)
        if faults:
            raise RuntimeError(f"a take cannot be made: {faults[0]}")
        return store


def material(
    recipe: Recipe, train: Corpus, test: Corpus, caches: Path, workers: int
) -> tuple[Material, Hearing]:
    """Features of all pairs, divided by pieces, and what hears the test split."""
    parts, hearing = {}, {}
    for corpus, rounds in ((train, TRAINING_ROUNDS), (test, 1)):
        listeners = Listeners(recipe.listeners, corpus)
        votes = list(listeners.votes(range(len(corpus.pieces)), rounds))
        hearing[corpus.split] = Hearing(listeners, recipe.target, caches, workers)
        parts[corpus.split] = hearing[corpus.split]([one.preference for one in votes])
        right, decided = oracle_accuracy(votes)
    notes = {
        "listeners": recipe.listeners.model_dump(mode="json"),
        "rounds of votes in training": TRAINING_ROUNDS,
        "test decisions": decided,
        "test decisions that the true utility foretells": right,
    }
    heard = parts[train.split]
    divided = Material(
        train=heard.where(lambda pair: _row(pair) % VALIDATION_EVERY != 0).merged(),
        valid=heard.where(lambda pair: _row(pair) % VALIDATION_EVERY == 0),
        test=parts[test.split],
        notes=notes,
    )
    return divided, hearing[test.split]


def _row(pair: Preference) -> int:
    """Row of the piece whose caption is the prompt; ids are `<split>-<row>-<number>`."""
    return int(pair.id.split("-")[-2])


def clean_rewards(head: RankerHead, hearing: Hearing) -> np.ndarray:
    """Rewards, without text, of the middle of every piece of a split as it is."""
    listeners = hearing.listeners
    pieces, length = listeners.corpus.waveforms.shape
    start = (length - listeners.samples) // 2
    names = [Take("piece", row, start).name for row in range(pieces)]
    pairs = [
        Preference(f"clean-{i}-0", a, names[i - 1], "", 0.5, COLLECTION)
        for i, a in enumerate(names)
    ]
    heard = hearing(pairs)
    with torch.no_grad():
        return head.eval()(heard.side(0, torch.arange(len(pairs)))).numpy()
