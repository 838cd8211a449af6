"""Synthetic voices are what they say, and the separator's training hears them in its mixes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.separator import figures_of
from tests.parts import lacking
from training import engine
from training import voices as module
from training.data import CORPUS_RATE, INT16, Corpus
from training.recipe import SeparatorRecipe, VoicesRecipe
from training.separator import BAG, SeparatorJob, Sounds, draw_mixes, relative_l1
from training.voices import (
    BANDWIDTHS,
    LEVEL,
    RANGES,
    VOWELS,
    MissingSpeaker,
    _formants,
    _melody,
    _pulses,
    render,
    speech,
    voices,
)
from ttmpref.config import SeparatorConfig
from ttmpref.metrics import si_sdr
from ttmpref.separation import DemucsSeparator, read_bag
from ttmpref.types import Clip

STEP = {"steps": 4, "batch": 3, "learning_rate": 1e-3}
TEXTS = ["A calm piano piece", "Fast rock with guitar"]


def recipe_of(**changes):
    small = {"seconds": 0.2, "segment": 1.0, "channels": 4, "depth": 4, "n_fft": 256}
    return SeparatorRecipe(**STEP, **{**small, **changes})


def spoken_or_skip():
    try:
        return speech(np.random.default_rng(0), 4 * CORPUS_RATE, TEXTS)
    except MissingSpeaker as error:
        lacking(str(error))


class Memory(Corpus):
    """A corpus whose decoded pieces lie in memory."""

    def __init__(self, waveforms):
        object.__setattr__(self, "folder", None)
        object.__setattr__(self, "split", "train")
        self.__dict__["waveforms"] = waveforms


def noise(rows, samples, level, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, samples)) * level * INT16).clip(-INT16, INT16).astype(np.int16)


@pytest.fixture
def job():
    def build(**changes):
        corpus = Memory(noise(4, 20_000, 0.1))
        sung = noise(3, 20_000, 0.05, seed=1)
        sounds = Sounds(corpus, sung)
        return SeparatorJob(recipe_of(**changes), (sounds, sounds))

    return build


@pytest.mark.parametrize("hertz", [110.0, 440.0])
def test_pulses_repeat_at_the_pitch_and_fall_off_like_a_voice(hertz):
    spectrum = np.abs(np.fft.rfft(_pulses(np.full(CORPUS_RATE, hertz))))
    first, second, fourth = (spectrum[round(k * hertz)] for k in (1, 2, 4))
    between = spectrum[round(1.5 * hertz)]
    assert first > 20 * between
    assert first > second > fourth


@pytest.mark.parametrize("vowel", range(len(VOWELS)))
def test_a_vowel_resonates_at_its_formants(vowel):
    impulse = np.zeros(CORPUS_RATE)
    impulse[0] = 1.0
    response = np.abs(np.fft.rfft(_formants(impulse, vowel, 1.0)))
    for hertz, width in zip(VOWELS[vowel][:2], BANDWIDTHS, strict=False):
        near = np.arange(hertz - width, hertz + width)
        assert abs(near[response[near].argmax()] - hertz) < width / 2
    assert response[0] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_a_melody_stays_in_its_range_and_its_notes_follow_each_other(seed):
    low, high, _ = RANGES[seed % len(RANGES)]
    notes = _melody(np.random.default_rng(seed), 10.0, low, high)
    assert all(low <= note.hertz <= high and note.start < note.end for note in notes)
    assert all(a.end <= b.start for a, b in zip(notes, notes[1:], strict=False))


@pytest.mark.parametrize("kind", range(3))
def test_every_kind_of_voice_has_the_same_level_and_follows_from_its_row(kind):
    if module.KINDS[kind] == "speech":
        spoken_or_skip()
    shares = tuple(float(i == kind) for i in range(3))
    recipe = VoicesRecipe(seconds=3.0, shares=shares)
    first = render(recipe, "train", 0, TEXTS)
    assert first.shape == (3 * CORPUS_RATE,) and np.isfinite(first).all()
    assert np.abs(first).max() <= 1.0
    assert np.sqrt(np.square(first).mean()) == pytest.approx(LEVEL, rel=0.1)
    assert np.array_equal(first, render(recipe, "train", 0, TEXTS))
    assert not np.array_equal(first, render(recipe, "train", 1, TEXTS))
    assert not np.array_equal(first, render(recipe, "validation", 0, TEXTS))


def test_speech_fills_its_time():
    spoken = spoken_or_skip()
    assert spoken.shape == (4 * CORPUS_RATE,)
    assert np.abs(spoken[-2 * CORPUS_RATE :]).max() > 0.01


def test_without_a_speaker_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    with pytest.raises(MissingSpeaker, match="apt-get install espeak-ng"):
        speech(np.random.default_rng(0), 100, TEXTS)


def test_voices_are_rendered_once_and_never_half(tmp_path, monkeypatch):
    recipe = VoicesRecipe(counts={"train": 2}, seconds=0.5, shares=(1.0, 0.0, 0.0))

    def broken(*_):
        raise RuntimeError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(module, "render", broken)
        with pytest.raises(RuntimeError):
            voices(recipe, "train", TEXTS, tmp_path)
    assert list(tmp_path.iterdir()) == []
    made = np.array(voices(recipe, "train", TEXTS, tmp_path))
    assert made.shape == (2, CORPUS_RATE // 2) and made.dtype == np.int16
    monkeypatch.setattr(module, "render", broken)
    assert np.array_equal(made, voices(recipe, "train", TEXTS, tmp_path))


def test_the_loss_is_the_error_in_units_of_the_mix():
    sources = torch.randn(2, 2, 2, 400, generator=torch.Generator().manual_seed(0))
    mix = sources.sum(1)
    assert relative_l1(sources, sources, mix) == 0.0
    loud = torch.tensor([1.0, 100.0])[:, None, None]
    missed = relative_l1(0 * sources, loud[..., None] * sources, loud * mix)
    assert missed == pytest.approx(relative_l1(0 * sources, sources, mix).item(), rel=1e-3)
    silent = relative_l1(0 * sources, 0 * sources, 0 * mix)
    assert silent == 0.0


def test_mixes_have_the_level_and_the_places_that_the_recipe_says(job):
    rng = np.random.default_rng(0)
    plain = job(level_db=(6.0, 6.0), voiceless=0.0, mono=1.0)
    music, voice = draw_mixes(plain.recipe, plain.train_split, 3, 0.2, rng)
    ratio = voice.square().mean((1, 2)) / music.square().mean((1, 2))
    assert torch.allclose(10 * ratio.log10(), torch.full((3,), 6.0), atol=0.01)
    assert torch.equal(music[:, 0], music[:, 1]) and torch.equal(voice[:, 0], voice[:, 1])
    wide = job(voiceless=1.0, mono=0.0)
    music, voice = wide._mixes(wide.train_split, 3, rng)
    assert music.shape == voice.shape == (3, 2, 2205)  # 0.2 s as the network hears them
    assert not voice.any() and not torch.equal(music[:, 0], music[:, 1])


def test_validation_counts_what_a_pass_gains(job, monkeypatch):
    judged = job(voiceless=0.0)
    monkeypatch.setattr(judged, "_estimates", lambda mix: torch.stack([mix, 0 * mix], 1))
    assert judged.validate(0) == {"si_sdr_gain": pytest.approx(0.0, abs=1e-6)}
    silent = job(voiceless=1.0)
    backwards = lambda mix: torch.stack([mix, 0.1 * mix.flip(-1)], 1)  # noqa: E731
    monkeypatch.setattr(silent, "_estimates", backwards)
    assert 10 < silent.validate(0)["si_sdr_voiceless"] < 30


def test_training_lowers_the_loss(job):
    """Where nobody sings the network learns to give the mix back."""
    learning = job(voiceless=1.0)
    for group in learning.optimizer.param_groups:
        group["lr"] = 1e-2
    losses = [learning.train_step(step)["loss"] for step in range(60)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_bf16_rounds_the_products_alone(job, monkeypatch):
    monkeypatch.setattr(engine, "has_bf16", lambda _: True)
    losses = {}
    for precision in ("fp32", "bf16"):
        one = job(precision=precision)
        losses[precision] = one.train_step(0)["loss"]
        assert all(tensor.dtype == torch.float32 for tensor in one.network.parameters())
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], abs=0.1)


def test_what_is_exported_is_a_bag_of_the_averaged_network(job, tmp_path):
    trained = job()
    trained.train_step(0)
    trained.export(tmp_path)
    bag = read_bag(str(tmp_path), BAG)
    for name, value in trained.average.weights().items():
        assert torch.equal(bag.models[0].state_dict()[name], value.half().float())
    config = SeparatorConfig(folder="-", bag=BAG, passes=1, mode="residual")
    clip = Clip(
        np.random.default_rng(0).normal(size=(1, 9_000)).astype(np.float32) / 9, CORPUS_RATE
    )
    found = DemucsSeparator(config, bag).instrumental(clip)
    assert np.isfinite(si_sdr(found.waveform, clip.waveform))


def test_the_benchmark_counts_what_a_pass_gains_and_what_music_alone_suffers():
    class Scaled:
        """Adds a little of what was, backwards, to every clip: one known error for all."""

        def instrumental(self, clip):
            return Clip(clip.waveform + 0.01 * clip.waveform[:, ::-1], clip.sample_rate)

    sounds = Sounds(Memory(noise(4, 20_000, 0.1)), noise(3, 20_000, 0.05, seed=1))
    gain, alone, taken = figures_of(Scaled(), recipe_of(voiceless=0.5), sounds, 12, 0.2)
    assert gain.value == pytest.approx(0.0, abs=0.1) and gain.met is False
    assert alone.value == pytest.approx(40.0, abs=0.5)
    assert taken.met and taken.note == "0.2 s of stereo, median"
