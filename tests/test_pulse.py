"""The pulse: metres, courses, and a flow of what the course leaves."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from tests.seeded import relative_error, seeded_input, seeded_state
from training.flow_matching import Captions, FlowMatchingJob, LatentSplit
from training.pulse import PulseJob, load_pulse
from training.recipe import BackboneRecipe, PulseRecipe
from ttmpref.config import FluxAudioConfig, PulseConfig, load_preset
from ttmpref.flow import guided_velocity, solve
from ttmpref.models.fluxaudio import FluxAudio, Projected
from ttmpref.models.pulse import UNKNOWN, metre_of, positions, tempo_of
from ttmpref.types import MissingWeights

PULSE = PulseConfig(beat_frames=(2.0, 3.0, 4.0), beats_per_bar=(3, 4), harmonics=8, width=32)
CONFIG = FluxAudioConfig(
    latent_channels=4, latent_frames=24, text_tokens=5, text_dim=6, pooled_dim=3, width=16,
    num_heads=2, num_joint_blocks=2, num_fused_blocks=1, mlp_ratio=2.0, mlp_round_to=8, pulse=PULSE,
)  # fmt: skip
METRES = 6


def network(flow="noise_at_one"):
    """A network of seeded weights, in which no layer is zero."""
    model = FluxAudio(CONFIG.model_copy(update={"flow": flow}))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(seeded_state(shapes))
    return model.eval().requires_grad_(False)


def prompts(batch=3):
    return seeded_input("text", (batch, 5, 6)), seeded_input("pooled", (batch, 3))


def test_metres_are_numbered_bar_by_bar_and_named_again():
    assert [metre_of(PULSE, beats, frames) for beats in (3, 4) for frames in (2, 3, 4)] == [
        0, 1, 2, 3, 4, 5,
    ]  # fmt: skip
    assert metre_of(PULSE, 4, 2.9) == 4 and metre_of(PULSE, 4, 100.0) == 5
    assert metre_of(PULSE, 5, 3.0) == UNKNOWN
    assert tempo_of(PULSE, 4, frame_seconds=0.1) == (4, pytest.approx(200.0))


def test_every_tempo_of_the_corpus_is_one_that_the_demo_knows():
    preset = load_preset("demo")
    config, frame = preset.backbone.pulse, preset.autoencoder.samples_per_latent / 44_100
    found = [tempo_of(config, i, frame) for i in range(2 * len(config.beat_frames))]
    for step in range(7, 24):  # half frames of a beat
        tempo = 60 / (step * frame / 2)
        metre = metre_of(config, 4, 60 / tempo / frame)
        assert found[metre] == (4, pytest.approx(tempo))


def test_positions_repeat_after_four_bars_and_are_another_bars_in_another_block():
    table = positions(PULSE, 64)
    assert table.shape == (METRES, 64, 2 * 2 * (8 + 2))
    bar = 4 * 3  # frames of four beats of three
    torch.testing.assert_close(table[4][0], table[4][4 * bar], atol=1e-4, rtol=0)
    assert (table[4][0] - table[4][bar]).abs().max() > 0.5  # which bar it is, is told
    threes, fours = table[:3], table[3:]
    half = table.shape[2] // 2
    assert not threes[..., half:].any() and not fours[..., :half].any()


def test_a_paper_network_has_no_pulse_and_no_course():
    model = FluxAudio(CONFIG.model_copy(update={"pulse": None}))
    assert model.course(*prompts()) is None
    assert not any(name.startswith(("pulse", "course")) for name in model.state_dict())


@pytest.mark.parametrize("flow", ["noise_at_one", "data_at_one"])
def test_the_flow_of_the_whole_is_that_of_the_rest_around_the_course(flow):
    """Solving from noise, then, gives the rest's own solution with the course on top."""
    model = network(flow)
    whole = model.project(*prompts())
    course, conv = whole.course, model.course_input
    assert course.abs().max() > 0.01
    rest = dataclasses.replace(whole, course=torch.zeros_like(course))

    class Given(torch.nn.Module):
        def forward(self, _):
            return conv(5.0 * course)

    z, t = seeded_input("latents", (3, 24, 4)), torch.tensor([1.0, 0.6, 0.1])
    found = model.velocity(z, t, whole)
    model.course_input = Given()
    left = model.velocity(z - (1 - t)[:, None, None] * course, t, rest)
    assert relative_error(found, left - course) < 1e-5

    def solved(projected):
        def velocity(z, t):
            return model.velocity(z, torch.full((3,), t), projected)

        *_, end = solve(velocity, z, 5, "euler")
        return end

    alone = solved(rest)
    model.course_input = conv
    assert relative_error(solved(whole), alone + course) < 1e-4


def test_guidance_does_not_lead_away_from_the_course():
    model = network()
    asked = model.project(*prompts())
    away = model.project_empty(3)
    assert relative_error(away.course, asked.course) > 0.1
    both = Projected.concatenate(asked, away.following(asked))
    torch.testing.assert_close(both.course, asked.course.repeat(2, 1, 1))
    assert torch.equal(both.text_tokens[3:], away.text_tokens)
    z = seeded_input("latents", (3, 24, 4)).repeat(2, 1, 1)
    found = model.velocity(z, torch.full((6,), 0.5), both)
    alone = model.velocity(z[:3], torch.full((3,), 0.5), asked)
    torch.testing.assert_close(guided_velocity(*found.chunk(2), 1.0), alone, rtol=1e-4, atol=1e-5)


