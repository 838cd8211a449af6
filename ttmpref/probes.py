"""Settling what a checkpoint does not say: its flow convention, and how it reads a score.

Several readings of the same weights are held against clips whose text and reward are known; the
flow-matching loss of the right one is lowest (specification, sections 1.12 and 3.4). Clips, times
and noise are the same for all, so the differences between readings are paired.

How a score is read can be told without such clips, too: under the right reading, the reward of what
the network makes rises with the score that it is asked for, from the same noise.

Shapes: as in `ttmpref.models.fluxaudio`; K known clips; P prompts at S scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from scipy.stats import rankdata
from torch import Tensor

from ttmpref.config import FluxAudioConfig
from ttmpref.flow import draw_noise, interpolate, velocity_target
from ttmpref.models.fluxaudio import FluxAudio, Projected
from ttmpref.types import (
    FLOW_CONVENTIONS,
    InvalidRequest,
    ProbeKind,
    ProbeReading,
    ProbeResponse,
    check_choice,
)

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
SCORES = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)  # the paper's sweep


@dataclass(frozen=True, eq=False)
class Known:
    """A clip of which everything is known.

    Attributes:
        data: (1, N, C) normalised latents.
        prompt: its projected text.
        score: its reward; left out for a network without a score head.
    """

    data: Tensor
    prompt: Projected
    score: float


def readings_of(kind: ProbeKind, config: FluxAudioConfig, head: str) -> dict[str, FluxAudioConfig]:
    """The candidate readings by what they set in a preset, the preset's own first.

    Raises:
        InvalidRequest: a score is asked of a network without one.
    """
    check_choice("probe", kind, ("flow", "score_head"))
    if kind == "flow":
        found = {f"flow: {flow}": {"flow": flow} for flow in FLOW_CONVENTIONS}
    elif head == "none":
        raise InvalidRequest("the stage has head 'none': it has no score embedding to probe")
    else:
        found = {}
        for two_pi, cos_first in product((True, False), repeat=2):
            name = f"score_embedding: {{two_pi: {two_pi}, cos_first: {cos_first}}}".lower()
            update = {"two_pi": two_pi, "cos_first": cos_first}
            found[name] = {"score_embedding": config.score_embedding.model_copy(update=update)}
    configs = {name: config.model_copy(update=update) for name, update in found.items()}
    return dict(sorted(configs.items(), key=lambda item: item[1] != config))


@torch.no_grad()
def rank_readings(
    backbone: FluxAudio, readings: Mapping[str, FluxAudioConfig], known: Sequence[Known]
) -> list[ProbeReading]:
    """The readings of a backbone's weights, the likeliest first.

    Raises:
        InvalidRequest: fewer than two clips, so that no spread is known.
    """
    if len(known) < 2:
        raise InvalidRequest(f"{len(known)} clips were given; a probe needs at least 2")
    losses = {name: _losses(backbone, config, known) for name, config in readings.items()}
    best = min(losses, key=lambda name: losses[name].mean())
    found = []
    for name, values in losses.items():
        above = values - losses[best]  # (K,)
        error = above.std() / len(known) ** 0.5
        found.append(ProbeReading(name, float(values.mean()), float(above.mean()), float(error)))
    return sorted(found, key=lambda reading: reading.loss)


def rank_responses(rewards: Mapping[str, Tensor]) -> list[ProbeResponse]:
    """The readings, first the one whose rewards follow the score best; ties by the larger rise.

    Args:
        rewards: (P, S) of every reading, at scores that rise.

    Raises:
        InvalidRequest: fewer than two prompts, so that no spread is known.
    """
    found = []
    for name, table in rewards.items():
        if len(table) < 2:
            raise InvalidRequest(f"{len(table)} texts were given; a probe needs at least 2")
        each = torch.stack([_follows(row) for row in table])  # (P,)
        error = each.std() / len(table) ** 0.5
        rise = (table[:, -1] - table[:, 0]).mean()
        found.append(ProbeResponse(name, float(each.mean()), float(error), float(rise)))
    return sorted(found, key=lambda one: (one.correlation, one.rise), reverse=True)


def _follows(rewards: Tensor) -> Tensor:
    """Spearman's correlation of (S,) rewards with their place; 0 where they never change."""
    ranks = torch.from_numpy(rankdata(rewards)).float()
    places = torch.arange(len(rewards)).float()
    return torch.corrcoef(torch.stack([places, ranks]))[0, 1].nan_to_num(0.0)


def read_as(backbone: FluxAudio, config: FluxAudioConfig) -> FluxAudio:
    """A backbone's weights under a reading."""
    read = FluxAudio(config, backbone.head)
    read.load_state_dict(backbone.state_dict())
    return read.to(backbone.latent_mean.device).eval().requires_grad_(False)


def _losses(backbone: FluxAudio, config: FluxAudioConfig, known: Sequence[Known]) -> Tensor:
    """(K,) flow-matching losses of the weights under a reading, means over `TIMES`."""
    read = read_as(backbone, config)
    return torch.stack([_loss(read, one, seed) for seed, one in enumerate(known)])


def _loss(backbone: FluxAudio, one: Known, seed: int) -> Tensor:
    count, device = len(TIMES), one.data.device
    data = one.data.expand(count, -1, -1)
    seeds = range(seed * count, (seed + 1) * count)
    noise = draw_noise(list(seeds), *data.shape[1:]).to(device)
    t = torch.tensor(TIMES, device=device)
    score = None if backbone.head == "none" else torch.full((count,), one.score, device=device)
    found = backbone.velocity(interpolate(data, noise, t), t, one.prompt.expand(count), score)
    return (found - velocity_target(data, noise)).square().mean()
