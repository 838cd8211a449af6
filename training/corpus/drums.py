"""Drum parts: one-bar grids per genre and tempo class, with fills, crashes and ghost notes."""

from __future__ import annotations

import numpy as np

from .score import Note, Tags

_KEYS = {"kick": 36, "snare": 38, "rim": 37, "clap": 39, "hat": 42, "pedal": 44, "open": 46,
         "ride": 51, "crash": 49, "tom1": 48, "tom2": 45, "tom3": 41, "shaker": 82, "tamb": 54,
         "conga": 63, "conga_slap": 62, "conga_low": 64, "bongo": 60, "bongo_low": 61,
         "cowbell": 56, "clave": 75, "guiro": 73, "timbale": 65, "brush": 40}  # fmt: skip

Grid = dict[str, str]

# One character per sixteenth: "." silent, 1..9 loudness. Bars of three beats use the first twelve.
_GRIDS: dict[str, dict[str, tuple[Grid, ...]]] = {
    "folk": {
        "slow": (
            {"kick": "6.......5.......", "shaker": "5.3.6.3.5.3.6.3.", "tamb": "....4.......4..."},
            {"kick": "6.....4.5.......", "rim": "....4.......4...", "shaker": "5.3.5.3.5.3.5.3."},
        ),
        "medium": (
            {"kick": "7...6...7...6...", "tamb": "....6.......6...", "shaker": "4.5.4.5.4.5.4.5."},
            {"kick": "7.......7.......", "rim": "....5.......5...", "shaker": "5343534353435343"},
        ),
        "fast": (
            {"kick": "7...7...7...7...", "brush": "..5...5...5...5.", "tamb": "....5.......5..."},
            {"kick": "7.......7.......", "brush": "5.6.5.6.5.6.5.6.", "tamb": "....6.......6..."},
        ),
    },
    "rock": {
        "slow": (
            {"kick": "9......58.5.....", "snare": "....9.......9...", "hat": "7.5.7.5.7.5.7.5."},
            {"kick": "9.......8.7.....", "snare": "....9.......9..3", "ride": "7.5.7.5.7.5.7.5."},
        ),
        "medium": (
            {"kick": "9.....6.8.......", "snare": "....9.......9...", "hat": "7.5.7.5.7.5.7.5."},
            {"kick": "9...5.8.8.......", "snare": "....9.......9..4", "open": "7.6.7.6.7.6.7.6."},
            {"kick": "9.5.....8.5.....", "snare": "....9..3....9...", "hat": "7.6.7.6.7.6.7.6."},
        ),
        "fast": (
            {"kick": "9...8...9.8.8...", "snare": "....9.......9...", "hat": "8.6.8.6.8.6.8.6."},
            {"kick": "9.8...8.9.8...8.", "snare": "....9.......9...", "open": "8...8...8...8..."},
        ),
    },
    "blues": {
        "slow": (
            {"kick": "8.......7.5.....", "snare": "....8.......8...", "ride": "7.5.7.5.7.5.7.5."},
        ),
        "medium": (
            {"kick": "8.....5.8.......", "snare": "....8.......8...", "hat": "7.6.7.6.7.6.7.6."},
            {"kick": "8.......8.6.....", "snare": "....8.....3.8...", "ride": "7.6.7.6.7.6.7.6."},
        ),
        "fast": (
            {"kick": "8...6...8...6...", "snare": "....8.......8.4.", "ride": "7.6.7.6.7.6.7.6."},
        ),
    },
    "jazz": {
        "slow": (
            {"ride": "7...6.4.7...6.4.", "pedal": "....6.......6...", "brush": "3...5...3...5...",
             "kick": "4..............."},
        ),
        "medium": (
            {"ride": "7...7.5.7...7.5.", "pedal": "....6.......6...", "snare": "..........3.....",
             "kick": "3...3...3...3..."},
            {"ride": "7...7.5.7...7.5.", "pedal": "....6.......6...", "rim": "............5..."},
        ),
        "fast": (
            {"ride": "7...8.5.7...8.5.", "pedal": "....6.......6...", "snare": "......4.......3.",
             "kick": "3...3...3...3..."},
            {"ride": "7...8.5.7...8.5.", "pedal": "....6.......6...", "snare": "..3.......4....."},
        ),
    },
    "funk": {
        "slow": (
            {"kick": "9.5....5..8.....", "snare": "....9..2.2..9..2", "hat": "7464746474647464"},
            {"kick": "9......6.58.....", "snare": "....9..3.3..9...", "hat": "7454745474547454"},
        ),
        "medium": (
            {"kick": "9.5...6...8..5..", "snare": "....9..3.3..9..3", "hat": "7454745474547464"},
            {"kick": "9..6..6...8.....", "snare": "....9..3.3.39...", "hat": "7.657.657.657.6.",
             "open": "..............6."},
        ),
        "fast": (
            {"kick": "9.....8.8.......", "snare": "....9..3....9..3", "hat": "7.5.7.5.7.5.7.5.",
             "open": "..6...6...6...6."},
            {"kick": "9..8....8.8.....", "snare": "....9..3.3..9...", "hat": "7545754575457545"},
        ),
    },
    "hip hop": {
        "slow": (
            {"kick": "9......5..8.....", "snare": "....9.......9...", "hat": "6.4.6.4.6.4.6.44"},
            {"kick": "9..7...5..8.....", "snare": "....9.......9..3", "hat": "6464646464646464"},
        ),
        "medium": (
            {"kick": "9.....7..78.....", "snare": "....9.......9...", "hat": "7.5.7.5.7.5.7.5."},
            {"kick": "9..7......8..6..", "snare": "....9.......9...", "hat": "7.557.5.7.557.5."},
        ),
        "fast": (  # half-time feel: one backbeat a bar under quick hats
            {"kick": "9.....8....7....", "clap": "........9.......", "hat": "7.6.7.6.7.6.7766"},
            {"kick": "9.........8...7.", "clap": "........9.......", "hat": "7.6.7.667.6.7.66"},
        ),
    },
    "house": {
        "slow": (
            {"kick": "9...9...9...9...", "clap": "....8.......8...", "open": "..7...7...7...7.",
             "hat": "4.454.454.454.45"},
        ),
        "medium": (
            {"kick": "9...9...9...9...", "clap": "....8.......8...", "open": "..7...7...7...7."},
            {"kick": "9...9...9...9...", "clap": "....8.......8...", "open": "..7...7...7...7.",
             "hat": "5.455.455.455.45"},
        ),
        "fast": (
            {"kick": "9...9...9...9...", "clap": "....8.......8...", "open": "..8...8...8...8."},
            {"kick": "9...9...9...9...", "clap": "....8.......8..5", "open": "..8...8...8...8.",
             "shaker": "5454545454545454"},
        ),
    },
    "latin": {
        "slow": (
            {"kick": "6..56..56..56..5", "rim": "7..7..7...7..7..", "shaker": "5464546454645464",
             "conga": "......6.......56"},
            {"conga_slap": "....6.......6...", "conga": "......6.......66",
             "clave": "7..7..7...7.7...", "shaker": "5.4.5.4.5.4.5.4."},
        ),
        "medium": (
            {"conga_slap": "....7.......7...", "conga_low": "......77......77",
             "clave": "..7.7...7..7..7.", "bongo": "6.466.466.466.46",
             "cowbell": "6...6...6...6..."},
            {"kick": "...7..7....7..7.", "timbale": "7.77.7.77.77.7.7", "conga": "....6.77....6.77",
             "clave": "7..7..7...7.7..."},
        ),
        "fast": (
            {"conga_slap": "....8.......8...", "conga_low": "......78......78",
             "cowbell": "8.6.8.668.6.8.66", "clave": "..7.7...7..7..7.",
             "kick": "7......67......6"},
            {"kick": "8..68..68..68..6", "shaker": "6565656565656565", "conga": "..6..66...6..66.",
             "timbale": "7..7.7..7..7.7.."},
        ),
    },
}  # fmt: skip

