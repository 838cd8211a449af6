"""Sound out of strangers' files: decoded by a child process with limits, never by this one.

A decoder may loop, crash or fill the memory over a file that was made for that. So a child, which
runs this very module, decodes the file with little processor time, memory and disk, and leaves the
samples in a folder that is removed whatever happens. Files that hold video or AAC are told by their
first bytes, not by their name; ffmpeg reads their first sound track, inside the same limits.
(Listening specification, section 4: decompression bombs.)

Shapes: blocks are (samples, channels) float32.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from ttmpref.audio import (
    MAX_SECONDS,
    READABLE_FORMATS,
    READABLE_SUFFIXES,
    check_file,
    decoding,
)
from ttmpref.types import Clip, UnreadableAudio

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".mp4", ".m4a", ".mov", ".webm", ".mkv")
UPLOAD_SUFFIXES = (*READABLE_SUFFIXES, *VIDEO_SUFFIXES)
MAX_BYTES = 128 * 2**20  # of a file: ten minutes of stereo at 44.1 kHz and 16 bits, and some more
MAX_VALUES = 100_000_000  # samples times channels: 400 MB, 17 minutes of stereo at 48 kHz
CPU_SECONDS = 60
WALL_SECONDS = 180.0  # a child that only waits uses no processor time
MEMORY_BYTES = 2 * 2**30
FILE_BYTES = 4 * MAX_VALUES + 2**20  # of each file that the child writes
EXTRA_SECONDS = 1.0  # of a sound track, by which a video that is too long is known
SAMPLES, SOUND, RESULT, LOG = "samples.f32", "sound.wav", "result.json", "log.txt"


def read_upload(path: Path | str, max_seconds: float = MAX_SECONDS) -> Clip:
    """The sound of an audio or video file from a stranger.

    Args:
        path: WAV, FLAC, MP3, OGG or AIFF; with ffmpeg installed also the first sound track of MP4,
            M4A, MOV, WebM or Matroska. At most `MAX_BYTES`.
        max_seconds: longer files are refused, whatever their header claims.

    Raises:
        UnreadableAudio: not such a file, or outside the limits; names file and limit.
    """
    path = Path(path).absolute()
    check_file(path, MAX_BYTES)
    with tempfile.TemporaryDirectory(prefix="ttmpref-upload-") as name:
        folder = Path(name)
        code = _run_child(_child_command(path, folder, max_seconds), folder / LOG)
        if not (folder / RESULT).exists():
            raise UnreadableAudio(f"{path}: {_fate(code, folder / LOG)}")
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        if "error" in result:
            raise UnreadableAudio(result["error"])
        samples = np.fromfile(folder / SAMPLES, np.float32).reshape(-1, result["channels"])
    return Clip(np.ascontiguousarray(samples.T), result["rate"])


def _child_command(path: Path, folder: Path, max_seconds: float) -> list[str]:
    return [sys.executable, "-m", "ttmpref.uploads", str(path), str(folder), str(max_seconds)]


def _run_child(command: list[str], log: Path) -> int | None:
    """The exit code of a command; None for one that was ended because it took too long."""
    # Each thread of a numeric library would take from the memory that the child is allowed.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with (
        open(log, "wb") as output,
        subprocess.Popen(
            command, cwd=Path(__file__).parents[1], env=environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        ) as child,
    ):  # fmt: skip
        try:
            return child.wait(WALL_SECONDS)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)  # ffmpeg too


def _fate(code: int | None, log: Path) -> str:
    """What became of a child that left no result."""
    if code is None:
        return f"took longer than {WALL_SECONDS:g} s to decode"
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"takes more than {CPU_SECONDS} s of processor time to decode"
    logger.error("a decoder ended with code %d: %s", code, log.read_text(errors="replace"))
    return f"cannot be decoded as audio (the decoder ended with code {code})"


# ------------------------------------------------------------------------------ in the child


def main(path: Path, folder: Path, max_seconds: float) -> None:
    """Leave the samples of a file in a folder, and beside them their shape or what is wrong."""
    _limit()
    try:
        result = unpack(path, folder, max_seconds)
    except UnreadableAudio as error:
        result = {"error": str(error).replace(str(folder / SOUND), str(path))}
    except MemoryError:
        result = {"error": f"{path}: needs more than {MEMORY_BYTES >> 20} MiB to decode"}
    (folder / RESULT).write_text(json.dumps(result), encoding="utf-8")


def _limit() -> None:
    """Bound what this process and its children may use."""
    import resource

    for kind, most in (
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (bound, hard))


def unpack(path: Path, folder: Path, max_seconds: float) -> dict[str, int]:
    """Write the samples of a file, channels interleaved, into a folder; returns rate and channels.

    Raises:
        UnreadableAudio: as `read_upload`.
    """
    source, allowed, demuxer = path, max_seconds, _demuxer(path)
    if demuxer is not None:
        source, allowed = folder / SOUND, max_seconds + EXTRA_SECONDS
        _sound_track(path, demuxer, source, allowed)
    frames = 0
    with decoding(source, allowed) as (rate, blocks), open(folder / SAMPLES, "xb") as out:
        for block in blocks:
            frames += len(block)
            if frames > max_seconds * rate:
                raise UnreadableAudio(f"{path}: longer than the accepted {max_seconds:g} s")
            if frames * block.shape[1] > MAX_VALUES:
                raise UnreadableAudio(f"{path}: more than {MAX_VALUES:,} samples over all channels")
            block.tofile(out)
    return {"rate": rate, "channels": block.shape[1]}


def _demuxer(path: Path) -> str | None:
    """ffmpeg's name for the container that a file's first bytes tell, None where none is needed."""
    with open(path, "rb") as file:
        start = file.read(12)
    if start[4:8] == b"ftyp":
        return "mov"
    return "matroska" if start.startswith(b"\x1aE\xdf\xa3") else None


def _sound_track(path: Path, demuxer: str, sound: Path, seconds: float) -> None:
    """Write the first `seconds` of the first sound track of a video as a WAV file."""
    program = shutil.which("ffmpeg")
    if program is None:
        accepted = ", ".join(READABLE_FORMATS)
        raise UnreadableAudio(
            f"{path}: the sound of a video is read by ffmpeg, which is not installed here; "
            f"install it, or use one of {accepted}"
        )
    # Only files may be opened and only by this demuxer: no playlists, no addresses.
    done = subprocess.run(
        [
            program, "-nostdin", "-v", "error", "-threads", "1", "-protocol_whitelist", "file",
            "-f", demuxer, "-i", f"file:{path}", "-map", "0:a:0", "-t", str(seconds),
            "-c:a", "pcm_s16le", "-f", "wav", f"file:{sound}",
        ],
        capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    if done.returncode == -signal.SIGXFSZ:
        raise UnreadableAudio(f"{path}: more than {MAX_VALUES:,} samples over all channels")
    if "matches no streams" in done.stderr:
        raise UnreadableAudio(f"{path}: holds no sound")
    if done.returncode != 0:
        said = done.stderr.replace(f"file:{path}", "it").split("\n")[0]
        reason = said or f"ffmpeg ended with code {done.returncode}"
        raise UnreadableAudio(f"{path}: cannot be decoded as video ({reason})")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
