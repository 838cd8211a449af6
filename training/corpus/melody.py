"""The lead: motifs repeated and varied over the chords, phrased, ornamented, never long silent."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .score import Note, Tags
from .theory import Harmony, is_minor
from .vocabulary import LEADS, MOODS

_NOTES_PER_SECOND = {"sparse": 1.3, "moderate": 2.4, "dense": 4.3}
_SYNCOPATED = {"funk": 0.9, "latin": 0.7, "hip hop": 0.55, "house": 0.5, "jazz": 0.5, "rock": 0.35,
               "blues": 0.35}  # fmt: skip
_PENTATONIC = ("rock", "blues", "hip hop", "folk", "house")
_LONGEST_REST_S = 0.8
_LONGEST_NOTE_S = {True: 4.0, False: 1.8}


@dataclass(frozen=True)
class _Motif:
    """One bar's onsets in beats and, for each, a step on the scale from the note before."""

    onsets: tuple[float, ...]
    steps: tuple[int, ...]


def compose_lead(tags: Tags, harmony: Harmony, bars: int, rng: np.random.Generator) -> list[Note]:
    """Writes the lead melody.

    Args:
        tags: what the piece shall be.
        harmony: chords to follow.
        bars: bars to fill.
        rng: source of randomness.

    Returns:
        Notes in beats, in order of start; polyphonic leads may have several at once.
    """
    line = _melody(tags, harmony, bars, rng)
    line = _lengths(tags, line, bars * tags.beats_per_bar)
    line = _ornament(tags, line, harmony, rng)
    if tags.lead == "marimba":
        line = _roll(tags, line)
    return sorted(line + _second_voice(tags, line, harmony, rng), key=lambda n: (n.start, n.pitch))


