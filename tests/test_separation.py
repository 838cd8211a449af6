"""Separation equals Demucs' own, keeps what it should keep, and reads only safe files."""

import json

import numpy as np
import pytest
import torch
from demucs.apply import BagOfModels, apply_model
from demucs.hdemucs import HDemucs
from demucs.htdemucs import HTDemucs
from safetensors.torch import load_file, save_file

from benchmarks.separation import compare
from ttmpref.config import SeparatorConfig, load_preset
from ttmpref.protocols import Separator
from ttmpref.separation import Bag, DemucsSeparator, load_separator, read_bag, write_bag
from ttmpref.studio import Studio
from ttmpref.types import Clip, ConfigError, DamagedWeights, InvalidRequest, MissingWeights

RATE = 8_000
SOURCES = ["drums", "bass", "other", "vocals"]


def seeded(build, **values):
    """A network of random weights that are far from its quiet initialisation."""
    with torch.random.fork_rng():
        torch.manual_seed(values.pop("seed", 0))
        model = build(
            sources=values.pop("sources", SOURCES), channels=4, nfft=256, samplerate=RATE,
            **values,
        )  # fmt: skip
        for name, parameter in model.named_parameters():
            if name.endswith("scale"):  # of residual branches: nearly off when fresh
                parameter.data.fill_(0.5)
    return model.eval()


def hdemucs(**values):
    return seeded(HDemucs, depth=4, dconv_attn=99, dconv_lstm=99, segment=1.0, **values)


def htdemucs(**values):
    return seeded(HTDemucs, depth=2, dconv_comp=4, t_layers=1, t_heads=2, segment=1.0, **values)


def music(seconds=2.3, channels=2, rate=RATE):
    rng = np.random.default_rng(0)
    return Clip((0.2 * rng.normal(size=(channels, round(seconds * rate)))).astype(np.float32), rate)


def separator_of(*models, remove=("vocals",), passes=1, mode="sum"):
    config = SeparatorConfig(folder="-", bag="b", remove=remove, passes=passes, mode=mode)
    return DemucsSeparator(config, Bag.of(models))


def by_demucs(model, clip, passes=1):
    """(2, S): the first three sources, `passes` times, by Demucs' own walk over the clip."""
    mix = torch.from_numpy(clip.waveform)[None]
    for _ in range(passes):
        mix = apply_model(model, mix, shifts=0)[:, :3].sum(1)
    return mix[0].numpy()


def relative(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("build", [hdemucs, htdemucs])
@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.3])
def test_a_pass_equals_demucs_own(build, seconds):
    model, clip = build(), music(seconds)
    found = separator_of(model).instrumental(clip)
    assert relative(found.waveform, by_demucs(model, clip)) < 1e-5


def test_passes_follow_each_other():
    model, clip = htdemucs(), music(1.2)
    found = separator_of(model, passes=3).instrumental(clip)
    assert relative(found.waveform, by_demucs(model, clip, passes=3)) < 1e-5


def test_a_bag_is_weighted_as_demucs_weights_it():
    models, weights = [hdemucs(seed=1), hdemucs(seed=2)], [[1, 0, 2, 1], [3, 1, 2, 0]]
    config = SeparatorConfig(folder="-", bag="b", passes=1)
    ours = DemucsSeparator(config, Bag.of(models, weights, segment=0.8))
    theirs = BagOfModels(models, weights, segment=0.8)
    clip = music()
    assert relative(ours.instrumental(clip).waveform, by_demucs(theirs, clip)) < 1e-5


def test_sources_keep_their_names_and_add_up():
    separator = separator_of(hdemucs(), remove=("bass", "vocals"))
    assert isinstance(separator, Separator)
    clip = music(0.5)
    found = separator.separate(clip)
    assert list(found) == SOURCES
    kept = found["drums"].waveform + found["other"].waveform
    assert np.allclose(separator.instrumental(clip).waveform, kept, atol=1e-5)


def test_a_residual_is_what_is_not_recognised():
    separator, clip = separator_of(hdemucs(), mode="residual"), music(0.5)
    rest = clip.waveform - separator.separate(clip)["vocals"].waveform
    assert np.allclose(separator.instrumental(clip).waveform, rest, atol=1e-5)


def test_a_residual_stays_whole_above_the_networks_rate():
    separator, clip = separator_of(hdemucs(), mode="residual", passes=2), music(0.5, rate=44_100)
    removed = clip.waveform - separator.instrumental(clip).waveform
    power = np.square(np.abs(np.fft.rfft(removed))).sum(0)
    above = np.fft.rfftfreq(clip.samples, 1 / 44_100) > RATE / 2 * 1.1
    assert power[~above].mean() > 0.01 and power[above].mean() < 1e-4 * power[~above].mean()


def test_the_same_clip_always_gives_the_same_samples():
    separator, clip = separator_of(htdemucs()), music(1.2)
    first, second = (separator.instrumental(clip).waveform for _ in range(2))
    assert np.array_equal(first, second)


