"""What the corpus can play and how people call it: leads, genres, moods, tempo classes, synonyms.

Pure data with one home for each value. General MIDI programs are zero-based. A lead's `names` are
nouns that fit after an article ("a warm ___"); genre `nouns` are whole noun phrases ("jazz piece").
"""

from __future__ import annotations

from dataclasses import dataclass

TONICS: tuple[str, ...] = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")

SCALES: dict[str, tuple[int, ...]] = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "harmonic minor": (0, 2, 3, 5, 7, 8, 11),
}

TEMPO_CLASSES: tuple[str, ...] = ("slow", "medium", "fast")
SLOW_BELOW_BPM, FAST_ABOVE_BPM = 85.0, 120.0
DENSITIES: tuple[str, ...] = ("sparse", "moderate", "dense")


@dataclass(frozen=True)
class Lead:
    """A lead instrument.

    Attributes:
        program: zero-based General MIDI program.
        low: lowest melody pitch, MIDI.
        high: highest melody pitch, MIDI.
        sustain: True when a held note keeps sounding (bowed, blown, organ, synth).
        harmony: 0..1, how often the instrument adds notes below its melody.
        names: nouns people use for it.
        adjectives: words that fit its sound.
    """

    program: int
    low: int
    high: int
    sustain: bool
    harmony: float
    names: tuple[str, ...]
    adjectives: tuple[str, ...]


