"""Phases that run on: every spectral peak turns at its own frequency from frame to frame.

A network that sees only mels cannot know how far a steady tone has turned since the last frame: its
mel stands still while its phase runs. So the phase of each peak is carried over from the frame
before, advanced by the peak's frequency, and given to all bins of the peak (single-pass spectrogram
inversion, Beauregard et al. 2015). `carry` lets other phasors in on the way, so a vocoder may start
a transient or a noise afresh wherever it wants to and the tones go on from there.

Shapes: (B, frames, F), complex phasors of unit magnitude unless said otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SMALLEST = 1e-6  # length under which a mixture of phasors has no direction left


@dataclass(frozen=True, eq=False)
class Turns:
    """How phases move into each frame.

    Attributes:
        source: (B, frames, F) bin of the frame before that a bin continues: its peak.
        rotation: (B, frames, F) what that phasor is multiplied by.
    """

    source: Tensor
    rotation: Tensor


def alternating(count: int, device: torch.device) -> Tensor:
    """(count,) of 1, -1, 1, ...: bins of one tone differ in sign from each to the next, because a
    frame's phases count from its first sample."""
    return 1.0 - 2.0 * (torch.arange(count, device=device) % 2)


@torch.no_grad()
def peak_turns(log_magnitude: Tensor, hop_fraction: float) -> Turns:
    """Nearest peak of every bin, and the turn to it at the peak's interpolated frequency.

    Args:
        log_magnitude: (B, frames, F).
        hop_fraction: hop divided by the size of the transform.
    """
    count, device = log_magnitude.shape[-1], log_magnitude.device
    bins = torch.arange(count, dtype=torch.int32, device=device)
    edges = torch.nn.functional.pad(log_magnitude, (1, 1), value=-math.inf)
    below, above = edges[..., :-2], edges[..., 2:]
    peak = (log_magnitude > below) & (log_magnitude >= above)
    left = torch.where(peak, bins, -2 * count).cummax(-1).values
    right = torch.where(peak, bins, 2 * count).flip(-1).cummin(-1).values.flip(-1)
    source = torch.where(bins - left <= right - bins, left, right).clamp_(0, count - 1).long()
    # A parabola through the peak and its neighbours; the outermost bins have but one neighbour.
    curvature = below - 2 * log_magnitude + above
    offset = (0.5 * (below - above) / curvature).nan_to_num_(0.0).clamp_(-0.5, 0.5)
    angle = (2 * math.pi * hop_fraction * (bins + offset)).gather(-1, source)
    signs = alternating(count, device)
    return Turns(source, torch.polar(torch.ones_like(angle), angle) * (signs * signs[source]))


@torch.no_grad()
def carry(turns: Turns, weight: Tensor, others: Tensor) -> Tensor:
    """Phasors as they arrive in each frame from the one before.

    A frame's phasors are `weight` times those that arrive plus `others`; their directions are what
    travels on. Before the first frame all bins belong to one pulse in its middle. The walk is
    numpy's: at a thousand bins a frame, the overhead of a call is what counts.

    Args:
        weight: (B, frames, F) share of what arrives.
        others: (B, frames, F) complex, of any magnitude.
    """
    batch, frames, count = weight.shape
    rows = count * torch.arange(batch, device=weight.device)[:, None, None]
    source, rotation, weight_, others_ = (
        x.transpose(0, 1).flatten(1).cpu().numpy()
        for x in (turns.source + rows, turns.rotation, weight, others)
    )  # (frames, B * F) each
    arrived = np.empty_like(others_)
    current = alternating(count, torch.device("cpu")).repeat(batch).numpy().astype(others_.dtype)
    for n in range(frames):
        here = arrived[n]
        np.take(current, source[n], out=here, mode="clip")
        here *= rotation[n]
        current = weight_[n] * here
        current += others_[n]
        current /= np.maximum(np.abs(current), SMALLEST)
    return torch.from_numpy(arrived).to(others).unflatten(1, (batch, count)).transpose(0, 1)