def test_reference_mode_is_three_sources_in_mono_at_a_peak_of_095_per_pass():
    model, clip = hdemucs(), music(0.6)
    mix = clip.waveform
    for _ in range(2):
        mono = by_demucs(model, Clip(mix, RATE)).mean(0)
        mix = np.stack([mono, mono]) * np.float32(0.95 / np.abs(mono).max())
    found = separator_of(model, passes=2, mode="reference").instrumental(clip)
    assert found.channels == 1
    assert relative(found.waveform[0], mix[0]) < 1e-5
    assert np.abs(found.waveform).max() == pytest.approx(0.95, abs=1e-4)


def test_there_is_no_hidden_gain():
    """Demucs' networks are linear in level, so half the clip gives half the result."""
    separator, clip = separator_of(hdemucs()), music(0.6)
    half = separator.instrumental(Clip(clip.waveform / 2, RATE)).waveform
    assert relative(2 * half, separator.instrumental(clip).waveform) < 1e-3


@pytest.mark.parametrize("rate", [RATE, 11_025, 16_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_rate_channels_and_length_stay(rate, channels):
    clip = music(0.51, channels, rate)
    found = separator_of(hdemucs(), passes=2).instrumental(clip)
    assert (found.sample_rate, found.channels, found.samples) == (rate, channels, clip.samples)


def test_mono_is_heard_twice_and_comes_back_as_the_mean():
    model, clip = hdemucs(), music(0.4, channels=1)
    twice = Clip(np.repeat(clip.waveform, 2, 0), RATE)
    found = separator_of(model).instrumental(clip).waveform[0]
    assert relative(found, by_demucs(model, twice).mean(0)) < 1e-5


def test_a_network_of_one_channel_hears_each_channel_alone():
    separator = separator_of(hdemucs(audio_channels=1))
    clip = music(0.4)
    left = separator.instrumental(Clip(clip.waveform[:1], RATE)).waveform
    assert np.allclose(separator.instrumental(clip).waveform[:1], left, atol=1e-5)


def test_silence_and_nothing_stay_what_they_are():
    separator = separator_of(hdemucs())
    silent = separator.instrumental(Clip(np.zeros((2, 4_000), np.float32), RATE))
    assert np.abs(silent.waveform).max() < 1e-4
    empty = Clip(np.zeros((2, 0), np.float32), RATE)
    assert separator.instrumental(empty) is empty


def test_an_unknown_source_is_refused_by_name():
    with pytest.raises(ConfigError, match="'voice' is unknown; accepted: drums, bass, other"):
        separator_of(hdemucs(), remove=("voice",))


def test_something_must_be_left():
    with pytest.raises(ConfigError, match="no source is left"):
        separator_of(hdemucs(sources=["vocals"]))


def test_five_channels_are_refused():
    with pytest.raises(InvalidRequest, match="1 or 2 channels, got 5"):
        separator_of(hdemucs()).instrumental(music(0.1, channels=5))


def test_models_that_differ_are_no_bag():
    with pytest.raises(ConfigError, match="must agree"):
        Bag.of([hdemucs(), hdemucs(sources=["vocals"])])
    with pytest.raises(ConfigError, match="1 x 4"):
        Bag.of([hdemucs()], weights=[[1.0, 1.0]])


def test_a_written_bag_reads_back(tmp_path):
    models = {"one": hdemucs(seed=1), "two": htdemucs(seed=2)}
    write_bag(tmp_path, "pair", models, segment=0.5)
    bag = read_bag(str(tmp_path), "pair")
    assert bag.sources == tuple(SOURCES) and bag.sample_rate == RATE
    assert [model.segment for model in bag.models] == [0.5, 0.5]
    for name, model in zip(models, bag.models, strict=True):
        for key, value in models[name].state_dict().items():
            assert torch.equal(model.state_dict()[key], value.half().float())


def test_demucs_itself_reads_a_written_model(tmp_path):
    from demucs.hf import load_safetensors_model

    write_bag(tmp_path, "solo", {"one": htdemucs()})
    theirs, clip = load_safetensors_model(tmp_path / "one.safetensors").eval(), music(0.4)
    ours = DemucsSeparator(
        SeparatorConfig(folder="-", bag="b", passes=1), read_bag(str(tmp_path), "solo")
    )
    assert relative(ours.instrumental(clip).waveform, by_demucs(theirs, clip)) < 1e-5


def altered(folder, **says):
    """The model of `folder` written again with other metadata."""
    path = folder / "one.safetensors"
    kept = {"klass": "demucs.hdemucs.HDemucs", "args": "[]", "kwargs": "{}", **says}
    save_file(load_file(path), path, metadata=kept)


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ({"klass": "os.system"}, "class 'os.system' is unknown; accepted: demucs.hdemucs"),
        ({"kwargs": "{"}, "not a HDemucs"),
        ({"kwargs": json.dumps({"sources": SOURCES, "channels": 4})}, "not a HDemucs"),
    ],
)
def test_only_known_classes_with_fitting_weights_are_built(tmp_path, says, words):
    write_bag(tmp_path, "solo", {"one": hdemucs()})
    altered(tmp_path, **says)
    with pytest.raises(DamagedWeights, match=words):
        read_bag(str(tmp_path), "solo")


