"""Post-hoc averages: the specification's constants, and mixtures with known answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.shared_training import RECIPE, shared_job
from training.ema import (
    LONGEST,
    SIGMAS,
    PostHocAverage,
    decay,
    exponent,
    mixture,
    overlap,
    snapshots,
    synthesise,
)
from training.loop import Pace, Schedule, draws, load_checkpoint, run


class Small(nn.Module):
    """A trained weight beside everything that must not be averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.statistics = nn.Parameter(torch.tensor([0.1, 2.3]), requires_grad=False)
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("running", torch.tensor(0.0))


class SmallJob:
    """Moves the weight by noise of the step and averages it."""

    name = "small"

    def __init__(self) -> None:
        self.network = Small()
        self.average = PostHocAverage(self.network)

    def modules(self) -> dict[str, nn.Module]:
        return {"network": self.network, "average": self.average}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {}

    @torch.no_grad()
    def train_step(self, step: int) -> dict[str, float]:
        self.network.weight += torch.randn(3, generator=draws(0, "small", step))
        self.average.update(self.network)
        return {"loss": 0.0}

    def validate(self, step: int) -> dict[str, float]:
        return {}


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[float, Tensor], Small]:
    """A random walk with snapshots, its averages of several lengths tracked, and its end."""
    folder = tmp_path_factory.mktemp("snapshots")
    network, generator = Small(), torch.Generator().manual_seed(0)
    written, others = PostHocAverage(network), PostHocAverage(network, (0.04, 0.08, 0.15))
    for update in range(1, 401):
        with torch.no_grad():
            network.weight += torch.randn(3, generator=generator)
            network.count += 1
            network.running.fill_(update)
        written.update(network)
        others.update(network)
        if update % 20 == 0:
            written.snapshot(folder)
    tracked = {s: a.weights(s)["weight"] for a in (written, others) for s in a.sigmas}
    return folder, tracked, network


def test_exponents_and_decays_are_those_of_the_specification() -> None:
    assert exponent(0.05) == pytest.approx(16.97220, abs=5e-6)
    assert exponent(0.1) == pytest.approx(6.93720, abs=5e-6)
    assert decay(exponent(0.05), 1) == pytest.approx((1 / 2 * 2 / 3) ** 8.98610)
    assert decay(exponent(0.05), 1) == pytest.approx(5.2e-5, rel=1e-2)


@pytest.mark.parametrize("sigma_rel", [0.01, 0.05, 0.1, 0.2, LONGEST])
def test_the_profile_of_an_exponent_has_the_deviation_it_stands_for(sigma_rel: float) -> None:
    g = exponent(sigma_rel)
    time = (np.arange(200_000) + 0.5) / 200_000
    profile = (g + 1) * time**g / len(time)
    mean = (profile * time).sum()
    assert (profile * (time - mean) ** 2).sum() ** 0.5 == pytest.approx(sigma_rel, rel=1e-4)


@pytest.mark.parametrize("pair", [((16.97, 300), (6.94, 1000)), ((6.94, 700), (6.94, 700))])
def test_the_overlap_is_the_integral_of_both_profiles(pair) -> None:
    time = (np.arange(200_000) + 0.5) / 200
    profiles = [np.where(time < end, (g + 1) * time**g / end ** (g + 1.0), 0) for g, end in pair]
    assert overlap(*pair) == pytest.approx((profiles[0] * profiles[1]).sum() / 200, rel=1e-4)


@pytest.mark.parametrize("count", [1, 3, 20])
def test_the_mixture_of_a_tracked_profile_is_that_profile_alone(count: int) -> None:
    profiles = [(exponent(s), 500 * (k + 1)) for k in range(count) for s in SIGMAS]
    for row in (0, len(profiles) - 2, len(profiles) - 1):
        alone = np.eye(len(profiles))[row]
        assert np.abs(mixture(profiles, profiles[row]) - alone).max() < 1e-10


def test_every_mixture_sums_to_one() -> None:
    profiles = [(exponent(s), 10_000 * (k + 1)) for k in range(3) for s in SIGMAS]
    for sigma_rel in (0.02, 0.08, 0.15, 0.25):
        shares = mixture(profiles, (exponent(sigma_rel), 30_000))
        assert shares.sum() == pytest.approx(1.0, abs=1e-12)


def test_the_average_of_a_ramp_is_the_mean_of_its_profile() -> None:
    """Of weights w(t) = t it is (g + 1) / (g + 2) of the run."""
    network, count = Small(), 3000
    average = PostHocAverage(network, (0.05, 0.1, 0.2))
    for update in range(1, count + 1):
        network.weight.data.fill_(update)
        average.update(network)
    for sigma_rel in average.sigmas:
        g = exponent(sigma_rel)
        mean = average.weights(sigma_rel)["weight"]
        assert (mean / count).tolist() == pytest.approx([(g + 1) / (g + 2)] * 3, rel=2e-3)


