"""FluxAudio: the contract with the released files, the reference outputs, and the score heads."""

import json
from pathlib import Path

import pytest
import torch

from tests.seeded import reference_output, relative_error, seeded_input, seeded_state
from ttmpref.config import FluxAudioConfig
from ttmpref.flow import guided_velocity
from ttmpref.models.fluxaudio import FluxAudio, Projected, load_backbone_state
from ttmpref.models.score_heads import SCORE_HEADS
from ttmpref.types import DamagedWeights

MANIFESTS = Path(__file__).resolve().parents[1] / "assets" / "manifests"
PAPER = FluxAudioConfig(
    latent_channels=40,
    latent_frames=430,
    text_tokens=77,
    text_dim=1024,
    pooled_dim=512,
    width=448,
    num_heads=7,
    num_joint_blocks=4,
    num_fused_blocks=8,
)
SMALL = FluxAudioConfig(
    latent_channels=4,
    latent_frames=12,
    text_tokens=5,
    text_dim=6,
    pooled_dim=3,
    width=16,
    num_heads=2,
    num_joint_blocks=2,
    num_fused_blocks=1,
    mlp_ratio=2.0,
    mlp_round_to=8,
)
HEADS = [head for head in SCORE_HEADS if head != "none"]
ADDITIVE_HEADS = ["global_adaln", "input_add", "latent_adaln"]
PREPENDING_HEADS = ["audio_prepend", "text_prepend"]


def shapes_of(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def meta_model(config, head="none"):
    with torch.device("meta"):
        return FluxAudio(config, head)


def small_model(head="none"):
    """A small network of seeded weights, in which no layer is zero."""
    model = FluxAudio(SMALL, head)
    model.load_state_dict(seeded_state(shapes_of(model)))
    return model.eval().requires_grad_(False)


def small_inputs(batch=3, frames=12):
    return {
        "latents": seeded_input("latents", (batch, frames, 4)),
        "t": torch.linspace(0.1, 0.9, batch),
        "text": seeded_input("text", (batch, 5, 6)),
        "pooled": seeded_input("pooled", (batch, 3)),
    }


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("fluxaudio_s_44k_state_dict.json", {}),
        ("fluxaudio_s_16k_state_dict.json", {"latent_channels": 20, "latent_frames": 312}),
    ],
)
def test_names_and_shapes_are_those_of_the_released_weights(file, changes):
    released = json.loads((MANIFESTS / file).read_text())
    ours = shapes_of(meta_model(PAPER.model_copy(update=changes)))
    assert ours == {name: tuple(shape) for name, shape in released.items()}


def test_the_paper_network_has_the_published_number_of_parameters():
    assert len(shapes_of(meta_model(PAPER))) == 198
    parameters = list(meta_model(PAPER).parameters())
    assert sum(p.numel() for p in parameters) == 120_311_288
    frozen = {name for name, p in meta_model(PAPER).named_parameters() if not p.requires_grad}
    assert frozen == {"latent_mean", "latent_std", "empty_string_feat", "empty_string_feat_c"}


@pytest.mark.parametrize("head", HEADS)
def test_every_head_adds_the_same_five_tensors(head):
    extra = shapes_of(meta_model(PAPER, head)).keys() - shapes_of(meta_model(PAPER)).keys()
    assert len(extra) == 5 and len(shapes_of(meta_model(PAPER, head))) == 203
    assert all(name.startswith("score_embed.") for name in extra)
    assert shapes_of(meta_model(PAPER, head)) == shapes_of(meta_model(PAPER, "global_adaln"))


def test_the_paper_network_agrees_with_the_reference(record_property):
    expected = reference_output("fluxaudio_44k.velocity")
    model = FluxAudio(PAPER)
    load_backbone_state(model, seeded_state(shapes_of(model)))
    pooled = seeded_input("pooled", (2, 512))
    with torch.inference_mode():
        velocity = model(
            seeded_input("latents", (2, 430, 40)),
            torch.tensor([0.13, 0.87]),
            seeded_input("text", (2, 77, 1024), scale=0.2),
            pooled / pooled.norm(dim=-1, keepdim=True),
        )
    error = relative_error(velocity, expected)
    record_property("relative_error", error)
    assert error <= 1e-4


def test_a_fresh_network_predicts_exactly_zero():
    assert not FluxAudio(SMALL)(**small_inputs()).any()


@pytest.mark.parametrize("head", HEADS)
def test_the_score_embedding_is_reproducible_and_starts_at_zero(head):
    embeddings = [FluxAudio(SMALL, head).score_embed for _ in range(2)]
    assert torch.equal(embeddings[0].frequencies, embeddings[1].frequencies)
    assert not embeddings[0](torch.tensor([-1.0, 0.0, 5.0])).any()


