"""The encoders' adapters give what plain calls of the library give."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.scoring import noise
from tests.seeded import relative_error
from ttmpref.config import Preset, load_preset
from ttmpref.encoders.clap import ClapEncoder
from ttmpref.encoders.t5 import T5TextEncoder

TEXTS = ["calm piano", "", "a very long text about drums and bass, " * 9]


@pytest.fixture(scope="module")
def preset(tiny_preset: Path) -> Preset:
    return load_preset(str(tiny_preset))


@torch.no_grad()
def test_t5_is_the_plain_call_with_every_position_kept(preset: Preset) -> None:
    from transformers import AutoTokenizer, T5EncoderModel

    config = preset.text_encoder
    tokenizer = AutoTokenizer.from_pretrained(config.folder)
    model = T5EncoderModel.from_pretrained(config.folder, dtype=torch.float32).eval()
    tokens = tokenizer(
        TEXTS, padding="max_length", truncation=True, max_length=12, return_tensors="pt"
    )
    plain = model(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
    found = T5TextEncoder(config, Path(config.folder)).encode(TEXTS)
    assert relative_error(found, plain) < 1e-6
    pads = tokens.attention_mask == 0
    assert pads.any() and found[pads].norm(dim=-1).min() > 0  # un-masked, as the backbone reads it


@torch.no_grad()
def test_clap_is_the_plain_call_on_text_and_sound(preset: Preset) -> None:
    from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

    config = preset.metric_clap
    encoder = ClapEncoder(config, Path(config.folder))
    model = ClapModel.from_pretrained(config.folder, dtype=torch.float32).eval()
    tokens = AutoTokenizer.from_pretrained(config.folder)(
        TEXTS, padding="max_length", truncation=True, max_length=12, return_tensors="pt"
    )
    text = model.get_text_features(tokens.input_ids, attention_mask=tokens.attention_mask)
    plain = F.normalize(text.pooler_output, dim=-1)
    assert relative_error(encoder.encode_text(TEXTS), plain) < 1e-6
    clip = noise(0.7, rate=config.sample_rate)
    extractor = ClapFeatureExtractor.from_pretrained(config.folder)
    mel = extractor(clip.mono, sampling_rate=config.sample_rate, return_tensors="pt")
    sound = model.get_audio_features(mel.input_features.float()).pooler_output
    assert relative_error(encoder.encode_audio([clip]), F.normalize(sound, dim=-1)) < 1e-4