_WALTZ: dict[str, Grid] = {
    "folk": {"kick": "7...........", "tamb": "....5...5...", "shaker": "5.3.4.3.4.3."},
    "jazz": {"ride": "7...6.4.6.4.", "pedal": "....6.......", "brush": "....4...4...",
             "kick": "5..........."},
}  # fmt: skip

_FILL_VOICES = {"folk": ("tamb", "shaker"), "latin": ("timbale", "bongo", "conga"),
                "house": ("clap", "snare"), "jazz": ("snare", "tom1", "snare", "tom3"),
                "hip hop": ("hat", "snare")}  # fmt: skip


def compose_drums(tags: Tags, bars: int, rng: np.random.Generator) -> list[Note]:
    """Writes the drum part of a genre that has one.

    Args:
        tags: genre, tempo class and mood.
        bars: bars to fill.
        rng: source of randomness.

    Returns:
        Notes whose pitches are General MIDI percussion keys; empty for drumless genres.
    """
    if tags.genre not in _GRIDS:
        return []
    waltz = tags.beats_per_bar == 3
    options = (_WALTZ[tags.genre],) if waltz else _GRIDS[tags.genre][tags.tempo_class]
    main = dict(options[rng.integers(len(options))])
    other = dict(options[rng.integers(len(options))])
    _season(tags, main)
    _season(tags, other)
    notes: list[Note] = []
    for bar in range(bars):
        section, place = divmod(bar, 4)
        fill = place == 3 and rng.random() < 0.85
        notes += _bar(tags, other if section % 4 == 2 else main, bar, fill, rng)
        if place == 0 and (section or rng.random() < 0.5):
            notes += _crash(tags, bar)
    return sorted(notes, key=lambda n: (n.start, n.pitch))


