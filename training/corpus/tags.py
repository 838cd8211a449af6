"""Drawing tags: lead, genre, mood and tempo class near uniform and near independent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .score import Tags
from .vocabulary import DENSITIES, GENRES, LEADS, MOODS, TEMPO_CLASSES, TONICS, tempo_class_of

# What always accompanies a genre: (bass, chords, pad or second chordal part, drums).
_BAND: dict[str, tuple[str, ...]] = {
    "ambient": ("sub bass", "warm pad", "halo pad"),
    "classical": ("contrabass", "strings", "harp"),
    "folk": ("upright bass", "nylon guitar", "banjo", "hand percussion"),
    "rock": ("picked bass", "distorted guitar", "drums"),
    "blues": ("electric bass", "clean guitar", "drums"),
    "jazz": ("upright bass", "jazz guitar", "brushed drums"),
    "funk": ("slap bass", "clavinet", "brass section", "drums"),
    "hip hop": ("sub bass", "synth strings", "drum machine"),
    "house": ("synth bass", "polysynth", "drum machine"),
    "latin": ("electric bass", "nylon guitar", "latin percussion"),
}

# What a mood adds, unless the band has it; the second choice serves drumless genres.
_LAYERS: dict[str, tuple[str, ...]] = {
    "calm": ("warm pad",),
    "melancholic": ("strings",),
    "dark": ("choir",),
    "happy": ("glockenspiel",),
    "energetic": ("synth pluck",),
    "dreamy": ("crystal", "halo pad"),
    "epic": ("choir", "french horns", "timpani"),
    "mysterious": ("tremolo strings", "celesta"),
    "romantic": ("strings", "harp"),
    "playful": ("pizzicato strings", "glockenspiel"),
    "tense": ("tremolo strings",),
}

# An accompaniment that would blur who leads gives way: (lead, part) -> replacement.
_GIVE_WAY: dict[tuple[str, str], str] = {
    ("acoustic guitar", "nylon guitar"): "clean guitar",
    ("acoustic guitar", "banjo"): "harp",
    ("electric guitar", "clean guitar"): "jazz guitar",
    ("vibraphone", "crystal"): "harp",
    ("vibraphone", "glockenspiel"): "pizzicato strings",
    ("vibraphone", "celesta"): "pizzicato strings",
    ("marimba", "pizzicato strings"): "glockenspiel",
    ("trumpet", "brass section"): "synth strings",
    ("trumpet", "french horns"): "strings",
    ("violin", "tremolo strings"): "choir",
    ("synth lead", "synth pluck"): "pizzicato strings",
    ("sitar", "banjo"): "harp",
}


def sample_tags(rng: np.random.Generator) -> Tags:
    """Draws the tags of a piece: the four main tags uniformly and independently.

    Args:
        rng: source of randomness.

    Returns:
        Consistent tags; mode and density depend on the mood, instruments on the first three.
    """
    genre = str(rng.choice(list(GENRES)))
    lead = str(rng.choice(list(LEADS)))
    mood = str(rng.choice(list(MOODS)))
    tempo_class = str(rng.choice(TEMPO_CLASSES))
    low, high = GENRES[genre].tempo_bpm[TEMPO_CLASSES.index(tempo_class)]
    return Tags(
        genre=genre,
        lead=lead,
        mood=mood,
        tempo_bpm=float(rng.integers(low, high + 1)),
        tempo_class=tempo_class,
        key=str(rng.choice(TONICS)),
        mode=_mode(genre, mood, rng),
        density=str(rng.choice(DENSITIES, p=MOODS[mood].density)),
        beats_per_bar=3 if rng.random() < GENRES[genre].waltz else 4,
        instruments=_instruments(genre, lead, mood, rng),
    )


def on_grid(tags: Tags, step_s: float) -> Tags:
    """Moves the tempo to the nearest of its class whose beat is a whole number of steps.

    Args:
        tags: a piece's tags.
        step_s: length of a step, seconds, at most 0.1, so that every class has a tempo.

    Returns:
        The same tags with that tempo.
    """
    tempi = [60.0 / (count * step_s) for count in range(1, int(2.0 / step_s))]
    own = [bpm for bpm in tempi if tempo_class_of(bpm) == tags.tempo_class]
    return replace(tags, tempo_bpm=min(own, key=lambda bpm: abs(np.log(bpm / tags.tempo_bpm))))


def _mode(genre: str, mood: str, rng: np.random.Generator) -> str:
    mode = str(rng.choice(MOODS[mood].modes))
    if genre == "blues":  # the blues has its own chords: only major or minor is said of it
        return "major" if mode in ("major", "lydian", "mixolydian") else "minor"
    return mode


def _instruments(genre: str, lead: str, mood: str, rng: np.random.Generator) -> tuple[str, ...]:
    chosen: list[str] = []
    for part in (*_BAND[genre], *_LAYERS[mood]):
        part = _GIVE_WAY.get((lead, part), part)
        if part not in chosen:
            chosen.append(part)
    return tuple(chosen)
