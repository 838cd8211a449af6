"""Chordal parts: comping patterns, sustained pads, arpeggios and the colour layers of moods."""

from __future__ import annotations

import numpy as np

from .score import Note, Tags
from .theory import Harmony, near, voice

# Rhythms as (beat, length in beats, velocity) over one bar of four; three-beat bars drop the rest.
Rhythm = tuple[tuple[float, float, int], ...]

RHYTHMS: dict[str, tuple[Rhythm, ...]] = {
    "strum": (
        ((0, 0.9, 84), (1, 0.4, 74), (1.5, 0.4, 66), (2, 0.9, 80), (3, 0.4, 74), (3.5, 0.4, 66)),
        ((0, 0.9, 84), (1, 0.9, 72), (1.5, 0.4, 62), (2.5, 0.4, 70), (3, 0.9, 76), (3.5, 0.4, 62)),
    ),
    "power": (
        tuple((i / 2, 0.46, 98 if i % 2 == 0 else 84) for i in range(8)),
        ((0, 1.4, 102), (1.5, 0.9, 94), (2.5, 0.4, 88), (3, 0.9, 96)),
        ((0, 0.4, 100), (0.5, 0.4, 86), (1, 0.9, 94), (2, 0.4, 98), (2.5, 0.9, 90), (3.5, 0.4, 92)),
    ),
    "sustained power": (((0, 3.9, 92),), ((0, 1.9, 92), (2, 1.9, 88))),
    "boogie": (tuple((i / 2, 0.4, 88 if i % 2 == 0 else 76) for i in range(8)),),
    "charleston": (
        ((0, 0.5, 80), (1.5, 0.4, 84)),
        ((0.5, 0.4, 80), (2.5, 0.5, 82)),
        ((1, 0.3, 82), (2.5, 0.3, 74), (3, 0.3, 82)),
        ((0, 0.35, 74), (1, 0.35, 82), (2, 0.35, 74), (3, 0.35, 82)),
    ),
    "scratch": (
        ((0, 0.15, 92), (0.75, 0.12, 84), (1, 0.2, 96), (1.75, 0.12, 84), (2.5, 0.15, 96),
         (2.75, 0.12, 82), (3.25, 0.12, 86), (3.5, 0.2, 94)),
        ((0.25, 0.12, 84), (0.5, 0.15, 94), (1.25, 0.12, 84), (1.5, 0.2, 94), (2, 0.15, 90),
         (2.75, 0.12, 86), (3, 0.2, 96), (3.75, 0.12, 84)),
    ),
    "stabs": (
        ((0, 0.3, 104), (2.5, 0.3, 100)),
        ((1.5, 0.25, 100), (1.75, 0.3, 106)),
        ((3.5, 0.5, 106),),
    ),
    "offbeat": (
        tuple((i + 0.5, 0.35, 94) for i in range(4)),
        ((0, 0.4, 94), (0.75, 0.4, 92), (1.5, 0.4, 94), (2.5, 0.4, 92), (3.25, 0.5, 94)),
    ),
    "loop": (
        ((0, 1.4, 80), (1.5, 0.9, 72), (2.5, 1.4, 78)),
        ((0, 0.4, 82), (0.75, 0.4, 72), (1.5, 0.4, 78), (2, 0.9, 80), (3.25, 0.6, 74)),
    ),
    "montuno": (
        ((0, 0.4, 90), (0.5, 0.4, 82), (1.5, 0.4, 90), (2, 0.3, 76), (2.5, 0.4, 88),
         (3.5, 0.4, 90)),
        ((0, 0.4, 88), (1, 0.4, 82), (1.5, 0.4, 90), (2.5, 0.4, 90), (3, 0.4, 80), (3.5, 0.4, 88)),
    ),
    "bossa": (((0, 0.9, 78), (1.5, 0.9, 82), (3, 0.9, 80)), ((0, 1.3, 78), (1.5, 1.3, 82),
              (2.5, 0.4, 74), (3.5, 0.5, 80))),
    "bounce": (((1, 0.4, 80), (3, 0.4, 78)), ((0.5, 0.3, 78), (1.5, 0.3, 78), (2.5, 0.3, 78),
               (3.5, 0.3, 78))),
    "waltz": (((1, 0.7, 76), (2, 0.7, 72)),),
}  # fmt: skip

_ARPEGGIOS = ((0, 1, 2, 3, 2, 1), (0, 2, 1, 2), (0, 1, 2, 3), (3, 2, 1, 0), (0, 2, 3, 2))


