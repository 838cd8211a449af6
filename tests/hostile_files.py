"""Files that strangers may send: each is refused by name, and none may take long or much memory.

Run as a program inside limits (`test_uploads`): reads every file that is named as the decoder of
uploads does, and prints a line of JSON for each.
"""

from __future__ import annotations

import json
import resource
import signal
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from ttmpref import uploads
from ttmpref.audio import check_file
from ttmpref.types import UnreadableAudio

RATE = 8_000
MOST_SECONDS = 1.0  # of processor time, for each file
MOST_BYTES = 300 * 2**20  # by which the memory of data may grow
LARGEST = 2**63 - 1


def wav(
    channels: int = 1, rate: int = RATE, bits: int = 16, claimed: int | None = None
) -> bytes:
    """One second of a plain WAV file, which may lie about itself."""
    body = b"\1\0" * RATE
    block = channels * bits // 8
    form = (1, channels, rate, rate * block % 2**32, block % 2**16, bits)
    size = len(body) if claimed is None else claimed
    head = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, *form) + b"data" + struct.pack("<I", size)
    return b"RIFF" + struct.pack("<I", len(head) + len(body)) + head + body


def rf64() -> bytes:
    """As `wav`, of a format for files beyond 4 GB, and claiming to be beyond everything."""
    sizes = struct.pack("<IQQQI", 28, LARGEST, LARGEST, LARGEST, 0)
    form = struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    unknown = b"\xff" * 4
    return (b"RF64" + unknown + b"WAVEds64" + sizes + b"fmt " + form + b"data" + unknown
            + b"\1\0" * RATE)  # fmt: skip


# File -> its bytes, and what is said of it.
BY_BYTES: dict[str, tuple[bytes, str]] = {
    "empty.wav": (b"", "has 0 bytes"),
    "byte.wav": (b"R", "cannot be decoded"),
    "text.wav": (b"this is no audio", "cannot be decoded"),
    "cut.wav": (wav()[:-RATE], "is cut off"),
    "claims-more.wav": (wav(claimed=2**30), "is cut off"),
    "rf64.wav": (rf64(), "is RF64; accepted formats"),
    "no-channels.wav": (wav(channels=0), "cannot be decoded"),
    "all-channels.wav": (wav(channels=65_535), "cannot be decoded"),
    "no-rate.wav": (wav(rate=0), "cannot be decoded"),
    "rate-1.wav": (wav(rate=1), "sample rate 1 Hz"),
    "rate-most.wav": (wav(rate=2**31 - 1), "sample rate 2147483647 Hz"),
    "no-bits.wav": (wav(bits=0), "cannot be decoded"),
    "bits-64.wav": (wav(bits=64), "cannot be decoded"),
    "picture.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>", "cannot be"),
    "page.html": (b"<!doctype html><script>alert(1)</script>" * 30, "cannot be decoded"),
    "archive.zip": (b"PK\3\4" + bytes(500), "cannot be decoded"),
    "picture-and.wav": (b"GIF89a/*" + wav(), "cannot be decoded"),
    "list.m3u8": (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "cannot be decoded"),
}
# File whose second half is missing -> what is said of it.
HALVES = {
    "half.wav": "is cut off",
    "half.aiff": "is cut off",
    "half.flac": "cannot be decoded",
    "half.mp3": "is cut off",
    "half.ogg": "is cut off",
    "half.opus": "is cut off",
}
SILENCE = {"bomb.flac": "FLAC", "bomb.ogg": "VORBIS", "bomb.opus": "OPUS"}
SILENT_SECONDS = 910  # in small files
SAMPLES = {"nan.wav": np.nan, "inf.wav": np.inf}


def write_hostile_files(folder: Path) -> dict[str, str]:
    """Write them all; what must be said of each, by name."""
    for name, (data, _) in BY_BYTES.items():
        (folder / name).write_bytes(data)
    noise = 0.1 * np.random.default_rng(0).standard_normal(6 * RATE)
    for name in HALVES:
        path = folder / name
        subtype = "OPUS" if name.endswith("opus") else None
        form = "OGG" if subtype else None
        soundfile.write(path, noise, RATE, subtype, format=form)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for name, value in SAMPLES.items():
        soundfile.write(folder / name, np.full(RATE, value), RATE, subtype="FLOAT")
    for name, codec in SILENCE.items():
        form, subtype = ("FLAC", "PCM_16") if codec == "FLAC" else ("OGG", codec)
        with soundfile.SoundFile(folder / name, "w", RATE, 1, subtype, format=form) as file:
            for _ in range(SILENT_SECONDS):
                file.write(np.zeros(RATE, np.float32))
    with open(folder / "huge.wav", "wb") as file:
        file.truncate(200 * 2**20)
    said = {name: words for name, (_, words) in BY_BYTES.items()} | HALVES
    said |= dict.fromkeys(SAMPLES, "not finite")
    said |= dict.fromkeys(SILENCE, f"{SILENT_SECONDS}.0 s long; at most 900 s")
    return said | {"huge.wav": "has 209715200 bytes; 1 to 134217728 are accepted"}


def hold() -> None:
    """From now on end this process after `MOST_SECONDS`, and give it no more than `MOST_BYTES`."""
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    most = 1024 * int(status["VmData"].split()[0]) + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (most, resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)


def answer(path: Path) -> str | None:
    """Why a file is refused; None where it is not."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            check_file(path, uploads.MAX_BYTES)
            uploads.unpack(path, Path(folder), 900.0)
        except UnreadableAudio as error:
            return str(error)
    return None


if __name__ == "__main__":
    for name in sys.argv[1:]:
        hold()
        print(json.dumps(answer(Path(name))), flush=True)
