"""The patch VAE: codes start at the best linear ones; shapes and mistakes are as in the seam."""

from __future__ import annotations

import pytest
import torch

from ttmpref.config import PatchVAEConfig
from ttmpref.models.patch_vae import PatchVAE

CONFIG = PatchVAEConfig(
    data_channels=6, latent_channels=5, frames_per_latent=4, width=16, hidden=32,
    encoder_blocks=1, decoder_blocks=2,
)  # fmt: skip
SIZE = CONFIG.data_channels * CONFIG.frames_per_latent


@pytest.fixture
def vae() -> PatchVAE:
    torch.manual_seed(0)
    return PatchVAE(CONFIG).eval()


def correlated_mels(count: int, seed: int) -> torch.Tensor:
    """(count, M, 40) with a few strong directions and noise."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(3, SIZE, generator=torch.Generator().manual_seed(99))
    patches = torch.randn(count, 10, 3, generator=generator) @ basis
    patches = patches + 0.3 * torch.randn(count, 10, SIZE, generator=generator) + 0.7
    return patches.unflatten(2, (CONFIG.data_channels, 4)).permute(0, 2, 1, 3).flatten(2)


def start(vae: PatchVAE, mels: torch.Tensor) -> None:
    patches = vae.patches(mels).transpose(1, 2).flatten(0, 1)
    vae.start_linear_(patches, torch.Generator().manual_seed(1))


def test_patches_keep_bands_and_frames_together(vae: PatchVAE) -> None:
    mel = torch.arange(6 * 10, dtype=torch.float32).reshape(1, 6, 10)
    patches = vae.patches(mel)  # two whole patches, two frames left over
    assert patches.shape == (1, SIZE, 2)
    assert torch.equal(patches[0, :, 1].reshape(6, 4), mel[0, :, 4:8])


def test_started_code_is_the_best_linear_one(vae: PatchVAE) -> None:
    """No linear code of five numbers does better than the principal axes."""
    mels = correlated_mels(64, 0)
    start(vae, mels)
    patches = vae.patches(mels).transpose(1, 2).flatten(0, 1)
    centred = patches - patches.mean(0)
    lost = torch.linalg.svdvals(centred)[CONFIG.latent_channels :].square().sum()
    with torch.no_grad():
        error = vae.decode(vae.encode(mels)[0]) - mels
    torch.testing.assert_close(error.square().sum(), lost, rtol=1e-3, atol=0.0)


def test_started_codes_have_unit_variance_on_average_and_no_mean(vae: PatchVAE) -> None:
    mels = correlated_mels(256, 0)
    start(vae, mels)
    with torch.no_grad():
        codes = vae.encode(mels)[0].transpose(1, 2).flatten(0, 1)
    assert codes.mean(0).abs().max() < 1e-3
    assert codes.var(0).mean().item() == pytest.approx(1.0, rel=1e-2)


def test_starting_is_a_function_of_its_generator(vae: PatchVAE) -> None:
    mels = correlated_mels(16, 0)
    start(vae, mels)
    first = vae.analysis.weight.clone()
    start(vae, mels)
    assert torch.equal(first, vae.analysis.weight)


def test_corrections_start_at_nothing(vae: PatchVAE) -> None:
    latents = torch.randn(2, 5, 7)
    assert torch.equal(vae.decoder(latents), torch.zeros(2, SIZE, 7))


def test_statistics_are_undone(vae: PatchVAE) -> None:
    mels = 3.0 * correlated_mels(64, 0) - 5.0
    vae.data_mean.fill_(-5.0)
    vae.data_std.fill_(3.0)
    start(vae, mels)
    with torch.no_grad():
        again = vae.decode(vae.encode(mels)[0])
    assert (again - mels).abs().mean() < 0.5 * mels.std()
    assert again.shape == mels.shape


def test_mels_and_latents_of_the_wrong_width_are_refused(vae: PatchVAE) -> None:
    with pytest.raises(ValueError, match="mel must be"):
        vae.encode(torch.zeros(1, 7, 8))
    with pytest.raises(ValueError, match="latents must be"):
        vae.decode(torch.zeros(1, 6, 8))
