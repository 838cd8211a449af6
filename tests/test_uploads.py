"""Strangers' files are decoded in a child process: what is music comes back, the rest is named."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.hostile_files import write_hostile_files
from tests.scoring import noise
from tests.test_score_command import bad_files
from ttmpref import uploads
from ttmpref.audio import read_clip, write_clip
from ttmpref.reward.guards import examine
from ttmpref.types import Clip, UnreadableAudio
from ttmpref.uploads import read_upload

RATE = 8_000
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    """Nothing that was decoded may stay behind, whatever the test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []


def video(ffmpeg, sound, path, *options):
    """A grey picture for as long as a sound lasts."""
    picture = ("-f", "lavfi", "-i", "color=gray:size=64x48:rate=5")
    ffmpeg(*picture, "-i", sound, "-shortest", *options, path)
    return path


def loudest_hertz(clip):
    spectrum = np.abs(np.fft.rfft(clip.mono))
    return spectrum.argmax() * clip.sample_rate / clip.samples


def test_what_comes_back_is_what_reading_here_gives(tmp_path):
    for name, channels in (("a.wav", 1), ("b.flac", 2), ("c.mp3", 2), ("six.wav", 6)):
        path = write_clip(noise(0.5, RATE, channels), tmp_path / name)
        ours, plain = read_upload(path), read_clip(path)
        assert np.array_equal(ours.waveform, plain.waveform)
        assert (ours.sample_rate, ours.channels) == (RATE, channels)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".webm", ".mkv", ".m4a"])
def test_the_sound_of_a_video_is_read_whatever_the_file_is_called(ffmpeg, tmp_path, suffix):
    times = np.arange(48_000) / 48_000
    tone = Clip((0.3 * np.sin(2 * np.pi * 1000 * times)).astype(np.float32)[None], 48_000)
    sound = write_clip(tone, tmp_path / "tone.wav")
    made = tmp_path / f"made{suffix}"
    if suffix == ".m4a":
        ffmpeg("-i", sound, made)
    else:
        codecs = ("-c:v", "libvpx", "-c:a", "libopus") if suffix == ".webm" else ()
        video(ffmpeg, sound, made, *codecs)
    clip = read_upload(made.rename(tmp_path / "called.wav"))
    assert clip.seconds == pytest.approx(1.0, abs=0.25)
    assert loudest_hertz(clip) == pytest.approx(1000, abs=5)


def test_a_video_without_sound_or_cut_or_too_long_is_named(ffmpeg, tmp_path):
    picture = ("-f", "lavfi", "-i", "color=gray:size=64x48:rate=5", "-t", "1")
    ffmpeg(*picture, tmp_path / "mute.mp4")
    whole = video(ffmpeg, write_clip(noise(3.0, RATE), tmp_path / "n.wav"), tmp_path / "whole.mp4")
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:200])
    for path, said in (
        (tmp_path / "mute.mp4", "mute.mp4: holds no sound"),
        (tmp_path / "cut.mp4", "cut.mp4: cannot be decoded as video"),
        (whole, "whole.mp4: longer than the accepted 1 s"),
    ):
        with pytest.raises(UnreadableAudio, match=said) as caught:
            read_upload(path, max_seconds=1)
        assert "\n" not in str(caught.value) and uploads.SOUND not in str(caught.value)


def test_without_ffmpeg_a_video_is_refused_with_what_to_do(ffmpeg, tmp_path, monkeypatch):
    sound = write_clip(noise(0.5, RATE), tmp_path / "n.wav")
    path = video(ffmpeg, sound, tmp_path / "v.mp4")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UnreadableAudio, match=r"ffmpeg, which is not installed here; install it"):
        read_upload(path)
    assert read_upload(sound).samples == RATE // 2  # audio needs none


