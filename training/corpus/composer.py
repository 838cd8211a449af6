"""Arranging a piece: which instruments play what, how loud, where, and how humanly."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from . import accompaniment as parts
from .bass import compose_bass
from .drums import compose_drums
from .melody import compose_lead
from .score import Note, Piece, Role, Room, Tags, Track
from .theory import Harmony, bar_count, compose_harmony
from .vocabulary import ACCOMPANIMENT, GENRES, LEADS, MOODS

_BASSES = ("sub bass", "contrabass", "upright bass", "picked bass", "electric bass", "slap bass",
           "synth bass")  # fmt: skip
_DRUMS = ("drums", "brushed drums", "drum machine", "hand percussion", "latin percussion")
_DRUMS_DB = {"house": 0.0, "hip hop": 0.0, "rock": -1.0, "funk": -1.5, "latin": -3.0,
             "blues": -4.0, "jazz": -5.0, "folk": -9.0}  # fmt: skip
_BASS_DB = {"house": -3.0, "hip hop": -2.0, "funk": -3.0, "rock": -5.0, "ambient": -9.0,
            "classical": -9.0}  # fmt: skip
_CHORDS_DB = {"rock": -5.5, "classical": -7.0, "ambient": -6.0, "house": -7.0}
_COMP_STYLE = {"folk": "strum", "rock": "power", "blues": "boogie", "jazz": "charleston",
               "funk": "scratch", "hip hop": "loop", "house": "offbeat"}  # fmt: skip
# Low leads, and moods with a heavy band, need the lead a little further forward.
_LEAD_DB = {"cello": 1.5, "saxophone": 0.5, "energetic": 1.5, "epic": 1.5, "tense": 1.0}
_QUIET_MOODS = ("calm", "dreamy", "mysterious", "romantic")
_PANS = (-0.45, 0.45, -0.7, 0.7, 0.25, -0.25)


def compose(tags: Tags, rng: np.random.Generator, seconds: float = 30.0) -> Piece:
    """Composes a piece for its tags.

    Args:
        tags: what shall be true of the piece.
        rng: source of randomness; the same state gives the same piece.
        seconds: length of the piece.

    Returns:
        A piece whose notes all lie within it, lead first.

    Raises:
        ValueError: if `seconds` is shorter than two seconds.
    """
    if seconds < 2.0:
        raise ValueError(f"seconds is {seconds}; a piece needs at least 2.0")
    bars = bar_count(tags, seconds)
    harmony = compose_harmony(tags, bars, rng)
    tracks = [_lead(tags, harmony, bars, rng)]
    for index, name in enumerate(tags.instruments):
        tracks.append(_part(tags, name, index, harmony, bars, rng))
    beats = seconds * tags.tempo_bpm / 60.0
    humanised = tuple(_humanise(tags, track, beats, rng) for track in tracks)
    return Piece(tags, seconds, humanised, _room(tags, rng))


def _lead(tags: Tags, harmony: Harmony, bars: int, rng: np.random.Generator) -> Track:
    lead = LEADS[tags.lead]
    echo = 0.35 if tags.mood == "dreamy" or tags.genre in ("ambient", "house") else 0.0
    return Track(
        name=tags.lead,
        role="lead",
        program=lead.program,
        notes=tuple(compose_lead(tags, harmony, bars, rng)),
        level_db=_LEAD_DB.get(tags.lead, 0.0) + _LEAD_DB.get(tags.mood, 0.0),
        pan=float(rng.uniform(-0.15, 0.15)),
        vibrato=0.5 if lead.sustain and tags.lead not in ("organ", "accordion") else 0.0,
        echo=echo,
    )


def _part(
    tags: Tags, name: str, index: int, harmony: Harmony, bars: int, rng: np.random.Generator
) -> Track:
    wobble = float(rng.uniform(-1.0, 1.0))
    if name in _DRUMS:
        notes = compose_drums(tags, bars, rng)
        level = _DRUMS_DB[tags.genre] + MOODS[tags.mood].drums_db + wobble
        kit = GENRES[tags.genre].drum_kit or 0
        return Track(name, "drums", kit, tuple(notes), True, level)
    if name in _BASSES:
        notes = compose_bass(tags, harmony, bars, rng)
        level = _BASS_DB.get(tags.genre, -6.0) + wobble
        pump = 0.5 if tags.genre == "house" else 0.0
        return Track(name, "bass", ACCOMPANIMENT[name][0], tuple(notes), False, level, pump=pump)
    role, notes, level = _harmonic_part(tags, name, index, harmony, bars, rng)
    return Track(
        name=name,
        role=role,
        program=ACCOMPANIMENT[name][0],
        notes=tuple(notes),
        level_db=level + wobble,
        pan=_PANS[index % len(_PANS)],
        echo=0.3 if name in ("crystal", "celesta", "music box") else 0.0,
        pump=0.75 if tags.genre == "house" and role in ("pad", "chords") else 0.0,
    )


def _harmonic_part(
    tags: Tags, name: str, index: int, harmony: Harmony, bars: int, rng: np.random.Generator
) -> tuple[Role, list[Note], float]:
    """Chooses what a chordal or colour instrument plays, by its place in the band."""
    beats = float(bars * tags.beats_per_bar)
    if index == 1:
        return _main_chords(tags, name, harmony, bars, rng)
    if name in ("warm pad", "halo pad", "sweep pad", "synth strings"):
        return "pad", parts.pad(harmony, 62 if name == "warm pad" else 72, 66), -11.0
    if name in ("strings", "choir", "french horns"):
        centre = {"strings": 64, "choir": 60, "french horns": 53}[name]
        centre -= 10 if tags.mood == "dark" else 0
        loud = {"epic": -8.0, "dark": -9.0}.get(tags.mood, -11.0)
        return "pad", parts.pad(harmony, centre, 84 if tags.mood == "epic" else 66, 3), loud
    if name == "timpani":
        return "colour", parts.drum_roll(tags, harmony, bars, rng), -8.0
    if name == "tremolo strings":
        if tags.mood == "tense":
            return "colour", parts.pulse(harmony, beats, _unit(tags), 64, 76), -8.0
        return "pad", parts.pad(harmony, 76, 56, 3), -11.0
    if name == "brass section":
        return "chords", parts.comp(tags, harmony, bars, "stabs", 65, rng), -9.0
    if name == "pizzicato strings":
        return "chords", parts.comp(tags, harmony, bars, "bounce", 67, rng), -9.0
    if name == "celesta":
        return "colour", parts.sparse_figures(tags, harmony, bars, rng), -11.0
    if name == "glockenspiel":
        step = 1.0 if tags.mood == "happy" else 2.0
        return "colour", parts.arpeggio(harmony, beats, step, 86, 70, rng), -14.0
    centre = {"banjo": 64, "harp": 66, "crystal": 78, "synth pluck": 67}.get(name, 67)
    level = -12.0 if name == "crystal" else -10.0
    return "colour", parts.arpeggio(harmony, beats, _unit(tags), centre, 72, rng), level


def _main_chords(
    tags: Tags, name: str, harmony: Harmony, bars: int, rng: np.random.Generator
) -> tuple[Role, list[Note], float]:
    level = _CHORDS_DB.get(tags.genre, -8.0)
    if tags.genre == "ambient":
        beats = float(bars * tags.beats_per_bar)
        moving = parts.arpeggio(harmony, beats, _unit(tags), 66, 50, rng)
        # Quiet motion inside the pad keeps the pulse audible without drums.
        return "pad", parts.pad(harmony, 60, 72) + moving, level
    if tags.genre == "classical":
        if tags.mood in ("happy", "playful", "energetic", "tense"):
            style = "waltz" if tags.beats_per_bar == 3 else "bounce"
            return "chords", parts.comp(tags, harmony, bars, style, 62, rng), level
        return "pad", parts.pad(harmony, 60, 74), level
    if tags.genre == "rock" and tags.mood in _QUIET_MOODS:
        return "chords", parts.comp(tags, harmony, bars, "sustained power", 45, rng), level - 2.0
    style = _COMP_STYLE.get(tags.genre)
    if style is None:
        quiet = tags.mood in _QUIET_MOODS or tags.tempo_class == "slow"
        style = "bossa" if quiet else "montuno"
    centre = {"power": 45, "boogie": 48, "charleston": 62, "strum": 58}.get(style, 63)
    return "chords", parts.comp(tags, harmony, bars, style, centre, rng), level


def _unit(tags: Tags) -> float:
    """Length in beats of the running notes that suit the mood: quarter, eighth or sixteenth."""
    if tags.mood in ("energetic", "tense") and tags.tempo_bpm < 110:
        return 0.25
    return 1.0 if tags.mood in ("calm", "dark", "mysterious") and tags.tempo_bpm > 120 else 0.5


def _humanise(tags: Tags, track: Track, beats: float, rng: np.random.Generator) -> Track:
    """Applies swing, loose timing and phrase dynamics, and keeps notes inside the piece."""
    genre = GENRES[tags.genre]
    jitter = genre.jitter_ms / 1000.0 * tags.tempo_bpm / 60.0 * (0.5 if track.is_drum else 1.0)
    period = 8.0 * tags.beats_per_bar
    out = []
    for note in track.notes:
        start = _swing(note.start, genre.swing, genre.swing16)
        end = _swing(note.end, genre.swing, genre.swing16)
        late = rng.normal(0.0, jitter)
        start = max(0.0, start + max(-2 * jitter, min(late, 2 * jitter)))
        if start >= beats - 0.05 or not 0 <= note.pitch <= 127:
            continue
        swell = 1.0 + 0.07 * math.sin(2 * math.pi * note.start / period - 1.2)
        velocity = max(1, min(round(note.velocity * swell), 127))
        length = min(max(end - note.start, 0.05), beats - start)
        out.append(Note(start, length, note.pitch, velocity))
    out.sort(key=lambda n: (n.start, n.pitch))
    return replace(track, notes=tuple(out))


def _swing(beat: float, swing: float, swing16: float) -> float:
    """Delays off-beat eighths (and sixteenths); full swing puts them on the triplet."""
    whole, part = divmod(beat, 1.0)
    half, rest = divmod(part, 0.5)
    rest = _bend(rest / 0.5, swing16) * 0.5
    return whole + _bend(half * 0.5 + rest, swing)


def _bend(part: float, swing: float) -> float:
    middle = 0.5 + swing / 6.0
    if part <= 0.5:
        return part / 0.5 * middle
    return middle + (part - 0.5) / 0.5 * (1.0 - middle)


def _room(tags: Tags, rng: np.random.Generator) -> Room:
    mood = MOODS[tags.mood]
    wet = mood.wet * (1.35 if tags.genre in ("ambient", "classical") else 1.0)
    return Room(mood.room_s, wet, mood.lowpass_hz, float(rng.uniform(-20.0, -15.0)))
