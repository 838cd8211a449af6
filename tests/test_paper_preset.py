"""The paper preset: what is not public names what makes it; the 16 kHz one has its own parts."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from training.chain import EXTRA_STEPS, STEPS
from ttmpref.autoencoder import MelAutoencoder
from ttmpref.config import ConfigError, StageConfig, load_preset
from ttmpref.models.fluxaudio import FluxAudio
from ttmpref.studio import Studio

PAPER = load_preset("paper")
MANIFESTS = Path(__file__).parents[1] / "assets" / "manifests"


def test_a_stage_without_public_weights_names_the_training_that_makes_them():
    listed = {stage.name: stage.missing for stage in Studio.open("paper", "cpu").stages()}
    assert list(listed) == ["baseline", "meanaudio_16k", "sft", "expert", "crossload", "crpo"]
    for name in ("baseline", "sft", "expert", "crossload"):
        (step,) = re.findall(r"python -m training (\w+) --recipe paper", listed[name])
        assert step in (*STEPS, *EXTRA_STEPS)
        assert PAPER.stage(name).weights is None


def test_the_16_khz_baseline_has_the_released_names_and_shapes():
    stage = PAPER.stage("meanaudio_16k")
    with torch.device("meta"):
        autoencoder = MelAutoencoder(stage.autoencoder)
        backbone = FluxAudio(stage.backbone, stage.head)
    for network, file in ((autoencoder.vae, "vae_16k"), (backbone, "fluxaudio_s_16k")):
        released = json.loads((MANIFESTS / f"{file}_state_dict.json").read_text())
        ours = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
        assert ours == released
    assert autoencoder.vocoder.hop_length == stage.autoencoder.mel.hop_length == 256
    assert stage.backbone.latent_frames * autoencoder.samples_per_latent == 159_744


@pytest.fixture
def two_rates(tiny_preset, tmp_path):
    """The tiny preset with a stage on latents of its own, at half the rate."""
    preset = load_preset(str(tiny_preset))
    base = preset.autoencoder
    vae = base.vae.model_copy(update={"latent_channels": 6})
    mel = base.mel.model_copy(update={"sample_rate": 4000, "f_max": 2000.0})
    vocoder = base.vocoder.model_copy(update={"weights": str(tmp_path / "vocoder.safetensors")})
    weights = str(tmp_path / "vae.safetensors")
    update = {"mel": mel, "vae": vae, "vocoder": vocoder, "vae_weights": weights}
    autoencoder = base.model_copy(update=update)
    backbone = preset.backbone.model_copy(update={"latent_channels": 6, "latent_frames": 15})
    stage = StageConfig(
        name="low", title="Low", weights=str(tmp_path / "low.safetensors"), backbone=backbone,
        autoencoder=autoencoder,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = MelAutoencoder(autoencoder)
        save_file(parts.vae.state_dict(), weights)
        save_file(parts.vocoder.state_dict(), vocoder.weights)
        save_file(FluxAudio(backbone).state_dict(), stage.weights)
    return preset.model_copy(update={"stages": (*preset.stages, stage)})


def test_a_stage_on_latents_of_its_own_makes_clips_at_its_own_rate(two_rates):
    studio = Studio(two_rates, "cpu")
    made = {
        name: studio.generate(studio.request("calm piano", seed=1, stage=name))[0].clip
        for name in ("baseline", "low")
    }
    assert made["baseline"].sample_rate == 8000 and made["low"].sample_rate == 4000
    assert made["baseline"].seconds == made["low"].seconds == 1.0


def test_a_stage_replaces_backbone_and_autoencoder_or_neither(tmp_path, tiny_preset):
    text = tiny_preset.read_text()
    path = tmp_path / "half.yaml"
    backbone = text[text.index("backbone: {") : text.index("stages:")].replace("\n", " ")
    path.write_text(text.replace("head: global_adaln,", "head: global_adaln, " + backbone + ","))
    with pytest.raises(ConfigError, match="replaces backbone and autoencoder, or neither"):
        load_preset(str(path))