def test_bad_files_are_named_with_the_reason(tmp_path):
    expected = bad_files(tmp_path)
    expected["folder.wav"] = "not a regular file"
    for name, said in expected.items():
        with pytest.raises(UnreadableAudio, match=said) as caught:
            read_upload(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


def held(tmp_path, *arguments):
    """A program of this project in a process of its own, with a folder for what it leaves."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"TMPDIR": str(tmp_path / "temporary"), "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip


def test_check_18_every_hostile_file_is_refused_within_a_second_and_300_megabytes(tmp_path):
    """No clock is read: the kernel ends the process at a second of processor time for any one file,
    and gives it no more memory; the answers are all there only if neither happened.
    """
    (tmp_path / "files").mkdir()
    expected = write_hostile_files(tmp_path / "files")
    paths = [tmp_path / "files" / name for name in expected]
    done = held(tmp_path, "-m", "tests.hostile_files", *paths)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for path, said, answer in zip(paths, expected.values(), answers, strict=True):
        assert answer is not None, f"{path.name} was accepted"
        assert answer.startswith(f"{path}: ") and said in answer and "\n" not in answer


@pytest.mark.parametrize(
    ("script", "code"),
    [("any(iter(int, 1))", -signal.SIGPROF), ("bytearray(2**29)", 1)],
    ids=["endless", "greedy"],
)
def test_the_limits_of_that_test_end_what_takes_longer_or_more(tmp_path, script, code):
    done = held(tmp_path, "-c", f"from tests.hostile_files import hold; hold(); {script}")
    assert done.returncode == code and ("MemoryError" in done.stderr) == (code == 1)


def test_check_18_what_is_sound_but_no_music_is_read_and_left_to_the_warnings(tmp_path):
    """Silence, an offset and 0.05 s: a score of them says so, a study's build refuses them."""
    for name, samples in {
        "zeros": np.zeros(RATE), "offset": np.full(RATE, 0.25), "short": np.full(RATE // 20, 0.25),
    }.items():  # fmt: skip
        path = write_clip(Clip(np.float32(samples)[None], RATE), tmp_path / f"{name}.wav")
        clip = read_upload(path)
        assert np.array_equal(clip.waveform[0], np.float32(samples))
        flags = {flag.code for flag in examine(clip, None, 10.0) if flag.serious}
        assert "short" in flags and ("silent" in flags) == (name == "zeros")


FORMATS = [
    ("a.wav", ("-c:a", "pcm_s16le")), ("b.wav", ("-c:a", "pcm_s24le")),
    ("c.wav", ("-c:a", "pcm_s32le")), ("d.wav", ("-c:a", "pcm_f32le")),
    ("e.flac", ()), ("f.ogg", ("-c:a", "libvorbis")), ("g.opus", ("-ar", "48000")),
    ("h.mp3", ("-b:a", "128k")), ("i.mp3", ("-q:a", "4")),
    ("low.wav", ("-ar", "8000")), ("high.flac", ("-ar", "192000")), ("six.wav", ("-ac", "6")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), FORMATS, ids=[name for name, _ in FORMATS])
def test_check_19_every_accepted_format_is_read_whole(ffmpeg, tmp_path, name, options):
    source = ("-f", "lavfi", "-i", "sine=frequency=1000:sample_rate=44100:duration=2", "-ac", "2")
    ffmpeg(*source, *options, tmp_path / name)
    clip = read_upload(tmp_path / name)
    assert clip.seconds == pytest.approx(2.0, abs=0.02)
    assert loudest_hertz(clip) == pytest.approx(1000, abs=2)
    assert clip.channels == (6 if name == "six.wav" else 2)


def test_check_19_an_mp3_with_a_picture_is_music_with_a_picture(ffmpeg, tmp_path):
    ffmpeg("-f", "lavfi", "-i", "color=gray:size=600x600", "-frames:v", "1", tmp_path / "p.png")
    sound = write_clip(noise(2.0, RATE), tmp_path / "n.wav")
    ffmpeg("-i", sound, "-i", tmp_path / "p.png", "-map", "0:a", "-map", "1:v", "-c:v", "copy",
           tmp_path / "song.mp3")  # fmt: skip
    assert read_upload(tmp_path / "song.mp3").seconds == pytest.approx(2.0, abs=0.02)


def test_streams_that_do_not_know_their_length_are_read(ffmpeg, tmp_path):
    whole = write_clip(noise(1.0, RATE), tmp_path / "whole.wav")
    data = bytearray(whole.read_bytes())
    data[4:8] = data[40:44] = b"\xff" * 4  # lengths of the file and of its samples
    (tmp_path / "stream.wav").write_bytes(data)
    ffmpeg("-i", whole, "-b:a", "32k", "-write_xing", "0", tmp_path / "stream.mp3")
    assert np.array_equal(read_upload(tmp_path / "stream.wav").waveform, read_clip(whole).waveform)
    assert read_upload(tmp_path / "stream.mp3").seconds == pytest.approx(1.0, abs=0.2)


def test_names_with_dots_blanks_and_dashes_are_only_names(tmp_path):
    sound = write_clip(noise(0.1, RATE), tmp_path / "n.wav").read_bytes()
    for name in ("..\\..\\x.wav", "-i.wav", "$(touch x) ;.wav", "\u202egnp.wav", "x" * 250):
        (tmp_path / name).write_bytes(sound)
        assert read_upload(tmp_path / name).samples == RATE // 10
    assert not (tmp_path / "x").exists()


def test_an_hour_of_silence_in_a_small_file_is_refused_by_its_header(tmp_path):
    path = tmp_path / "bomb.flac"
    with soundfile.SoundFile(path, "w", RATE, 2, format="FLAC") as file:
        for _ in range(3600):
            file.write(np.zeros((RATE, 2), np.int16))
    assert path.stat().st_size < 2**20
    with pytest.raises(UnreadableAudio, match="3600.0 s long; at most 900 s"):
        read_upload(path)


def test_playlists_are_no_audio(tmp_path):
    secret = write_clip(noise(0.5, RATE), tmp_path / "secret.wav")
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\nfile://{secret}\n")
    (tmp_path / "concat.webm").write_text(f"ffconcat version 1.0\nfile '{secret}'\n")
    for name in ("list.mp4", "concat.webm"):
        with pytest.raises(UnreadableAudio, match="cannot be decoded as audio"):
            read_upload(tmp_path / name)


def test_more_samples_than_memory_should_hold_are_refused(tmp_path, monkeypatch):
    path = write_clip(noise(1.0, RATE, 2), tmp_path / "a.wav")
    monkeypatch.setattr(uploads, "MAX_VALUES", 2 * RATE - 1)
    with pytest.raises(UnreadableAudio, match="a.wav: more than 15,999 samples over all channels"):
        uploads.unpack(path, tmp_path, 900.0)


def decoding_by(monkeypatch, script):
    monkeypatch.setattr(uploads, "_child_command", lambda *_: [sys.executable, "-c", script])


ENDLESS = "any(iter(int, 1))"
LIMITED = "import ttmpref.uploads as u; u.CPU_SECONDS = 1; u.MEMORY_BYTES = 2**30; u._limit(); "


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import time; time.sleep(600)", "took longer than 1 s"),
        (LIMITED + ENDLESS, "takes more than 60 s of processor time"),
        (LIMITED + "bytes(2**31)", "the decoder ended with code 1"),
        ("import os; os.kill(os.getpid(), 11)", f"ended with code -{signal.SIGSEGV:d}"),
    ],
    ids=["waiting", "endless", "greedy", "crashing"],
)
def test_a_decoder_that_waits_spins_grows_or_crashes_is_ended(tmp_path, monkeypatch, script, said):
    path = write_clip(noise(0.1, RATE), tmp_path / "a.wav")
    decoding_by(monkeypatch, script)
    if "sleep" in script:
        monkeypatch.setattr(uploads, "WALL_SECONDS", 1.0)
    with pytest.raises(UnreadableAudio, match=said):
        read_upload(path)
