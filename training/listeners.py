"""Simulated listeners: who the demo's reward learns from, since no people have voted on it yet.

A *take* is ten seconds of a corpus piece with faults, or its round trip through the demo's
autoencoder, or noise of the same spectrum. Its latent utility is stated here in full: faults of
production and performance cost, and so does playing another lead instrument, genre or tempo than
the prompt asks for. A listener adds a taste for leads and genres of their own and chooses by a
Davidson model, so that close pairs are ties. All takes of a prompt are equally loud.

The name of a take says how to make it again, so preference tables and caches hold names alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from training.corpus.degradations import KINDS, Degradation, as_loud, degrade
from training.data import CORPUS_RATE, Corpus
from training.features import bar_samples
from training.loop import numpy_draws
from training.recipe import ListenersRecipe
from ttmpref.types import Clip, InvalidRequest, Preference, Vote, vote_target

TAKES_PER_PROMPT = 4  # compared in a ring, where each meets two others, and then across it
NAME = re.compile(r"(piece|codec|noise)-(\d+)-(\d+)((?:-[a-z]+_\d+_\d+)*)")
STRENGTHS = 1000  # names hold strengths in thousandths
Sound = Literal["piece", "codec", "noise"]
RoundTrip = Callable[[Clip], Clip]


@dataclass(frozen=True)
class Take:
    """What a listener hears.

    Attributes:
        sound: the piece as it is, through the autoencoder, or noise of its spectrum.
        row: of the piece in its split.
        start: first sample.
        faults: applied in this order.
    """

    sound: Sound
    row: int
    start: int
    faults: tuple[Degradation, ...] = ()

    @property
    def name(self) -> str:
        """For instance `piece-12-88200-hiss_250_7`."""
        parts = [self.sound, str(self.row), str(self.start)]
        parts += [f"{f.kind}_{round(f.strength * STRENGTHS)}_{f.seed}" for f in self.faults]
        return "-".join(parts)

    @classmethod
    def of_name(cls, name: str) -> Take:
        """The inverse of `name`; raises InvalidRequest for anything else."""
        match = NAME.fullmatch(name)
        if match is None:
            raise InvalidRequest(f"{name!r} does not name a take")
        sound, row, start, faults = match.groups()
        parsed = [part.split("_") for part in faults.split("-")[1:]]
        return cls(
            sound, int(row), int(start),
            tuple(Degradation(k, int(s) / STRENGTHS, int(seed)) for k, s, seed in parsed),
        )  # fmt: skip


@dataclass(frozen=True)
class Heard:
    """One vote.

    Attributes:
        preference: what becomes of it in training; None for an answer that prefers nothing.
        advantage: utility of A minus that of B, without anybody's taste.
    """

    preference: Preference
    advantage: float


class Listeners:
    """Listeners of one split of the corpus."""

    def __init__(self, recipe: ListenersRecipe, corpus: Corpus) -> None:
        self.recipe, self.corpus = recipe, corpus
        self.samples = round(recipe.seconds * CORPUS_RATE)

    def votes(self, rows: Sequence[int], rounds: int = 1) -> Iterator[Heard]:
        """All votes on the prompts of these pieces, depending on the row alone.

        Args:
            rounds: of votes on a prompt, four in each, by other listeners: on the ring of takes, in
                every second round across it.
        """
        for row in rows:
            rng = numpy_draws(self.recipe.seed, f"listeners {self.corpus.split}", row)
            prompt = str(rng.choice(self.corpus.pieces[row].captions))
            takes: list[Take] = []
            while len(takes) < TAKES_PER_PROMPT:  # a clean one may come twice: there are few bars
                take = self._take(row, rng)
                takes += [take] if take not in takes else []
            for number in range(rounds * len(takes)):
                ballot, i = divmod(number, len(takes))
                other = takes[i - 1 - ballot % 2]
                yield self._vote(f"{row}-{number}", row, prompt, takes[i], other, rng)

    def _take(self, row: int, rng: np.random.Generator) -> Take:
        recipe, (pieces, length) = self.recipe, self.corpus.waveforms.shape
        sound = rng.choice(["piece", "codec", "noise"], p=recipe.sounds)
        played = int(rng.integers(pieces)) if rng.random() < recipe.other_piece else row
        start = self._bar_line(played, int(rng.integers(length - self.samples + 1)))
        kinds = rng.choice(KINDS, rng.choice(3, p=recipe.fault_counts), replace=False).tolist()
        drawn = [(kind, rng.integers(1, STRENGTHS + 1), rng.integers(1000)) for kind in kinds]
        faults = tuple(Degradation(k, int(s) / STRENGTHS, int(seed)) for k, s, seed in drawn)
        return Take(str(sound), played, start, faults)

    def _bar_line(self, row: int, sample: int) -> int:
        """The last bar line up to a sample: takes begin as the backbone's windows do."""
        bar = bar_samples(self.corpus.pieces[row].tags)
        return round(sample // bar * bar)

    def utility(self, take: Take, row: int) -> float:
        """Of a take for the prompt of a piece, before anybody's taste."""
        recipe = self.recipe
        asked, played = self.corpus.pieces[row].tags, self.corpus.pieces[take.row].tags
        wrong = sum(cost for tag, cost in recipe.tag_costs.items() if asked[tag] != played[tag])
        faults = recipe.fault_cost * sum(fault.strength for fault in take.faults)
        return -wrong - faults - recipe.sound_costs.get(take.sound, 0.0)

    def _vote(
        self, vote_id: str, row: int, prompt: str, a: Take, b: Take, rng: np.random.Generator
    ) -> Heard:
        recipe = self.recipe
        advantage = self.utility(a, row) - self.utility(b, row)
        listener = int(rng.integers(recipe.listeners))
        felt = advantage + self._taste(listener, a) - self._taste(listener, b)
        weights = np.array([np.exp(felt / 2), np.exp(-felt / 2), recipe.ties])
        vote: Vote = rng.choice(["A", "B", "TIE"], p=weights / weights.sum())
        preference = Preference(
            id=f"{self.corpus.split}-{vote_id}", clip_a=a.name, clip_b=b.name, prompt=prompt,
            target=vote_target(vote), source="simulated listeners",
        )  # fmt: skip
        return Heard(preference, advantage)

    def _taste(self, listener: int, take: Take) -> float:
        """How much a listener likes the lead and the genre of what is played."""
        tags: dict[str, Any] = self.corpus.pieces[take.row].tags
        return self.recipe.taste * sum(
            float(numpy_draws(self.recipe.seed, f"taste {tags[tag]}", listener).standard_normal())
            for tag in ("lead", "genre")
        )

    def clip(self, name: str, round_trip: RoundTrip) -> Clip:
        """The take of this name, as loud as the piece's own ten seconds."""
        take = Take.of_name(name)
        window = self.corpus.cut(np.array([take.row]), np.array([take.start]), self.samples)
        clip = Clip(window.numpy(), CORPUS_RATE)
        if take.sound == "noise":
            clip = as_loud(noise_like(clip, take.start), clip)
        elif take.sound == "codec":
            clip = as_loud(round_trip(clip), clip)
        for fault in take.faults:
            clip = degrade(clip, fault)
        return clip


def noise_like(clip: Clip, seed: int) -> Clip:
    """Stationary noise with the mean spectrum of a clip."""
    rng = np.random.default_rng(seed)
    spectrum = np.abs(np.fft.rfft(clip.waveform))
    phases = np.exp(2j * np.pi * rng.random(spectrum.shape))
    made = np.fft.irfft(spectrum * phases, clip.samples)
    return Clip(made.astype(np.float32), clip.sample_rate)


def oracle_accuracy(heard: Sequence[Heard]) -> tuple[int, int]:
    """Votes that the true utility foretells and votes that are no ties: the best anybody can do."""
    decided = [one for one in heard if not one.preference.is_tie]
    right = sum((one.advantage > 0) == (one.preference.target == 1.0) for one in decided)
    return right, len(decided)


def takes_of(heard: Sequence[Heard]) -> list[str]:
    """Names of all takes, each once."""
    names = [n for one in heard for n in (one.preference.clip_a, one.preference.clip_b)]
    return list(dict.fromkeys(names))
