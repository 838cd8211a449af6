"""The stages of the preference chain: losses in closed form, mixtures, the whole chain small."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import build_tiny_preset
from tests.prepared import RECIPE, order_of, prepared, write_tracks
from tests.scoring import build_scoring_preset
from training.chain import chain
from training.crpo import CRPOJob, NFTJob, Pairs, best_and_worst
from training.data import Corpus
from training.flow_matching import WHOLE, Captions, FlowMatchingJob
from training.loop import draws
from training.recipe import (
    BackboneRecipe,
    CRPORecipe,
    ExpertRecipe,
    ListenersRecipe,
    NFTRecipe,
    PulseRecipe,
    SFTRecipe,
    load_recipe,
)
from training.sampling import Judged
from training.scored import PAPER_MEAN, PAPER_STD, Mixture, ScoredSplit, ScoreScale
from training.sources import source_of
from training.stages import best_of, stage_backbone, weights_path
from training.workplace import Workplace
from ttmpref import assets
from ttmpref.config import Preset, load_preset
from ttmpref.models.fluxaudio import FluxAudio
from ttmpref.types import DamagedWeights, InvalidRequest

STEP = {"steps": 4, "batch": 3, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def preset_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_preset(tmp_path_factory.mktemp("preset"))


@pytest.fixture(scope="module")
def tiny(preset_path: Path) -> Preset:
    return load_preset(str(preset_path))


@pytest.fixture
def backbone(tiny: Preset) -> FluxAudio:
    network = FluxAudio(tiny.backbone, "global_adaln")
    network.load_state_dict(load_file(tiny.stage("scored").weights))
    return network


@pytest.fixture
def pairs() -> Pairs:
    generator = torch.Generator().manual_seed(0)
    clips = torch.randn(2, 6, 31, 4, generator=generator).half().numpy()
    text, pooled = torch.randn(6, 12, 16, generator=generator), torch.randn(6, 8)
    return Pairs(*clips, text, pooled, score=2.0)


def crpo_job(backbone: FluxAudio, pairs: Pairs, **changes: float) -> CRPOJob:
    return CRPOJob("crpo", CRPORecipe(**STEP, prompts=6, **changes), backbone, (pairs, pairs))


def test_the_first_preference_term_is_log_two(backbone: FluxAudio, pairs: Pairs) -> None:
    preference, error = crpo_job(backbone, pairs).preference_and_error(False, draws(0, "x", 0))
    assert preference.shape == (3,) and (error > 0).all()
    assert preference.detach().numpy() == pytest.approx(math.log(2), abs=1e-6)


def test_crpo_learns_to_prefer_the_winner(backbone: FluxAudio, pairs: Pairs) -> None:
    job = crpo_job(backbone, pairs, flow_weight=0.0, beta=0.1)
    job.optimizer.param_groups[0]["lr"] = 1e-4
    for step in range(40):
        job.train_step(step)
    seen = [job.preference_and_error(False, draws(0, "crpo", step))[0] for step in range(40)]
    assert torch.cat(seen).mean().item() < math.log(2)


def test_crpo_without_preference_is_flow_matching_of_the_winners(
    backbone: FluxAudio, pairs: Pairs
) -> None:
    """A policy that is the reference has a constant preference term, so the rest is lambda mse."""
    once, twice = (
        crpo_job(backbone, pairs, flow_weight=weight).loss(False, draws(0, "z", 0), 0.0).item()
        for weight in (1.0, 3.0)
    )
    error = (twice - once) / 2
    assert once == pytest.approx(math.log(2) + error, abs=1e-5)


def test_the_negative_aware_loss_mirrors_the_loser(backbone: FluxAudio, pairs: Pairs) -> None:
    """At first both mixtures are the old velocity; a step from it moves them opposite ways."""
    recipe = NFTRecipe(**STEP, prompts=6, nft_beta=0.2)
    job = NFTJob("nft", recipe, backbone, (pairs, pairs))
    policy, reference, target = job._velocities(False, draws(0, "n", 0), 0.0, WHOLE)
    assert torch.equal(policy, reference)
    assert job.loss(False, draws(0, "n", 0), 0.0).item() == pytest.approx(
        (reference - target).square().mean().item(), rel=1e-5
    )
    with torch.no_grad():
        for parameter in job.backbone.score_embed.parameters():
            parameter += 0.1
    policy, reference, target = job._velocities(False, draws(0, "n", 0), 0.0, WHOLE)
    mixtures = reference + 0.2 * (policy - reference), reference - 0.2 * (policy - reference)
    expected = (mixtures[0][:3] - target[:3]).square() + (mixtures[1][3:] - target[3:]).square()
    assert job.loss(False, draws(0, "n", 0), 0.0).item() == pytest.approx(
        0.5 * expected.mean().item(), rel=1e-5
    )


def test_pairs_are_the_best_and_the_worst_of_each_prompt() -> None:
    better, worse = best_and_worst(np.array([[0.1, 0.3, 0.2], [0.9, 0.8, 0.7]]))
    assert better.tolist() == [1, 3] and worse.tolist() == [0, 5]


def test_experts_are_the_best_by_both_measures_alike() -> None:
    rewards, clap = np.array([0.0, 10.0, 20.0, 30.0]), np.array([0.3, 0.1, 0.2, 0.0])
    judged = Judged(np.zeros((4, 1, 1)), rewards, clap)
    standard = sum((x - x.mean()) / x.std() for x in (rewards, clap))
    assert best_of(judged, 2).tolist() == np.argsort(-standard, kind="stable")[:2].tolist()


def test_scores_of_skewed_rewards_have_the_papers_mean_and_spread_and_reach_its_best() -> None:
    rewards = -np.random.default_rng(0).exponential(7.0, 3000)
    scores = ScoreScale.normal(rewards).score(rewards)
    assert scores.mean() == pytest.approx(PAPER_MEAN, abs=0.01)
    assert scores.std() == pytest.approx(PAPER_STD, abs=0.01)
    assert (np.argsort(scores, kind="stable") == np.argsort(rewards, kind="stable")).mean() > 0.9
    assert scores.max() > 2.0 > (PAPER_MEAN + PAPER_STD * (0.0 - rewards.mean()) / rewards.std())


def test_the_papers_own_scale_leaves_rewards_as_they_are(tmp_path) -> None:
    assert ScoreScale().score(np.array([-1.5, 7.0])).tolist() == [-1.5, 7.0]
    ScoreScale().write(tmp_path / "scale.json")
    assert json.loads((tmp_path / "scale.json").read_text()) == {"rewards": None, "scores": None}


def split_of(value: float, size: int) -> ScoredSplit:
    captions = Captions(np.zeros((1, 2, 3)), np.zeros((1, 4)), np.array([0, 1]))
    latents = np.full((size, 2, 5, 2), value, dtype=np.float16)
    return ScoredSplit(latents, np.zeros(size, int), np.full(size, value, "f"), captions)


def test_a_mixture_draws_its_parts_by_their_weights() -> None:
    mixture = Mixture((split_of(1.0, 7), split_of(2.0, 3)), (30, 10))
    batch = mixture.batch(4000, draws(0, "mixture", 0))
    assert torch.equal(batch.score, batch.mean[:, 0, 0])
    assert (batch.score == 2.0).float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_scores_are_nulled_and_texts_are_nulled_each_by_itself(tiny: Preset) -> None:
    """With both probabilities one, the loss cannot depend on scores or captions."""
    backbone = FluxAudio(tiny.backbone, "input_add")
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    backbone.latent_std.data.fill_(1.0)
    rng = np.random.default_rng(1)
    latents = rng.random((6, 2, 31, 4)).astype(np.float16)

    def loss(seed: int, **nulls: float) -> float:
        other = np.random.default_rng(seed)
        captions = Captions(other.random((6, 12, 16)), other.random((6, 8)), np.arange(7))
        split = ScoredSplit(latents, np.arange(6), other.random(6).astype("f"), captions)
        recipe = BackboneRecipe(**STEP, **nulls)
        job = FlowMatchingJob("x", recipe, backbone, (split, split))
        return job.loss(False, draws(0, "x", 0), 0.0).item()

    assert loss(2, null_text=1.0, null_score=1.0) == loss(3, null_text=1.0, null_score=1.0)
    assert loss(2, null_text=1.0, null_score=0.0) != loss(3, null_text=1.0, null_score=0.0)
    assert loss(2, null_text=0.0, null_score=1.0) != loss(3, null_text=0.0, null_score=1.0)


def place_of(preset_path: Path, folder: Path) -> Workplace:
    recipe = load_recipe("demo").model_copy(update={"preset": str(preset_path)})
    return Workplace(recipe, folder / "data", folder / "runs", preset_path.parent)


def test_a_stage_begins_as_its_parent(preset_path: Path, tiny: Preset, tmp_path: Path) -> None:
    """An additive head that knows nothing yet leaves the baseline's velocity alone."""
    place = place_of(preset_path, tmp_path)
    plain, scored = (stage_backbone(place, "baseline", head) for head in ("none", "global_adaln"))
    latents, t = torch.randn(2, 31, 4), torch.rand(2)
    text, pooled = torch.randn(2, 12, 16), torch.randn(2, 8)
    with torch.no_grad():
        same = plain(latents, t, text, pooled)
        assert torch.allclose(scored(latents, t, text, pooled, torch.ones(2)), same, atol=1e-6)
    assert set(scored.state_dict()) == set(
        stage_backbone(place, "scored", "input_add").state_dict()
    )


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_weights_that_do_not_fit_are_refused(
    change: str, tmp_path: Path, preset_path: Path
) -> None:
    path = build_tiny_preset(tmp_path)
    weights = load_file(tmp_path / "scored.safetensors")
    if change == "missing":
        del weights["score_embed.frequencies"]
    else:
        weights["more"] = torch.zeros(1)
    save_file(weights, tmp_path / "scored.safetensors")
    with pytest.raises(DamagedWeights, match="does not fit head"):
        stage_backbone(place_of(path, tmp_path), "scored", "input_add")


