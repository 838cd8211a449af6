"""BigVGAN: the contract with the released file, the reference output, and the activation."""

import json
import math
from pathlib import Path

import pytest
import torch

from tests.seeded import reference_output, relative_error, seeded_input, seeded_state
from ttmpref.config import BigVGANConfig
from ttmpref.models import bigvgan
from ttmpref.models.bigvgan import BigVGAN, fold_weight_norm, load_bigvgan_state, low_pass_filter
from ttmpref.models.over_time import ConvOverTime, UpsampleOverTime
from ttmpref.types import DamagedWeights

MANIFEST = Path(__file__).resolve().parents[1] / "assets/manifests/bigvgan_v2_44k_state_dict.json"
RELEASED = json.loads(MANIFEST.read_text())
PAPER = BigVGANConfig(weights="unused")
SMALL = BigVGANConfig(
    num_mels=4,
    upsample_rates=(4, 2),
    upsample_kernel_sizes=(8, 4),
    initial_channels=8,
    resblock_kernel_sizes=(3, 5),
    resblock_dilations=(1, 3),
    weights="unused",
)


def shapes_of(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def small_model():
    model = BigVGAN(SMALL).requires_grad_(False)
    model.load_state_dict(seeded_state(shapes_of(model)))
    return model


def split_weights(state, length_name, direction_name):
    """The state with every weight stored as a length and a direction three times too long."""
    split = {}
    for name, tensor in state.items():
        if not name.endswith("weight"):
            split[name] = tensor
            continue
        base = name.removesuffix("weight")
        split[base + direction_name] = 3 * tensor
        split[base + length_name] = tensor.flatten(1).norm(dim=1).view(-1, 1, 1)
    return split


def test_names_and_shapes_are_those_of_the_released_weights():
    with torch.device("meta"):
        ours = shapes_of(BigVGAN(PAPER))
    fused = {name: tuple(shape) for name, shape in RELEASED["fused_form"].items()}
    filters = [name for name in fused if name.endswith(".filter")]
    assert len(fused) == 667 and len(filters) == 2 * 109
    assert ours == {name: shape for name, shape in fused.items() if name not in filters}


def test_folding_turns_the_released_names_into_those_of_the_network():
    released = {
        name: torch.ones(shape, device="meta")
        for name, shape in RELEASED["released_weight_norm_form"].items()
    }
    folded = fold_weight_norm(released)
    assert len(released) == 783
    assert {name: list(t.shape) for name, t in folded.items()} == RELEASED["fused_form"]


def test_the_paper_network_agrees_with_the_reference(record_property):
    expected = reference_output("bigvgan_v2_44k.waveform")
    shapes = RELEASED["released_weight_norm_form"]
    state = seeded_state({n: s for n, s in shapes.items() if not n.endswith(".filter")})
    model = BigVGAN(PAPER).requires_grad_(False)
    load_bigvgan_state(model, state)
    waveform = model(seeded_input("bigvgan.mel", (1, 128, 24)))
    error = relative_error(waveform[:, None], expected)
    record_property("relative_error", error)
    assert error <= 1e-4


def test_the_filter_is_the_published_one():
    half = [0.00202896, 0.00938947, -0.02554346, -0.05765738, 0.12857258, 0.44320980]
    expected = torch.tensor(half + half[::-1])
    torch.testing.assert_close(low_pass_filter(), expected, rtol=0, atol=1e-7)


def plain_activation(x, frequency, inverse_magnitude):
    """The definition in full, on (B, K, L): double the rate, sine, halve it, indices clamped."""
    taps, length = low_pass_filter().double(), x.shape[-1]
    doubled = torch.zeros(*x.shape[:2], 2 * length, dtype=x.dtype)
    for m in range(length):
        for k in range(12):
            phase, source = (0, m + (5 - k) // 2) if k % 2 else (1, m + (6 - k) // 2)
            source = min(max(source, 0), length - 1)
            doubled[..., 2 * m + phase] += 2 * taps[k] * x[..., source]
    doubled = doubled + (frequency * doubled).sin() ** 2 * inverse_magnitude
    halved = torch.zeros_like(x)
    for m in range(length):
        for k in range(12):
            halved[..., m] += taps[k] * doubled[..., min(max(2 * m + k - 5, 0), 2 * length - 1)]
    return halved


@pytest.mark.parametrize("length", [1, 3, 17])
def test_the_activation_equals_its_definition(length):
    x = seeded_input("x", (2, 3, length)).double()
    frequency, inverse = torch.tensor([[0.5], [1.0], [4.0]]), torch.tensor([[1.0], [0.2], [2.0]])
    rows = (x.mT, frequency.double().mT[None], inverse.double().mT[None])
    ours = bigvgan.antialiased_snake(*rows).mT
    torch.testing.assert_close(ours, plain_activation(x, frequency, inverse), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 5, 7, 39, 40])
def test_making_some_rows_at_a_time_changes_nothing(monkeypatch, rows):
    activation = bigvgan.AntialiasedSnake(5).requires_grad_(False)
    x = seeded_input("x", (2, 40, 5))
    whole = activation(x)
    monkeypatch.setattr(bigvgan, "SLAB_VALUES", 2 * 5 * rows)
    torch.testing.assert_close(activation(x), whole)


def test_the_channel_last_layers_are_torchs_own():
    x = seeded_input("x", (2, 11, 6))
    for ours, theirs in (
        (ConvOverTime(6, 4, 3, dilation=5), torch.nn.Conv1d(6, 4, 3, padding=5, dilation=5)),
        (UpsampleOverTime(6, 4, 8, 4), torch.nn.ConvTranspose1d(6, 4, 8, stride=4, padding=2)),
    ):
        theirs.load_state_dict(ours.state_dict())
        torch.testing.assert_close(ours(x).mT, theirs(x.mT), rtol=1e-5, atol=1e-5)


def test_every_frame_becomes_one_hop_of_bounded_audio():
    model = small_model()
    assert model.hop_length == 8 and BigVGAN(SMALL).hop_length == math.prod(SMALL.upsample_rates)
    audio = model(seeded_input("mel", (2, 4, 9), scale=50.0))
    assert audio.shape == (2, 72) and audio.abs().max() <= 1


@pytest.mark.parametrize(
    "form",
    [
        ("weight_g", "weight_v"),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ],
)
def test_weight_normalised_files_load_as_their_folded_weights(form):
    source, target = small_model(), BigVGAN(SMALL).requires_grad_(False)
    state = split_weights(source.state_dict(), *form)
    state["activation_post.upsample.filter"] = low_pass_filter()[None, None]
    load_bigvgan_state(target, {"generator": state})
    mel = seeded_input("mel", (1, 4, 9))
    torch.testing.assert_close(target(mel), source(mel))


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("conv_pre.bias", None, "conv_pre.bias is missing"),
        ("stranger", torch.ones(2), "stranger is unknown"),
        ("conv_pre.bias", torch.ones(3), r"conv_pre.bias is \(3,\) instead of \(8,\)"),
        ("conv_pre.bias", torch.full((8,), torch.nan), "conv_pre.bias is not finite"),
        ("activation_post.upsample.filter", torch.ones(1, 1, 12), "not the filter"),
        ("conv_pre.weight_v", torch.ones(8, 4, 7), "conv_pre.weight_g is missing"),
    ],
)
def test_damaged_weights_are_named(name, tensor, message):
    state = small_model().state_dict()
    if tensor is None:
        del state[name]
    else:
        state[name] = tensor
    with pytest.raises(DamagedWeights, match=message):
        load_bigvgan_state(BigVGAN(SMALL), state)


def test_a_halved_network_is_off_by_less_than_one_percent():
    mel, whole = seeded_input("mel", (1, 4, 9)), small_model()
    found = small_model().halve_()(mel)
    assert found.dtype == torch.float32
    assert 0 < relative_error(found, whole(mel)) < 0.01


def test_mel_of_another_width_is_refused():
    with pytest.raises(ValueError, match=r"mel must have shape \(B, 4, frames\), got \(1, 5, 9\)"):
        small_model()(torch.zeros(1, 5, 9))
