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
from training.listeners import Listeners, RoundTrip, Take, oracle_accuracy
from training.pair_features import FeatureStore, PairFeatures, encode_pairs, pair_features
from training.ranker_runs import LAYOUTS, Material, preset_features
from training.recipe import Recipe, recipe_hash
from ttmpref import assets
from ttmpref.audio import resample
from ttmpref.autoencoder import MelAutoencoder
from ttmpref.config import Preset
from ttmpref.reward.ranker import FeatureLayout, RankerHead
from ttmpref.types import Clip, Preference

TRAINING_ROUNDS = 24  # of votes on the same takes: a take costs more to make than to judge again
VALIDATION_EVERY = 10  # of the training pieces, one in so many is for early stopping
COLLECTION = "demo corpus, held out"


def codec(preset: Preset) -> RoundTrip:
    """A clip's way through the preset's autoencoder and vocoder, padded back to its length."""
    autoencoder = MelAutoencoder.load(preset.autoencoder, assets.load_tensors)

    def round_trip(clip: Clip) -> Clip:
        waveform = torch.from_numpy(resample(clip, autoencoder.sample_rate).mono)[None]
        made = autoencoder.round_trip(waveform)[0, : waveform.shape[1]]
        made = torch.nn.functional.pad(made, (0, waveform.shape[1] - len(made)))
        return resample(Clip(made.numpy()[None], autoencoder.sample_rate), clip.sample_rate)

    return round_trip


class Hearing:
    """Features of takes of one split, encoded where the cache has none."""

    def __init__(self, listeners: Listeners, preset: Preset, folder: Path) -> None:
        self.listeners, self.folder = listeners, folder
        self.blocks = LAYOUTS[preset.ranker.layout]
        self.features, encoders = preset_features(preset, self.blocks)
        self.round_trip = codec(preset)
        vocoder = preset.autoencoder.vocoder.weights
        parts = [encoders, *(assets.digest(u) for u in (preset.autoencoder.vae_weights, vocoder))]
        self.protocol = json.dumps(parts + [recipe_hash(listeners.recipe)])

    def __call__(self, pairs: Sequence[Preference]) -> PairFeatures:
        store = self.store(pairs)
        layout = FeatureLayout(tuple((n, store.blocks[n].shape[1]) for n in self.blocks))
        return pair_features(pairs, store, layout)[0]

    def store(self, pairs: Sequence[Preference]) -> FeatureStore:
        """Features of all takes and prompts of the pairs."""
        key = hashlib.sha256(self.protocol.encode()).hexdigest()[:16]
        path = self.folder / f"takes.{self.listeners.corpus.split}.{key}.safetensors"
        store, faults = encode_pairs(pairs, self.features, self._hear, path, self.protocol)
        if faults:
            raise RuntimeError(f"a take cannot be made: {faults[0]}")
        return store

    def _hear(self, name: str) -> Clip:
        return self.listeners.clip(name, self.round_trip)


def material(recipe: Recipe, train: Corpus, test: Corpus, caches: Path) -> tuple[Material, Hearing]:
    """Features of all pairs, divided by pieces, and what hears the test split."""
    parts, hearing = {}, {}
    for corpus, rounds in ((train, TRAINING_ROUNDS), (test, 1)):
        listeners = Listeners(recipe.listeners, corpus)
        votes = list(listeners.votes(range(len(corpus.pieces)), rounds))
        hearing[corpus.split] = Hearing(listeners, recipe.target, caches)
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
