"""Files are read safely, written whole or not at all, and resampled without aliasing."""

import errno
import os

import numpy as np
import pytest
import soundfile

from ttmpref import audio
from ttmpref.types import Clip, InvalidRequest, OutputError, UnreadableAudio


def tone(hertz=440.0, seconds=1.0, rate=44_100, channels=1):
    t = np.arange(round(seconds * rate)) / rate
    wave = 0.5 * np.sin(2 * np.pi * hertz * t)
    return Clip(np.repeat(wave[None], channels, axis=0).astype(np.float32), rate)


@pytest.mark.parametrize(("depth", "steps"), [(16, 2**15), (24, 2**23)])
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".WAV"])
def test_lossless_files_come_back_within_half_a_step(tmp_path, suffix, depth, steps):
    clip = tone(channels=2)
    back = audio.read_clip(audio.write_clip(clip, tmp_path / f"clip{suffix}", depth))
    assert back.sample_rate == clip.sample_rate
    assert np.abs(back.waveform - clip.waveform).max() <= 0.51 / steps


def test_mp3_keeps_the_tone(tmp_path):
    clip = tone()
    back = audio.read_clip(audio.write_clip(clip, tmp_path / "clip.mp3"))
    spectrum = np.abs(np.fft.rfft(back.mono[:44_100]))
    assert abs(int(spectrum.argmax()) - 440) <= 1


def test_samples_beyond_full_scale_are_clipped_not_wrapped(tmp_path):
    clip = Clip(np.array([[2.0, -2.0, 0.0]], np.float32), 44_100)
    back = audio.read_clip(audio.write_clip(clip, tmp_path / "clip.wav"))
    assert back.waveform[0, 0] > 0.99 and back.waveform[0, 1] < -0.99


def test_an_unknown_suffix_or_depth_lists_the_accepted_ones(tmp_path):
    with pytest.raises(InvalidRequest, match=r"'.ogg'; accepted: .wav, .flac, .mp3"):
        audio.write_clip(tone(), tmp_path / "clip.ogg")
    with pytest.raises(InvalidRequest, match="8; accepted: 16, 24"):
        audio.write_clip(tone(), tmp_path / "clip.wav", 8)


def test_a_full_disk_leaves_nothing_behind_and_the_old_file_whole(tmp_path, monkeypatch):
    old = audio.write_clip(tone(220), tmp_path / "clip.wav").read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="clip.wav: cannot be written .No space left") as caught:
        audio.write_clip(tone(440), tmp_path / "clip.wav")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.wav"]
    assert (tmp_path / "clip.wav").read_bytes() == old


def test_of_several_files_none_appears_when_one_cannot_be_written(tmp_path):
    (tmp_path / "b").mkdir()
    with pytest.raises(OutputError, match="b: cannot be written .it is a folder"):
        audio.write_files({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]


def test_an_unwritable_place_is_refused_early_and_late(tmp_path):
    blocker = tmp_path / "file"
    blocker.touch()
    for call in (audio.check_writable, lambda path: audio.write_clip(tone(), path)):
        with pytest.raises(OutputError, match="cannot be written"):
            call(blocker / "clip.wav")
    with pytest.raises(OutputError, match="it is a folder"):
        (tmp_path / "folder.wav").mkdir()
        audio.check_writable(tmp_path / "folder.wav")
    assert blocker.read_bytes() == b""


def test_missing_folders_are_made(tmp_path):
    assert audio.write_clip(tone(), tmp_path / "new/deep/clip.wav").is_file()


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "0 bytes"), (b"not audio at all" * 10, "cannot be decoded"), (None, "no such file")],
)
def test_what_is_no_audio_is_refused_in_one_line(tmp_path, content, said):
    path = tmp_path / "x.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableAudio, match=said) as caught:
        audio.read_clip(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".flac", ""])
def test_a_false_format_is_called_so_whatever_the_suffix(tmp_path, suffix):
    path = tmp_path / f"text{suffix}"
    path.write_bytes(b"no audio")
    with pytest.raises(UnreadableAudio) as caught:
        audio.read_clip(path)
    reason = str(caught.value).removeprefix(f"{path}: cannot be decoded as audio ").lower()
    assert reason == "(format not recognised)"


def test_a_folder_or_pipe_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    for path in (tmp_path, tmp_path / "pipe.wav"):
        with pytest.raises(UnreadableAudio, match="not a regular file"):
            audio.read_clip(path)


def test_too_long_too_fast_and_not_finite_are_refused(tmp_path):
    long = audio.write_clip(tone(seconds=2), tmp_path / "long.wav")
    with pytest.raises(UnreadableAudio, match="2.0 s long; at most 1 s"):
        audio.read_clip(long, max_seconds=1)
    soundfile.write(tmp_path / "slow.wav", np.zeros(100), 4_000)
    with pytest.raises(UnreadableAudio, match="4000 Hz; 8000 to 192000"):
        audio.read_clip(tmp_path / "slow.wav")
    soundfile.write(tmp_path / "wide.wav", np.zeros((100, 9)), 44_100)
    with pytest.raises(UnreadableAudio, match="9 channels"):
        audio.read_clip(tmp_path / "wide.wav")
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 44_100, subtype="FLOAT")
    with pytest.raises(UnreadableAudio, match="not finite"):
        audio.read_clip(tmp_path / "nan.wav")


