"""Audio in and out: safe reading, atomic writing, resampling, cutting, and pictures of a clip.

The only file that imports soundfile. Files from outside are treated as hostile: the header is
checked before a sample is decoded, and the decoded audio is capped in length, rate, channels and
size on disk; `ttmpref.uploads` does all this in a child process. Results are written aside and
renamed, so a reader never sees half a file.

Shapes: see the legend in `ttmpref.types`; a `Clip` is (channels, samples) float32.
"""

from __future__ import annotations

import functools
import io
import math
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ttmpref.truncation import is_cut_off
from ttmpref.types import Clip, InvalidRequest, OutputError, UnreadableAudio

MAX_FILE_BYTES = 256 * 2**20
MAX_SECONDS = 900.0
RATE_RANGE = (8_000, 192_000)
MAX_CHANNELS = 8
READABLE_FORMATS = ("WAV", "WAVEX", "FLAC", "MP3", "OGG", "AIFF")
READABLE_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".aiff", ".aif")
WRITABLE_SUFFIXES = (".wav", ".flac", ".mp3")
BIT_DEPTHS = (16, 24)
BLOCK_FRAMES = 65_536
ZERO_CROSSINGS = 32  # of the resampling filter, on each side
SMALLEST_MATRIX, WIDEST_MATRIX = 64, 1024
STRETCHES_PER_PRODUCT = 4096  # bounds the memory of long files


def read_clip(path: Path | str, max_seconds: float = MAX_SECONDS) -> Clip:
    """The audio of a WAV, FLAC, MP3, OGG or AIFF file.

    Args:
        path: a regular file of at most 256 MiB.
        max_seconds: longer files are refused, whatever their header claims.

    Raises:
        UnreadableAudio: not a file, not audio, or outside the limits; names file and limit.
    """
    path = Path(path)
    check_file(path)
    with decoding(path, max_seconds) as (rate, blocks):
        samples = np.concatenate(list(blocks))
    return Clip(np.ascontiguousarray(samples.T), rate)