def whole_chain(root: Path, corpora: tuple[Corpus, Corpus]) -> Workplace:
    """A tiny preset with the chain's stages and a reward, its corpus, and a recipe of few steps."""
    scoring = build_scoring_preset(root, build_tiny_preset(root))
    stages = "".join(
        f'  - {{name: {name}, title: {name}, head: {head}, weights: "{root}/{file}.safetensors"}}\n'
        for name, head, file in (
            ("sft", "global_adaln", "sft"),
            ("expert", "global_adaln", "expert"),
            ("crossload", "input_add", "expert"),
            ("crpo", "input_add", "crpo"),
        )
    )
    pulse = "mlp_round_to: 8, pulse: {beat_frames: [1, 2], beats_per_bar: [3, 4], harmonics: 2}"
    text = scoring.read_text().replace("sampling:", stages + "sampling:")
    scoring.write_text(text.replace("mlp_round_to: 8", pulse))
    sampled = STEP | {"sample_guidance": 2.0}
    recipe = load_recipe("demo").model_copy(
        update={
            "preset": str(scoring),
            "listeners": ListenersRecipe(seconds=0.3),
            "pulse": PulseRecipe(**STEP, captions=4),
            "pretraining": BackboneRecipe(**STEP),
            "baseline": BackboneRecipe(**STEP),
            "sft": SFTRecipe(**STEP),
            "expert": ExpertRecipe(
                **sampled, candidates=4, keep=2, polish_steps=2, polish_learning_rate=1e-4
            ),
            "crpo": CRPORecipe(**sampled, prompts=3, clips_per_prompt=2, held_out=0.4),
            "nft": NFTRecipe(**sampled, prompts=3, clips_per_prompt=2, held_out=0.4),
        }
    )
    place = Workplace(recipe, root / "data", root / "runs", root)
    shutil.copytree(corpora[0].folder, place.corpus_folder)
    return place


