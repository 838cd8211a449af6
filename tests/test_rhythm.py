"""What the rhythm benchmark measures, on movement that is known."""

import pytest
import torch

from benchmarks.rhythm import (
    AXES,
    SHRINKAGE,
    Heard,
    classified,
    mean_courses,
    movement,
    principal_axes,
    unexplained,
)

FRAMES, CHANNELS = 40, 12
PERIODS = (4, 8)


def pulses(count: int, noise: float) -> Heard:
    """Clips of two tempi by turns, each a pulse on the first frame of its period."""
    generator = torch.Generator().manual_seed(count)
    latents = noise * torch.randn(count, FRAMES, CHANNELS, generator=generator)
    tags = [{"tempo_bpm": 60.0 * PERIODS[i % 2], "beats_per_bar": 4} for i in range(count)]
    for i in range(count):
        latents[i, :: PERIODS[i % 2], 0] += 3.0
    empty = torch.zeros(count, 1)
    return Heard(latents, empty, empty, tags)


def test_mean_courses_tell_the_pulse_of_a_known_tempo_and_nothing_of_another():
    train, test = pulses(200, 0.01), pulses(20, 0.01)
    axes = principal_axes(train.latents)
    assert axes.shape == (CHANNELS, AXES)
    real = movement(test.latents, axes)
    told = mean_courses(train, test, axes, lambda tags: tags["tempo_bpm"])
    shrunk = SHRINKAGE / (100 + SHRINKAGE)
    assert unexplained(told, real) == pytest.approx(shrunk**2, abs=1e-3)
    none = mean_courses(train, test, axes, lambda tags: id(tags))
    assert unexplained(none, real) == 1.0


def test_movement_has_no_mean_and_an_estimate_that_is_worse_than_none_says_so():
    real = movement(pulses(6, 0.1).latents, torch.eye(CHANNELS)[:, :AXES])
    assert real.mean(1).abs().max() < 1e-5
    assert unexplained(real, real) == 0.0
    assert unexplained(-real, real) == pytest.approx(4.0)


def test_a_class_is_read_out_of_vectors_that_hold_it_and_not_out_of_noise():
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(300) % 3
    noise = torch.randn(300, 5, generator=generator)
    telling = noise + 6.0 * torch.nn.functional.one_hot(classes, 5)
    seen, unseen = slice(0, 200), slice(200, 300)
    read = classified(telling[seen], classes[seen], telling[unseen])
    assert (read == classes[unseen]).float().mean() > 0.95
    guessed = classified(noise[seen], classes[seen], noise[unseen])
    assert (guessed == classes[unseen]).float().mean() < 0.55