@contextmanager
def decoding(path: Path, max_seconds: float) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
    """Rate of an audio file and its samples, at least one block, decoded as they are taken.

    Blocks are (samples, channels) float32, finite, and together no longer than `max_seconds`.

    Raises:
        UnreadableAudio: as `read_clip`, but for what `check_file` refuses.
    """
    import soundfile

    try:
        with soundfile.SoundFile(path) as source:
            _check_header(path, source, max_seconds)
            yield source.samplerate, _blocks(path, source, max_seconds)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise UnreadableAudio(f"{path}: cannot be decoded as audio ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    """What the decoder says, without the path; of a false MP3 it says that there is no file."""
    said = " ".join(str(getattr(error, "error_string", error)).split()).rstrip(".")
    return "format not recognised" if said.startswith("File does not exist") else said


def check_file(path: Path, max_bytes: int = MAX_FILE_BYTES) -> None:
    """Refuse what must not be opened at all: folders, pipes, devices, empty and huge files.

    Raises:
        UnreadableAudio: names file and limit.
    """
    if not path.exists():
        raise UnreadableAudio(f"{path}: no such file")
    if not path.is_file():
        raise UnreadableAudio(f"{path}: not a regular file")
    size = path.stat().st_size
    if not 0 < size <= max_bytes:
        raise UnreadableAudio(f"{path}: has {size} bytes; 1 to {max_bytes} are accepted")


def _check_header(path: Path, source: object, max_seconds: float) -> None:
    """Compare what the header of an open `soundfile.SoundFile` claims with the limits."""
    low, high = RATE_RANGE
    if source.format not in READABLE_FORMATS:
        accepted = ", ".join(READABLE_FORMATS)
        raise UnreadableAudio(f"{path}: is {source.format}; accepted formats: {accepted}")
    if not low <= source.samplerate <= high:
        raise UnreadableAudio(
            f"{path}: sample rate {source.samplerate} Hz; {low} to {high} Hz are accepted"
        )
    if source.channels > MAX_CHANNELS:
        raise UnreadableAudio(f"{path}: {source.channels} channels; 1 to {MAX_CHANNELS} accepted")
    if is_cut_off(path):
        raise UnreadableAudio(f"{path}: is cut off, its end is missing; use the whole file")
    if source.frames > max_seconds * source.samplerate:
        seconds = source.frames / source.samplerate
        raise UnreadableAudio(f"{path}: {seconds:.1f} s long; at most {max_seconds:g} s accepted")


def _blocks(path: Path, source: object, max_seconds: float) -> Iterator[np.ndarray]:
    """All samples of an open `soundfile.SoundFile`; counted, because a header may lie."""
    limit, total = int(max_seconds * source.samplerate), 0
    while len(block := source.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
        total += len(block)
        if total > limit:
            raise UnreadableAudio(f"{path}: longer than the accepted {max_seconds:g} s")
        if not np.isfinite(block).all():
            raise UnreadableAudio(f"{path}: holds samples that are not finite numbers")
        yield block
    if not total:
        raise UnreadableAudio(f"{path}: holds no samples")


def encode_clip(clip: Clip, suffix: str, bit_depth: int = 16) -> bytes:
    """The bytes of an audio file.

    Args:
        clip: samples outside [-1, 1] are clipped by the integer formats.
        suffix: ".wav", ".flac" or ".mp3".
        bit_depth: 16 or 24 for WAV and FLAC; MP3 has its own (best constant quality).

    Raises:
        InvalidRequest: unknown suffix or bit depth.
        OutputError: the format cannot hold this clip (MP3 knows neither 96 kHz nor 3 channels).
    """
    import soundfile

    check_suffix(suffix)
    if bit_depth not in BIT_DEPTHS:
        raise InvalidRequest(f"bit depth is {bit_depth!r}; accepted: 16, 24")
    kind = suffix.lower().removeprefix(".").upper()
    if kind == "MP3":
        samples, options = clip.waveform.T, {"subtype": "MPEG_LAYER_III", "compression_level": 0.0}
    else:
        samples, options = _rounded(clip, bit_depth).T, {"subtype": f"PCM_{bit_depth}"}
    buffer = io.BytesIO()
    try:
        soundfile.write(buffer, samples, clip.sample_rate, format=kind, **options)
    except (soundfile.SoundFileError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise OutputError(
            f"{suffix} cannot hold {clip.channels} channels at {clip.sample_rate} Hz ({reason})"
        ) from None
    return buffer.getvalue()


def _rounded(clip: Clip, bit_depth: int) -> np.ndarray:
    """(channels, samples) integers in the upper bits of int32, rounded to nearest and clipped.

    Done here because libsndfile rounds floats for FLAC but cuts them off for WAV.
    """
    full = 2 ** (bit_depth - 1)
    steps = np.rint(clip.waveform.astype(np.float64) * full).clip(-full, full - 1)
    return steps.astype(np.int32) << (32 - bit_depth)


def check_suffix(suffix: str) -> None:
    """Raise `InvalidRequest` unless audio can be written under this file suffix."""
    if suffix.lower() not in WRITABLE_SUFFIXES:
        accepted = ", ".join(WRITABLE_SUFFIXES)
        raise InvalidRequest(f"audio file suffix is {suffix!r}; accepted: {accepted}")


def check_writable(path: Path) -> None:
    """Fail early where `write_clip` surely would: unknown suffix, a folder, no permission.

    Raises:
        InvalidRequest: the suffix is not an audio format.
        OutputError: the place cannot be written.
    """
    check_suffix(path.suffix)
    check_place(path)


def check_place(path: Path) -> None:
    """Raise `OutputError` where no file can be written: a folder, no permission."""
    if path.is_dir():
        raise OutputError(f"{path}: cannot be written (it is a folder)")
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise OutputError(f"{path}: cannot be written ({nearest} is not a writable folder)")


def write_clip(clip: Clip, path: Path | str, bit_depth: int = 16) -> Path:
    """Write a WAV, FLAC or MP3 file, chosen by suffix; whole or not at all.

    Raises:
        InvalidRequest: unknown suffix or bit depth.
        OutputError: the folder is not writable, the disk is full, ...; no partial file is left.
    """
    path = Path(path)
    write_files({path: encode_clip(clip, path.suffix, bit_depth)})
    return path


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write several files so that either all are whole or none was touched.

    All are written and synced aside in their own folders first; only then are they renamed, in
    order. What fails (full disk, no permission) fails before the first rename.

    Raises:
        OutputError: one line naming the file and the reason.
    """
    asides: dict[Path, Path] = {}
    path = Path()
    try:
        for path, data in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(0, "it is a folder")
            asides[path] = path.parent / f".ttmpref-{uuid.uuid4().hex}.part"
            _write_synced(asides[path], data)
        for path, aside in asides.items():
            os.replace(aside, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        for aside in asides.values():
            aside.unlink(missing_ok=True)


def _write_synced(path: Path, data: bytes) -> None:
    """Create a new file and wait until the disk has it."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def resample(clip: Clip, sample_rate: int) -> Clip:
    """The clip at another rate (polyphase Kaiser filter, about 90 dB stop band)."""
    if sample_rate == clip.sample_rate:
        return clip
    waveform = resample_samples(clip.waveform, clip.sample_rate, sample_rate)
    return Clip(waveform, sample_rate)


def resample_samples(samples: np.ndarray, source: int, target: int) -> np.ndarray:
    """(..., S) float32 at `source` Hz to (..., ceil(S * target / source)) at `target` Hz.

    The filter is symmetric and its length depends on the larger rate alone. So the transpose of
    this linear map, which turns a gradient of the result into one of the input, is the way back
    times target / source.
    """
    common = math.gcd(target, source)
    up, down = target // common, source // common
    rows = [_filtered(row, up, down) for row in samples.reshape(-1, samples.shape[-1])]
    return np.stack(rows).reshape(*samples.shape[:-1], -1)


def _filtered(row: np.ndarray, up: int, down: int) -> np.ndarray:
    """(S,) to (ceil(S * up / down),).

    `stride` samples give `count` new ones by a product with a banded matrix, ten times faster than
    a polyphase filter here. Where the rates have no common factor to speak of, that matrix would
    fill the memory, and the filter is applied as such.
    """
    if max(up, down) > WIDEST_MATRIX:
        from scipy.signal import resample_poly

        return resample_poly(row, up, down, window=_taps(max(up, down))).astype(np.float32)
    repeats = -(-SMALLEST_MATRIX // up)  # products with a vector or two are slow
    matrix, stride, count = _matrix(up, down, repeats), down * repeats, up * repeats
    reach = _reach(up, down)
    total = -(-len(row) * up // down)
    strides = -(-total // count)
    padding = max(0, (strides - 1) * stride + len(matrix) - reach - len(row))
    stretches = np.lib.stride_tricks.sliding_window_view(np.pad(row, (reach, padding)), len(matrix))
    stretches = stretches[::stride][:strides]
    # Copies, in pieces: numpy multiplies overlapping views without BLAS, forty times slower.
    pieces = [
        np.ascontiguousarray(stretches[first : first + STRETCHES_PER_PRODUCT]) @ matrix
        for first in range(0, strides, STRETCHES_PER_PRODUCT)
    ]
    return np.concatenate(pieces).reshape(-1)[:total]


def _reach(up: int, down: int) -> int:
    """Input samples on each side that the filter may touch."""
    return ZERO_CROSSINGS * max(up, down) // up


@functools.lru_cache(maxsize=16)
def _taps(widest: int) -> np.ndarray:
    """Low-pass filter for factors up to `widest`, at the rate of `widest` times the lower one.

    A transition band of about 9 % of the lower Nyquist frequency, centred 4.5 % below it so that
    nothing folds back.
    """
    from scipy.signal import firwin

    taps = firwin(2 * ZERO_CROSSINGS * widest + 1, 0.955 / widest, window=("kaiser", 9.0))
    return taps.astype(np.float32)


@functools.lru_cache(maxsize=16)
def _matrix(up: int, down: int, repeats: int) -> np.ndarray:
    """(inputs, up * repeats): a stretch of samples to the resampled ones that belong to it.

    Column i is output i of a stretch whose sample `_reach` is at the time of output 0.
    """
    taps, reach = _taps(max(up, down)), _reach(up, down)
    outputs = np.arange(up * repeats)[None]
    inputs = np.arange(down * repeats + 2 * reach + 1)[:, None]
    index = outputs * down - (inputs - reach) * up + len(taps) // 2
    inside = (index >= 0) & (index < len(taps))
    return np.where(inside, taps[index.clip(0, len(taps) - 1)] * np.float32(up), np.float32(0))


def window_starts(samples: int, window: int) -> list[int]:
    """First samples of as few evenly spread windows as cover `samples`; one where they fit in it.

    Neighbours overlap by less than a window; the last one ends with the last sample.
    """
    if samples <= window:
        return [0]
    count = -(-samples // window)
    return np.linspace(0, samples - window, count).round().astype(int).tolist()


def cut_or_pad(clip: Clip, samples: int) -> Clip:
    """The first `samples` samples, zero-padded at the end where the clip is shorter."""
    kept = clip.waveform[:, :samples]
    padding = samples - kept.shape[1]
    return Clip(np.pad(kept, ((0, 0), (0, padding))) if padding else kept, clip.sample_rate)


def envelope(clip: Clip, points: int = 800) -> np.ndarray:
    """(points, 2): lowest and highest mono sample of each of `points` equal stretches.

    A clip of fewer samples than points gives one row per sample.
    """
    points = min(points, clip.samples)
    starts = np.linspace(0, clip.samples, points, endpoint=False).astype(int)
    mono = clip.mono
    return np.stack([np.minimum.reduceat(mono, starts), np.maximum.reduceat(mono, starts)], 1)


@dataclass(frozen=True, eq=False)
class Spectrogram:
    """A picture of a clip.

    Attributes:
        levels_db: (M, frames) float32, dB below the loudest cell (0 at most, -80 at least).
        times: (frames,) seconds, middle of each frame.
        frequencies: (M,) Hz, middle of each mel band.
    """

    levels_db: np.ndarray
    times: np.ndarray
    frequencies: np.ndarray


def spectrogram(clip: Clip, frames: int = 400, bands: int = 96) -> Spectrogram:
    """A mel-band picture of the mono mix for the screen; not a model's front end.

    Args:
        clip: any length; short clips are zero-padded to one analysis window.
        frames: columns of the picture; fewer where the clip is shorter than frames * 64 samples.
        bands: rows of the picture.
    """
    size = 2048
    mono = np.pad(clip.mono, (0, max(0, size - clip.samples)))
    hop = max(64, (len(mono) - size) // max(1, frames - 1))
    windows = np.lib.stride_tricks.sliding_window_view(mono, size)[::hop]  # (frames, size)
    power = np.abs(np.fft.rfft(windows * np.hanning(size).astype(np.float32))) ** 2
    centres = _mel_spaced(30.0, clip.sample_rate / 2, bands + 2)
    mel = power @ _triangles(centres, size, clip.sample_rate)  # (frames, bands)
    levels = 10 * np.log10(np.maximum(mel.T, 1e-12))
    times = (np.arange(len(windows)) * hop + size / 2) / clip.sample_rate
    relative = np.clip(levels - levels.max(), -80.0, 0.0).astype(np.float32)
    return Spectrogram(relative, times, centres[1:-1])


def _mel_spaced(low: float, high: float, count: int) -> np.ndarray:
    """`count` frequencies in Hz, equally spaced on the mel scale."""
    mels = np.linspace(math.log1p(low / 700), math.log1p(high / 700), count)
    return 700 * np.expm1(mels)


def _triangles(centres: np.ndarray, size: int, sample_rate: int) -> np.ndarray:
    """(bins, bands) triangular weights; narrow low bands reach at least their nearest bins."""
    bins = np.fft.rfftfreq(size, 1 / sample_rate)[:, None]
    width = sample_rate / size
    low = np.minimum(centres[:-2], centres[1:-1] - width)
    high = np.maximum(centres[2:], centres[1:-1] + width)
    rise = (bins - low) / (centres[1:-1] - low)
    fall = (high - bins) / (high - centres[1:-1])
    return np.clip(np.minimum(rise, fall), 0, None)
