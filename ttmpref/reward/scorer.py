"""Scores of clips: features encoded once, every head applied to them, and what must be said beside.

`Scorer` takes clips; `DifferentiableScorer` takes waveforms inside a gradient. Both run the same
code from the waveform on, so they agree to rounding.

Shapes: B clips, S samples, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ttmpref.audio import window_starts
from ttmpref.reward.features import RewardFeatures
from ttmpref.reward.guards import check_clip, examine, loudness_of
from ttmpref.reward.percentiles import Collections
from ttmpref.reward.ranker import RankerHead
from ttmpref.types import (
    Clip,
    InvalidRequest,
    RewardFlag,
    RewardScore,
    WindowReward,
    check_text,
)

GROUP_CLIPS = 8
GROUP_SECONDS = 160.0
CONFIDENCE = 0.95

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class Sound:
    """A clip, or a stretch of one, to be heard as a clip of its own."""

    clip: Clip
    prompt: str


@dataclass(frozen=True, eq=False)
class ScorerParts:
    """What a scorer is made of.

    Attributes:
        heads: the preset's first, then the ensemble's.
        collections: known distributions of the first head's rewards.
        protocol: copied into every score (hashes of encoders and heads, versions).
    """

    features: RewardFeatures
    heads: Sequence[RankerHead]
    collections: Collections | None = None
    protocol: Mapping[str, Any] = field(default_factory=dict)


class Scorer:
    """See `ttmpref.types.RewardScore` for what it says of a clip."""

    def __init__(self, parts: ScorerParts) -> None:
        self.parts = parts
        features = parts.features
        self._protocol = {
            "window": features.listening.window,
            "window_seconds": features.window_seconds,
            "window_seed": features.listening.seed,
            "band": features.listening.band,
            "layout": str(parts.heads[0].layout),
            **parts.protocol,
        }

    def score_clips(
        self, clips: Sequence[Clip], prompts: Sequence[str] | str = "", timeline: bool = True
    ) -> list[RewardScore]:
        """One score per clip, in order.

        Args:
            clips: any rates, lengths and channels; heard as mono.
            prompts: one per clip, or one for all; empty for no prompt.
            timeline: score the windows of clips longer than one window as well.

        Raises:
            InvalidRequest: an empty or non-finite clip, an unusable prompt, or counts that differ.
        """
        prompts = [prompts] * len(clips) if isinstance(prompts, str) else list(prompts)
        if len(prompts) != len(clips):
            raise InvalidRequest(f"{len(prompts)} prompts for {len(clips)} clips; give one each")
        sounds = [Sound(clip, prompt) for clip, prompt in zip(clips, prompts, strict=True)]
        for sound in sounds:
            check_clip(sound.clip)
            check_text("prompt", sound.prompt, may_be_empty=True)
        groups = in_groups(sounds, lambda sound: sound.clip.seconds)
        return [score for group in groups for score in self._score_group(group, timeline)]

    def _score_group(self, sounds: Sequence[Sound], timeline: bool) -> list[RewardScore]:
        with ThreadPoolExecutor(1) as pool:  # measures while the encoders run
            measured = pool.map(self._measure, sounds)
            rewards, unprompted = self._hear(sounds)
            windows = [self._timeline(sound) if timeline else () for sound in sounds]
            columns = (sounds, rewards.tolist(), unprompted.tolist(), windows, measured)
            return [self._score(*row) for row in zip(*columns, strict=True)]

    def _score(
        self,
        sound: Sound,
        rewards: list[float],
        unprompted: float,
        timeline: tuple[WindowReward, ...],
        measured: tuple[float | None, tuple[RewardFlag, ...]],
    ) -> RewardScore:
        collections = self.parts.collections
        return RewardScore(
            reward=rewards[0],
            interval=reward_interval(rewards),
            rewards=tuple(rewards),
            reward_without_prompt=unprompted,
            prompt=sound.prompt,
            timeline=timeline,
            percentiles={} if collections is None else collections.percentiles(rewards[0]),
            flags=measured[1],
            seconds=sound.clip.seconds,
            sample_rate=sound.clip.sample_rate,
            channels=sound.clip.channels,
            lufs=measured[0],
            protocol=self._protocol,
        )

    def _measure(self, sound: Sound) -> tuple[float | None, tuple[RewardFlag, ...]]:
        """Loudness and flags."""
        lufs = loudness_of(sound.clip)
        return lufs, examine(sound.clip, lufs, self.parts.features.window_seconds)

    @torch.no_grad()
    def _hear(self, sounds: Sequence[Sound]) -> tuple[Tensor, Tensor]:
        """(B, H) rewards of all heads and (B,) of the first one with empty prompts."""
        blocks = self.parts.features.of_clips(
            [sound.clip for sound in sounds], [sound.prompt for sound in sounds]
        )
        rewards = torch.stack([_reward(head, blocks) for head in self.parts.heads], dim=1).cpu()
        empty = self.parts.features.of_prompts([""] * len(sounds))
        if not empty or not any(sound.prompt.strip() for sound in sounds):
            return rewards, rewards[:, 0]
        unprompted = blocks | {name: block.to(blocks[name].device) for name, block in empty.items()}
        return rewards, _reward(self.parts.heads[0], unprompted).cpu()

    def _timeline(self, sound: Sound) -> tuple[WindowReward, ...]:
        """Rewards of the windows that cover a clip longer than one."""
        clip, rate = sound.clip, sound.clip.sample_rate
        size = math.ceil(self.parts.features.window_seconds * rate)
        starts = window_starts(clip.samples, size)
        if len(starts) == 1:
            return ()
        stretches = (
            Sound(Clip(clip.waveform[:, start : start + size], rate), sound.prompt)
            for start in starts
        )
        groups = in_groups(stretches, lambda stretch: stretch.clip.seconds)
        rewards = torch.cat([self._hear(group)[0][:, 0] for group in groups]).tolist()
        return tuple(
            WindowReward(start / rate, (start + size) / rate, reward)
            for start, reward in zip(starts, rewards, strict=True)
        )


def _reward(head: RankerHead, blocks: Mapping[str, Tensor]) -> Tensor:
    """(B,) rewards of blocks that may be more than the head reads."""
    return head(head.layout.join(blocks))


class DifferentiableScorer:
    """The first head's reward of waveforms, with gradients back to them."""

    def __init__(self, scorer: Scorer) -> None:
        self.parts = scorer.parts

    def __call__(
        self, waveforms: Tensor, sample_rate: int, prompts: Sequence[str] | str = ""
    ) -> Tensor:
        """(B, S) mono waveforms at `sample_rate` Hz and their prompts to (B,) rewards."""
        prompts = [prompts] * len(waveforms) if isinstance(prompts, str) else prompts
        features = self.parts.features
        sound = features.of_sound(waveforms.unbind(), [sample_rate] * len(waveforms))
        device = next(iter(sound.values())).device
        words = features.of_prompts(prompts)
        blocks = sound | {name: block.to(device) for name, block in words.items()}
        return _reward(self.parts.heads[0], blocks)


def reward_interval(rewards: Sequence[float]) -> tuple[float, float] | None:
    """95 % range around the first of H rewards by heads of one training, from their spread.

    Student's t with H - 1 degrees of freedom on the standard deviation over all heads; None for a
    single head, whose spread is unknown.
    """
    if len(rewards) < 2:
        return None
    from scipy.special import stdtrit

    width = float(stdtrit(len(rewards) - 1, (1 + CONFIDENCE) / 2) * np.std(rewards, ddof=1))
    return rewards[0] - width, rewards[0] + width


def in_groups(items: Iterable[Item], seconds_of: Callable[[Item], float]) -> Iterator[list[Item]]:
    """Items in order, in groups small enough to be held in memory with all that is made of them.

    A group holds at most GROUP_CLIPS items and ends with the one that fills GROUP_SECONDS.
    """
    group: list[Item] = []
    seconds = 0.0
    for item in items:
        group.append(item)
        seconds += seconds_of(item)
        if len(group) == GROUP_CLIPS or seconds >= GROUP_SECONDS:
            yield group
            group, seconds = [], 0.0
    if group:
        yield group