@pytest.mark.parametrize("head", ADDITIVE_HEADS)
def test_an_untrained_additive_head_leaves_the_network_unchanged(head):
    plain, scored = small_model(), FluxAudio(SMALL, head).requires_grad_(False)
    scored.load_state_dict(plain.state_dict(), strict=False)
    inputs = small_inputs()
    assert torch.equal(scored(**inputs, score=torch.tensor([-1.0, 0.5, 5.0])), plain(**inputs))


@pytest.mark.parametrize("head", PREPENDING_HEADS)
def test_a_prepended_token_keeps_the_length_and_takes_part_in_the_attention(head):
    plain, scored = small_model(), FluxAudio(SMALL, head).requires_grad_(False)
    scored.load_state_dict(plain.state_dict(), strict=False)
    inputs = small_inputs()
    velocity = scored(**inputs)
    assert velocity.shape == inputs["latents"].shape
    assert not torch.allclose(velocity, plain(**inputs))


@pytest.mark.parametrize("head", HEADS)
def test_a_missing_score_is_the_null_score_and_other_scores_differ(head):
    model, inputs = small_model(head), small_inputs()
    null = model(**inputs)
    assert torch.equal(null, model(**inputs, score=torch.zeros(3)))
    high = model(**inputs, score=torch.full((3,), 5.0))
    assert (high - null).norm() > 1e-4 * null.norm()


@pytest.mark.parametrize("head", HEADS)
def test_every_trainable_parameter_gets_a_gradient(head):
    model = FluxAudio(SMALL, head)
    model.load_state_dict(seeded_state(shapes_of(model)))
    model(**small_inputs(), score=torch.ones(3)).square().mean().backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    # The last joint block reads only keys and values of the text, so its query norm is idle.
    assert trained - reached == {"joint_blocks.1.text_block.attn.q_norm.weight"}