def _season(tags: Tags, grid: Grid) -> None:
    """Adds what a mood asks of the kit."""
    if tags.mood == "happy" and "tamb" not in grid:
        grid["tamb"] = "..4...4...4...4."
    if tags.mood == "energetic":
        grid["shaker"] = "6565656565656565"
    if tags.mood == "epic":
        grid["tom3"] = "7..5..5.7..5..5."
    if tags.mood == "tense":
        grid["pedal"] = "5.5.5.5.5.5.5.5."


def _bar(tags: Tags, grid: Grid, bar: int, fill: bool, rng: np.random.Generator) -> list[Note]:
    start = bar * tags.beats_per_bar
    steps = tags.beats_per_bar * 4
    fill_from = steps - (4 if rng.random() < 0.7 else 8) if fill else steps
    notes = []
    for voice, pattern in grid.items():
        for step in range(steps):
            level = pattern[step % len(pattern)]
            if level == "." or (step >= fill_from and voice not in ("kick", "clave")):
                continue
            notes.append(_hit(voice, start + step / 4, int(level), rng))
    if fill:
        notes += _fill(tags, start, fill_from, steps, rng)
    return notes


def _fill(tags: Tags, start: float, first: int, last: int, rng: np.random.Generator) -> list[Note]:
    voices = _FILL_VOICES.get(tags.genre, ("snare", "tom1", "tom2", "tom3"))
    stride = 2 if tags.genre in ("blues", "jazz") or tags.tempo_bpm > 140 else 1
    notes = []
    for step in range(first, last, stride):
        if rng.random() < 0.15:
            continue
        voice = voices[(step - first) * len(voices) // (last - first)]
        notes.append(_hit(voice, start + step / 4, 5 + 3 * (step - first) // (last - first), rng))
    return notes


def _crash(tags: Tags, bar: int) -> list[Note]:
    if tags.genre in ("folk", "latin", "jazz", "hip hop") or tags.mood in ("calm", "dreamy"):
        return []
    return [Note(float(bar * tags.beats_per_bar), 1.0, _KEYS["crash"], 84)]


def _hit(voice: str, start: float, level: int, rng: np.random.Generator) -> Note:
    velocity = 12 * level + 10 + rng.normal(0, 4)
    return Note(start, 0.2, _KEYS[voice], int(max(12, min(velocity, 124))))
