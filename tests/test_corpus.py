"""The synthetic corpus: what its tags and captions promise, and how it is built."""

from __future__ import annotations

import collections
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.parts import lacking
from training.corpus import (
    CorpusRecipe,
    MissingSoundFont,
    Renderer,
    build_corpus,
    compose,
    compose_index,
    describe,
    endless_captions,
    find_sound_font,
    lead_coverage,
    load_index,
    sample_tags,
)
from training.corpus import build as build_module
from training.corpus.tags import on_grid
from training.corpus.theory import compose_harmony, is_minor, scale_of
from training.corpus.vocabulary import (
    ACCOMPANIMENT,
    GENRES,
    LEADS,
    MOODS,
    TEMPO_CLASSES,
    TEMPO_WORDS,
    tempo_class_of,
)

SHORT = CorpusRecipe(
    seed=5, piece_seconds=2.5, sample_rate=16000, captions_per_piece=3,
    splits={"train": 3, "validation": 1, "evaluation": 2},
)  # fmt: skip


@pytest.fixture(scope="module")
def sound_font() -> Path:
    try:
        return find_sound_font()
    except MissingSoundFont as error:
        lacking(str(error))


@pytest.fixture(scope="module")
def many_tags():
    rng = np.random.default_rng(1)
    return [sample_tags(rng) for _ in range(2000)]


@pytest.fixture(scope="module")
def pieces():
    return [compose_index(CorpusRecipe(seed=11), index)[0] for index in range(100)]


