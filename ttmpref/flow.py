"""Flow matching: the path between noise and data, guidance and solvers (paper, section III-A).

The time convention, stated once for the whole project: t = 1 is noise, t = 0 is data. With data u
(normalised latents) and Gaussian noise eps, both (B, N, C),

    z_t = (1 - t) u + t eps        dz/dt = eps - u = the velocity a network learns

so sampling starts at z_1 = eps and integrates t from 1 down to 0. *Progress* is p = 1 - t.

Nothing here knows of networks: a velocity is any callable (z, t) -> tensor of z's shape.
Shapes: B batch, N latent frames, C latent channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ttmpref.types import GUIDANCE_SCHEDULES, SOLVERS, GuidanceSchedule, Solver, check_choice

Velocity = Callable[[Tensor, float], Tensor]

# Progress between which the "interval" schedule guides: early guidance narrows the variety of the
# clips and late guidance changes little (Kynkaanniemi et al., 2024).
GUIDED_INTERVAL = (0.2, 0.8)


def interpolate(data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The state z_t of each sample.

    Args:
        data, noise: (B, N, C).
        t: (B,) in [0, 1].

    Returns:
        (B, N, C).
    """
    if t.shape != data.shape[:1]:
        raise ValueError(f"t must have shape {tuple(data.shape[:1])}, got {tuple(t.shape)}")
    return torch.lerp(data, noise, t[:, None, None])


def velocity_target(data: Tensor, noise: Tensor) -> Tensor:
    """dz/dt along the straight path, the regression target: (B, N, C)."""
    return noise - data


def sample_times(n: int, generator: torch.Generator, mean: float = 0.0) -> Tensor:
    """(n,) training times in (0, 1), logit-normal with scale 1.

    Args:
        mean: of the logit; the paper's is 0, larger means more noise.
    """
    return torch.sigmoid(mean + torch.randn(n, generator=generator, device=generator.device))


def time_grid(num_steps: int) -> list[float]:
    """num_steps + 1 evenly spaced times from 1 (noise) to 0 (data)."""
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    return [1.0 - i / num_steps for i in range(num_steps + 1)]


def solve(
    velocity: Velocity, noise: Tensor, num_steps: int, solver: Solver = "euler"
) -> Iterator[Tensor]:
    """Integrate from noise to data, yielding the state after every step; the last is the data.

    Callers report progress between the steps and cancel by closing the iterator. Heun evaluates
    the velocity twice per step, except in the last one, which is an Euler step: no network has
    been trained at t = 0 itself.

    Args:
        velocity: called with the state (B, N, C) and the time.
        noise: (B, N, C), the state at t = 1; kept in float32 throughout.
    """
    check_choice("solver", solver, SOLVERS)
    z = noise.float()
    times = time_grid(num_steps)
    for t, t_next in zip(times, times[1:], strict=False):
        z = solver_step(velocity, z, t, t_next, solver)
        yield z


def solver_step(
    velocity: Velocity, z: Tensor, t: float, t_next: float, solver: Solver = "euler"
) -> Tensor:
    """One step of `solve`: the state (B, N, C) at t to the one at t_next."""
    slope = velocity(z, t).float()
    if solver == "heun" and t_next > 0:
        ahead = z + (t_next - t) * slope
        slope = (slope + velocity(ahead, t_next).float()) / 2
    return z + (t_next - t) * slope


def guidance_at(schedule: GuidanceSchedule, guidance: float, progress: float) -> float:
    """Guidance scale at a point of the path; 1 is no guidance.

    "constant" keeps `guidance` (the paper's choice), "anneal" moves linearly from `guidance` at
    pure noise to 1 at the data, and "interval" uses `guidance` inside `GUIDED_INTERVAL` and 1
    outside.

    Args:
        progress: p = 1 - t in [0, 1].
    """
    check_choice("guidance schedule", schedule, GUIDANCE_SCHEDULES)
    if schedule == "anneal":
        return guidance + (1.0 - guidance) * progress
    low, high = GUIDED_INTERVAL
    if schedule == "interval" and not low <= progress <= high:
        return 1.0
    return guidance


def guided_velocity(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance, w v_c + (1 - w) v_u (paper, equation 2)."""
    return torch.lerp(unconditional, conditional, guidance)


def draw_noise(seeds: Sequence[int], frames: int, channels: int) -> Tensor:
    """(B, frames, channels) Gaussian noise on the CPU, one generator per seed.

    Clip i of a batch therefore equals the clip made alone from the same seed.
    """
    draws = [
        torch.randn(frames, channels, generator=torch.Generator().manual_seed(seed))
        for seed in seeds
    ]
    return torch.stack(draws)  # (B, N, C)
