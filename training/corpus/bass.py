"""Bass lines: one style per genre, following the chords."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .score import Note, Tags
from .theory import Chord, Harmony, near

_LOWEST = 28
_CENTRE = 37
# (beat, chord tone index, octave, length in beats, velocity)
Cell = tuple[tuple[float, int, int, float, int], ...]

_CELLS: dict[str, tuple[Cell, ...]] = {
    "folk": (((0, 0, 0, 1.4, 84), (2, 2, 0, 1.4, 78)), ((0, 0, 0, 1.9, 84), (2, 2, 0, 0.9, 76),
              (3, 0, 0, 0.9, 72))),
    "funk": (((0, 0, 0, 0.4, 110), (0.75, 0, 0, 0.2, 84), (1.5, 0, 1, 0.3, 104),
              (2.25, 3, 0, 0.2, 88), (2.5, 0, 0, 0.4, 96), (3.25, 2, 0, 0.2, 86),
              (3.5, 0, 1, 0.3, 104)),
             ((0, 0, 0, 0.6, 110), (1.25, 0, 1, 0.2, 98), (1.75, 3, 0, 0.2, 86),
              (2.5, 0, 0, 0.3, 98), (2.75, 0, 1, 0.2, 100), (3.5, 2, 0, 0.4, 90))),
    "hip hop": (((0, 0, 0, 1.4, 104), (1.75, 0, 0, 0.5, 92), (2.5, 0, 0, 1.2, 98)),
                ((0, 0, 0, 2.2, 106), (2.5, 2, 0, 0.6, 92), (3.25, 0, 0, 0.7, 94))),
    "house": (((0.5, 0, 0, 0.4, 104), (1.5, 0, 0, 0.4, 104), (2.5, 0, 0, 0.4, 104),
               (3.5, 0, 1, 0.4, 100)),
              ((0, 0, 0, 0.2, 92), (0.5, 0, 0, 0.3, 104), (0.75, 0, 1, 0.2, 94),
               (1.5, 0, 0, 0.3, 104), (2.5, 0, 0, 0.3, 104), (2.75, 0, 1, 0.2, 94),
               (3.5, 2, 0, 0.3, 98))),
    "latin": (((0, 0, 0, 1.3, 92), (1.5, 2, 0, 1.4, 96), (3, 0, 1, 0.9, 92)),
              ((0, 0, 0, 1.4, 92), (1.5, 2, 0, 0.4, 88), (2, 2, 0, 1.4, 94), (3.5, 0, 0, 0.5, 88))),
}  # fmt: skip


def compose_bass(tags: Tags, harmony: Harmony, bars: int, rng: np.random.Generator) -> list[Note]:
    """Writes the bass line of a piece.

    Args:
        tags: genre, metre, tempo and mood.
        harmony: chords to follow.
        bars: bars to fill.
        rng: source of randomness.

    Returns:
        Notes in beats, in order of start.
    """
    writers: dict[str, Callable[..., list[Note]]] = {
        "ambient": _drone, "classical": _orchestral, "rock": _eighths, "blues": _boogie,
        "jazz": _walk,
    }  # fmt: skip
    if tags.genre in writers:
        return writers[tags.genre](tags, harmony, bars, rng)
    return _cells(tags, harmony, bars, rng)


def _root(chord: Chord) -> int:
    return max(_LOWEST, near(chord.root, _CENTRE))


def _cells(tags: Tags, harmony: Harmony, bars: int, rng: np.random.Generator) -> list[Note]:
    options = _CELLS[tags.genre]
    main = options[rng.integers(len(options))]
    other = options[rng.integers(len(options))]
    notes = []
    for bar in range(bars):
        cell = other if bar % 4 == 3 else main
        for beat, tone, octave, length, velocity in cell:
            if beat >= tags.beats_per_bar:
                continue
            start = bar * tags.beats_per_bar + beat
            chord = harmony.at(start)
            root = _root(chord)
            step = (chord.tones[tone % len(chord.tones)] - chord.root) % 12
            loud = int(np.clip(velocity + rng.normal(0, 4), 20, 124))
            notes.append(Note(start, length, root + step + 12 * octave, loud))
    return notes


def _drone(tags: Tags, harmony: Harmony, bars: int, rng: np.random.Generator) -> list[Note]:
    return [Note(c.start, c.duration, _root(c), 74) for c in harmony.chords]


def _orchestral(tags: Tags, harmony: Harmony, bars: int, rng: np.random.Generator) -> list[Note]:
    notes = []
    beats = (0,) if tags.beats_per_bar == 3 else (0, 2)
    short = 0.9 if tags.mood in ("playful", "happy", "tense") else beats[-1] or 2.9
    for bar in range(bars):
        for index, beat in enumerate(beats):
            start = bar * tags.beats_per_bar + float(beat)
            chord = harmony.at(start)
            root = _root(chord)
            fifth = (chord.tones[2] - chord.root) % 12
            pitch = root + (fifth - 12 if index and root + fifth - 12 >= _LOWEST else 0)
            notes.append(Note(start, float(short), pitch, int(80 + rng.normal(0, 4))))
    return notes


def _eighths(tags: Tags, harmony: Harmony, bars: int, rng: np.random.Generator) -> list[Note]:
    notes = []
    sparse = tags.mood in ("calm", "dreamy", "mysterious", "romantic")
    step = 1.0 if sparse else 0.5
    for i in range(int(bars * tags.beats_per_bar / step)):
        start = i * step
        chord = harmony.at(start)
        root = _root(chord)
        last = abs(start % tags.beats_per_bar - (tags.beats_per_bar - step)) < 0.01
        pitch = near(harmony.at(start + step).root, root) - 2 if last and i % 4 == 3 else root
        if pitch < _LOWEST or pitch % 12 not in harmony.scale:
            pitch = root
        loud = 104 if start % 1 == 0 else 92
        notes.append(Note(start, step * 0.92, pitch, int(loud + rng.normal(0, 4))))
    return notes


def _boogie(tags: Tags, harmony: Harmony, bars: int, rng: np.random.Generator) -> list[Note]:
    minor = rng.random() < 0.3
    riff = (0, 3, 5, 6, 7, 6, 5, 3) if minor else (0, 4, 7, 9, 10, 9, 7, 4)
    notes = []
    quick = tags.tempo_class == "slow" or rng.random() < 0.4
    for beat in range(bars * tags.beats_per_bar):
        chord = harmony.at(float(beat))
        third = (chord.tones[1] - chord.root) % 12
        place = beat % 8 if tags.tempo_class == "fast" else (beat % 4) * 2
        step = riff[place]
        pitch = _root(chord) + (third if step in (3, 4) else step)
        loud = int(96 + rng.normal(0, 4))
        notes.append(Note(float(beat), 0.5 if quick else 0.85, pitch, loud))
        if quick:
            notes.append(Note(beat + 0.5, 0.35, pitch, loud - 14))
    return notes


def _walk(tags: Tags, harmony: Harmony, bars: int, rng: np.random.Generator) -> list[Note]:
    notes = []
    pitch = _root(harmony.chords[0])
    for beat in range(bars * tags.beats_per_bar):
        chord, ahead = harmony.at(float(beat)), harmony.at(beat + 1.0)
        if beat % tags.beats_per_bar == 0:
            pitch = near(chord.root, float(np.clip(pitch, 33, 45)))
        elif ahead is not chord:
            pitch = near(ahead.root, pitch) + int(rng.choice((-1, 1)))
        else:
            tone = chord.tones[rng.integers(1, min(4, len(chord.tones)))]
            pitch = near(tone, pitch + rng.uniform(-4, 4))
        pitch = int(np.clip(pitch, _LOWEST, 52))
        notes.append(Note(float(beat), 0.92, pitch, int(90 + rng.normal(0, 5))))
        if tags.tempo_class != "fast" and rng.random() < 0.12:
            notes.append(Note(beat + 0.5, 0.3, pitch, 70))
    return notes
