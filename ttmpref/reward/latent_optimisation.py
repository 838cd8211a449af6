"""Latent optimisation: move the initial noise of one clip uphill on the reward (DITTO).

TuneJury specification, section 4, mode 2. The reward of the finished clip is a function of the
noise it was sampled from, through solver, autoencoder and vocoder; Adam climbs its gradient. No
weight moves. Of all iterates, the start included, the best is kept: the last one is often worse.

Memory is flat in the number of solver steps. The path from noise to waveform is a chain of
segments; it is run without a graph, only the state before each segment is kept, and going back
each segment is run once more to pull the gradient through it. This is activation checkpointing per
step, unrolled by hand, so that the caller can show progress and stop between any two segments.

What is and what is not differentiated: the solver, the guided network, the autoencoder and the
reward are. The gain that brings the clip to its loudness is a constant of each iterate, and so is
what the limiter takes away: the reward is that of the finished clip, its gradient that of a plain
gain. The phases that the small vocoder lets run on are constants too (`ttmpref.models.phase`).

Noise of dimension d lies close to a sphere of radius sqrt(d); far from it the network was never
trained. So the noise is put back onto that sphere after each step, or drawn to it by a penalty.

Shapes: noise and latents (1, N, C), d = N * C; waveforms (1, S).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ttmpref.config import FrozenConfig, validated
from ttmpref.flow import solver_step, time_grid
from ttmpref.generator import Generator
from ttmpref.metrics import log_spectral_distance
from ttmpref.types import (
    ConfigError,
    Generation,
    GenerationRequest,
    InvalidRequest,
    Progress,
    TtmprefError,
)

PROVENANCE_KEY = "optimisation"  # of an optimised clip's sidecar

NormControl = Literal["sphere", "penalty", "none"]
Segment = Callable[[Tensor], Tensor]


class DifferentiableReward(Protocol):
    """A reward with gradients back to the waveforms."""

    def __call__(self, waveforms: Tensor, sample_rate: int, prompts: Sequence[str]) -> Tensor:
        """(B, S) mono waveforms at `sample_rate` Hz and their prompts to (B,) rewards."""
        ...


class OptimisationSettings(FrozenConfig):
    """How the noise is moved; the defaults are the reference's, but for the norm.

    Attributes:
        iterations: updates of the noise; one more clip is rendered than that.
        learning_rate: of Adam, per coordinate of unit variance.
        norm: "sphere" puts the noise back onto radius sqrt(d) after each update, "penalty" draws
            it there, "none" lets it go.
        penalty: weight of (|z|^2 / d - 1)^2 against the reward.
        prompted: the reward is told the prompt as asked.
    """

    iterations: int = Field(5, ge=1, le=1000)
    learning_rate: float = Field(0.05, gt=0)
    norm: NormControl = "sphere"
    penalty: float = Field(10.0, ge=0)
    prompted: bool = True


@dataclass(frozen=True)
class Iterate:
    """One clip on the way: what was gained and what it was paid with.

    Attributes:
        iteration: updates of the noise before it; 0 is the clip of the request itself.
        reward: of the finished clip.
        clap_score: of the finished clip against the prompt; None without a metric CLAP.
        noise_norm: |z| / sqrt(d), 1 for ordinary noise.
        noise_distance: |z - start| / sqrt(d).
        audio_distance_db: log-spectral distance to the start's clip.
        silent: too quiet to have a loudness; never kept as the best.
    """

    iteration: int
    reward: float
    clap_score: float | None
    noise_norm: float
    noise_distance: float
    audio_distance_db: float
    silent: bool

    @property
    def rank(self) -> tuple[bool, float]:
        """Larger is better."""
        return not self.silent, self.reward


@dataclass(frozen=True, eq=False)
class Optimised:
    """The result.

    Attributes:
        start: the clip of the request itself.
        best: the clip with the highest reward that is not silent; may be the start.
        best_iteration: updates of the noise before it.
        trace: every iterate, in order.
    """

    start: Generation
    best: Generation
    best_iteration: int
    trace: tuple[Iterate, ...]


Event = Progress | Iterate | Optimised


def run_forward(segments: Sequence[Segment], start: Tensor) -> Iterator[Tensor]:
    """The state after each segment, computed without a graph."""
    state = start
    for segment in segments:
        with torch.no_grad():
            state = segment(state)
        yield state


def run_backward(
    segments: Sequence[Segment], before: Sequence[Tensor], gradient: Tensor
) -> Iterator[Tensor]:
    """The gradient in front of each segment, the last segment's first.

    Args:
        before: the state before each segment.
        gradient: with respect to the state after the last one.
    """
    for segment, state in zip(reversed(segments), reversed(before), strict=True):
        with torch.enable_grad():
            leaf = state.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(segment(leaf), leaf, gradient)
        yield gradient


def relative_norm(noise: Tensor) -> float:
    """|z| / sqrt(d): 1 on the sphere."""
    return float(noise.norm()) / math.sqrt(noise.numel())


def norm_penalty_gradient(noise: Tensor) -> Tensor:
    """The gradient of (|z|^2 / d - 1)^2."""
    return 4.0 * (noise.square().mean() - 1.0) * noise / noise.numel()


def as_finished(waveform: Tensor, finished: Tensor, gain: float) -> Tensor:
    """The finished waveform (1, S'), with the gradient of a plain gain on the raw one (1, S)."""
    missing = max(0, finished.shape[-1] - waveform.shape[-1])
    louder = gain * F.pad(waveform, (0, missing))[:, : finished.shape[-1]]
    return louder + (finished - louder).detach()


class Ascent:
    """Adam, uphill, on one noise that is kept near its sphere."""

    def __init__(self, noise: Tensor, settings: OptimisationSettings) -> None:
        self._settings = settings
        self._noise = noise.clone()
        self._adam = torch.optim.Adam([self._noise], lr=settings.learning_rate, maximize=True)

    def moved(self, gradient: Tensor) -> Tensor:
        """The noise (1, N, C) after one more step along the gradient of the reward.

        Raises:
            TtmprefError: the gradient is not finite.
        """
        if not gradient.isfinite().all():
            raise TtmprefError("the gradient of the reward is not finite numbers")
        if self._settings.norm == "penalty":
            gradient = gradient - self._settings.penalty * norm_penalty_gradient(self._noise)
        self._noise.grad = gradient
        self._adam.step()
        if self._settings.norm == "sphere":
            self._noise.mul_(1.0 / relative_norm(self._noise))
        return self._noise.clone()


class LatentOptimiser:
    """Optimises the noise of clips that one generator makes."""

    def __init__(
        self,
        generator: Generator,
        reward: DifferentiableReward,
        protocol: dict[str, Any] | None = None,
    ) -> None:
        """
        Args:
            protocol: how the reward was made; kept in the sidecar.
        """
        self._generator = generator
        self._reward = reward
        self._protocol = protocol or {}

    def stream(self, request: GenerationRequest, settings: OptimisationSettings) -> Iterator[Event]:
        """Progress after every segment, each iterate as it is heard, and at last the result.

        Closing the iterator stops the work within one segment. The same request and settings give
        the same result on the same machine.

        Raises:
            InvalidRequest: more than one variation.
            TtmprefError: a clip, its reward or the gradient is not finite.
        """
        if request.variations != 1:
            raise InvalidRequest(f"variations is {request.variations}; one clip is optimised")
        began = time.perf_counter()
        total = (request.num_steps + 1) * (2 * settings.iterations + 1)
        ticks = itertools.count(1)
        yield Progress(0, total, "reading the prompt")
        segments = self._segments(request)
        origin = noise = self._generator.noise([request])
        ascent, best_iteration = Ascent(noise, settings), 0
        trace: list[Iterate] = []
        for iteration in range(settings.iterations + 1):
            states = [noise]
            for state in run_forward(segments, noise):
                states.append(state)
                yield Progress(next(ticks), total, f"making clip {iteration}")
            *before, waveform = states
            climbs = iteration < settings.iterations
            generation, gradient = self._heard(request, settings, waveform, climbs)
            if iteration == 0:
                start = best = generation
            trace.append(_iterate(iteration, noise, origin, generation, start))
            yield trace[-1]
            if trace[-1].rank > trace[best_iteration].rank:
                best, best_iteration = generation, iteration
            if gradient is None:
                break
            for pulled in run_backward(segments, before, gradient):
                gradient = pulled
                yield Progress(next(ticks), total, f"improving clip {iteration}")
            noise = ascent.moved(gradient)
        start, best = (
            dataclasses.replace(one, seconds_taken=time.perf_counter() - began)
            for one in (start, self._signed(best, settings, best_iteration))
        )
        yield Optimised(start, best, best_iteration, tuple(trace))

    def _segments(self, request: GenerationRequest) -> list[Segment]:
        """Noise to waveform: one segment per solver step, and the decoder."""
        velocity, times = self._generator.velocity(request), time_grid(request.num_steps)
        steps = [
            partial(solver_step, velocity, t=t, t_next=t_next, solver=request.solver)
            for t, t_next in zip(times, times[1:], strict=False)
        ]
        return [*steps, self._generator.decode]

    def _heard(
        self,
        request: GenerationRequest,
        settings: OptimisationSettings,
        waveform: Tensor,
        climbs: bool,
    ) -> tuple[Generation, Tensor | None]:
        """The finished clip with its reward, and the reward's gradient by the waveform."""
        clip, loudness = self._generator.finish(waveform, request)
        finished = torch.from_numpy(clip.waveform).to(waveform.device)
        prompt = request.prompt if settings.prompted else ""
        with torch.set_grad_enabled(climbs):
            leaf = waveform.detach().requires_grad_(climbs)
            audible = as_finished(leaf, finished, 10 ** (loudness.gain_db / 20))
            (reward,) = self._reward(audible, clip.sample_rate, [prompt])
            gradient = torch.autograd.grad(reward, leaf)[0] if climbs else None
        if not reward.isfinite():
            raise TtmprefError(f"the reward of the clip is {reward.item()}")
        scores = self._generator.measure(request.prompt, clip, loudness)
        scores = dataclasses.replace(scores, reward=reward.item())
        alone = {"seed": request.seed, "variations": 1, "index": 0}
        provenance = self._generator.provenance(request.prompt, alone)
        return Generation(request, clip, scores, provenance, 0.0), gradient

    def _signed(
        self, generation: Generation, settings: OptimisationSettings, iteration: int
    ) -> Generation:
        """The clip with what it takes to make it again; the start is an ordinary clip."""
        if iteration == 0:
            return generation
        made_by = {
            "settings": settings.model_dump(), "iteration": iteration, "reward": self._protocol
        }  # fmt: skip
        provenance = {**generation.provenance, PROVENANCE_KEY: made_by}
        return dataclasses.replace(generation, provenance=provenance)


def _iterate(
    iteration: int, noise: Tensor, origin: Tensor, generation: Generation, start: Generation
) -> Iterate:
    scores = generation.scores
    return Iterate(
        iteration=iteration,
        reward=scores.reward,
        clap_score=scores.clap_score,
        noise_norm=relative_norm(noise),
        noise_distance=relative_norm(noise - origin),
        audio_distance_db=log_spectral_distance(start.clip.mono, generation.clip.mono),
        silent=scores.lufs is None,
    )


def replayed(made_by: Any) -> OptimisationSettings:
    """Settings that end with the clip of a sidecar as their best iterate.

    Args:
        made_by: what the clip's provenance holds under `PROVENANCE_KEY`.

    Raises:
        ConfigError: it is not such a record.
    """
    settings = made_by.get("settings") if isinstance(made_by, dict) else None
    if not isinstance(settings, dict):
        raise ConfigError(f"{PROVENANCE_KEY}: settings and iteration are needed, got {made_by!r}")
    data = {**settings, "iterations": made_by.get("iteration")}
    return validated(OptimisationSettings, data, PROVENANCE_KEY)
