"""Synthetic voices for the separator: sung lines, choirs and speech, rendered once into a cache.

Sung voices are a source and a filter: glottal pulses (KLGLOTT88, Klatt & Klatt 1990) with vibrato,
glides, jitter and breath, through the formants of five vowels (Peterson & Barney 1952) as a cascade
of resonators, with hissed consonants. A choir is several singers on one line, apart in pitch, time
and size. Speech is spoken by espeak-ng. Everything follows from a seed, so a cache is never stale.

Shapes: waveforms (S,), frequencies f0 (S,) in Hz, times in seconds.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.signal import fftconvolve, sosfilt

from training.data import CORPUS_RATE, INT16
from training.loop import numpy_draws, write_aside
from training.recipe import VoicesRecipe, recipe_hash
from ttmpref.audio import read_clip, resample

KINDS = ("sung", "choir", "speech")
LEVEL = 0.1  # root mean square of every voice in the cache
SCALE = (0, 2, 4, 5, 7, 9, 11)  # semitones of a major scale
WANDER_SECONDS = 0.05  # between independent values of what a voice wavers by
OPEN_QUOTIENT = 0.6  # share of a period in which the glottis is open
# Hz of the formants of ah, eh, ee, oh, oo for a man; the last two are alike for all vowels.
VOWELS = (
    (730, 1090, 2440, 3500, 4500),
    (530, 1840, 2480, 3500, 4500),
    (270, 2290, 3010, 3500, 4500),
    (570, 840, 2410, 3500, 4500),
    (300, 870, 2240, 3500, 4500),
)
BANDWIDTHS = (60, 90, 120, 150, 200)  # Hz
# Lowest and highest note in Hz, and how much shorter the vocal tract is than a man's.
RANGES = ((80, 260, 1.0), (110, 390, 1.05), (180, 700, 1.15), (230, 930, 1.2))
SPEAKERS = tuple(f"en+{name}" for name in ("m1", "m3", "m5", "m7", "f1", "f2", "f3", "f4"))


class MissingSpeaker(RuntimeError):
    """espeak-ng is not installed; the message says how to get it."""


@dataclass(frozen=True)
class Sung:
    """One note of a line: seconds, Hz, number of its vowel, and its level from 0 to 1."""

    start: float
    end: float
    hertz: float
    vowel: int
    level: float


@dataclass(frozen=True)
class Singer:
    """How somebody sings.

    Attributes:
        tract: factor of all formants.
        vibrato_hertz, vibrato_cents: rate and depth.
        breath: noise in the source, relative to the pulses.
        detune_cents, delay: off the line in pitch and in seconds.
    """

    tract: float
    vibrato_hertz: float
    vibrato_cents: float
    breath: float
    detune_cents: float = 0.0
    delay: float = 0.0


def _melody(rng: np.random.Generator, seconds: float, low: float, high: float) -> list[Sung]:
    """A random walk on a major scale between two frequencies, with rests."""
    tonic = low * 2 ** rng.uniform(0, 1 / 2)
    steps = [o * 12 + s for o in range(4) for s in SCALE if tonic * 2 ** (o + s / 12) <= high]
    notes, time, place = [], float(rng.uniform(0, 0.4)), int(rng.integers(len(steps)))
    while time < seconds:
        length = float(rng.choice([0.25, 0.5, 0.75, 1.0, 1.5]) * rng.uniform(0.8, 1.2))
        place = int(np.clip(place + rng.integers(-2, 3), 0, len(steps) - 1))
        if rng.uniform() > 0.15:
            hertz = tonic * 2 ** (steps[place] / 12)
            vowel, level = int(rng.integers(len(VOWELS))), float(rng.uniform(0.6, 1.0))
            notes.append(Sung(time, time + 0.95 * length, hertz, vowel, level))
        time += length
    return notes or [Sung(0.0, seconds, tonic, 0, 1.0)]


def _held(notes: list[Sung], values: Sequence[float], samples: int, smooth: float) -> np.ndarray:
    """(S,) a value while its note sounds, 0 in rests, with edges of about `smooth` seconds."""
    track = np.zeros(samples)
    for note, value in zip(notes, values, strict=True):
        track[round(note.start * CORPUS_RATE) : round(note.end * CORPUS_RATE)] = value
    width = max(1, round(smooth * CORPUS_RATE))
    return uniform_filter1d(uniform_filter1d(track, width), width)


def _frequency(
    notes: list[Sung], singer: Singer, samples: int, rng: np.random.Generator
) -> np.ndarray:
    """(S,) Hz: glides from note to note, vibrato and a little wandering."""
    octaves = np.empty(samples)
    starts = [round(note.start * CORPUS_RATE) for note in notes[1:]] + [samples]
    first = 0
    for note, last in zip(notes, starts, strict=True):
        octaves[first:last] = np.log2(note.hertz)
        first = last
    octaves = uniform_filter1d(octaves, round(0.06 * CORPUS_RATE), mode="nearest")
    time = np.arange(samples) / CORPUS_RATE
    vibrato = np.sin(2 * np.pi * (singer.vibrato_hertz * time + rng.uniform()))
    knots = np.arange(0, time[-1] + WANDER_SECONDS, WANDER_SECONDS)
    wander = np.interp(time, knots, rng.normal(size=len(knots)))
    cents = singer.detune_cents + singer.vibrato_cents * vibrato + 6.0 * wander
    return 2 ** (octaves + cents / 1200)


def _pulses(frequency: np.ndarray) -> np.ndarray:
    """(S,) derivative of the glottal flow t^2 - t^3 / OQ of every period."""
    place = np.cumsum(frequency / CORPUS_RATE) % 1.0 / OPEN_QUOTIENT
    return np.where(place < 1.0, 2 * place - 3 * place**2, 0.0)


def _formants(source: np.ndarray, vowel: int, tract: float) -> np.ndarray:
    """(S,) the source through a cascade of two-pole resonators of unit gain at 0 Hz."""
    frequencies = np.array(VOWELS[vowel]) * tract
    radius = np.exp(-np.pi * np.array(BANDWIDTHS) / CORPUS_RATE)
    b = 2 * radius * np.cos(2 * np.pi * frequencies / CORPUS_RATE)
    c = -(radius**2)
    zeros = np.zeros_like(b)
    return sosfilt(np.stack([1 - b - c, zeros, zeros, zeros + 1, -b, -c], 1), source)


def _consonants(notes: list[Sung], samples: int, rng: np.random.Generator) -> np.ndarray:
    """(S,) hisses before some of the notes."""
    out = np.zeros(samples)
    for note in notes:
        length = round(rng.uniform(0.05, 0.12) * CORPUS_RATE)
        last = round(note.start * CORPUS_RATE)
        noise = np.diff(rng.normal(size=length + 2), 2)  # rises by 12 dB per octave
        if rng.uniform() < 0.5 and last >= length:
            out[last - length : last] += 0.1 * rng.uniform(0.3, 1) * noise * np.hanning(length)
    return out


def _sing(notes: list[Sung], singer: Singer, samples: int, rng: np.random.Generator) -> np.ndarray:
    """(S,) a line sung by one singer, of no particular level."""
    source = _pulses(_frequency(notes, singer, samples, rng))
    source += singer.breath * rng.normal(size=samples)
    voice = np.zeros(samples)
    for vowel in {note.vowel for note in notes}:
        sounding = _held(notes, [float(note.vowel == vowel) for note in notes], samples, 0.03)
        voice += sounding * _formants(source, vowel, singer.tract)
    voice *= _held(notes, [note.level for note in notes], samples, 0.02)
    voice /= np.abs(voice).max() + 1e-9
    voice += _consonants(notes, samples, rng)
    return np.pad(voice, (round(singer.delay * CORPUS_RATE), 0))[:samples]


def _singer(rng: np.random.Generator, tract: float) -> Singer:
    return Singer(
        tract=tract * rng.uniform(0.95, 1.05),
        vibrato_hertz=rng.uniform(4.5, 6.5),
        vibrato_cents=rng.uniform(5, 50),
        breath=rng.uniform(0.005, 0.06),
    )


def sung(rng: np.random.Generator, samples: int) -> np.ndarray:
    """(S,) a melody sung by one voice."""
    low, high, tract = RANGES[rng.integers(len(RANGES))]
    notes = _melody(rng, samples / CORPUS_RATE, low, high)
    return _sing(notes, _singer(rng, tract), samples, rng)


def choir(rng: np.random.Generator, samples: int) -> np.ndarray:
    """(S,) a melody sung by four to seven voices that are never quite together."""
    low, high, tract = RANGES[rng.integers(len(RANGES))]
    notes = _melody(rng, samples / CORPUS_RATE, low, high)
    total = np.zeros(samples)
    for _ in range(rng.integers(4, 8)):
        off = {"detune_cents": rng.normal(0, 12), "delay": rng.uniform(0, 0.05)}
        total += _sing(notes, replace(_singer(rng, tract), **off), samples, rng)
    return total


def speech(rng: np.random.Generator, samples: int, texts: Sequence[str]) -> np.ndarray:
    """(S,) some of the texts, read aloud by espeak-ng and repeated until the time is full.

    Raises:
        MissingSpeaker: espeak-ng is not installed.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise MissingSpeaker("espeak-ng is not installed: apt-get install espeak-ng")
    said = ". ".join(texts[i] for i in rng.integers(len(texts), size=4))
    speed, pitch = rng.integers(120, 220), rng.integers(20, 80)
    speaker = SPEAKERS[rng.integers(len(SPEAKERS))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "said.wav"
        options = ["-v", speaker, "-s", str(speed), "-p", str(pitch), "-w", str(path)]
        subprocess.run([program, *options, "--", said], check=True, capture_output=True)
        spoken = resample(read_clip(path), CORPUS_RATE).mono
    return np.resize(spoken, samples).astype(np.float64)


def _in_a_room(voice: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(S,) with an exponentially decaying tail of noise, dry to rather wet."""
    seconds = rng.uniform(0.3, 1.5)
    time = np.arange(round(seconds * CORPUS_RATE)) / CORPUS_RATE
    tail = rng.normal(size=len(time)) * np.exp(-6.9 * time / seconds)
    tail /= np.sqrt(np.square(tail).sum())
    return voice + rng.uniform(0, 0.5) * fftconvolve(voice, tail)[: len(voice)]


def render(recipe: VoicesRecipe, split: str, row: int, texts: Sequence[str]) -> np.ndarray:
    """(S,) float: voice number `row` of a split at the level of the cache, within full scale."""
    rng = numpy_draws(recipe.seed, f"voices {split}", row)
    samples = round(recipe.seconds * CORPUS_RATE)
    kind = KINDS[rng.choice(len(KINDS), p=recipe.shares)]
    if kind == "speech":
        voice = speech(rng, samples, texts)
    else:
        voice = (sung if kind == "sung" else choir)(rng, samples)
    voice = _in_a_room(voice, rng)
    level = np.sqrt(np.square(voice).mean())
    return (voice * LEVEL / max(level, 1e-9)).clip(-1.0, 1.0)


def voices(recipe: VoicesRecipe, split: str, texts: Sequence[str], folder: Path) -> np.ndarray:
    """(voices, S) int16 memory map of a split, rendered on first use.

    Args:
        texts: what speech says.
        folder: of caches.
    """
    path = folder / f"voices-{recipe_hash(recipe)}.{split}.npy"
    if not path.exists():
        rows = [render(recipe, split, row, texts) for row in range(recipe.counts[split])]
        array = np.rint(np.stack(rows) * INT16).astype(np.int16)
        write_aside(path, lambda aside: _save(aside, array))
    return np.load(path, mmap_mode="r")


def _save(path: Path, array: np.ndarray) -> None:
    """`np.save` to exactly this name; given a name, it would append a suffix."""
    with path.open("wb") as file:
        np.save(file, array)
