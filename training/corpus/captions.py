"""Describing tags in words, the way people and language models write music prompts.

A caption is put together from clauses that are each true of the tags: wording, order and length
vary widely, from four-word tag lists to a short paragraph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .score import Tags
from .tags import sample_tags
from .theory import is_minor
from .vocabulary import ACCOMPANIMENT, DENSITY_WORDS, GENRES, LEADS, MOODS, TEMPO_WORDS

_PIECE_NOUNS = ("piece", "track", "tune", "piece", "composition", "track", "song", "piece")
_FEATURING = ("featuring", "featuring", "featuring", "with", "led by", "centered on",
              "built around", "carried by", "driven by", "centered around",
              "focused on")  # fmt: skip
_EVOKING = ("evoking", "evoking", "conveying", "creating", "with", "capturing", "bringing")
_BACKED = ("backed by", "supported by", "accompanied by", "over", "layered with", "enriched with",
           "alongside", "on top of", "enhanced with")  # fmt: skip
_LEAD_VERBS = (("plays", "the melody"), ("carries", "the melody"), ("takes", "the lead"),
               ("takes", "center stage"), ("plays", "the main line"), ("leads", "the way"),
               ("sings", "out"))  # fmt: skip
_MOOD_FRAMES = ("The mood is {word}.", "The mood is {word} and {word2}.", "It feels {word}.",
                "The overall feel is {word}.", "The atmosphere is {word} and {word2}.",
                "The music evokes {phrase}.")  # fmt: skip
_USES = ("perfect for {use}", "ideal for {use}", "suitable for {use}", "made for {use}")
_MOOD_USES = {
    "calm": ("relaxation", "studying", "a quiet evening", "meditation", "background listening"),
    "melancholic": ("a sad film scene", "a rainy day", "moments of reflection", "late nights"),
    "dark": ("a thriller", "a horror scene", "a villain's theme", "midnight"),
    "happy": ("a sunny day", "a commercial", "a summer party", "a road trip"),
    "energetic": ("a workout", "a sports video", "an action scene", "a race"),
    "dreamy": ("drifting off to sleep", "a fantasy scene", "a journey through space"),
    "epic": ("a film trailer", "a heroic battle scene", "a video game", "an adventure film"),
    "mysterious": ("a detective story", "a strange tale", "a mystery film"),
    "romantic": ("a love scene", "a wedding", "a candlelit dinner", "a first dance"),
    "playful": ("a children's show", "a cartoon", "a light comedy", "a puzzle game"),
    "tense": ("a chase scene", "a suspense film", "a countdown", "a crime drama"),
}


def describe(tags: Tags, rng: np.random.Generator) -> str:
    """Writes one caption that is true of the tags.

    Args:
        tags: what the music is.
        rng: source of randomness; each call words the caption anew.

    Returns:
        Four to about sixty words.
    """
    styles: tuple[tuple[Callable[[Tags, np.random.Generator], str], float], ...] = (
        (_tag_list, 0.14), (_phrase, 0.32), (_sentence, 0.30), (_several_sentences, 0.24),
    )  # fmt: skip
    weights = np.array([weight for _, weight in styles])
    write = styles[rng.choice(len(styles), p=weights / weights.sum())][0]
    return _tidy(write(tags, rng))


def describe_many(tags: Tags, count: int, rng: np.random.Generator) -> list[str]:
    """Writes `count` different captions of the same tags."""
    captions: list[str] = []
    while len(captions) < count:
        caption = describe(tags, rng)
        if caption not in captions:
            captions.append(caption)
    return captions


def endless_captions(rng: np.random.Generator) -> Iterator[tuple[str, Tags]]:
    """Yields captions of random tags for ever, with the tags, for text-only training."""
    while True:
        tags = sample_tags(rng)
        yield describe(tags, rng), tags


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))]


def _article(words: str) -> str:
    first = words.split()[0].lower()
    vowel = first[0] in "aeio" or first.startswith(("up", "un", "urg"))
    return ("an " if vowel or first.startswith("808") else "a ") + words


def _join(items: list[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def _mood(tags: Tags, rng: np.random.Generator) -> str:
    return _pick(MOODS[tags.mood].words, rng)


def _lead(tags: Tags, rng: np.random.Generator, bare: float = 0.5) -> str:
    lead = LEADS[tags.lead]
    name = _pick(lead.names, rng)
    return name if rng.random() < bare else f"{_pick(lead.adjectives, rng)} {name}"


def _tempo(tags: Tags, rng: np.random.Generator) -> str:
    return _pick(TEMPO_WORDS[tags.tempo_class], rng)


def _bpm(tags: Tags, rng: np.random.Generator) -> str:
    exact, rounded = round(tags.tempo_bpm), 5 * round(tags.tempo_bpm / 5)
    frames = (f"around {rounded} BPM", f"at {exact} BPM", f"about {rounded} bpm",
              f"{exact} BPM")  # fmt: skip
    return _pick(frames, rng)


def _key(tags: Tags, rng: np.random.Generator) -> str:
    plain = "minor" if is_minor(tags.mode) else "major"
    frames = (f"in {tags.key} {tags.mode}", f"in a {plain} key", f"in {tags.key} {plain}"
              if tags.mode in ("major", "minor") else f"in a {plain}-sounding key")  # fmt: skip
    return _pick(frames, rng)


def _backing(tags: Tags, rng: np.random.Generator, most: int = 3) -> str:
    count = min(int(rng.integers(1, most + 1)), len(tags.instruments))
    chosen = rng.choice(len(tags.instruments), size=count, replace=False)
    if rng.random() < 0.3:
        return _pick(GENRES[tags.genre].feel, rng)
    return _join([_pick(ACCOMPANIMENT[tags.instruments[i]][1], rng) for i in sorted(chosen)])


def _noun(tags: Tags, rng: np.random.Generator, mood: str, tempo: str) -> str:
    """A noun phrase with an article: "a slow, dreamy jazz piece"."""
    before = [w for w in (mood, tempo) if w]
    if len(before) == 2 and rng.random() < 0.5:
        before.reverse()
    adjectives = ", ".join(before)
    if rng.random() < 0.22:
        noun = _pick(GENRES[tags.genre].nouns, rng)
        stripped = noun.removeprefix("an ").removeprefix("a ")
        full = f"{adjectives} {stripped}".strip()
        return full if stripped == noun else _article(full)
    style = _pick(GENRES[tags.genre].styles, rng)
    return _article(f"{adjectives} {style} {_pick(_PIECE_NOUNS, rng)}".strip())


def _opening(tags: Tags, rng: np.random.Generator, mood_chance: float = 0.75) -> tuple[str, bool]:
    """Returns the noun phrase and whether it already names the mood."""
    has_mood = rng.random() < mood_chance
    mood = _mood(tags, rng) if has_mood else ""
    tempo = _tempo(tags, rng) if rng.random() < 0.42 else ""
    return _noun(tags, rng, mood, tempo), has_mood


def _tag_list(tags: Tags, rng: np.random.Generator) -> str:
    parts = [_pick(GENRES[tags.genre].styles, rng), _lead(tags, rng, 0.75), _mood(tags, rng)]
    if rng.random() < 0.6:
        parts.append(_tempo(tags, rng) if rng.random() < 0.75 else _bpm(tags, rng))
    if rng.random() < 0.3:
        parts.append(_backing(tags, rng, 1))
    if len(" ".join(parts).split()) < 4:
        parts.append("instrumental")
    rng.shuffle(parts)
    return ", ".join(parts)


def _phrase(tags: Tags, rng: np.random.Generator) -> str:
    opening, has_mood = _opening(tags, rng)
    text = f"{opening} {_pick(_FEATURING, rng)} {_lead_with_article(tags, rng)}"
    if not has_mood:
        text += f", {_pick(_EVOKING, rng)} {_pick(MOODS[tags.mood].phrases, rng)}"
    elif rng.random() < 0.25:
        text += f" {_pick(('and', 'alongside', 'over'), rng)} {_backing(tags, rng, 1)}"
    if rng.random() < 0.15:
        text += f", {_bpm(tags, rng)}"
    return text + ("." if rng.random() < 0.75 else "")


def _lead_with_article(tags: Tags, rng: np.random.Generator) -> str:
    words = _lead(tags, rng)
    return words if _plural(words) or rng.random() < 0.2 else _article(words)


def _sentence(tags: Tags, rng: np.random.Generator) -> str:
    opening, has_mood = _opening(tags, rng)
    backing = _backing(tags, rng)
    lead = _lead_with_article(tags, rng)
    player = lead.removesuffix(" melody")  # a melody does not play the melody
    verb = _lead_verb(lead, rng)
    mood = _pick(MOODS[tags.mood].phrases, rng)
    frames = (
        f"{opening} {_pick(_FEATURING, rng)} {lead}, {_pick(_BACKED, rng)} {backing}, "
        f"{_pick(_EVOKING, rng)} {mood}.",
        f"{opening} where {player} {verb} {_pick(('over', 'above'), rng)} "
        f"{backing}" + ("." if has_mood else f", {_pick(_EVOKING, rng)} {mood}."),
        f"{player} {verb} in this {_bare(opening)}, {_pick(_BACKED, rng)} "
        f"{backing}" + ("." if has_mood else f", {_pick(_EVOKING, rng)} {mood}."),
        f"{opening} {_key(tags, rng)} with {lead}, {_pick(_BACKED, rng)} {backing}"
        + ("." if has_mood else f", {_pick(_EVOKING, rng)} {mood}."),
        f"{opening} {_pick(_FEATURING, rng)} {lead}, {_pick(_EVOKING, rng)} {mood}, "
        f"{_use(tags, rng)}.",
    )
    return frames[rng.integers(len(frames))]


def _plural(lead: str) -> bool:
    return lead.endswith(("keys", "vibes"))


def _lead_verb(lead: str, rng: np.random.Generator) -> str:
    verb, rest = _LEAD_VERBS[rng.integers(len(_LEAD_VERBS))]
    return f"{verb.removesuffix('s') if _plural(lead) else verb} {rest}"


def _bare(noun: str) -> str:
    return noun.removeprefix("an ").removeprefix("a ")


def _use(tags: Tags, rng: np.random.Generator) -> str:
    return _pick(_USES, rng).format(use=_pick(_MOOD_USES[tags.mood], rng))


def _several_sentences(tags: Tags, rng: np.random.Generator) -> str:
    opening, has_mood = _opening(tags, rng)
    first = f"{opening} {_pick(_FEATURING, rng)} {_lead_with_article(tags, rng)}"
    if rng.random() < 0.6:
        first += f", {_pick(_BACKED, rng)} {_backing(tags, rng)}"
    extras = [_about_lead(tags, rng)]
    if not any(word in opening.lower() for word in TEMPO_WORDS[tags.tempo_class]):
        extras.append(_about_tempo(tags, rng))
    if "," not in first:  # the accompaniment has not been told yet
        extras.append(_about_backing(tags, rng))
    rng.shuffle(extras)
    chosen = extras[: int(rng.integers(1, 4))]
    if not has_mood or rng.random() < 0.3:
        chosen.insert(int(rng.integers(0, len(chosen) + 1)), _about_mood(tags, rng))
    if rng.random() < 0.15:
        first += f", {_use(tags, rng)}"
    return f"{first}. {' '.join(_tidy(c) for c in chosen)}"


def _about_lead(tags: Tags, rng: np.random.Generator) -> str:
    lead = LEADS[tags.lead]
    name, adjective = _pick(lead.names, rng), _pick(lead.adjectives, rng)
    name = name.removesuffix(" melody")
    verb = "play" if _plural(name) else "plays"
    density = _pick(DENSITY_WORDS[tags.density], rng)
    return f"the {adjective} {name} {verb} {_article(f'{density} melody')}."


def _about_backing(tags: Tags, rng: np.random.Generator) -> str:
    frames = (f"behind it: {_backing(tags, rng)}.",
              f"the arrangement is built on {_backing(tags, rng)}.",
              f"the accompaniment: {_pick(GENRES[tags.genre].feel, rng)}.")  # fmt: skip
    return frames[rng.integers(len(frames))]


def _about_tempo(tags: Tags, rng: np.random.Generator) -> str:
    word = _tempo(tags, rng)
    if word in ("mid-tempo", "moderately paced", "uptempo", "downtempo"):
        return f"it is {word} and {_key(tags, rng)}."
    plain = word.removesuffix("-tempo").removesuffix("-paced")
    frames = (f"the tempo is {plain}, {_bpm(tags, rng)}.",
              f"it moves at {_article(plain)} pace {_key(tags, rng)}.",
              f"it is {word} and {_key(tags, rng)}.")  # fmt: skip
    return frames[rng.integers(len(frames))]


def _about_mood(tags: Tags, rng: np.random.Generator) -> str:
    words = MOODS[tags.mood].words
    first, second = rng.choice(len(words), size=2, replace=False)
    return _pick(_MOOD_FRAMES, rng).format(
        word=words[first], word2=words[second], phrase=_pick(MOODS[tags.mood].phrases, rng)
    )


def _tidy(text: str) -> str:
    text = " ".join(text.split())
    return text[0].upper() + text[1:] if text else text
