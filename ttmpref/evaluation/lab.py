"""Rows of the tables: what was heard under a condition, held against the reference.

Frechet distances are of one set of clips, not of single ones, so their intervals come from
resampling captions; sets of the same captions are resampled alike, and differences of distances
are paired. They are biased by the number of clips: rows of one table have equal n, which is shown.

Shapes: n clips, R resamples.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np

from ttmpref import __version__, assets
from ttmpref.evaluation.comparison import Change, Measure, change, mean_of
from ttmpref.evaluation.heard import Condition, Heard, Listener
from ttmpref.evaluation.reference import Reference
from ttmpref.metrics import (
    Gaussian,
    frechet_draws,
    frechet_infinity,
    kernel_distance,
    spread_interval,
)
from ttmpref.study.statistics import holm

PACKAGES = ("torch", "transformers", "numpy", "scipy")


@dataclass(frozen=True, eq=False)
class Row:
    """One set of clips, measured. Numbers are made when they are asked for.

    Attributes:
        reference: rows (m, d), and their Gaussian.
        resamples: R.
    """

    heard: Heard
    reference: np.ndarray
    gaussian: Gaussian
    resamples: int

    @property
    def n(self) -> int:
        return len(self.heard.clap)

    @cached_property
    def distance(self) -> float:
        return Gaussian.of(self.heard.clap).distance(self.gaussian)

    @cached_property
    def draws(self) -> np.ndarray:
        """(R,)"""
        return frechet_draws(self.heard.clap, self.gaussian, self.resamples)

    @property
    def fad(self) -> Measure:
        return Measure(self.distance, *spread_interval(self.distance, self.draws))

    @cached_property
    def fad_infinity(self) -> float | None:
        return frechet_infinity(self.heard.clap, self.gaussian)

    @cached_property
    def kad(self) -> float:
        return kernel_distance(self.heard.clap, self.reference)

    @property
    def clap(self) -> Measure:
        return mean_of(self.heard.clap_scores)

    @property
    def reward(self) -> Measure | None:
        return None if self.heard.rewards is None else mean_of(self.heard.rewards)

    @property
    def coverage(self) -> Measure | None:
        """Of the clips that the judge gave a usable answer on."""
        if self.heard.coverage is None:
            return None
        usable = self.heard.coverage[~np.isnan(self.heard.coverage)]
        return mean_of(usable) if len(usable) else None


@dataclass(frozen=True)
class Missing:
    """A row that cannot be made, and why."""

    reason: str


@dataclass(frozen=True)
class Step:
    """From one row to the next; p-values are one-sided, of "no improvement".

    Attributes:
        fad: difference of the distances, paired resampling.
        clap, reward: differences per caption; reward None without a ranker.
    """

    fad: Measure
    clap: Change
    reward: Change | None


class Lab:
    """Measures conditions, each once."""

    def __init__(self, listener: Listener, reference: Reference, resamples: int) -> None:
        self.listener, self.reference, self.resamples = listener, reference, resamples
        self._gaussian = Gaussian.of(reference.clap)
        self._rows: dict[Condition, Row | Missing] = {}
        self.begin()

    def row(self, condition: Condition) -> Row | Missing:
        """The clips of a condition, measured; or why there are none."""
        self._asked[condition] = None
        if condition not in self._rows:
            reason = self.listener.missing(condition.stage)
            self._rows[condition] = (
                self.of(self.listener.hear(condition)) if reason is None else Missing(reason)
            )
        return self._rows[condition]

    def of(self, heard: Heard) -> Row:
        """Any clips, measured."""
        return Row(heard, self.reference.clap, self._gaussian, self.resamples)

    def real(self) -> Row | Missing:
        """The real clips that the captions describe, measured like all others."""
        blocks, n = self.reference.real, len(self.listener.prompts)
        if not blocks:
            return Missing("the reference holds no real clips of these encoders")
        if self.reference.said.get("captions", [])[:n] != [p.id for p in self.listener.prompts]:
            return Missing("the reference's real clips are of other captions")
        return self.of(self.listener.judged({name: rows[:n] for name, rows in blocks.items()}))

    def begin(self) -> None:
        """From here on, `record` is about a new table."""
        self._asked: dict[Condition, None] = {}

    def record(self) -> dict[str, Any]:
        """What the rows asked for since `begin` were made with."""
        preset, sampling = self.listener.studio.preset, self.listener.studio.settings
        return {
            "preset": preset.name,
            "recipe": _recipe(preset.name),
            "captions": len(self.listener.prompts),
            "captions_sha256": self._captions_hash,
            "defaults": {
                "score": sampling.score,
                "guidance": sampling.guidance,
                "num_steps": sampling.num_steps,
            },
            "conditions": [dataclasses.asdict(condition) for condition in self._asked],
            "seeds": "of the condition, plus the caption's index",
            "resamples": self.resamples,
            "reference": dict(self.reference.said) | {"clips": len(self.reference.clap)},
            "weights": self._weights(),
            "versions": {"ttmpref": __version__} | {name: version(name) for name in PACKAGES},
        }

    @property
    def _captions_hash(self) -> str:
        return hashlib.sha256("\n".join(self.listener.captions).encode("utf-8")).hexdigest()

    def _weights(self) -> dict[str, str]:
        """SHA-256 of every file behind the rows."""
        studio = self.listener.studio
        uris: dict[str, None] = {}
        for name in dict.fromkeys(condition.stage for condition in self._asked):
            if self.listener.missing(name) is None:
                uris |= dict.fromkeys(studio.weights_of(studio.preset.stage(name)))
        if studio.scoring_missing() is None:
            uris |= dict.fromkeys((*studio.preset.reward_encoders, *studio.preset.reward_heads))
        hashes = [item for uri in uris for item in assets.hashes(uri).items()]
        return dict(sorted(hashes))


def _recipe(preset: str) -> str | None:
    """Name of the recipe that made the preset's bundled weights, where they say one."""
    path = assets.assets_folder() / preset / assets.MANIFEST
    if not path.exists():
        return None
    return json.loads(path.read_text(encoding="utf-8")).get("recipe", {}).get("name")


def step(before: Row, after: Row) -> Step:
    """What changes from one row to another on the same captions."""
    difference = after.distance - before.distance
    before_reward, after_reward = before.heard.rewards, after.heard.rewards
    known = before_reward is not None and after_reward is not None
    return Step(
        Measure(difference, *spread_interval(difference, after.draws - before.draws)),
        change(before.heard.clap_scores, after.heard.clap_scores),
        change(before_reward, after_reward) if known else None,
    )


def adjusted(steps: Sequence[Step | None]) -> list[dict[str, Any]]:
    """Holm's p-values of the steps, over all tests of one kind (CLAP score and reward together)."""
    found: list[dict[str, Any]] = [{} for _ in steps]
    for kind in ("p_t", "p_wilcoxon"):
        tests = [
            (index, metric, getattr(getattr(one, metric), kind))
            for index, one in enumerate(steps)
            if one is not None
            for metric in ("clap", "reward")
            if getattr(one, metric) is not None
        ]
        for (index, metric, _), p in zip(tests, holm([p for *_, p in tests]), strict=True):
            found[index][f"{metric}_{kind}_holm"] = p
    return found
