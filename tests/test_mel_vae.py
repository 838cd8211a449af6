"""The mel front end and the mel VAE: released names and shapes, reference outputs, closed forms."""

import json
from pathlib import Path

import pytest
import torch

from tests.seeded import reference_output, relative_error, seeded_input, seeded_state
from ttmpref.config import MelConfig, MelVAEConfig
from ttmpref.models.mel import LogMel, mel_basis
from ttmpref.models.mel_vae import MelVAE

MANIFEST = Path(__file__).parents[1] / "assets" / "manifests" / "vae_44k_state_dict.json"
FULL = MelVAEConfig(data_channels=128, latent_channels=40, base_width=512)
SMALL = MelVAEConfig(
    data_channels=16, latent_channels=4, base_width=8, downsample_levels=(0, 1)
)


@pytest.fixture(scope="module")
def full_vae() -> MelVAE:
    vae = MelVAE(FULL)
    state = seeded_state({name: t.shape for name, t in vae.state_dict().items()})
    state["data_std"] = state["data_std"].abs() + 1
    vae.load_state_dict(state)
    return vae.fold_().requires_grad_(False)


@pytest.fixture
def small_vae() -> MelVAE:
    torch.manual_seed(0)
    return MelVAE(SMALL)


def test_log_mel_matches_the_reference() -> None:
    mel = LogMel(MelConfig())(seeded_input("waveform", (1, 44_100), 0.2))
    assert relative_error(mel, reference_output("mel_44k.log_mel")) < 1e-5


def test_ten_seconds_give_861_frames() -> None:
    assert LogMel(MelConfig())(torch.zeros(1, 441_000)).shape == (1, 128, 861)


def test_silence_sits_at_the_floor() -> None:
    config = MelConfig(floor=1e-2)
    assert torch.allclose(LogMel(config)(torch.zeros(1, 4096)), torch.tensor(1e-2).log())


def test_a_sine_lights_the_band_that_holds_its_frequency() -> None:
    config = MelConfig()
    tone = torch.sin(2 * torch.pi * 3000 * torch.arange(44_100) / 44_100)[None]
    band = LogMel(config)(tone)[0, :, 40].argmax().item()
    bins = torch.linspace(0, 22_050, 1025)
    inside = bins[torch.from_numpy(mel_basis(config)[band]) > 0]
    assert inside.min() <= 3000 <= inside.max()


def test_waveforms_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \(3,\)"):
        LogMel(MelConfig())(torch.zeros(3))


def test_names_and_shapes_are_the_released_ones() -> None:
    manifest = json.loads(MANIFEST.read_text())
    with torch.device("meta"):
        shapes = {name: list(t.shape) for name, t in MelVAE(FULL).state_dict().items()}
    assert len(shapes) == 57
    assert shapes == manifest


def test_decoder_matches_the_reference(full_vae: MelVAE) -> None:
    mel = full_vae.decode(seeded_input("vae.z", (1, 40, 64)))
    assert relative_error(mel, reference_output("vae_44k.mel")) < 1e-5


def test_posterior_matches_the_reference(full_vae: MelVAE) -> None:
    mean, std = full_vae.encode(seeded_input("vae.mel", (1, 128, 121), 2.0))
    assert relative_error(mean, reference_output("vae_44k.mean")) < 1e-5
    assert relative_error(std, reference_output("vae_44k.std")) < 1e-5


def test_folding_changes_no_output(small_vae: MelVAE) -> None:
    with torch.no_grad():
        small_vae.decoder.learnable_gain.fill_(0.5)
        small_vae.encoder.learnable_gain.fill_(-0.3)
        mel, latents = torch.randn(2, 16, 24), torch.randn(2, 4, 6)
        before = (*small_vae.encode(mel), small_vae.decode(latents))
        small_vae.fold_()
        after = (*small_vae.encode(mel), small_vae.decode(latents))
    for a, b in zip(before, after, strict=True):
        assert relative_error(b, a) < 1e-5


def test_folding_twice_is_refused(small_vae: MelVAE) -> None:
    with pytest.raises(ValueError, match="folded already"):
        small_vae.fold_().fold_()


def test_every_downsampling_is_undone_by_the_decoder(small_vae: MelVAE) -> None:
    mean, std = small_vae.encode(torch.randn(1, 16, 27))
    assert mean.shape == std.shape == (1, 4, 6)
    assert small_vae.decode(mean).shape == (1, 16, 24)


def test_mels_and_latents_of_the_wrong_width_are_refused(small_vae: MelVAE) -> None:
    with pytest.raises(ValueError, match="mel must be"):
        small_vae.encode(torch.zeros(1, 15, 24))
    with pytest.raises(ValueError, match="latents must be"):
        small_vae.decode(torch.zeros(1, 5, 6))
