"""The music encoder on log-mels: what it reads, its seam, its gradient, and folders that misfit."""

import pytest
import torch
from pydantic import ValidationError

from tests.scoring import RATE, noise
from training.music_encoder import build_encoder
from training.recipe import MusicEncoderRecipe
from ttmpref.config import MelConfig, MusicEncoderConfig
from ttmpref.encoders.mel_bert import MelBertEncoder, mel_tokens, token_width
from ttmpref.encoders.mert import MertEncoder
from ttmpref.encoders.music import music_encoder
from ttmpref.models.mel import LogMel
from ttmpref.protocols import MusicEncoder
from ttmpref.types import Clip, DamagedWeights, MissingWeights

MEL = MelConfig(sample_rate=RATE, n_fft=256, hop_length=64, num_mels=8, f_max=RATE / 2)
CONFIG = MusicEncoderConfig(
    kind="wav2vec2_bert", folder="unused", sample_rate=RATE, dim=16, mel=MEL, frames_per_token=4,
    segment_seconds=3.0,
)  # fmt: skip
RECIPE = MusicEncoderRecipe(
    steps=1, batch=1, learning_rate=1e-3, layers=1, heads=2, hidden=16, kernel=3
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mel_bert")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        build_encoder(RECIPE, CONFIG).half().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(folder):
    return MelBertEncoder(CONFIG, folder)


def test_it_keeps_the_seam_and_its_kind_is_a_matter_of_the_preset(folder, encoder):
    assert isinstance(encoder, MusicEncoder)
    assert isinstance(music_encoder(CONFIG, folder), MelBertEncoder)
    with pytest.raises(MissingWeights):
        music_encoder(MusicEncoderConfig(folder="unused", dim=16), folder / "nothing")
    assert not issubclass(MelBertEncoder, MertEncoder)


def test_a_token_is_its_frames_beside_the_mean_and_loses_nothing():
    log_mel = torch.randn(2, 3, 11) * 3 - 5
    tokens = mel_tokens(log_mel, 4)
    assert tokens.shape == (2, 2, 15)  # the last three frames fill no token
    changes, mean = tokens[..., :12].reshape(2, 8, 3), tokens[..., 12:]
    assert torch.allclose(mean[:, 0], mean[:, 1])
    again = (changes + mean[:, :1]) * 3 - 5
    assert torch.allclose(again.transpose(1, 2), log_mel[..., :8], atol=1e-5)
    assert torch.allclose(changes.mean(1), torch.zeros(2, 3), atol=1e-6)


def test_the_vector_is_the_mean_of_the_last_layer(encoder):
    clip = noise(1.5)
    tokens = mel_tokens(LogMel(MEL)(torch.from_numpy(clip.waveform)), 4)
    with torch.no_grad():
        hidden = encoder._model(input_features=tokens).last_hidden_state
    assert torch.allclose(encoder.encode_audio([clip]), hidden.mean(1), atol=1e-5)


def test_a_batch_is_its_clips_one_by_one_at_any_length(encoder):
    clips = [noise(seconds, seed=i) for i, seconds in enumerate((0.001, 1.0, 1.0, 4.0, 7.5))]
    together = encoder.encode_audio(clips)
    assert together.shape == (5, 16) and together.isfinite().all()
    alone = torch.cat([encoder.encode_audio([clip]) for clip in clips])
    assert torch.allclose(together, alone, atol=1e-5)


def test_other_rates_and_channels_are_heard_alike(encoder):
    wide = Clip(noise(1.0).waveform.repeat(2, axis=0), RATE)
    assert torch.allclose(encoder.encode_audio([wide]), encoder.encode_audio([noise(1.0)]))


def test_it_hears_levels_that_the_layer_norm_alone_would_take_away(encoder):
    steady = noise(2.0)
    jumping = steady.waveform.copy()
    jumping[:, : RATE // 2] *= 0.05
    heard = encoder.encode_audio([steady, Clip(jumping, RATE)])
    assert (heard[0] - heard[1]).norm() > 0.05 * heard[0].norm()


def test_the_gradient_reaches_the_waveform(encoder):
    waveform = torch.from_numpy(noise(1.0).mono).requires_grad_()
    encoder.embed_audio([waveform]).square().sum().backward()
    assert waveform.grad.isfinite().all() and waveform.grad.abs().max() > 0


def test_folders_that_do_not_fit_are_named(tmp_path, folder):
    with pytest.raises(MissingWeights, match=r"config.json is missing"):
        MelBertEncoder(CONFIG, tmp_path)
    wider = CONFIG.model_copy(update={"dim": 17})
    with pytest.raises(DamagedWeights, match="width is 16, expected 17"):
        MelBertEncoder(wider, folder)
    longer = CONFIG.model_copy(update={"frames_per_token": 5})
    with pytest.raises(DamagedWeights, match="token width is 40, expected 48"):
        MelBertEncoder(longer, folder)
    assert token_width(CONFIG) == 40


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "wav2vec2_bert"}, "mel must be given for 'wav2vec2_bert'"),
        ({"kind": "hubert", "mel": MEL}, "mel must be left out for 'hubert'"),
        (
            {"kind": "wav2vec2_bert", "mel": MEL, "sample_rate": 16_000},
            "mel.sample_rate is 8000, sample_rate 16000",
        ),
    ],
)
def test_a_front_end_that_does_not_go_with_the_kind_is_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        MusicEncoderConfig(folder="unused", dim=16, **given)