def test_the_chain_trains_every_stage_on_its_parent(
    corpora: tuple[Corpus, Corpus], tmp_path: Path
) -> None:
    place = whole_chain(tmp_path, corpora)
    steps = (
        "takes", "pulse", "pretraining", "baseline", "sft", "expert", "crossload", "crpo", "nft",
    )  # fmt: skip
    chain(place, steps)
    records = {
        name: json.loads((place.assets / "logs" / f"{name}.json").read_text())
        for name in (*steps[1:], "expert_polish")
    }
    assert records["baseline"]["windows"] == records["sft"]["windows"]  # the same good and bad
    for name, parent in (
        ("baseline", "pretraining"), ("sft", "baseline"), ("expert", "sft"),
        ("crossload", "expert"),
    ):  # fmt: skip
        weights = weights_path(place, parent)
        assert records[name]["parent"] == parent
        assert records[name]["parent_sha256"] == assets.sha256(weights)
    assert records["crpo"]["parent_sha256"] == records["crossload"]["parent_sha256"]
    assert records["expert"]["kept clips"]["clips"] == 2
    assert records["crossload"]["tensors"] == len(
        assets.read_tensors(str(weights_path(place, "expert")))
    )
    better, worse = records["crpo"]["better clips"], records["crpo"]["worse clips"]
    assert better["mean CLAP score"] > worse["mean CLAP score"]
    assert weights_path(place, "nft").parent == place.runs
    for stage in ("sft", "expert", "crossload", "crpo"):
        backbone = stage_backbone(place, stage, place.recipe.target.stage(stage).head)
        assert all(tensor.isfinite().all() for tensor in backbone.state_dict().values())
        pulse = assets.read_tensors(str(place.runs / "pulse.safetensors"))
        for name, tensor in pulse.items():  # trained once, the same in all
            assert torch.equal(backbone.pulse.state_dict()[name].half(), tensor), name

    before = {p: p.read_bytes() for p in tmp_path.glob("*.safetensors")}
    chain(place, steps[:-1])  # finished: nothing changes
    assert {p: p.read_bytes() for p in tmp_path.glob("*.safetensors")} == before


def test_the_chain_learns_from_prepared_clips(
    corpora: tuple[Corpus, Corpus], tmp_path: Path
) -> None:
    """The same steps on somebody's own recordings, from the baseline on."""
    place = whole_chain(tmp_path, corpora)
    order = order_of(
        Path(place.recipe.preset),
        write_tracks(tmp_path / "audio"),
        tmp_path / "prepared",
        RECIPE.model_copy(update={"validation": 1}),
    )
    prepared(order)
    recipe = place.recipe.model_copy(
        update={
            "corpus": None,
            "expert": place.recipe.expert.model_copy(update={"candidates": 2, "keep": 1}),
        }
    )
    place = dataclasses.replace(place, recipe=recipe, prepared=order.out)
    chain(place, ("corpus", "pulse", "takes", "baseline", "sft", "expert"))
    assert not (place.runs / "pulse.safetensors").exists()  # no tempo is known of recordings
    record = json.loads((place.assets / "logs" / "expert.json").read_text())
    assert record["windows"].startswith("prepared clips, instrumental_reward_score")
    with pytest.raises(InvalidRequest, match="99 prompts are asked for"):
        source_of(place).prompts(99)
