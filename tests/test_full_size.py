"""The benchmark of the full size: the plain way makes what the package makes, at a small size."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from demucs.hdemucs import HDemucs
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.full_size import Scale, rounded, scaled, speed, use_every_part
from benchmarks.full_size_gpu import System, measure
from benchmarks.plain_way import PlainFlow, PlainVAEDecoder, PlainVocoder, plain_solve
from tests.browser import ROOT
from tests.seeded import relative_error, seeded_input, seeded_state
from ttmpref.config import (
    BigVGANConfig,
    FluxAudioConfig,
    MelVAEConfig,
    Preset,
    SeparatorConfig,
    load_preset,
)
from ttmpref.flow import guided_velocity, solve
from ttmpref.models.bigvgan import BigVGAN
from ttmpref.models.fluxaudio import FluxAudio
from ttmpref.models.mel_vae import MelVAE
from ttmpref.separation import write_bag
from ttmpref.types import MissingWeights

FLOW = FluxAudioConfig(
    latent_channels=4, latent_frames=12, text_tokens=5, text_dim=6, pooled_dim=3, width=16,
    num_heads=2, num_joint_blocks=2, num_fused_blocks=1, mlp_ratio=2.0, mlp_round_to=8,
    channels_last=True,
)  # fmt: skip
VAE = MelVAEConfig(data_channels=16, latent_channels=4, base_width=8)
VOCODER = BigVGANConfig(
    num_mels=16, upsample_rates=(4, 2), upsample_kernel_sizes=(8, 4), initial_channels=8,
    resblock_kernel_sizes=(3, 5), resblock_dilations=(1, 3), weights="unused",
)  # fmt: skip


def seeded(model: torch.nn.Module) -> torch.nn.Module:
    model.load_state_dict(seeded_state({n: t.shape for n, t in model.state_dict().items()}))
    return model.eval().requires_grad_(False)


def test_both_ways_solve_the_same_equation() -> None:
    model = seeded(FluxAudio(FLOW, "input_add"))
    plain = PlainFlow(FLOW, model.state_dict())
    noise = seeded_input("noise", (1, 12, 4))
    texts = [(seeded_input(f"text{i}", (1, 5, 6)), seeded_input(f"c{i}", (1, 3))) for i in (0, 1)]

    def one_pass(z: Tensor, t: float, conditional: bool) -> Tensor:
        return plain(z, t, *texts[not conditional], 5.0 if conditional else 0.0)

    def two_in_one(z: Tensor, t: float) -> Tensor:
        prompts = [torch.cat(pair) for pair in zip(*texts, strict=True)]
        times, scores = torch.full((2,), t), torch.tensor([5.0, 0.0])
        both = model(torch.cat([z, z]), times, *prompts, scores)
        return guided_velocity(*both.chunk(2), 4.0)

    *_, found = solve(two_in_one, noise, 3)
    assert relative_error(found, plain_solve(one_pass, noise, 3, 4.0)) < 1e-5


def test_both_ways_decode_to_the_same_mel() -> None:
    vae = seeded(MelVAE(VAE))
    plain = PlainVAEDecoder(VAE, {name: t.clone() for name, t in vae.state_dict().items()})
    z = seeded_input("z", (1, 4, 10))
    assert relative_error(vae.fold_().decode(z), plain(z)) < 1e-5


def test_both_ways_make_the_same_sound_of_a_mel() -> None:
    vocoder = seeded(BigVGAN(VOCODER))
    mel = seeded_input("mel", (1, 16, 9))
    assert relative_error(vocoder(mel), PlainVocoder(VOCODER, vocoder.state_dict())(mel)) < 1e-5


def small_paper(tiny_preset: Path, folder: Path) -> Preset:
    """The tiny preset with the paper's classes: a scored stage, this file's VAE and BigVGAN."""
    preset = load_preset(str(tiny_preset))
    vocoder = VOCODER.model_copy(update={"weights": str(folder / "vocoder.safetensors")})
    weights = str(folder / "vae.safetensors")
    mel = preset.autoencoder.mel.model_copy(update={"hop_length": 8})
    update = {"mel": mel, "vae": VAE, "vocoder": vocoder, "vae_weights": weights}
    backbone = preset.backbone.model_copy(update={"channels_last": True, "precision": "bf16"})
    stage = preset.stage("scored").model_copy(
        update={"head": "input_add", "weights": str(folder / "scored.safetensors"), "parent": None}
    )
    for network, path in (
        (MelVAE(VAE), weights),
        (BigVGAN(VOCODER), vocoder.weights),
        (FluxAudio(backbone, "input_add"), stage.weights),
    ):
        save_file(seeded(network).state_dict(), path)
    sampling = preset.sampling.model_copy(
        update={"stage": "scored", "negative_prompt": "noise and hum"}
    )
    autoencoder = preset.autoencoder.model_copy(update=update)
    changes = {"autoencoder": autoencoder, "backbone": backbone, "sampling": sampling}
    return preset.model_copy(update={**changes, "stages": (stage,)})


@pytest.mark.parametrize("able", [True, False])
def test_the_benchmark_holds_what_the_processor_has_against_the_plain_way(
    tiny_preset, tmp_path, monkeypatch, able: bool
) -> None:
    monkeypatch.setattr("benchmarks.full_size.has_bf16", lambda _: able)
    preset = small_paper(tiny_preset, tmp_path)
    with torch.no_grad():
        figures = {figure.name: figure for figure in speed(preset, Scale(2, 3, 1.0, False))}
    exact = figures["relative difference of the waveforms, fp32"]
    assert exact.value < 1e-4 and exact.met
    assert figures["plain way / here, fp32"].at_least == (None if able else 2.5)
    assert ("plain way / here, bf16" in figures) == able
    if able:
        assert figures["relative difference of the waveforms, bf16"].value > exact.value
        assert figures["plain way / here, bf16"].at_least == 2.5


def test_memory_is_that_of_this_process_alone() -> None:
    """A child does not count what its parent held when it was started."""
    held = np.ones(300_000_000, np.uint8)
    code = "from benchmarks.full_size import peak_bytes; import benchmarks.common as c;"
    code += "print(peak_bytes() - 1024 * c.status_of('self', 'VmRSS'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    assert 0 <= int(done.stdout) < held.nbytes / 2


def test_what_memory_is_measured_of_uses_every_part(scoring_preset, tmp_path) -> None:
    preset = load_preset(str(scoring_preset))
    tiny = HDemucs(["other", "vocals"], channels=4, depth=4, nfft=256, samplerate=8000)
    write_bag(tmp_path, "bag", {"tiny": tiny.eval()})
    separator = SeparatorConfig(folder=str(tmp_path), bag="bag")
    preset = preset.model_copy(update={"separator": separator})
    kept, released = (use_every_part(preset, low_memory) for low_memory in (False, True))
    assert released.reward == pytest.approx(kept.reward, abs=1e-5)
    lost = separator.model_copy(update={"folder": str(tmp_path / "nowhere")})
    with pytest.raises(MissingWeights, match="nowhere"):
        use_every_part(preset.model_copy(update={"separator": lost}), True)


def test_the_command_for_gpus_counts_clips_of_any_batch() -> None:
    paper = load_preset("paper")
    autoencoder = paper.autoencoder.model_copy(update={"vae": VAE, "vocoder": VOCODER})
    update = {"backbone": FLOW, "autoencoder": autoencoder}
    with torch.no_grad():
        system = System.random(paper.model_copy(update=update), "cpu")
        made = system.clips(system.backbone.velocity_at, 3, 2)
    assert made.shape == (3, 12 * 2 * 8)
    lines = measure(system, [1, 2], 2, square=64)
    assert [line.split(":")[0] for line in lines] == ["batch 1", "batch 2"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_benchmark_changes_nothing_but_length_and_precision(precision: str) -> None:
    paper = load_preset("paper")
    changed = rounded(scaled(paper, 5.0), precision)
    assert changed.backbone.latent_frames == 215
    assert changed.backbone.precision == changed.autoencoder.vocoder.precision == precision
    assert rounded(scaled(paper, 10.0), paper.backbone.precision) == paper
