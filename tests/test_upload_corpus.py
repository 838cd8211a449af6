"""Checks 18 and 19 of listening studies: files that must be refused quickly, cheaply and in one
line, and files that must be accepted. Decoding runs here as it does in the child process."""

from __future__ import annotations

import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ttmpref import uploads
from ttmpref.audio import MAX_SECONDS, check_file
from ttmpref.types import UnreadableAudio

RATE = 44_100
MOST_BYTES = 300_000_000
PCM, FLOAT = 1, 3
HUGE = 2**63


def sound(seconds: float = 0.5, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """(samples, channels) of a tone."""
    times = np.arange(round(seconds * rate)) / rate
    wave = 0.2 * np.sin(2 * np.pi * 440 * times)
    return np.tile(wave[:, None], channels).astype(np.float32)


def wav(
    channels: int = 1, rate: int = RATE, bits: int = 16, kind: int = PCM, claimed: int | None = None
) -> bytes:
    """A WAV file of 1,000 bytes of samples whose header says what it is told to say."""
    data = bytes(range(250)) * 4
    width = max(1, channels * bits // 8) & 0xFFFF
    form = struct.pack("<HHIIHH", kind, channels, rate, (rate * width) & 0xFFFFFFFF, width, bits)
    size = len(data) if claimed is None else claimed
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", (len(body) + size - len(data)) & 0xFFFFFFFF) + body


def rf64() -> bytes:
    """A long WAV that claims 2**63 bytes."""
    sizes = struct.pack("<QQQI", HUGE, HUGE, HUGE, 0)
    return b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<I", 28) + sizes + wav()[12:]


def zipped() -> bytes:
    return b"PK\x03\x04" + b"\0" * 200


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
REFUSED = {
    "empty.wav": b"",
    "byte.wav": b"R",
    "text.wav": b"this is no music at all\n" * 20,
    "page.wav": b"<!doctype html><script>alert(1)</script>",
    "image.flac": SVG,
    "archive.ogg": zipped(),
    "playlist.mp3": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/secret\n",
    "concat.wav": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "no-channel.wav": wav(channels=0),
    "many-channels.wav": wav(channels=65_535),
    "no-rate.wav": wav(rate=0),
    "rate-1.wav": wav(rate=1),
    "rate-2-31.wav": wav(rate=2**31 - 1),
    "no-bits.wav": wav(bits=0),
    "odd-bits.wav": wav(bits=63),
    "rf64.wav": rf64(),
    "head-of-flac.flac": b"fLaC\x80\0\0\x22" + b"\xff" * 34,
    "head-of-ogg.ogg": b"OggS" + b"\xff" * 60,
    "head-of-video.mp4": b"\0\0\0\x18ftypmp42" + b"\0" * 40,
}


def unpacked(path: Path, folder: Path) -> tuple[dict[str, int], int]:
    """What unpacking gives, and the most memory it took."""
    folder.mkdir()
    tracemalloc.start()
    try:
        check_file(path)
        return uploads.unpack(path, folder, MAX_SECONDS), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", REFUSED)
def test_check_18_hostile_files_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(REFUSED[name])
    with pytest.raises(UnreadableAudio) as caught:
        unpacked(path, tmp_path / "out")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    left = sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    assert left == 0


@pytest.mark.parametrize("claimed", [0, 7, 2**31, 2**32 - 1])
def test_check_18_wrong_sizes_in_a_header_make_nothing_longer_than_the_file(
    tmp_path: Path, claimed: int
) -> None:
    path = tmp_path / "sizes.wav"
    path.write_bytes(wav(claimed=claimed))
    try:
        found, most = unpacked(path, tmp_path / "out")
    except UnreadableAudio as error:
        assert "\n" not in str(error)
        return
    assert found == {"rate": RATE, "channels": 1} and most < MOST_BYTES
    assert (tmp_path / "out" / uploads.SAMPLES).stat().st_size <= 4 * 500


@pytest.mark.parametrize("suffix", ["flac", "ogg"])
def test_check_18_a_small_file_of_long_silence_costs_no_memory(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"bomb.{suffix}"
    with soundfile.SoundFile(path, "w", 8_000, 1, format=suffix.upper()) as file:
        for _ in range(int(MAX_SECONDS) + 60):
            file.write(np.zeros(8_000, np.int16))
    folder = tmp_path / "out"
    folder.mkdir()
    tracemalloc.start()
    with pytest.raises(UnreadableAudio, match="s long; at most|longer than the accepted"):
        uploads.unpack(path, folder, MAX_SECONDS)
    assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    tracemalloc.stop()


def test_check_18_a_song_behind_a_picture_is_judged_by_its_first_bytes(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sound(), RATE)
    whole = (tmp_path / "a.wav").read_bytes()
    for name, content in (("after.wav", SVG + whole), ("zip.wav", zipped() + whole)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableAudio):
            unpacked(tmp_path / name, tmp_path / f"{name}.out")
    with zipfile.ZipFile(tmp_path / "a.wav", "a") as archive:  # a WAV that is an archive as well
        archive.writestr("x", "y")
    assert unpacked(tmp_path / "a.wav", tmp_path / "out")[0]["rate"] == RATE


@pytest.mark.parametrize(
    ("name", "rate", "channels", "subtype"),
    [
        ("16.wav", 44_100, 1, "PCM_16"),
        ("24.wav", 48_000, 2, "PCM_24"),
        ("32.wav", 96_000, 2, "PCM_32"),
        ("float.wav", 192_000, 1, "FLOAT"),
        ("double.wav", 8_000, 1, "DOUBLE"),
        ("lossless.flac", 44_100, 2, "PCM_24"),
        ("vorbis.ogg", 44_100, 2, "VORBIS"),
        ("opus.ogg", 48_000, 2, "OPUS"),
        ("layer.mp3", 44_100, 2, "MPEG_LAYER_III"),
        ("five-one.wav", 48_000, 6, "PCM_16"),
        ("broadcast.aiff", 22_050, 1, "PCM_16"),
    ],
)
def test_check_19_what_people_have_is_accepted(
    tmp_path: Path, name: str, rate: int, channels: int, subtype: str
) -> None:
    wave = sound(1.0, rate, channels)
    soundfile.write(tmp_path / name, wave, rate, subtype=subtype)
    found, _ = unpacked(tmp_path / name, tmp_path / "out")
    assert found == {"rate": rate, "channels": channels}
    back = np.fromfile(tmp_path / "out" / uploads.SAMPLES, np.float32).reshape(-1, channels)
    assert abs(len(back) - len(wave)) < 0.1 * rate
    assert np.sqrt(np.mean(back**2)) == pytest.approx(np.sqrt(np.mean(wave**2)), rel=0.1)


def test_check_19_an_mp3_with_a_cover_is_music(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.mp3", sound(1.0), RATE)
    picture = b"APIC" + struct.pack(">I", 5_000) + b"\0\0" + bytes(5_000)
    size = len(picture)
    synchsafe = bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))
    tagged = b"ID3\x03\0\0" + synchsafe + picture + (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "cover.mp3").write_bytes(tagged)
    assert unpacked(tmp_path / "cover.mp3", tmp_path / "out")[0] == {"rate": RATE, "channels": 1}
