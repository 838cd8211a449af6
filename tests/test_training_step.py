"""The benchmark of a training step, on a tiny network: both ways do the same work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import training_step
from benchmarks.training_step import (
    PlainLoop,
    Size,
    compared,
    one_process_group,
    our_job,
    write_features,
)
from tests.shared_training import CONFIG
from training.ema import SIGMAS, PostHocAverage

SIZE = Size(CONFIG, batch=4, rounds=2)


@pytest.fixture
def plain(tmp_path: Path):
    write_features(CONFIG, tmp_path)
    with one_process_group(tmp_path):
        yield PlainLoop(SIZE, tmp_path)


def test_both_ways_are_timed_in_turns_and_their_layouts_agree(tmp_path: Path) -> None:
    figures = {figure.name: figure for figure in compared(SIZE, tmp_path)}
    assert figures["step, ours"].value > 0
    assert figures["the reference's way / ours"].at_least == 1.3
    assert figures["the reference's loop around our network / ours"].value > 0
    assert figures["largest relative difference of the two layouts' velocities"].met


def test_both_ways_begin_with_the_same_weights_and_loss(plain: PlainLoop, tmp_path: Path) -> None:
    job = our_job(SIZE, write_features(CONFIG, tmp_path))
    states = job.backbone.state_dict(), plain.network.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
    ours = [job.train_step(step)["loss"] for step in range(10)]
    theirs = [plain.step(step) for step in range(10)]
    assert sum(ours) / 10 == pytest.approx(sum(theirs) / 10, rel=0.1)  # other random draws


def test_both_ways_average_the_same(plain: PlainLoop) -> None:
    average = PostHocAverage(plain.network)
    for step in range(4):
        plain.step(step)
        average.update(plain.network)
    trained = [name for name, p in plain.network.named_parameters() if p.requires_grad]
    for sigma_rel, theirs in zip(SIGMAS, plain.averages, strict=True):
        ours = average.weights(sigma_rel)
        for name in trained:
            torch.testing.assert_close(ours[name], theirs.state_dict()[name])


def test_the_plain_layers_are_taken_out_again(plain: PlainLoop) -> None:
    before = [type(module) for module in plain.network.modules()]
    with plain.plain_layers():
        inside = [type(module) for module in plain.network.modules()]
    assert training_step.PlainConv in inside and training_step.PlainConv not in before
    assert [type(module) for module in plain.network.modules()] == before