def test_a_truncated_file_is_read_to_its_end_or_refused(tmp_path):
    for suffix in (".wav", ".flac", ".mp3"):
        path = audio.write_clip(tone(), tmp_path / f"clip{suffix}")
        path.write_bytes(path.read_bytes()[:3000])
        try:
            assert audio.read_clip(path).seconds < 1
        except UnreadableAudio as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("source", "target"), [(44_100, 48_000), (48_000, 24_000), (8_000, 44_100)]
)
def test_resampling_keeps_a_tone_and_its_level(source, target):
    out = audio.resample(tone(1_000, 1.0, source), target)
    assert out.sample_rate == target and out.samples == target
    middle = slice(target // 10, -target // 10)
    expected = 0.5 * np.sin(2 * np.pi * 1_000 * np.arange(target) / target)
    assert np.abs(out.waveform[0] - expected)[middle].max() < 1e-3


def test_resampling_down_removes_what_would_fold_back():
    out = audio.resample(tone(13_000, 1.0, 48_000), 24_000)
    assert np.abs(out.waveform[0, 1000:-1000]).max() < 0.5 * 10 ** (-70 / 20)


def test_resampling_to_the_same_rate_changes_nothing():
    clip = tone()
    assert audio.resample(clip, clip.sample_rate) is clip


def test_cutting_and_padding_give_the_exact_length():
    clip = tone()
    assert np.array_equal(audio.cut_or_pad(clip, 10).waveform, clip.waveform[:, :10])
    longer = audio.cut_or_pad(clip, clip.samples + 5)
    assert longer.samples == clip.samples + 5 and not longer.waveform[:, -5:].any()
    assert audio.cut_or_pad(clip, clip.samples).samples == clip.samples


def test_the_envelope_holds_the_extremes_of_its_stretch():
    waveform = np.zeros((1, 1000), np.float32)
    waveform[0, 250], waveform[0, 999] = 0.7, -0.3
    rows = audio.envelope(Clip(waveform, 1000), 10)
    assert rows.shape == (10, 2)
    assert rows[2, 1] == np.float32(0.7) and rows[9, 0] == np.float32(-0.3)
    assert audio.envelope(Clip(waveform[:, :3], 1000), 10).shape == (3, 2)


@pytest.mark.parametrize("hertz", [100.0, 1_000.0, 8_000.0])
def test_the_spectrogram_shows_a_tone_in_its_band(hertz):
    picture = audio.spectrogram(tone(hertz, 2.0))
    loudest = picture.frequencies[picture.levels_db.mean(1).argmax()]
    assert abs(loudest - hertz) < max(25, 0.06 * hertz)
    assert picture.levels_db.shape == (len(picture.frequencies), len(picture.times))
    assert picture.levels_db.max() == 0 and picture.levels_db.min() >= -80


def test_silence_and_a_single_sample_have_pictures_too():
    for samples in (1, 100, 44_100):
        picture = audio.spectrogram(Clip(np.zeros((1, samples), np.float32), 44_100))
        assert np.isfinite(picture.levels_db).all()


@pytest.mark.parametrize(
    ("source", "target"), [(44_100, 48_000), (48_000, 24_000), (44_099, 16_000), (8_000, 44_100)]
)
def test_the_way_back_is_the_transpose_of_resampling(source, target):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3_000)).astype(np.float32)
    y = audio.resample_samples(x, source, target)
    assert y.shape == (2, -(-3_000 * target // source)) and y.dtype == np.float32
    gradient = rng.standard_normal(y.shape).astype(np.float32)
    back = audio.resample_samples(gradient, target, source)[:, :3_000] * (target / source)
    assert (y * gradient).sum() == pytest.approx((x * back).sum(), abs=0.01)


@pytest.mark.parametrize(("source", "target"), [(44_100, 24_000), (48_000, 16_000)])
def test_the_product_with_a_matrix_is_the_polyphase_filter(source, target, monkeypatch):
    x = np.random.default_rng(0).standard_normal(5_000).astype(np.float32)
    product = audio.resample_samples(x, source, target)
    monkeypatch.setattr(audio, "WIDEST_MATRIX", 0)
    assert np.abs(audio.resample_samples(x, source, target) - product).max() < 1e-5


def test_windows_cover_the_audio_evenly_and_end_with_it():
    assert audio.window_starts(10, 10) == audio.window_starts(3, 10) == [0]
    assert audio.window_starts(11, 10) == [0, 1]
    assert audio.window_starts(30, 10) == [0, 10, 20]
    assert audio.window_starts(25, 10) == [0, 8, 15]
