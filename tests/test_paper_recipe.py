"""The paper's recipe: it fits its preset, and its numbers mean what the paper says of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.ema import exponent
from training.loop import Schedule
from training.recipe import BackboneRecipe, load_recipe
from training.stages import weights_path
from training.workplace import Workplace

TRAINED = ("baseline", "sft", "expert", "crpo", "nft")
RECIPE = load_recipe("paper")


def schedule(recipe: BackboneRecipe) -> Schedule:
    """As `training.workplace.train` makes it."""
    return Schedule(recipe.steps, recipe.learning_rate, recipe.warm_up, recipe.decay_from)


def test_the_recipe_is_for_the_papers_networks() -> None:
    assert RECIPE.target.name == "paper"
    assert RECIPE.sft.head == RECIPE.target.stage("sft").head
    assert {stage.name for stage in RECIPE.target.stages} >= {"baseline", "sft", "expert", "crpo"}


@pytest.mark.parametrize("name", TRAINED)
def test_rates_are_constant_after_their_warm_up(name: str) -> None:
    recipe = getattr(RECIPE, name)
    planned = schedule(recipe)
    after = range(max(0, recipe.warm_up - 1), recipe.steps, max(1, recipe.steps // 50))
    assert {planned.rate(step) for step in after} <= {recipe.learning_rate}
    if recipe.warm_up:
        assert planned.rate(0) == pytest.approx(recipe.learning_rate / recipe.warm_up)


@pytest.mark.parametrize("name", ["baseline", "sft", "expert", "nft"])
def test_batches_can_be_taken_in_two_pieces_as_the_scripts_do(name: str) -> None:
    assert getattr(RECIPE, name).batch % 2 == 0


@pytest.mark.parametrize("name", ["sft", "expert", "crpo", "nft"])
def test_averages_are_the_papers_and_have_snapshots(name: str) -> None:
    recipe = getattr(RECIPE, name)
    assert [exponent(s) for s in recipe.ema_decay] == pytest.approx([16.972, 6.937], abs=1e-3)
    assert recipe.steps // recipe.checkpoint_every >= 3


@pytest.mark.parametrize("name", ["crpo", "nft"])
def test_two_thousand_pairs_are_left_when_the_held_out_are_gone(name: str) -> None:
    recipe = getattr(RECIPE, name)
    assert recipe.prompts - round(recipe.prompts * recipe.held_out) == 2000


def test_the_kept_clips_are_a_tenth_of_the_candidates() -> None:
    assert RECIPE.expert.keep / RECIPE.expert.candidates == pytest.approx(0.1, abs=2e-3)


@pytest.mark.parametrize("name", ["baseline", "sft", "expert", "crossload", "crpo"])
def test_stages_that_the_preset_fetches_or_lacks_are_trained_into_the_runs(
    name: str, tmp_path: Path
) -> None:
    place = Workplace(RECIPE, tmp_path / "data", tmp_path / "runs", tmp_path / "assets")
    assert weights_path(place, name) == tmp_path / "runs" / f"{name}.safetensors"