LEADS: dict[str, Lead] = {
    "piano": Lead(
        0, 57, 88, False, 0.6,
        ("piano", "piano", "grand piano", "acoustic piano", "piano melody"),
        ("delicate", "expressive", "bright", "gentle", "flowing", "resonant", "crisp"),
    ),
    "electric piano": Lead(
        4, 53, 84, False, 0.6,
        ("electric piano", "Rhodes", "Rhodes piano", "Rhodes keys", "Fender Rhodes"),
        ("warm", "mellow", "smooth", "bell-like", "shimmering", "vintage", "soft"),
    ),
    "vibraphone": Lead(
        11, 57, 86, False, 0.35,
        ("vibraphone", "vibraphone", "vibes", "vibraphone melody"),
        ("shimmering", "cool", "soft", "resonant", "glowing", "delicate", "soothing"),
    ),
    "marimba": Lead(
        12, 50, 84, False, 0.3,
        ("marimba", "marimba", "wooden marimba", "marimba melody"),
        ("woody", "bouncy", "warm", "mellow", "percussive", "round", "bright"),
    ),
    "organ": Lead(
        18, 52, 82, True, 0.35,
        ("Hammond organ", "organ", "Hammond", "rock organ", "drawbar organ", "electric organ"),
        ("gritty", "swirling", "soulful", "warm", "rich", "vintage", "full"),
    ),
    "accordion": Lead(
        21, 55, 86, True, 0.35,
        ("accordion", "accordion", "squeezebox", "accordion melody"),
        ("reedy", "nostalgic", "bright", "lively", "rustic", "breathy", "full"),
    ),
    "harmonica": Lead(
        22, 60, 86, True, 0.1,
        ("harmonica", "harmonica", "blues harp", "mouth organ", "harmonica melody"),
        ("wailing", "plaintive", "rootsy", "reedy", "lonesome", "raw", "soulful"),
    ),
    "acoustic guitar": Lead(
        25, 48, 79, False, 0.45,
        ("acoustic guitar", "acoustic guitar", "steel-string guitar", "guitar", "acousticguitar",
         "fingerpicked guitar"),
        ("warm", "intimate", "bright", "gentle", "plucked", "melodic", "natural"),
    ),
    "electric guitar": Lead(
        29, 50, 81, True, 0.15,
        ("electric guitar", "overdriven guitar", "electric guitar lead", "electricguitar",
         "lead guitar", "distorted guitar"),
        ("gritty", "searing", "crunchy", "raw", "soaring", "biting", "overdriven"),
    ),
    "violin": Lead(
        40, 58, 93, True, 0.0,
        ("violin", "violin", "solo violin", "fiddle", "violin melody"),
        ("soaring", "expressive", "singing", "lyrical", "sweet", "bright", "passionate"),
    ),
    "cello": Lead(
        42, 38, 66, True, 0.0,
        ("cello", "cello", "solo cello", "cello melody"),
        ("deep", "rich", "warm", "sonorous", "lyrical", "resonant", "mournful"),
    ),
    "flute": Lead(
        73, 62, 93, True, 0.0,
        ("flute", "flute", "solo flute", "flute melody"),
        ("airy", "breathy", "light", "graceful", "floating", "pure", "silvery"),
    ),
    "saxophone": Lead(
        66, 47, 74, True, 0.0,
        ("saxophone", "sax", "tenor sax", "tenor saxophone", "saxophone melody"),
        ("smooth", "smoky", "soulful", "sultry", "husky", "expressive", "velvety"),
    ),
    "trumpet": Lead(
        56, 55, 81, True, 0.0,
        ("trumpet", "trumpet", "solo trumpet", "trumpet melody"),
        ("brassy", "bold", "bright", "heraldic", "clear", "proud", "piercing"),
    ),
    "synth lead": Lead(
        81, 55, 86, True, 0.0,
        ("synthesizer", "synth", "lead synth", "synth lead", "analog synth", "synth melody",
         "sawtooth synth"),
        ("buzzing", "bright", "electronic", "retro", "cutting", "glowing", "sharp"),
    ),
    "sitar": Lead(
        104, 50, 77, False, 0.1,
        ("sitar", "sitar", "Indian sitar", "sitar melody"),
        ("twangy", "exotic", "droning", "buzzing", "hypnotic", "resonant", "ornamented"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Genre:
    """A genre's names and fixed musical facts.

    Attributes:
        tempo_bpm: (low, high) in BPM for each tempo class, in the order of TEMPO_CLASSES.
        swing: 0 straight .. 1 full triplet swing of the eighth notes.
        swing16: the same for sixteenth notes.
        jitter_ms: standard deviation of onset timing, milliseconds.
        drum_kit: General MIDI percussion kit, None for a genre without drum kit.
        waltz: probability of three beats to the bar.
        styles: adjectives or style names usable before "piece", "track" ...
        nouns: ready noun phrases that name the genre.
        feel: short true phrases about the rhythm or texture, by verb-less noun phrase.
    """

    tempo_bpm: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    swing: float
    swing16: float
    jitter_ms: float
    drum_kit: int | None
    waltz: float
    styles: tuple[str, ...]
    nouns: tuple[str, ...]
    feel: tuple[str, ...]


GENRES: dict[str, Genre] = {
    "ambient": Genre(
        ((56, 80), (88, 112), (124, 150)), 0.0, 0.0, 6.0, None, 0.0,
        ("ambient", "ambient", "atmospheric", "ambient electronic", "psychedelic ambient",
         "drone", "new age"),
        ("atmospheric music", "ambient music", "an ambient soundscape", "a psychedelic soundscape",
         "new age music", "an atmospheric soundscape"),
        ("spacious pads", "a floating, weightless texture", "slowly shifting synth layers",
         "wide, drifting pads"),
    ),
    "classical": Genre(
        ((58, 82), (88, 116), (126, 160)), 0.0, 0.0, 9.0, None, 0.35,
        ("classical", "orchestral", "symphonic", "cinematic", "chamber", "score-like",
         "film score"),
        ("classical music", "a soundtrack", "an orchestral score", "a film score",
         "symphonic music", "a cinematic soundtrack"),
        ("string orchestra", "orchestral strings", "harp and strings",
         "a classical string accompaniment"),
    ),
    "folk": Genre(
        ((64, 84), (90, 118), (124, 152)), 0.0, 0.0, 10.0, 0, 0.3,
        ("folk", "acoustic", "singer-songwriter", "country folk", "popfolk", "traditional",
         "Americana", "singersongwriter"),
        ("folk music", "an acoustic folk tune", "a folk song", "a country-tinged folk tune"),
        ("picked and strummed strings", "an earthy acoustic backing", "simple hand percussion",
         "a rustic, down-home backing"),
    ),
    "rock": Genre(
        ((68, 84), (92, 118), (126, 168)), 0.0, 0.0, 6.0, 0, 0.0,
        ("rock", "rock", "hard rock", "alternative rock", "classic rock", "hardrock", "indie rock"),
        ("rock music", "a rock anthem", "instrumental rock", "a rock jam"),
        ("power chords", "a punchy drum kit", "distorted rhythm guitars", "a solid rock beat",
         "a backbeat and driving bass"),
    ),
    "blues": Genre(
        ((60, 82), (88, 116), (124, 152)), 1.0, 0.0, 10.0, 0, 0.0,
        ("blues", "blues", "shuffle blues", "Chicago blues", "bluesy", "blues rock"),
        ("blues music", "a twelve-bar blues", "a blues shuffle", "a bluesy jam"),
        ("a shuffle groove", "a rolling shuffle", "a boogie bass line",
         "seventh chords over a shuffle"),
    ),
    "jazz": Genre(
        ((62, 84), (92, 118), (128, 176)), 0.85, 0.0, 10.0, 32, 0.1,
        ("jazz", "jazz", "swing", "swinging jazz", "smooth jazz", "bebop", "lounge jazz"),
        ("jazz music", "a jazz combo", "a swing tune", "a jazz standard"),
        ("a walking bass and swinging ride cymbal", "a swing feel", "walking upright bass",
         "swing drums and extended chords"),
    ),
    "funk": Genre(
        ((72, 84), (92, 118), (122, 138)), 0.0, 0.15, 5.0, 8, 0.0,
        ("funk", "funk", "funky", "groove-based", "soul funk", "jazzfunk", "disco funk"),
        ("funk music", "a funk groove", "a funky jam", "a soul-funk workout"),
        ("slap bass", "syncopated slap bass and tight drums", "a tight sixteenth-note groove",
         "choppy clavinet"),
    ),
    "hip hop": Genre(
        ((66, 84), (86, 104), (126, 152)), 0.0, 0.5, 6.0, 25, 0.0,
        ("hip hop", "hip-hop", "rap", "lo-fi hip hop", "boom bap", "instrumental hip hop", "trap",
         "hiphop"),
        ("a hip hop beat", "an instrumental hip hop beat", "a rap beat", "hip hop music",
         "a lo-fi beat"),
        ("a boom-bap beat", "deep sub bass and a head-nodding beat", "an 808 drum machine",
         "heavy drum machine and sub-bass"),
    ),
    "house": Genre(
        ((74, 84), (104, 119), (122, 132)), 0.0, 0.1, 1.5, 24, 0.0,
        ("house", "house", "dance", "EDM", "club", "electronic dance", "techno", "deep house",
         "electronic"),
        ("house music", "an EDM track", "a club track", "electronic dance music",
         "a techno groove"),
        ("a four-on-the-floor beat", "a pulsing synth bass", "off-beat hi-hats and a steady kick",
         "a pumping club beat"),
    ),
    "latin": Genre(
        ((70, 84), (90, 118), (124, 150)), 0.0, 0.0, 7.0, 0, 0.0,
        ("latin", "Latin", "salsa", "bossa nova", "Afro-Cuban", "Latin dance", "tropical"),
        ("Latin music", "a salsa groove", "a Latin tune", "a tropical Latin dance"),
        ("congas and Latin percussion", "a tumbao bass and congas", "Latin percussion",
         "syncopated Latin rhythms"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Mood:
    """A mood's names and how it bends the music.

    Attributes:
        modes: names in SCALES it draws from (repeats weigh).
        density: weights of (sparse, moderate, dense).
        register: semitones added to the lead's centre.
        velocity: mean lead velocity, 1..127.
        legato: sounding part of a note's written length, 0..1.2.
        wet: reverb level, 0..1.
        room_s: reverberation time, seconds.
        lowpass_hz: gentle roll-off of the whole mix, hertz (None: none).
        drums_db: change of the drum level, decibels.
        leap: 0..1, probability of a melodic leap.
        contour: overall drift of a phrase in scale steps (negative falls).
        layer: extra colour layer (see composer), None for none.
        words: adjectives before the noun ("a ___ jazz piece").
        phrases: noun phrases after "with", "evoking" ("a sense of calm").
    """

    modes: tuple[str, ...]
    density: tuple[float, float, float]
    register: int
    velocity: int
    legato: float
    wet: float
    room_s: float
    lowpass_hz: float | None
    drums_db: float
    leap: float
    contour: float
    layer: str | None
    words: tuple[str, ...]
    phrases: tuple[str, ...]


MOODS: dict[str, Mood] = {
    "calm": Mood(
        ("major", "major", "lydian", "mixolydian"), (0.7, 0.3, 0.0), 0, 56, 1.05, 0.22, 1.8,
        6500.0, -5.0, 0.08, 0.0, "pad",
        ("calm", "relaxed", "peaceful", "chill", "gentle", "soothing", "serene", "laid-back",
         "mellow", "soft", "meditative"),
        ("a calm mood", "a peaceful atmosphere", "quiet relaxation", "a soothing, restful feeling",
         "a relaxed background mood", "tranquility"),
    ),
    "melancholic": Mood(
        ("minor", "minor", "minor", "dorian"), (0.5, 0.5, 0.0), -2, 66, 1.05, 0.20, 1.8,
        7500.0, -3.0, 0.1, -3.0, "strings",
        ("melancholic", "sad", "sorrowful", "wistful", "somber", "nostalgic", "mournful",
         "introspective", "bittersweet", "emotional"),
        ("a melancholic mood", "sadness and longing", "a sorrowful, introspective atmosphere",
         "quiet heartbreak", "a reflective, wistful feeling"),
    ),
    "dark": Mood(
        ("phrygian", "phrygian", "minor", "harmonic minor"), (0.4, 0.4, 0.2), -10, 78, 0.98, 0.16,
        1.6, 3600.0, 0.0, 0.1, -1.0, "drone",
        ("dark", "ominous", "brooding", "sinister", "gloomy", "menacing", "spooky", "eerie"),
        ("a dark mood", "a brooding, ominous atmosphere", "a sense of dread",
         "a gloomy, menacing feeling", "shadows and unease"),
    ),
    "happy": Mood(
        ("major", "major", "major", "mixolydian"), (0.0, 0.5, 0.5), 4, 88, 0.78, 0.07, 0.6,
        None, 0.0, 0.22, 1.0, "tambourine",
        ("happy", "upbeat", "cheerful", "joyful", "fun", "sunny", "optimistic", "feel-good",
         "positive", "uplifting"),
        ("a happy mood", "joy and sunshine", "a cheerful, carefree feeling", "a feel-good vibe",
         "an upbeat, optimistic mood"),
    ),
    "energetic": Mood(
        ("mixolydian", "minor", "dorian", "major"), (0.0, 0.25, 0.75), 3, 106, 0.85, 0.06, 0.5,
        None, 3.0, 0.2, 1.0, "drive",
        ("energetic", "driving", "powerful", "high-energy", "intense", "lively", "vigorous",
         "exciting"),
        ("an energetic mood", "relentless energy", "a powerful, driving momentum",
         "excitement and drive", "a high-energy feeling"),
    ),
    "dreamy": Mood(
        ("lydian", "lydian", "major", "mixolydian"), (0.6, 0.4, 0.0), 3, 62, 1.15, 0.45, 3.4,
        5500.0, -5.0, 0.15, 0.0, "sparkle",
        ("dreamy", "ethereal", "hazy", "otherworldly", "floating", "dreamlike", "celestial",
         "psychedelic"),
        ("a dreamy mood", "an ethereal, floating atmosphere", "a hazy dream", "weightless wonder",
         "a dreamlike, spacey feeling"),
    ),
    "epic": Mood(
        ("minor", "minor", "dorian", "major"), (0.1, 0.6, 0.3), 3, 104, 1.02, 0.26, 2.4,
        None, 2.0, 0.3, 3.0, "epic",
        ("epic", "heroic", "grand", "majestic", "triumphant", "cinematic", "dramatic",
         "anthemic", "bold"),
        ("an epic mood", "a heroic, larger-than-life atmosphere", "grandeur and triumph",
         "a majestic sense of adventure", "dramatic, sweeping intensity"),
    ),
    "mysterious": Mood(
        ("harmonic minor", "harmonic minor", "dorian", "phrygian"), (0.8, 0.2, 0.0), -3, 66, 0.95,
        0.32, 2.6, 6000.0, -4.0, 0.35, 0.0, "mystery",
        ("mysterious", "enigmatic", "haunting", "suspenseful", "strange", "cryptic", "eerie",
         "curious"),
        ("a mysterious mood", "an enigmatic atmosphere", "a haunting, unresolved feeling",
         "mystery and intrigue", "a strange, secretive air"),
    ),
    "romantic": Mood(
        ("major", "major", "lydian"), (0.3, 0.7, 0.0), 1, 76, 1.08, 0.20, 1.6,
        9000.0, -3.0, 0.22, 0.0, "romance",
        ("romantic", "tender", "heartfelt", "loving", "passionate", "warm", "sentimental",
         "beautiful", "intimate"),
        ("a romantic mood", "tenderness and love", "a warm, heartfelt feeling",
         "an intimate, sentimental atmosphere", "loving emotion"),
    ),
    "playful": Mood(
        ("major", "major", "lydian", "mixolydian"), (0.0, 0.6, 0.4), 6, 84, 0.5, 0.07, 0.6,
        None, -2.0, 0.45, 0.0, "pluck",
        ("playful", "quirky", "whimsical", "mischievous", "bouncy", "light-hearted", "humorous",
         "cute"),
        ("a playful mood", "a whimsical, bouncy character", "mischief and fun",
         "a light-hearted, quirky feeling", "childlike humor"),
    ),
    "tense": Mood(
        ("phrygian", "harmonic minor", "harmonic minor", "minor"), (0.1, 0.5, 0.4), 0, 94, 0.72,
        0.12, 1.0, 9000.0, 1.0, 0.2, 2.0, "tremolo",
        ("tense", "suspenseful", "anxious", "nervous", "urgent", "restless", "edgy",
         "dramatic"),
        ("a tense mood", "suspense and urgency", "a nervous, anxious atmosphere",
         "mounting tension", "a restless sense of danger"),
    ),
}  # fmt: skip

TEMPO_WORDS: dict[str, tuple[str, ...]] = {
    "slow": ("slow", "slow", "slow-paced", "unhurried", "downtempo"),
    "medium": ("mid-tempo", "medium-tempo", "moderate-tempo", "moderately paced", "mid-tempo"),
    "fast": ("fast", "fast-paced", "fast-tempo", "uptempo", "quick"),
}

DENSITY_WORDS: dict[str, tuple[str, ...]] = {
    "sparse": ("sparse", "minimal", "simple", "spare"),
    "moderate": ("flowing", "tuneful", "steady", "song-like"),
    "dense": ("busy", "virtuosic", "dense", "note-filled"),
}

ACCOMPANIMENT: dict[str, tuple[int, tuple[str, ...]]] = {
    # name: (General MIDI program, what captions call it)
    "warm pad": (89, ("synth pads", "warm pads", "soft synth pads", "a warm synth pad")),
    "halo pad": (94, ("airy pads", "shimmering pads", "an atmospheric pad")),
    "sweep pad": (95, ("sweeping pads", "evolving synth pads")),
    "strings": (48, ("strings", "a string section", "lush strings", "orchestral strings")),
    "synth strings": (50, ("synth strings", "string synth", "soft synth strings")),
    "tremolo strings": (44, ("tremolo strings", "nervous strings", "shivering strings")),
    "pizzicato strings": (45, ("pizzicato strings", "plucked strings")),
    "harp": (46, ("harp", "harp arpeggios", "a rippling harp")),
    "choir": (52, ("choir", "a wordless choir", "choir pads")),
    "brass section": (61, ("brass section", "brass", "horn stabs", "brass hits")),
    "french horns": (60, ("French horns", "horns", "a French horn")),
    "timpani": (47, ("timpani", "booming timpani", "orchestral drums")),
    "contrabass": (43, ("double basses", "orchestral bass")),
    "upright bass": (32, ("upright bass", "acoustic bass", "double bass", "a warm upright bass")),
    "electric bass": (33, ("electric bass", "bass guitar", "a steady bass line")),
    "picked bass": (34, ("electric bass", "driving bass", "a picked bass guitar")),
    "slap bass": (36, ("slap bass", "a funky bass line", "popping bass")),
    "synth bass": (38, ("synth bass", "a pulsing bass line", "electronic bass")),
    "sub bass": (39, ("sub-bass", "deep sub bass", "a deep bass")),
    "nylon guitar": (24, ("nylon-string guitar", "strummed guitar", "picked nylon guitar")),
    "banjo": (105, ("banjo", "banjo picking", "a rolling banjo")),
    "clean guitar": (27, ("clean guitar", "rhythm guitar", "clean electric rhythm guitar")),
    "jazz guitar": (26, ("jazz guitar", "jazz guitar chords", "comping guitar")),
    "distorted guitar": (30, ("distorted rhythm guitar", "power chords", "heavy guitars")),
    "clavinet": (7, ("clavinet", "a choppy clavinet", "funky clav")),
    "polysynth": (90, ("synth chords", "synth stabs", "stabbing synths")),
    "synth pluck": (84, ("plucky synths", "a synth arpeggio")),
    "celesta": (8, ("celesta", "twinkling celesta", "bells")),
    "music box": (10, ("music box", "a tinkling music box")),
    "glockenspiel": (9, ("glockenspiel", "sparkling bells", "glockenspiel accents")),
    "crystal": (98, ("crystalline bells", "glassy synth arpeggios", "glassy bells")),
    "drums": (0, ("drums", "a drum kit", "steady drums")),
    "brushed drums": (32, ("jazz drums", "swinging drums", "ride cymbal")),
    "drum machine": (25, ("drum machine", "electronic drums", "drum machine beats")),
    "hand percussion": (0, ("hand percussion", "light percussion", "a light acoustic beat")),
    "latin percussion": (0, ("congas", "Latin percussion", "congas and percussion", "percussion")),
}


def tempo_class_of(bpm: float) -> str:
    """Returns the class of a tempo, one of TEMPO_CLASSES."""
    return TEMPO_CLASSES[int(bpm >= SLOW_BELOW_BPM) + int(bpm > FAST_ABOVE_BPM)]
