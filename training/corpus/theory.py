"""Keys, chords and progressions: which harmony sounds at which beat of a piece."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .score import Tags
from .vocabulary import SCALES, TONICS

# Four-chord cells as zero-based scale degrees; the mode decides the chord qualities.
_CELLS: dict[str, tuple[tuple[int, ...], ...]] = {
    "major": ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 0, 4), (5, 3, 0, 4), (0, 2, 3, 4), (3, 4, 0, 5)),
    "lydian": ((0, 1, 0, 1), (0, 1, 5, 4), (0, 4, 1, 0), (0, 1, 2, 1)),
    "mixolydian": ((0, 6, 3, 0), (0, 6, 0, 3), (0, 3, 6, 0), (0, 4, 3, 6)),
    "minor": ((0, 5, 2, 6), (0, 3, 5, 4), (0, 6, 5, 6), (0, 3, 0, 4), (0, 5, 6, 0), (5, 6, 0, 0)),
    "dorian": ((0, 3, 0, 3), (0, 1, 3, 0), (0, 6, 3, 0), (0, 2, 3, 0)),
    "phrygian": ((0, 1, 0, 1), (0, 1, 6, 0), (0, 5, 1, 0), (0, 6, 1, 0)),
    "harmonic minor": ((0, 3, 4, 0), (0, 5, 4, 0), (0, 4, 0, 4), (0, 3, 5, 4)),
}
_JAZZ_MAJOR = ((1, 4, 0, 5), (1, 4, 0, 0), (2, 5, 1, 4), (0, 5, 1, 4))
_JAZZ_MINOR = ((1, 4, 0, 0), (0, 3, 1, 4), (0, 5, 1, 4))
_CLASSICAL_MAJOR = ((0, 3, 4, 0), (0, 4, 5, 2), (0, 1, 4, 0), (3, 0, 1, 4))
_VAMPS = ((0, 0, 3, 3), (0, 0, 0, 0), (0, 3, 0, 3), (0, 0, 0, 3))
_TWELVE_BAR = (0, 3, 0, 0, 3, 3, 0, 0, 4, 3, 0, 4)
_MINOR_MODES = ("minor", "dorian", "phrygian", "harmonic minor")
_CHORD_SIZE = {"jazz": 5, "funk": 4, "blues": 4, "hip hop": 4, "house": 4, "latin": 4}
_MOOD_CHORD_SIZE = {"dreamy": 5, "romantic": 4}


@dataclass(frozen=True)
class Chord:
    """A chord: start and duration in beats, pitch classes 0..11 with the root first."""

    start: float
    duration: float
    tones: tuple[int, ...]

    @property
    def root(self) -> int:
        """Pitch class of the root."""
        return self.tones[0]


@dataclass(frozen=True)
class Harmony:
    """The chords of a whole piece and the scale they come from (pitch classes, tonic first)."""

    scale: tuple[int, ...]
    chords: tuple[Chord, ...]

    @cached_property
    def _starts(self) -> list[float]:
        return [chord.start for chord in self.chords]

    def at(self, beat: float) -> Chord:
        """Returns the chord that sounds at a beat."""
        return self.chords[max(0, bisect.bisect_right(self._starts, beat + 1e-6) - 1)]


def is_minor(mode: str) -> bool:
    """Tells whether a mode has a minor third."""
    return mode in _MINOR_MODES


def scale_of(tags: Tags) -> tuple[int, ...]:
    """Returns the seven pitch classes of the tags' key and mode, tonic first."""
    tonic = TONICS.index(tags.key)
    return tuple((tonic + step) % 12 for step in SCALES[tags.mode])


def bar_count(tags: Tags, seconds: float) -> int:
    """Returns how many bars cover a piece."""
    return math.ceil(seconds * tags.tempo_bpm / 60.0 / tags.beats_per_bar)


def compose_harmony(tags: Tags, bars: int, rng: np.random.Generator) -> Harmony:
    """Writes the chord progression of a piece.

    Args:
        tags: key, mode, genre, mood and tempo.
        bars: number of bars to cover.
        rng: source of randomness.

    Returns:
        Chords that cover all bars without gaps.
    """
    scale = scale_of(tags)
    hold = _bars_per_chord(tags)
    degrees = _degrees(tags, math.ceil(bars / hold), rng)
    size = max(_CHORD_SIZE.get(tags.genre, 3), _MOOD_CHORD_SIZE.get(tags.mood, 3))
    if tags.genre == "rock":
        size = 3
    length = float(hold * tags.beats_per_bar)
    chords = [
        Chord(i * length, length, _chord_tones(tags, scale, degree, size))
        for i, degree in enumerate(degrees)
    ]
    return Harmony(scale, tuple(chords))


def voice(tones: tuple[int, ...], centre: float) -> list[int]:
    """Places each pitch class in the octave nearest to a centre pitch, sorted upwards."""
    return sorted({int(t + 12 * round((centre - t) / 12.0)) for t in tones})


def near(pitch_class: int, centre: float) -> int:
    """Returns the pitch of a pitch class that lies nearest to a centre."""
    return int(pitch_class + 12 * round((centre - pitch_class) / 12.0))


def _bars_per_chord(tags: Tags) -> int:
    bar_s = tags.beats_per_bar * 60.0 / tags.tempo_bpm
    if tags.genre == "ambient":
        return max(1, round(4.5 / bar_s))
    if tags.genre in ("jazz", "blues"):
        return 1
    return 2 if bar_s < 1.75 else 1


def _degrees(tags: Tags, count: int, rng: np.random.Generator) -> list[int]:
    if tags.genre == "blues":
        return [_TWELVE_BAR[i % 12] for i in range(count)]
    cells = _cells(tags)
    first = cells[rng.integers(len(cells))]
    second = cells[rng.integers(len(cells))]
    form = (first, first, second, first)
    return [degree for i in range(math.ceil(count / 4)) for degree in form[i % 4]][:count]


def _cells(tags: Tags) -> tuple[tuple[int, ...], ...]:
    if tags.genre == "jazz" and tags.mode == "major":
        return _JAZZ_MAJOR
    if tags.genre == "jazz" and tags.mode in ("minor", "harmonic minor"):
        return _JAZZ_MINOR
    if tags.genre == "classical" and tags.mode == "major":
        return _CLASSICAL_MAJOR
    if tags.genre == "funk" and tags.mode in ("dorian", "mixolydian", "minor"):
        return _VAMPS
    return _CELLS[tags.mode]


def _chord_tones(tags: Tags, scale: tuple[int, ...], degree: int, size: int) -> tuple[int, ...]:
    if tags.genre == "blues":
        return _blues_chord(tags, scale, degree)
    tones = [scale[(degree + 2 * i) % 7] for i in range(size)]
    if tags.mode == "minor" and degree == 4 and tags.genre in ("jazz", "classical", "latin"):
        tones[1] = (tones[0] + 4) % 12  # the dominant of a minor key borrows the leading tone
    return tuple(tones)


def _blues_chord(tags: Tags, scale: tuple[int, ...], degree: int) -> tuple[int, ...]:
    root = (scale[0] + (0, 0, 0, 5, 7)[degree]) % 12
    third = 3 if is_minor(tags.mode) and degree != 4 else 4
    return (root, (root + third) % 12, (root + 7) % 12, (root + 10) % 12)