def test_a_course_of_another_length_is_refused():
    model = network()
    with pytest.raises(ValueError, match=r"projected.course must have shape \(3, 20, 4\)"):
        model.velocity(torch.zeros(3, 20, 4), torch.zeros(3), model.project(*prompts()))


def test_known_metres_take_the_place_of_what_is_read():
    model = network()
    text, pooled = prompts()
    read = model.pulse.likeliest(text, pooled)
    unknown = torch.full((3,), UNKNOWN)
    torch.testing.assert_close(model.course(text, pooled, unknown), model.course(text, pooled))
    torch.testing.assert_close(model.course(text, pooled, read), model.course(text, pooled))
    others = model.course(text, pooled, (read + 1) % METRES)
    assert (others - model.course(text, pooled)).abs().amax((1, 2)).min() > 1e-3


def test_a_frozen_pulse_drops_nothing_out_and_is_not_trained():
    model = FluxAudio(CONFIG).train()
    assert not model.pulse.training and model.fused_blocks.training
    assert all(not p.requires_grad for p in model.pulse.parameters())
    assert model.course_input.weight.requires_grad


PIECES = 60


def beating(rng):
    """Windows whose latents beat in the metre that their captions name."""
    metres = rng.integers(METRES, size=PIECES)
    frames = np.arange(24)
    beat = np.array(PULSE.beat_frames)[metres % 3]
    course = np.cos(2 * math.pi * frames / beat[:, None])[..., None] * np.array([1, -1, 0.5, 0])
    mean = course + 0.3 * rng.normal(size=(PIECES, 24, 4))
    latents = np.stack([mean, np.full_like(mean, 0.01)], axis=1).astype(np.float16)
    words = np.eye(METRES, dtype=np.float16)[metres]
    text = np.repeat(words[:, None], 5, axis=1)
    captions = Captions(text, words[:, :3], np.arange(PIECES + 1))
    return LatentSplit(latents, np.arange(PIECES + 1), captions, metres)


def made_up(count, rng):
    metres = torch.from_numpy(rng.integers(METRES, size=count))
    words = torch.eye(METRES)[metres]
    return words[:, None].expand(-1, 5, -1), words[:, :3], metres


@pytest.fixture(scope="module")
def trained():
    """(backbone, splits, job) after a short training."""
    rng = np.random.default_rng(0)
    splits = beating(rng), beating(rng)
    backbone = FluxAudio(CONFIG)
    recipe = PulseRecipe(
        steps=150, batch=32, learning_rate=1e-2, ema_decay=0.9, captions=256, metre_weight=0.3
    )
    torch.manual_seed(0)
    job = PulseJob(recipe, backbone, splits, made_up)
    for step in range(recipe.steps):
        job.train_step(step)
    return backbone, splits, job


def test_metres_and_courses_are_learnt(trained):
    _, _, job = trained
    found = job.validate(0)
    assert found["metre_read"] > 0.95
    assert found["course"] < 0.15  # 0.37 without any, of which 0.09 is noise


def test_a_trained_pulse_is_kept_and_begins_a_backbone(trained, tmp_path):
    _, splits, job = trained
    job.export(tmp_path / "pulse.safetensors")
    backbone = FluxAudio(CONFIG)
    load_pulse(backbone, tmp_path / "pulse.safetensors")
    batch = splits[1].batch(8, torch.Generator().manual_seed(0))
    course = backbone.course(batch.text, batch.pooled, batch.metre)
    assert (course - batch.mean).square().mean() < 0.15
    with pytest.raises(MissingWeights, match="training steps pulse"):
        load_pulse(backbone, tmp_path / "other.safetensors")


def test_flow_matching_tells_the_course_also_where_the_text_is_dropped(trained, monkeypatch):
    backbone, splits, job = trained
    backbone.pulse.load_state_dict(job.average.weights())
    backbone.pulse.requires_grad_(False).eval()
    recipe = BackboneRecipe(steps=2, batch=8, learning_rate=1e-3, null_text=1.0)
    flow_job = FlowMatchingJob("baseline", recipe, backbone, splits)
    seen = []

    def spy(text, pooled, metre=None):
        seen.append((text, metre))
        return real(text, pooled, metre)

    real = backbone.pulse.forward
    monkeypatch.setattr(backbone.pulse, "forward", spy)
    before = {name: tensor.clone() for name, tensor in backbone.pulse.state_dict().items()}
    loss = flow_job.train_step(0)["loss"]
    ((text, metre),) = seen  # once, with the true text and metre
    assert text.any(dim=(1, 2)).all() and (metre != UNKNOWN).all()
    # A fresh network foretells no velocity: what is left are the noise and what no course tells.
    assert 1.0 < loss < 1.4
    assert all(torch.equal(before[k], v) for k, v in backbone.pulse.state_dict().items())