def test_the_first_update_starts_from_its_own_weights() -> None:
    network = Small()
    average = PostHocAverage(network)
    network.weight.data.fill_(5.0)
    average.update(network)
    assert average.weights()["weight"].tolist() == [5.0] * 3


def test_a_tracked_length_comes_out_of_the_snapshots_as_it_was_tracked(walk) -> None:
    folder, tracked, _ = walk
    for sigma_rel in SIGMAS:
        torch.testing.assert_close(synthesise(folder, sigma_rel)["weight"], tracked[sigma_rel])


@pytest.mark.parametrize("sigma_rel", [0.04, 0.08, 0.15])
def test_another_length_comes_out_almost_as_if_it_had_been_tracked(walk, sigma_rel) -> None:
    folder, tracked, _ = walk
    error = (synthesise(folder, sigma_rel)["weight"] - tracked[sigma_rel]).norm()
    nearest = min((tracked[s] - tracked[sigma_rel]).norm() for s in SIGMAS)
    assert error < 0.1 * nearest


def test_what_is_not_trained_is_neither_averaged_nor_scaled(walk) -> None:
    folder, _, network = walk
    made = synthesise(folder, 0.13)
    assert list(made) and made.keys() == network.state_dict().keys()
    for name in ("statistics", "count", "running"):
        assert torch.equal(made[name], network.state_dict()[name])
        assert made[name].dtype == network.state_dict()[name].dtype
    assert synthesise(folder, 0.13, 200)["running"] == 200


def test_an_earlier_end_uses_nothing_that_came_after_it(walk, tmp_path: Path) -> None:
    folder, _, _ = walk
    for snapshot in snapshots(folder):
        if snapshot.updates <= 200:
            (tmp_path / snapshot.path.name).write_bytes(snapshot.path.read_bytes())
    early, late = synthesise(tmp_path, 0.08), synthesise(folder, 0.08, 200)
    assert all(torch.equal(early[name], late[name]) for name in late)


def test_a_resumed_run_goes_on_with_the_same_averages_and_snapshots(tmp_path: Path) -> None:
    pace = Pace(checkpoint_every=7, validate_every=100, trackers=())
    whole = SmallJob()
    run(whole, Schedule(30, 1.0), tmp_path / "whole", pace)
    run(SmallJob(), Schedule(14, 1.0), tmp_path / "parts", pace)
    resumed = SmallJob()
    assert load_checkpoint(resumed, tmp_path / "parts") == resumed.average.updates == 14
    run(resumed, Schedule(30, 1.0), tmp_path / "parts", pace)
    for sigma_rel in SIGMAS:
        ours, theirs = (job.average.weights(sigma_rel) for job in (whole, resumed))
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    found = [snapshots(tmp_path / folder / "average") for folder in ("whole", "parts")]
    assert [s.updates for s in found[0]] == [7, 7, 14, 14, 21, 21, 28, 28, 30, 30]
    for ours, theirs in zip(*found, strict=True):
        assert ours.path.name == theirs.path.name
        assert ours.path.read_bytes() == theirs.path.read_bytes()


def test_a_backbones_recipe_can_ask_for_post_hoc_averages(tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"ema_decay": (0.1, 0.05)})
    job = shared_job(recipe)
    run(job, Schedule(4, 1e-2), tmp_path, Pace(checkpoint_every=2, trackers=()))
    assert job.average.sigmas == (0.1, 0.05)
    made = synthesise(tmp_path / "average", 0.1)
    assert made.keys() == job.backbone.state_dict().keys()
    for name, tensor in job.average.weights().items():  # the first length is shipped
        torch.testing.assert_close(made[name], tensor)
    for frozen in ("latent_mean", "latent_std", "empty_string_feat"):
        assert torch.equal(
            synthesise(tmp_path / "average", 0.2)[frozen], job.backbone.state_dict()[frozen]
        )


def test_nothing_is_written_before_the_first_update(tmp_path: Path) -> None:
    PostHocAverage(Small()).snapshot(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 0.3])
def test_lengths_that_cannot_be_are_refused(sigma_rel: float) -> None:
    with pytest.raises(ValueError, match=rf"sigma_rel is {sigma_rel}; accepted: above 0, up to"):
        exponent(sigma_rel)


def test_asking_for_what_is_not_there_says_what_is(walk, tmp_path: Path) -> None:
    folder, _, network = walk
    with pytest.raises(ValueError, match=r"no snapshot of 15 updates in .*: \[20, 40"):
        synthesise(folder, 0.1, 15)
    with pytest.raises(ValueError, match=r"no snapshot of None updates in .*: \[\]"):
        synthesise(tmp_path, 0.1)
    with pytest.raises(ValueError, match=r"0.07 is not tracked; accepted: \(0.05, 0.1\)"):
        PostHocAverage(network).weights(0.07)
