"""What the reward's encoders hear: alike from files, arrays and gradients, as the policy says."""

import json

import numpy as np
import pytest
import torch

from tests.scoring import RATE, noise, save_music_encoder
from ttmpref import assets
from ttmpref.config import load_preset
from ttmpref.encoders.clap import ClapEncoder, ClapFrontEnd
from ttmpref.encoders.mert import MertEncoder
from ttmpref.protocols import MusicEncoder
from ttmpref.reward.features import PromptFeatures, RewardFeatures, resampled
from ttmpref.reward.ranker import CLAP_AUDIO, CLAP_TEXT, MERT
from ttmpref.types import Clip, ConfigError, DamagedWeights, InvalidRequest, Listening
from ttmpref.types import MissingWeights as Missing

BLOCKS = (CLAP_AUDIO, MERT, CLAP_TEXT)


@pytest.fixture(scope="module")
def preset(scoring_preset):
    return load_preset(str(scoring_preset))


@pytest.fixture(scope="module")
def clap(preset):
    return ClapEncoder(preset.metric_clap, assets.locate(preset.metric_clap.folder))


@pytest.fixture(scope="module")
def mert(preset):
    return MertEncoder(preset.music_encoder, assets.locate(preset.music_encoder.folder))


@pytest.fixture
def features(clap, mert):
    return lambda **policy: RewardFeatures(BLOCKS, clap, mert, Listening(**policy))


def close(a, b, tolerance=1e-5):
    return torch.allclose(a, b, atol=tolerance, rtol=0)


def test_the_music_encoder_keeps_its_seam(mert):
    assert isinstance(mert, MusicEncoder)


def test_the_clap_front_end_is_the_extractor_of_transformers():
    from transformers import ClapFeatureExtractor

    extractor = ClapFeatureExtractor(
        max_length_s=1, frequency_min=50, truncation="rand_trunc", padding="repeatpad"
    )
    front_end = ClapFrontEnd(extractor)
    for samples in (48_000, 47_999, 20_000, 1):
        wave = noise(1.0, 48_000).waveform[0, :samples]
        expected = extractor([wave], sampling_rate=48_000, return_tensors="pt").input_features
        assert close(front_end([torch.from_numpy(wave)]), expected, 1e-3)
    for samples in (0, 48_001):
        with pytest.raises(ValueError, match=f"{samples} samples; 1 to 48000"):
            front_end([torch.zeros(samples)])


@pytest.mark.parametrize("normalise", [True, False])
def test_the_music_encoder_is_the_last_layer_of_hubert(tmp_path, preset, normalise):
    from transformers import HubertModel, Wav2Vec2FeatureExtractor

    save_music_encoder(tmp_path)
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=normalise)
    extractor.save_pretrained(tmp_path)
    clip = noise(1.5)
    values = extractor(clip.mono, sampling_rate=RATE, return_tensors="pt").input_values
    with torch.no_grad():
        hidden = HubertModel.from_pretrained(tmp_path).eval()(values).last_hidden_state
    ours = MertEncoder(preset.music_encoder, tmp_path).encode_audio([clip])
    assert close(ours, hidden.mean(1))


def test_the_weight_names_of_older_files_load_too(tmp_path, preset):
    from safetensors.torch import load_file, save_file

    save_music_encoder(tmp_path)
    before = MertEncoder(preset.music_encoder, tmp_path).encode_audio([noise()])
    path, old = tmp_path / "model.safetensors", "parametrizations.weight.original"
    state = load_file(path)
    assert any(old in name for name in state)
    state = {
        name.replace(f"{old}0", "weight_g").replace(f"{old}1", "weight_v"): tensor
        for name, tensor in state.items()
    }
    save_file(state, path, metadata={"format": "pt"})
    after = MertEncoder(preset.music_encoder, tmp_path).encode_audio([noise()])
    assert torch.equal(after, before)