def _melody(tags: Tags, harmony: Harmony, bars: int, rng: np.random.Generator) -> list[Note]:
    ladder = _ladder(tags, harmony)
    position = float(len(ladder) // 2)
    motifs = [_motif(tags, rng) for _ in range(4)]
    notes: list[Note] = []
    for bar in range(bars):
        section, place = divmod(bar, 4)
        base = 2 if section % 4 == 2 else 0
        motif = motifs[base + (1 if place in (1, 3) else 0)]
        if place == 3:
            motif = _cadence(tags, motif)
        elif section and rng.random() < 0.35:
            motif = _vary(motif, tags, rng)
        drift = MOODS[tags.mood].contour * (place - 1.5) / 3.0
        new, position = _sing(tags, motif, bar, position, drift, ladder, harmony, rng)
        notes += new
    return notes


def _sing(
    tags: Tags, motif: _Motif, bar: int, position: float, drift: float, ladder: list[int],
    harmony: Harmony, rng: np.random.Generator,
) -> tuple[list[Note], float]:  # fmt: skip
    notes = []
    middle = (len(ladder) - 1) / 2.0 + drift
    for onset, step in zip(motif.onsets, motif.steps, strict=True):
        # A weak pull to the middle keeps the line in range without hard walls.
        position += step - 0.16 * (position - middle)
        position = min(max(position, 0.0), len(ladder) - 1.0)
        pitch = ladder[round(position)]
        strong = abs(onset - round(onset)) < 0.01
        start = bar * tags.beats_per_bar + onset
        if strong and rng.random() < 0.85:
            pitch = _snap(pitch, harmony.at(start).tones, ladder)
        accent = 8 if onset == 0 else (3 if strong else -5)
        velocity = MOODS[tags.mood].velocity + accent + round(rng.normal(0, 4))
        notes.append(Note(start, 0.5, pitch, max(25, min(velocity, 124))))
    return notes, position


def _ladder(tags: Tags, harmony: Harmony) -> list[int]:
    lead = LEADS[tags.lead]
    centre = (lead.low + lead.high) / 2.0 + MOODS[tags.mood].register
    reach = 11.0 if tags.mood in ("epic", "playful", "mysterious") else 8.5
    centre = min(max(centre, lead.low + reach), lead.high - reach)
    classes = _melody_classes(tags, harmony)
    return [p for p in range(lead.low, lead.high + 1)
            if p % 12 in classes and abs(p - centre) <= reach]  # fmt: skip


def _melody_classes(tags: Tags, harmony: Harmony) -> set[int]:
    scale = harmony.scale
    if tags.genre == "blues":
        steps = (0, 3, 5, 6, 7, 10) if is_minor(tags.mode) else (0, 2, 3, 4, 7, 9, 10)
        return {(scale[0] + s) % 12 for s in steps}
    plain = tags.mode in ("major", "minor", "mixolydian", "dorian")
    if tags.genre in _PENTATONIC and plain and tags.mood not in ("romantic", "mysterious"):
        degrees = (0, 2, 3, 4, 6) if is_minor(tags.mode) else (0, 1, 2, 4, 5)
        colour = {"mixolydian": (6,), "dorian": (5,)}.get(tags.mode, ())
        return {scale[d] for d in degrees + colour}
    return set(scale)


def _snap(pitch: int, tones: tuple[int, ...], ladder: list[int]) -> int:
    options = [p for p in range(ladder[0], ladder[-1] + 1) if p % 12 in tones]
    return min(options, key=lambda p: (abs(p - pitch), p)) if options else pitch


def _motif(tags: Tags, rng: np.random.Generator) -> _Motif:
    onsets = _onsets(tags, _notes_per_bar(tags, rng), rng)
    return _Motif(onsets, _steps(tags, len(onsets), rng))


def _notes_per_bar(tags: Tags, rng: np.random.Generator) -> int:
    rate = _NOTES_PER_SECOND[tags.density] * (tags.tempo_bpm / 105.0) ** 0.4
    if not LEADS[tags.lead].sustain:
        rate *= 1.15
    wanted = rate * tags.beats_per_bar * 60.0 / tags.tempo_bpm * rng.uniform(0.85, 1.15)
    return max(1, min(round(wanted), 4 * tags.beats_per_bar - 2))


def _onsets(tags: Tags, count: int, rng: np.random.Generator) -> tuple[float, ...]:
    slots = tags.beats_per_bar * 4
    eager = _SYNCOPATED.get(tags.genre, 0.15)
    fine = count > tags.beats_per_bar * 1.6 or (tags.genre in ("funk", "hip hop") and count > 3)
    weights = np.zeros(slots)
    for slot in range(slots):
        if slot % 4 == 0:
            weights[slot] = 6.0 if slot == 0 else 1.6
        elif slot % 2 == 0:
            weights[slot] = 0.5 + 1.2 * eager
        elif fine:
            weights[slot] = 0.08 + 0.5 * eager
    count = min(count, int(np.count_nonzero(weights)))
    chosen = rng.choice(slots, size=count, replace=False, p=weights / weights.sum())
    return tuple(sorted(float(slot) / 4.0 for slot in chosen))


def _steps(tags: Tags, count: int, rng: np.random.Generator) -> tuple[int, ...]:
    leap = MOODS[tags.mood].leap
    steps: list[int] = []
    direction = rng.choice((-1, 1))
    for _ in range(count):
        if steps and abs(steps[-1]) >= 3:
            steps.append(int(-np.sign(steps[-1])))  # a leap is answered by a step back
        elif rng.random() < leap:
            steps.append(int(direction * rng.integers(3, 6)))
        elif rng.random() < (0.3 if tags.genre in ("funk", "house") else 0.12):
            steps.append(0)
        else:
            steps.append(int(direction * rng.choice((1, 1, 1, 2))))
        if rng.random() < 0.35:
            direction = -direction
    return tuple(steps)


def _vary(motif: _Motif, tags: Tags, rng: np.random.Generator) -> _Motif:
    steps = list(motif.steps)
    index = int(rng.integers(len(steps)))
    steps[index] += int(rng.choice((-1, 1)))
    if rng.random() < 0.3:
        steps = [-s for s in steps]
    return replace(motif, steps=tuple(steps))


def _cadence(tags: Tags, motif: _Motif) -> _Motif:
    """Thins the second half of the bar, so that the phrase comes to rest."""
    half = tags.beats_per_bar / 2.0
    keep = [i for i, onset in enumerate(motif.onsets) if onset <= half] or [0]
    onsets = [motif.onsets[i] for i in keep]
    if 60.0 / tags.tempo_bpm * half > 1.4:
        onsets.append(half + 0.5 if onsets[-1] >= half else half)
        keep.append(keep[-1])
    return _Motif(tuple(onsets), tuple(motif.steps[i] for i in keep))


def _lengths(tags: Tags, line: list[Note], end: float) -> list[Note]:
    """Gives every note its length; rests stay shorter than the lead may be silent."""
    beat_s = 60.0 / tags.tempo_bpm
    sustain = LEADS[tags.lead].sustain
    longest = _LONGEST_NOTE_S[sustain] / beat_s
    legato = MOODS[tags.mood].legato
    out = []
    for index, note in enumerate(line):
        gap = (line[index + 1].start if index + 1 < len(line) else end) - note.start
        length = gap * legato if legato < 1.0 else gap * min(legato, 1.0) + 0.04 * sustain
        length = max(length, gap - _LONGEST_REST_S / beat_s)
        if gap * beat_s > 1.2:  # the breath at the end of a phrase
            length = max(gap - _LONGEST_REST_S / beat_s, 0.75 * gap)
        out.append(replace(note, duration=max(0.1, min(length, longest))))
    return out


def _ornament(
    tags: Tags, line: list[Note], harmony: Harmony, rng: np.random.Generator
) -> list[Note]:
    chance = {"blues": 0.22, "jazz": 0.15, "folk": 0.14}.get(tags.genre, 0.03)
    if tags.mood == "playful":
        chance += 0.15
    if tags.lead == "sitar":
        chance += 0.2
    beat_s = 60.0 / tags.tempo_bpm
    out: list[Note] = []
    for note in line:
        grace = 0.07 / beat_s
        if note.duration > 3 * grace and rng.random() < chance:
            below = 1 if tags.genre in ("blues", "jazz") else 2
            out.append(Note(note.start, grace, note.pitch - below, max(20, note.velocity - 14)))
            note = replace(note, start=note.start + grace, duration=note.duration - grace)
        out.append(note)
    return out


def _roll(tags: Tags, line: list[Note]) -> list[Note]:
    """Turns long notes into rolls: the marimba has no other way to hold one."""
    stroke = 0.105 * tags.tempo_bpm / 60.0
    out: list[Note] = []
    for note in line:
        strokes = int(note.duration / stroke) if note.duration > 4.5 * stroke else 1
        for i in range(strokes):
            velocity = note.velocity if i == 0 else max(20, note.velocity - 16 - 4 * (i % 2))
            out.append(Note(note.start + i * note.duration / strokes, note.duration / strokes,
                            note.pitch, velocity))  # fmt: skip
    return out


def _second_voice(
    tags: Tags, line: list[Note], harmony: Harmony, rng: np.random.Generator
) -> list[Note]:
    """Adds chord tones (or, when epic, octaves) below the melody of polyphonic leads."""
    lead = LEADS[tags.lead]
    beat_s = 60.0 / tags.tempo_bpm
    out: list[Note] = []
    for note in line:
        if rng.random() >= lead.harmony or note.duration * beat_s < 0.22:
            continue
        below = [note.pitch - 12] if tags.mood == "epic" else [
            p for p in range(note.pitch - 10, note.pitch - 2)
            if p % 12 in harmony.at(note.start).tones
        ]  # fmt: skip
        voices = 2 if lead.harmony > 0.5 and note.duration * beat_s > 0.6 else 1
        for pitch in below[::-1][:voices]:
            if pitch >= 36:
                out.append(replace(note, pitch=pitch, velocity=max(20, note.velocity - 15)))
    return out