@pytest.fixture(scope="module")
def built(sound_font: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    build_corpus(SHORT, folder, workers=1)
    return folder


def sounds(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.flac"))}


# Tags


@pytest.mark.parametrize(
    ("field", "choices"),
    [("lead", LEADS), ("genre", GENRES), ("mood", MOODS), ("tempo_class", TEMPO_CLASSES)],
)
def test_each_main_tag_is_near_uniform(many_tags, field: str, choices) -> None:
    counts = collections.Counter(getattr(tags, field) for tags in many_tags)
    expected = len(many_tags) / len(choices)
    assert set(counts) == set(choices)
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())


def test_tempo_class_does_not_depend_on_genre(many_tags) -> None:
    cells = collections.Counter((tags.genre, tags.tempo_class) for tags in many_tags)
    expected = len(many_tags) / (len(GENRES) * len(TEMPO_CLASSES))
    assert all(abs(cells[g, t] - expected) < 5 * expected**0.5
               for g in GENRES for t in TEMPO_CLASSES)  # fmt: skip


def test_tempo_class_states_the_tempo(many_tags) -> None:
    for tags in many_tags:
        bpm = tags.tempo_bpm
        expected = "slow" if bpm < 85 else "fast" if bpm > 120 else "medium"
        assert tags.tempo_class == expected


def test_tempo_classes_have_their_bounds() -> None:
    classes = [tempo_class_of(bpm) for bpm in (84.9, 85, 120, 120.1)]
    assert classes == ["slow", "medium", "medium", "fast"]


def test_a_beat_step_keeps_the_class_and_makes_beats_whole_steps(many_tags) -> None:
    step_s = 2048 / 44100
    for tags in many_tags:
        moved = on_grid(tags, step_s)
        steps = 60.0 / moved.tempo_bpm / step_s
        assert abs(steps - round(steps)) < 1e-6
        assert tempo_class_of(moved.tempo_bpm) == tags.tempo_class
        assert abs(moved.tempo_bpm / tags.tempo_bpm - 1.0) < 0.15
        assert replace(moved, tempo_bpm=tags.tempo_bpm) == tags


def test_a_recipe_with_a_beat_step_composes_on_it() -> None:
    recipe = CorpusRecipe(beat_step=2048)
    for index in range(5):
        piece, captions = compose_index(recipe, index)
        free, _ = compose_index(CorpusRecipe(), index)
        assert piece.tags == on_grid(free.tags, 2048 / 44100) and captions


def test_no_accompaniment_plays_the_leads_own_program(many_tags) -> None:
    for tags in many_tags:
        drums = [n for n in tags.instruments if "drum" in n or "percussion" in n]
        programs = {ACCOMPANIMENT[n][0] for n in tags.instruments if n not in drums}
        assert LEADS[tags.lead].program not in programs


# Music


def test_notes_stay_in_the_piece_and_in_midi_range(pieces) -> None:
    for piece in pieces:
        for track in piece.tracks:
            assert track.notes, f"{track.name} is silent"
            for note in track.notes:
                assert 0 <= note.pitch <= 127
                assert 1 <= note.velocity <= 127
                assert 0.0 <= note.start
                assert note.duration > 0
                assert note.end <= piece.beats + 1e-6


def test_the_lead_sounds_in_half_of_every_ten_seconds(pieces) -> None:
    for piece in pieces:
        for start in np.arange(0.0, piece.seconds - 10.0 + 0.01, 0.5):
            assert lead_coverage(piece, float(start), 10.0) >= 0.5


def test_the_drums_play_in_most_seconds_of_every_piece_that_has_them(pieces) -> None:
    for piece in pieces:
        for track in piece.tracks:
            if track.is_drum:
                seconds = {int(piece.seconds_at(note.start)) for note in track.notes}
                assert len(seconds) >= 0.75 * piece.seconds


def test_music_starts_at_once_and_lasts_to_the_end(pieces) -> None:
    for piece in pieces:
        notes = [note for track in piece.tracks for note in track.notes]
        assert piece.seconds_at(min(note.start for note in notes)) <= 0.2
        assert piece.seconds_at(max(note.end for note in notes)) >= piece.seconds - 0.5


def test_the_lead_stays_in_its_range_and_mostly_in_the_key(pieces) -> None:
    for piece in pieces:
        if piece.tags.genre in ("blues", "jazz"):  # blue notes and chromatic approaches
            continue
        scale = scale_of(piece.tags)
        inside = [note.pitch % 12 in scale for note in piece.lead.notes]
        assert np.mean(inside) > 0.8, piece.tags


def test_chords_cover_every_bar_and_start_where_the_last_ended() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        tags = sample_tags(rng)
        chords = compose_harmony(tags, 12, rng).chords
        ends = [chord.start + chord.duration for chord in chords]
        assert [chord.start for chord in chords] == [0.0, *ends[:-1]]
        assert ends[-1] >= 12 * tags.beats_per_bar


def test_denser_tags_give_more_lead_notes() -> None:
    rng = np.random.default_rng(4)
    rates = collections.defaultdict(list)
    for _ in range(30):
        tags = replace(sample_tags(rng), lead="flute")
        for density in ("sparse", "moderate", "dense"):
            piece = compose(replace(tags, density=density), np.random.default_rng(9), 20.0)
            rates[density].append(len(piece.lead.notes))
    means = [np.mean(rates[density]) for density in ("sparse", "moderate", "dense")]
    assert means[0] * 1.3 < means[1] and means[1] * 1.3 < means[2]


def test_a_piece_shorter_than_two_seconds_is_refused() -> None:
    tags = sample_tags(np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"1\.0.*at least 2\.0"):
        compose(tags, np.random.default_rng(0), 1.0)


# Captions


def instrument_words(name: str) -> set[str]:
    """Words that give an instrument away when no other of the piece shares them."""
    return {noun.lower() for noun in LEADS[name].names}


def test_captions_name_the_lead_and_no_other_lead() -> None:
    rng = np.random.default_rng(2)
    for _ in range(1500):
        tags = sample_tags(rng)
        text = describe(tags, rng).lower()
        assert any(noun in text for noun in instrument_words(tags.lead)), text
        for other in set(LEADS) - {tags.lead}:
            # "guitar", "synth" and "organ" are also parts of accompaniment names.
            unique = {n for n in instrument_words(other) if n not in ("guitar", "synth")}
            own = instrument_words(tags.lead)
            told = [n for n in unique if f" {n}" in f" {text}" and not any(n in o for o in own)]
            backing = " ".join(w for i in tags.instruments for w in ACCOMPANIMENT[i][1])
            assert all(n in backing for n in told), (text, told)


def test_captions_never_state_another_tempo_or_mode() -> None:
    rng = np.random.default_rng(6)
    for _ in range(1500):
        tags = sample_tags(rng)
        text = describe(tags, rng).lower()
        for other in set(TEMPO_CLASSES) - {tags.tempo_class}:
            words = set(TEMPO_WORDS[other])
            told = set(text.replace(",", " ").replace(".", " ").split()) & words
            assert not told, text
        wrong = "in a major" if is_minor(tags.mode) else "in a minor"
        assert wrong not in text
        if "bpm" in text:
            numbers = [int(w) for w in text.replace(",", " ").split() if w.isdigit()]
            assert all(abs(n - tags.tempo_bpm) <= 3 for n in numbers if n != 808), text


def test_captions_mention_only_moods_and_genres_that_are_true() -> None:
    rng = np.random.default_rng(7)
    moods = collections.defaultdict(set)
    genres = collections.defaultdict(set)
    for name, mood in MOODS.items():
        for phrase in mood.phrases:
            moods[phrase.lower()].add(name)
    for name, genre in GENRES.items():
        for phrase in (*genre.nouns, *genre.feel):
            genres[phrase.lower()].add(name)
    for _ in range(1500):
        tags = sample_tags(rng)
        text = describe(tags, rng).lower()
        for phrase, owners in moods.items():
            assert phrase not in text or tags.mood in owners, (text, phrase)
        own = " ".join((*GENRES[tags.genre].nouns, *GENRES[tags.genre].feel)).lower()
        backing = " ".join(w for i in tags.instruments for w in ACCOMPANIMENT[i][1]).lower()
        for phrase, owners in genres.items():
            told = phrase in text and tags.genre not in owners
            assert not told or phrase in own or phrase in backing, (text, phrase)


def test_captions_are_varied_in_wording_and_length() -> None:
    rng = np.random.default_rng(8)
    tags = sample_tags(rng)
    captions = [describe(tags, rng) for _ in range(300)]
    lengths = [len(caption.split()) for caption in captions]
    assert len(set(captions)) > 290
    assert min(lengths) <= 6 and max(lengths) >= 25
    assert 3 <= min(lengths) and max(lengths) <= 70


def test_endless_captions_come_with_their_tags() -> None:
    stream = endless_captions(np.random.default_rng(9))
    drawn = [next(stream) for _ in range(50)]
    assert len({tags.lead for _, tags in drawn}) > 8
    assert all(text and text[0] == text[0].upper() for text, _ in drawn)


# Sound and files


def test_a_render_has_the_promised_shape_level_and_no_clipping(sound_font: Path) -> None:
    renderer = Renderer(sample_rate=16000)
    piece = compose_index(CorpusRecipe(piece_seconds=4.0), 3)[0]
    audio = renderer.render(piece)
    assert audio.shape == (2, 64000) and audio.dtype == np.float32
    assert 0.1 < np.abs(audio).max() < 1.0
    assert -26.0 < 20 * np.log10(np.sqrt(np.mean(audio**2))) < -13.0
    assert np.abs(audio[:, :3200]).max() > 0.01


def test_stems_add_up_to_the_mix(sound_font: Path) -> None:
    renderer = Renderer(sample_rate=16000)
    piece = compose_index(CorpusRecipe(piece_seconds=4.0), 4)[0]
    parts = [renderer.render(piece, tracks=(track.name,)) for track in piece.tracks]
    np.testing.assert_allclose(sum(parts), renderer.render(piece), atol=1e-4)


def test_asking_for_a_track_that_is_not_there_names_those_that_are(sound_font: Path) -> None:
    piece = compose_index(CorpusRecipe(piece_seconds=2.0), 0)[0]
    with pytest.raises(ValueError, match=piece.lead.name):
        Renderer(sample_rate=16000).render(piece, tracks=("theremin",))


def test_a_note_sounds_the_same_whatever_was_played_before(sound_font: Path) -> None:
    pieces = [compose_index(CorpusRecipe(piece_seconds=3.0), index)[0] for index in range(3)]
    fresh, used = Renderer(sample_rate=16000), Renderer(sample_rate=16000)
    used.render(pieces[0])
    used.render(pieces[1])
    np.testing.assert_array_equal(fresh.render(pieces[2]), used.render(pieces[2]))


def test_the_same_recipe_gives_the_same_bytes_for_any_number_of_workers(
    built: Path, tmp_path: Path
) -> None:
    build_corpus(SHORT, tmp_path, workers=2)
    assert sounds(tmp_path) == sounds(built)
    assert (tmp_path / "index.jsonl").read_bytes() == (built / "index.jsonl").read_bytes()


def test_a_resumed_build_equals_an_uninterrupted_one(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render = build_module._render_one

    def fail_at_four(index: int) -> int:
        if index == 4:
            raise KeyboardInterrupt
        return render(index)

    monkeypatch.setattr(build_module, "_render_one", fail_at_four)
    with pytest.raises(KeyboardInterrupt):
        build_corpus(SHORT, tmp_path, workers=1)
    assert not (tmp_path / "index.jsonl").exists()
    monkeypatch.undo()
    first = (tmp_path / "audio/000/000000.flac").stat().st_mtime_ns
    build_corpus(SHORT, tmp_path, workers=1)
    assert (tmp_path / "audio/000/000000.flac").stat().st_mtime_ns == first
    assert sounds(tmp_path) == sounds(built)
    assert (tmp_path / "index.jsonl").read_bytes() == (built / "index.jsonl").read_bytes()


def test_the_index_reads_back_sorted_with_its_splits(built: Path) -> None:
    records = load_index(built)
    assert [record.id for record in records] == list(range(6))
    assert [record.split for record in records] == (
        ["train"] * 3 + ["validation"] + ["evaluation"] * 2
    )
    assert all((built / record.file).is_file() and len(record.captions) == 3 for record in records)
    assert json.loads((built / "corpus.json").read_text())["hash"] == SHORT.digest()


def test_a_folder_of_another_corpus_is_refused(built: Path) -> None:
    with pytest.raises(ValueError, match="holds another corpus"):
        build_corpus(SHORT.model_copy(update={"seed": 6}), built, workers=1)


def test_an_unwritable_folder_is_named(sound_font: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(OSError, match="cannot write the corpus to"):
        build_corpus(SHORT, blocked / "corpus", workers=1)


def test_a_missing_sound_font_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTMPREF_SOUNDFONT", str(tmp_path / "none.sf2"))
    with pytest.raises(MissingSoundFont, match="apt-get install fluid-soundfont-gm libfluidsynth3"):
        build_corpus(SHORT, tmp_path / "corpus", workers=1)


def test_reading_a_folder_without_index_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="python -m training corpus"):
        load_index(tmp_path)


def test_an_index_outside_the_corpus_is_refused() -> None:
    with pytest.raises(ValueError, match="index 6 is outside"):
        SHORT.split_of(6)