@pytest.mark.parametrize("head", ["none", *HEADS])
def test_the_doubled_batch_of_guidance_equals_two_passes(head):
    model, inputs = small_model(head), small_inputs(batch=2)
    latents, t = inputs["latents"], inputs["t"]
    prompts = model.project(inputs["text"], inputs["pooled"])
    empty = model.project_empty(2)
    score = None if head == "none" else torch.tensor([1.0, 5.0])
    both_scores = None if score is None else torch.cat((score, torch.zeros(2)))
    both = model.velocity(
        latents.repeat(2, 1, 1), t.repeat(2), Projected.concatenate(prompts, empty), both_scores
    )
    apart = (model.velocity(latents, t, prompts, score), model.velocity(latents, t, empty))
    torch.testing.assert_close(
        guided_velocity(*both.chunk(2), 4.0), guided_velocity(*apart, 4.0), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("head", ["none", *HEADS])
def test_channels_last_and_one_pass_of_modulation_equal_the_direct_way(head):
    direct, fast = (
        small_model(head),
        FluxAudio(SMALL.model_copy(update={"channels_last": True}), head),
    )
    fast.load_state_dict(direct.state_dict())
    fast.requires_grad_(False)
    inputs = small_inputs()
    latents, projected = inputs["latents"], direct.project(inputs["text"], inputs["pooled"])
    score = None if head == "none" else torch.tensor([-1.0, 0.5, 5.0])
    times = [1.0, 0.4, 0.0]
    for t, step in zip(times, fast.steps(times, projected, score), strict=True):
        expected = direct.velocity(latents, torch.full((3,), t), projected, score)
        found = fast.velocity_at(step, latents, projected)
        assert relative_error(found, expected) < 1e-5


def test_a_halved_network_is_off_by_less_than_one_percent_and_half_as_large():
    whole = small_model("input_add")
    halved = small_model("input_add").halve_()
    inputs = {**small_inputs(), "score": torch.tensor([-1.0, 0.5, 5.0])}
    found = halved(**inputs)
    assert found.dtype == torch.float32
    assert 0 < relative_error(found, whole(**inputs)) < 0.01
    kinds = {name: tensor.dtype for name, tensor in halved.state_dict().items()}
    for name, kind in kinds.items():
        inner = name.startswith(("joint_blocks", "fused_blocks", "audio_input_proj"))
        rounded = inner and "norm" not in name and "adaLN" not in name
        assert kind == (torch.bfloat16 if rounded else torch.float32), name


def test_a_step_of_another_batch_is_refused():
    model, inputs = small_model(), small_inputs()
    projected = model.project(inputs["text"], inputs["pooled"])
    (step,) = model.steps([0.5], projected)
    with pytest.raises(ValueError, match="step.final must have shape"):
        model.velocity_at(step, inputs["latents"][:2], projected)


def test_a_clip_of_a_batch_equals_the_clip_alone_at_any_length():
    model = small_model("input_add")
    for frames in (7, 12, 31):
        inputs = small_inputs(frames=frames)
        batch = model(**inputs, score=torch.tensor([1.0, 2.0, 3.0]))
        one = {name: value[1:2] for name, value in inputs.items()}
        alone = model(**one, score=torch.tensor([2.0]))
        torch.testing.assert_close(batch[1:2], alone, rtol=1e-4, atol=1e-5)


def test_a_network_used_for_inference_can_be_trained_afterwards():
    model = FluxAudio(SMALL)
    inputs = small_inputs(frames=29)  # a length whose tables no other test has made
    with torch.inference_mode():
        model(**inputs)
    model(**inputs).sum().backward()


def test_normalisation_is_undone_and_leaves_its_input_alone():
    model, latents = FluxAudio(SMALL), seeded_input("latents", (2, 9, 4))
    model.set_statistics(torch.arange(4.0), torch.arange(1.0, 5.0))
    before = latents.clone()
    torch.testing.assert_close(model.unnormalise(model.normalise(latents)), latents)
    torch.testing.assert_close(model.normalise(latents)[..., 3], (latents[..., 3] - 3) / 4)
    assert torch.equal(latents, before)


def test_statistics_that_would_break_the_network_are_refused():
    model = FluxAudio(SMALL)
    with pytest.raises(ValueError, match="std must be positive"):
        model.set_statistics(torch.zeros(4), torch.zeros(4))
    with pytest.raises(ValueError, match="mean must be 4 finite values"):
        model.set_statistics(torch.full((4,), torch.nan), torch.ones(4))


def test_the_empty_prompt_is_projected_like_any_other():
    model = small_model()
    text, pooled = seeded_input("text", (5, 6)), seeded_input("pooled", (3,))
    model.set_empty_text(text, pooled)
    given, stored = model.project(text[None], pooled[None]), model.project_empty(2)
    assert stored.batch == 2
    torch.testing.assert_close(stored.text_tokens[1:], given.text_tokens)
    torch.testing.assert_close(stored.pooled[1:], given.pooled)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latents": torch.zeros(3, 12, 5)}, r"latents must have shape \(3, 12, 4\)"),
        ({"t": torch.zeros(2)}, r"t must have shape \(3,\), got \(2,\)"),
        ({"text": torch.zeros(3, 4, 6)}, r"text must have shape \(3, 5, 6\)"),
        ({"pooled": torch.zeros(3, 2)}, r"pooled must have shape \(3, 3\)"),
        ({"score": torch.zeros(3)}, "whose head is 'none'"),
    ],
)
def test_wrong_inputs_are_refused_with_expected_and_actual(change, message):
    with pytest.raises(ValueError, match=message):
        small_model()(**{**small_inputs(), **change})


def test_an_unknown_head_is_refused():
    with pytest.raises(ValueError, match="'bigger'; accepted: none, global_adaln"):
        FluxAudio(SMALL, "bigger")


def test_an_averaged_snapshot_with_old_tables_is_loaded():
    model = FluxAudio(SMALL)
    expected = seeded_state(shapes_of(model))
    snapshot = {f"ema_model.{name}": tensor for name, tensor in expected.items()}
    snapshot["ema_model.empty_string_feat"] = expected["empty_string_feat"][None]
    snapshot["ema_model.empty_string_feat_c"] = expected["empty_string_feat_c"][None]
    snapshot |= {"ema_model.t_embed.freqs": torch.ones(128), "ema_model.latent_rot": torch.ones(3)}
    snapshot |= {"ema_model._extra_state": torch.ones(1), "step": torch.tensor(7)}
    report = load_backbone_state(model, snapshot)
    assert report.averaged and report.loaded == len(expected) and len(report.ignored) == 4
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name])


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("t_embed.mlp.0.bias", None, "t_embed.mlp.0.bias is missing"),
        ("stranger", torch.ones(2), "stranger is unknown"),
        ("t_embed.mlp.0.bias", torch.ones(9), r"t_embed.mlp.0.bias is \(9,\) instead of \(16,\)"),
        ("latent_std", torch.full((1, 1, 4), torch.inf), "latent_std is not finite"),
    ],
)
def test_damaged_weights_are_named_and_change_nothing(name, tensor, message):
    model = FluxAudio(SMALL)
    state = seeded_state(shapes_of(model))
    if tensor is None:
        del state[name]
    else:
        state[name] = tensor
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(DamagedWeights, match=message):
        load_backbone_state(model, state)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
