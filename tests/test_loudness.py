"""Loudness and true peak agree with closed forms and ffmpeg; both targets are met together."""

import re
import shutil
import subprocess

import numpy as np
import pytest

from tests.parts import lacking
from tests.studies import shared_data
from ttmpref.audio import read_clip, write_clip
from ttmpref.loudness import hold, integrated_loudness, limit, normalise, true_peak_db
from ttmpref.types import Clip, InvalidRequest

RATE = 44_100
TIME = np.arange(10 * RATE) / RATE
FADE = np.minimum(1, np.minimum(TIME, TIME[-1] - TIME) / 0.1)


def clip_of(*channels):
    return Clip(np.stack(channels).astype(np.float32), RATE)


def music(level):
    rng = np.random.default_rng(0)
    chord = sum(np.sin(2 * np.pi * f * TIME) for f in (110.0, 277.2, 659.3))
    return level * (chord * (1.2 + np.sin(2 * np.pi * 2 * TIME)) + rng.normal(size=len(TIME)))


def spikes(level):
    noise = np.random.default_rng(1).normal(size=len(TIME)) * level
    noise[:: RATE // 10] = 1.0
    return noise


def kicks():
    t = np.arange(8_000) / RATE
    kick = np.sin(2 * np.pi * 60 * t) * np.exp(-t * 30)
    out = np.zeros(len(TIME))
    for start in range(0, len(TIME) - len(t), RATE // 2):
        out[start : start + len(t)] += kick
    return out


@pytest.mark.parametrize("decibels", [0.0, -6.0, -23.0])
def test_a_1_khz_sine_reads_its_level_less_3_lu(decibels):
    """BS.1770: a full-scale 997 Hz sine in one channel reads -3.01 LUFS."""
    wave = 10 ** (decibels / 20) * np.sin(2 * np.pi * 997 * TIME)
    assert integrated_loudness(clip_of(wave)) == pytest.approx(decibels - 3.01, abs=0.05)
    assert integrated_loudness(clip_of(wave, wave)) == pytest.approx(decibels, abs=0.05)


@pytest.mark.parametrize("hertz", [997.0, RATE / 4, RATE / 6, 15_000.0])
def test_the_true_peak_of_a_sine_is_its_amplitude_between_samples_too(hertz):
    wave = 0.5 * np.sin(2 * np.pi * hertz * TIME + np.pi / 4) * FADE
    assert true_peak_db(clip_of(wave)) == pytest.approx(-6.02, abs=0.1)


def test_the_true_peak_is_at_least_the_sample_peak_of_every_channel():
    wave = np.random.default_rng(0).uniform(-1, 1, len(TIME))
    peak = 20 * np.log10(np.abs(wave).max())
    assert true_peak_db(clip_of(0.1 * wave, wave)) >= peak - 1e-3


@pytest.mark.parametrize(
    "clip",
    [
        clip_of(music(0.02)),
        clip_of(music(0.3)),
        clip_of(music(0.1), music(0.05)),
        clip_of(spikes(0.02)),
        clip_of(kicks()),
        clip_of(np.clip(3 * music(1.0), -1, 1)),
        clip_of(music(1e-3)),
    ],
    ids=["quiet", "loud", "stereo", "spiky", "kicks", "clipped", "whisper"],
)
def test_both_targets_hold_together(clip):
    result, report = normalise(clip, -16.5, -1.0)
    assert report.reached, report
    assert integrated_loudness(result) == pytest.approx(-16.5, abs=0.1)
    assert true_peak_db(result) <= -1.0
    assert report.lufs == pytest.approx(integrated_loudness(result), abs=1e-3)
    assert report.true_peak_db == pytest.approx(true_peak_db(result), abs=1e-3)


def test_the_ceiling_still_holds_after_rounding_to_16_bits():
    result, _ = normalise(clip_of(spikes(0.02)))
    rounded = Clip((np.round(result.waveform * 32_767) / 32_767).astype(np.float32), RATE)
    assert true_peak_db(rounded) <= -1.0


def test_an_untouched_waveform_is_only_scaled():
    clip = clip_of(music(0.02))
    result, report = normalise(clip)
    assert not report.limited
    gain = 10 ** (report.gain_db / 20)
    assert np.allclose(result.waveform, clip.waveform * gain, atol=1e-6)


def test_what_cannot_be_reached_is_said_and_the_ceiling_wins():
    click = np.zeros(len(TIME))
    click[::RATE] = 1.0
    result, report = normalise(clip_of(click))
    assert not report.reached and "-16.5 LUFS" in report.note
    assert true_peak_db(result) <= -1.0


def test_silence_is_left_alone():
    clip = clip_of(np.zeros(len(TIME)))
    result, report = normalise(clip)
    assert result is clip and report.lufs is None and report.true_peak_db is None
    assert integrated_loudness(clip) is None and true_peak_db(clip) is None


def test_a_clip_too_short_for_a_loudness_keeps_its_gain_under_the_ceiling():
    for samples in (1, 100, int(0.39 * RATE)):
        clip = Clip(np.ones((1, samples), np.float32), RATE)
        result, report = normalise(clip)
        assert report.lufs is None and report.limited
        assert true_peak_db(result) <= -1.0


def test_held_clips_keep_their_level_unless_their_peaks_are_too_high():
    quiet = clip_of(0.01 * music(1.0))
    held, report = hold(quiet)
    assert held is quiet and not report.limited
    loud = clip_of(3.0 * music(1.0))
    held, report = hold(loud)
    assert report.limited and true_peak_db(held) <= -1.0
    assert report.lufs == pytest.approx(integrated_loudness(held))


def test_the_limiter_leaves_a_clip_under_the_ceiling_as_it_is():
    clip = clip_of(music(0.01))
    assert np.array_equal(limit(clip, -1.0).waveform, clip.waveform)


def test_the_limiter_has_arrived_before_the_peak():
    wave = 0.1 * np.sin(2 * np.pi * 100 * TIME)
    wave[RATE : RATE + 3] = 1.0
    out = limit(clip_of(wave), -6.0)
    assert true_peak_db(out) == pytest.approx(-6.0, abs=0.05)
    far = np.r_[0 : RATE - 2000, RATE + 2000 : len(wave)]
    assert np.allclose(out.waveform[0, far], wave[far], rtol=0.02, atol=1e-4)


def test_loudness_is_not_defined_beyond_five_channels():
    with pytest.raises(ValueError, match="1 to 5 channels, got 6"):
        integrated_loudness(clip_of(*[music(0.1)] * 6))


@pytest.fixture(scope="module")
def ffmpeg():
    found = shutil.which("ffmpeg")
    if found is None:
        lacking("the second meter is not at hand: apt-get install ffmpeg")
    return found


def ebur128(ffmpeg, path):
    """(LUFS, dBTP) as ffmpeg's ebur128 filter sums a file up, to a tenth of a decibel."""
    arguments = ["-hide_banner", "-nostats", "-i", path, "-af", "ebur128=peak=true", "-f", "null"]
    done = subprocess.run(
        [ffmpeg, *map(str, arguments), "-"], capture_output=True, text=True, check=True
    )
    summary = done.stderr.rpartition("Summary:")[2]
    lufs = re.search(r"I:\s+(-?[\d.]+) LUFS", summary)
    peak = re.search(r"Peak:\s+(-?[\d.]+) dBFS", summary)
    return float(lufs[1]), float(peak[1])


@pytest.mark.parametrize("sound", [music(0.3), spikes(0.02), kicks()], ids=["loud", "spiky", "low"])
def test_another_meter_reads_the_same_of_a_finished_file(sound, ffmpeg, tmp_path):
    finished, _ = normalise(clip_of(sound))
    lufs, peak = ebur128(ffmpeg, write_clip(finished, tmp_path / "finished.wav"))
    assert lufs == pytest.approx(-16.5, abs=0.16)  # 0.1 and what a tenth rounds away
    assert peak <= -0.9


PAPER_CLIPS = [f"{system}/{number}.wav" for system in ("baseline", "sub1") for number in (0, 3, 12)]


@pytest.mark.parametrize("name", PAPER_CLIPS)
def test_the_papers_clips_meet_both_targets(name, ffmpeg, tmp_path):
    result, report = normalise(read_clip(shared_data("paper_clips") / name))
    assert report.reached, report
    assert integrated_loudness(result) == pytest.approx(-16.5, abs=0.1)
    assert true_peak_db(result) <= -1.0
    lufs, peak = ebur128(ffmpeg, write_clip(result, tmp_path / "finished.wav"))
    assert lufs == pytest.approx(-16.5, abs=0.16)
    assert peak <= -0.9


@pytest.mark.parametrize("name", ["sub1/0.wav", "sub1/3.wav", "sub2/8.wav", "sub2/20.wav"])
def test_the_reference_leaves_as_they_are_the_clips_that_it_made(name):
    clip = read_clip(shared_data("paper_clips") / name)
    result, _ = normalise(clip, mode="reference")
    assert np.allclose(result.waveform, clip.waveform, atol=1e-4)


def test_the_reference_is_a_gain_and_a_sample_peak_of_095_whatever_that_misses():
    quiet, report = normalise(clip_of(music(0.02)), mode="reference")
    assert report.reached and integrated_loudness(quiet) == pytest.approx(-16.5, abs=0.01)
    clip = clip_of(spikes(0.02))
    spiky, report = normalise(clip, mode="reference")
    assert np.abs(spiky.waveform).max() == pytest.approx(0.95, abs=1e-4)
    gain = 10 ** (report.gain_db / 20)
    assert np.allclose(spiky.waveform, gain * clip.waveform, atol=1e-6)
    assert "not reached" in report.note and "above -1" in report.note


def test_the_reference_leaves_silence_alone():
    clip = clip_of(np.zeros(len(TIME)))
    result, report = normalise(clip, mode="reference")
    assert result is clip and not report.reached


def test_an_unknown_mode_is_refused_by_name():
    with pytest.raises(InvalidRequest, match="'loud'; accepted: limiter, reference"):
        normalise(clip_of(music(0.1)), mode="loud")