def test_a_bag_that_is_not_there_or_not_one_is_said_in_one_line(tmp_path):
    with pytest.raises(MissingWeights, match="solo.yaml is missing"):
        read_bag(str(tmp_path), "solo")
    (tmp_path / "solo.yaml").write_text("models: ['../one']\n")
    with pytest.raises(ConfigError, match="models.0"):
        read_bag(str(tmp_path), "solo")
    (tmp_path / "solo.yaml").write_text("models: [one]\n")
    with pytest.raises(MissingWeights, match="one.safetensors is missing"):
        read_bag(str(tmp_path), "solo")


def test_a_generated_clip_went_through_the_presets_separator(tiny_preset, tmp_path):
    """What is removed is heard, and its weights are in the sidecar."""
    model = hdemucs(sources=["vocals"])
    write_bag(tmp_path, "solo", {"one": model})
    text = tiny_preset.read_text()
    path = tmp_path / "separated.yaml"
    path.write_text(f"{text}separator: {{folder: {tmp_path}, bag: solo, mode: residual}}\n")
    assert load_preset(str(path)).separator.passes == 3
    plain, separated = Studio.open(str(tiny_preset), "cpu"), Studio.open(str(path), "cpu")
    clips = [
        studio.generate(studio.request("calm piano", seed=1, num_steps=1))[0]
        for studio in (plain, separated)
    ]
    assert not np.allclose(clips[0].clip.waveform, clips[1].clip.waveform, atol=1e-2)
    assert f"{tmp_path}/one.safetensors" in clips[1].provenance["weights"]


def test_a_preset_may_leave_separation_to_requests(tiny_preset, tmp_path, monkeypatch):
    """Then nothing is loaded for it until a request asks."""
    write_bag(tmp_path, "solo", {"one": hdemucs(sources=["vocals"])})
    path = tmp_path / "separated.yaml"
    separator = f"separator: {{folder: {tmp_path}, bag: solo, mode: residual, passes: 0}}"
    path.write_text(f"{tiny_preset.read_text()}{separator}\n")
    studio, loaded = Studio.open(str(path), "cpu"), []

    def load(*given):
        loaded.append(given)
        return load_separator(*given)

    monkeypatch.setattr("ttmpref.separation.load_separator", load)
    never, once = (
        studio.generate(studio.request("calm piano", seed=1, num_steps=1, **passes))[0]
        for passes in ({}, {"separation_passes": 1})
    )
    assert never.request.separation_passes == 0 and len(loaded) == 1
    assert not np.allclose(never.clip.waveform, once.clip.waveform, atol=1e-3)


def test_a_request_says_how_often_voices_are_taken_out(tiny_preset, tmp_path):
    write_bag(tmp_path, "solo", {"one": hdemucs(sources=["vocals"])})
    path = tmp_path / "separated.yaml"
    separator = f"separator: {{folder: {tmp_path}, bag: solo, mode: residual}}"
    path.write_text(f"{tiny_preset.read_text()}{separator}\n")
    plain, studio = Studio.open(str(tiny_preset), "cpu"), Studio.open(str(path), "cpu")

    def made(studio, **changes):
        request = studio.request("calm piano", seed=1, num_steps=1, **changes)
        (generation,) = studio.generate(request)
        return generation.request.separation_passes, generation.clip.waveform

    (asked, three), (_, once), (_, never) = (
        made(studio), made(studio, separation_passes=1), made(studio, separation_passes=0)
    )  # fmt: skip
    assert asked == 3
    assert not np.allclose(three, once, atol=1e-3) and not np.allclose(once, never, atol=1e-3)
    assert np.array_equal(never, made(plain)[1])
    with pytest.raises(InvalidRequest, match="^separation_passes is 1; preset 'tiny' has no sepa"):
        made(plain, separation_passes=1)


def test_the_benchmark_compares_ways_that_do_the_same():
    models = [hdemucs(seed=1), hdemucs(seed=2)]
    figures = {figure.name: figure for figure in compare(models, 1.0, music(), rounds=1)}
    for precision, tolerance in (("fp32", 1e-5), ("bf16", 0.05)):
        seconds = figures[f"three passes here, {precision}"].value
        ratio = figures[f"bare calls / passes, {precision}"].value
        assert ratio == figures["three bare calls"].value / seconds
        assert figures[f"relative difference without shifts, {precision}"].value < tolerance