def test_long_music_is_the_mean_of_its_segments_weighted_by_frames(mert):
    whole = torch.from_numpy(noise(7.0).mono)  # segments of 3, 3 and 1 s
    parts = [whole[:24_000], whole[24_000:48_000], whole[48_000:]]
    rows = mert.embed_audio(parts)
    frames = torch.tensor([(len(p) - 20) // 10 - 3 for p in parts]) // 4 + 1
    expected = (rows * frames[:, None]).sum(0) / frames.sum()
    assert close(mert.embed_audio([whole])[0], expected)


def test_a_tail_under_a_second_joins_the_segment_before_it(mert):
    lengths = {6.0: [3, 3], 6.5: [3, 3.5], 7.0: [3, 3, 1], 3.5: [3.5], 1.0: [1], 2e-4: [0.00625]}
    for seconds, expected in lengths.items():
        parts = mert._cut(torch.from_numpy(noise(seconds).mono))
        assert [len(part) / RATE for part in parts] == expected


def test_a_batch_of_any_lengths_is_heard_as_its_clips_alone(features):
    clips = [noise(s, r, c, i) for i, (s, r, c) in enumerate(
        [(1.0, 8_000, 1), (2.3, 44_100, 2), (1.0, 8_000, 1), (0.2, 22_050, 1), (7.0, 16_000, 6)]
    )]  # fmt: skip
    prompts = ["calm piano", "", "calm piano", "loud drums", "  "]
    together = features().of_clips(clips, prompts)
    for i in range(len(clips)):
        alone = features().of_clips(clips[i : i + 1], prompts[i : i + 1])
        for name in BLOCKS:
            assert close(together[name][i], alone[name][0])


def test_an_empty_prompt_is_the_zero_vector_and_not_the_encoding_of_nothing(features, clap):
    text = features().of_prompts(["", "calm piano", "   "])[CLAP_TEXT]
    assert not text[0].any() and not text[2].any()
    assert close(text[1], clap.encode_text(["calm piano"])[0])
    assert clap.encode_text([""]).any()
    assert features().of_prompts([])[CLAP_TEXT].shape == (0, 8)


def test_a_prompt_is_encoded_once_however_often_it_occurs(clap, monkeypatch):
    asked = []
    encode = clap.encode_text
    monkeypatch.setattr(clap, "encode_text", lambda texts: asked.append(texts) or encode(texts))
    monkeypatch.setattr("ttmpref.reward.features.CACHED_PROMPTS", 2)
    prompts = PromptFeatures(clap)
    first = prompts(["a", "b", "a", ""])
    assert torch.equal(prompts(["b"])[0], first[1]) and asked == [["a", "b"]]
    prompts(["c"])
    assert len(prompts(["a", "b"])) == 2 and asked == [["a", "b"], ["c"], ["a"]]


@pytest.mark.parametrize(
    ("policy", "heard"),
    [("centre", slice(8_000, 16_000)), ("first", slice(0, 8_000))],
)
def test_the_window_policy_says_which_stretch_clap_hears(features, policy, heard):
    clip = noise(3.0)
    stretch = Clip(clip.waveform[:, heard], RATE)
    whole = features(window=policy).of_clips([clip], [""])
    assert close(whole[CLAP_AUDIO], features().of_clips([stretch], [""])[CLAP_AUDIO], 2e-3)
    assert torch.equal(whole[MERT], features(window="mean").of_clips([clip], [""])[MERT])


def test_the_mean_policy_is_the_mean_direction_of_windows_that_cover_the_clip(features, clap):
    clip = noise(2.5)
    mean = features(window="mean").of_clips([clip], [""])[CLAP_AUDIO]
    assert close(mean, clap.encode_audio([clip]))


def test_a_random_window_follows_from_its_seed_alone(features):
    clips = [noise(3.0), noise(5.0)]
    blocks = [features(window="random", seed=s).of_clips(clips, ["", ""]) for s in (1, 1, 2)]
    assert torch.equal(blocks[0][CLAP_AUDIO], blocks[1][CLAP_AUDIO])
    assert not close(blocks[0][CLAP_AUDIO], blocks[2][CLAP_AUDIO])
    alone = features(window="random", seed=1).of_clips(clips[1:], [""])
    assert close(alone[CLAP_AUDIO][0], blocks[0][CLAP_AUDIO][1])


def test_the_narrow_band_holds_nothing_above_eight_kilohertz(features):
    time = np.arange(48_000) / 48_000
    low, high = (0.3 * np.sin(2 * np.pi * f * time)[None] for f in (440, 12_000))
    both, alone = (Clip(w.astype(np.float32), 48_000) for w in (low + high, low))
    for band, same in (("16k", True), ("full", False)):
        blocks = [features(band=band).of_clips([clip], [""])[CLAP_AUDIO] for clip in (both, alone)]
        assert close(*blocks, 1e-3) == same


def test_clips_of_one_window_are_heard_alike_under_every_window_policy(features):
    clip = noise(1.0, 48_000)
    expected = features().of_clips([clip], [""])
    for policy in ("first", "mean", "random"):
        assert close(features(window=policy).of_clips([clip], [""])[CLAP_AUDIO],
                     expected[CLAP_AUDIO], 1e-6)  # fmt: skip


def test_the_gradient_of_resampling_is_that_of_finite_differences():
    wave = torch.randn(40, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weights = torch.randn(60, generator=torch.Generator().manual_seed(1))
    (resampled(wave, 16_000, 24_000) * weights).sum().backward()
    for i in (0, 17, 39):
        bump = torch.zeros(40)
        bump[i] = 0.5
        up, down = (resampled(wave.detach() + s * bump, 16_000, 24_000) for s in (1, -1))
        assert wave.grad[i].item() == pytest.approx(((up - down) @ weights).item(), abs=1e-4)


def test_only_the_blocks_asked_for_are_made(clap, mert):
    only_sound = RewardFeatures((CLAP_AUDIO,), clap)
    assert set(only_sound.of_clips([noise()], ["calm piano"])) == {CLAP_AUDIO}
    with pytest.raises(ConfigError, match="no encoder makes block 'mert'"):
        RewardFeatures(BLOCKS, clap)


def test_unknown_policies_are_named():
    with pytest.raises(InvalidRequest, match="'middle'; accepted: centre, first, mean, random"):
        Listening(window="middle")
    with pytest.raises(InvalidRequest, match="'8k'; accepted: full, 16k"):
        Listening(band="8k")


@pytest.mark.parametrize("flag", ["feature_extractor_cqt", "deepnorm", "conv_pos_batch_norm"])
def test_an_encoder_that_hubert_does_not_compute_is_refused(tmp_path, preset, flag):
    save_music_encoder(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {flag: True}))
    with pytest.raises(DamagedWeights, match=f"{flag} is True; only false"):
        MertEncoder(preset.music_encoder, tmp_path)


def test_a_music_folder_that_lacks_a_file_or_does_not_fit_is_named(tmp_path, preset):
    with pytest.raises(Missing, match=r"preprocessor_config.json is missing"):
        MertEncoder(preset.music_encoder, tmp_path)
    save_music_encoder(tmp_path)
    wider = preset.music_encoder.model_copy(update={"dim": 17})
    with pytest.raises(DamagedWeights, match="width is 16, expected 17"):
        MertEncoder(wider, tmp_path)
    faster = preset.music_encoder.model_copy(update={"sample_rate": 24_000})
    with pytest.raises(DamagedWeights, match="sampling rate is 8000, expected 24000"):
        MertEncoder(faster, tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(DamagedWeights, match="config.json: not settings of an encoder"):
        MertEncoder(preset.music_encoder, tmp_path)


def test_tensors_that_hubert_has_no_use_for_are_refused(tmp_path, preset):
    from safetensors.torch import load_file, save_file

    save_music_encoder(tmp_path)
    path = tmp_path / "model.safetensors"
    extra = load_file(path) | {"cqt.weight": torch.zeros(2)}
    save_file(extra, path, metadata={"format": "pt"})
    with pytest.raises(DamagedWeights, match="unexpected keys: cqt.weight"):
        MertEncoder(preset.music_encoder, tmp_path)