def comp(
    tags: Tags, harmony: Harmony, bars: int, style: str, centre: float, rng: np.random.Generator
) -> list[Note]:
    """Plays chords to a rhythm of RHYTHMS.

    Args:
        tags: metre of the piece.
        harmony: chords to follow.
        bars: bars to fill.
        style: key of RHYTHMS.
        centre: middle of the voicing, MIDI pitch.
        rng: source of randomness.

    Returns:
        Notes in beats; strummed styles spread a chord slightly.
    """
    options = RHYTHMS[style]
    first = options[rng.integers(len(options))]
    second = options[rng.integers(len(options))]
    spread = 0.02 if style in ("strum", "bossa") else 0.0
    notes: list[Note] = []
    for bar in range(bars):
        for index, (beat, length, velocity) in enumerate(second if bar % 4 == 3 else first):
            if beat >= tags.beats_per_bar:
                continue
            start = bar * tags.beats_per_bar + beat
            pitches = _voicing(harmony, start, style, centre, index)
            loud = int(max(20, min(velocity + rng.normal(0, 4), 120)))
            notes += [
                Note(start + spread * i, length, pitch, loud) for i, pitch in enumerate(pitches)
            ]
    return notes


def pad(harmony: Harmony, centre: float, velocity: int, top: int = 4) -> list[Note]:
    """Holds every chord for its whole length with up to `top` voices."""
    return [
        Note(chord.start, chord.duration, pitch, velocity)
        for chord in harmony.chords
        for pitch in voice(chord.tones[:top], centre)
    ]


def arpeggio(
    harmony: Harmony, beats: float, step: float, centre: float, velocity: int,
    rng: np.random.Generator,
) -> list[Note]:  # fmt: skip
    """Breaks the chords into equal notes `step` beats apart."""
    pattern = _ARPEGGIOS[rng.integers(len(_ARPEGGIOS))]
    notes = []
    for i in range(int(beats / step)):
        start = i * step
        pitches = voice(harmony.at(start).tones[:4], centre)
        pitches = [*pitches, pitches[0] + 12]
        pitch = pitches[pattern[i % len(pattern)] % len(pitches)]
        loud = int(velocity + (6 if start % 1 == 0 else 0) + rng.normal(0, 4))
        notes.append(Note(start, step * 0.95, pitch, loud))
    return notes


def pulse(harmony: Harmony, beats: float, step: float, centre: float, velocity: int) -> list[Note]:
    """Repeats the root and its upper neighbour nervously, `step` beats apart."""
    notes = []
    tonic = harmony.scale[0]
    for i in range(int(beats / step)):
        start = i * step
        lean = harmony.scale[1] if i % 16 >= 14 else tonic
        accent = 14 if i % 4 == 0 else 0
        notes.append(Note(start, step * 0.8, near(lean, centre), velocity + accent))
    return notes


def sparse_figures(tags: Tags, harmony: Harmony, bars: int, rng: np.random.Generator) -> list[Note]:
    """Scatters short high two- or three-note figures, about one a bar or every two seconds."""
    notes = []
    every = max(1, round(2.0 / (tags.beats_per_bar * 60.0 / tags.tempo_bpm)))
    for bar in range(0, bars, every):
        start = bar * tags.beats_per_bar + float(rng.choice((0.5, 1.0, 1.5, 2.0)))
        tones = harmony.at(start).tones
        for i in range(int(rng.integers(2, 4))):
            pitch = near(int(rng.choice(tones)), 86 + rng.uniform(-6, 6))
            notes.append(Note(start + 0.5 * i, 1.0, pitch, int(72 + rng.normal(0, 5))))
    return notes


def drum_roll(tags: Tags, harmony: Harmony, bars: int, rng: np.random.Generator) -> list[Note]:
    """Timpani: strokes on the chord root with a roll into every fourth bar."""
    notes = []
    for bar in range(bars):
        start = float(bar * tags.beats_per_bar)
        root = near(harmony.at(start).root, 43)
        notes.append(Note(start, 0.9, root, 104))
        if tags.beats_per_bar == 4:
            notes.append(Note(start + 2.5, 0.4, root, 84))
        if bar % 4 == 3:
            last = start + tags.beats_per_bar - 1
            notes += [Note(last + i / 6, 0.16, root, 70 + 6 * i) for i in range(6)]
    return notes


def _voicing(harmony: Harmony, start: float, style: str, centre: float, index: int) -> list[int]:
    chord = harmony.at(start)
    if style in ("power", "sustained power"):
        root = near(chord.root, centre)
        fifth = root + (chord.tones[2] - chord.root) % 12
        return [root, fifth, root + 12]
    if style == "boogie":
        root = near(chord.root, centre)
        return [root, root + (9 if index % 4 in (2, 3) else 7)]
    if style == "montuno":
        pitches = voice(chord.tones[:4], centre)
        return [pitches[0], pitches[0] + 12] if index % 2 else pitches[1:]
    if style == "charleston" and len(chord.tones) > 3:
        return voice(chord.tones[1:], centre)  # rootless: the bass has the root
    return voice(chord.tones[:4], centre)
