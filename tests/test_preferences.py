"""Pair tables, splits and the four public sources: rules, counts, and a name for every bad row."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.pair_sources import (
    SMALLEST_GAP,
    SONG_PAIRS,
    SOURCES,
    Built,
    Order,
    build,
    song_pairs,
    song_score,
    write_built,
)
from training.preferences import (
    Row,
    Split,
    clip_disjoint_split,
    random_split,
    read_preferences,
    read_rows,
    read_splits,
    shared_clips,
    vote_of,
    write_preferences,
    write_split,
)
from ttmpref.types import InvalidRequest, Preference, vote_target


def pair(number: int, a: str, b: str, target: float = 1.0) -> Preference:
    return Preference(f"p{number}", a, b, "calm piano", target, "study")


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_votes_become_targets_in_one_place() -> None:
    assert [vote_target(vote) for vote in ("A", "B", "TIE", "BOTH_BAD")] == [1.0, 0.0, 0.5, None]
    with pytest.raises(InvalidRequest, match="vote is 'a'; accepted: A, B, TIE, BOTH_BAD"):
        vote_target("a")


def test_unknown_words_are_never_ties() -> None:
    assert [vote_of(word) for word in ("Model_A", "b", "draw", "BOTH_BAD")] == [
        "A", "B", "TIE", "BOTH_BAD",
    ]  # fmt: skip
    with pytest.raises(InvalidRequest, match="vote is 'left'; accepted: a, model_a"):
        vote_of("left")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"clip_b": "x"}, "clip_a and clip_b are both 'x'"),
        ({"clip_a": ""}, "clip_a is empty"),
        ({"target": 0.7}, "target is 0.7; accepted: 1"),
        ({"prompt": "a\x00"}, "control character"),
    ],
)
def test_an_impossible_preference_is_refused(change: dict, said: str) -> None:
    fields = {"id": "1", "clip_a": "x", "clip_b": "y", "prompt": "", "target": 1, "source": "s"}
    with pytest.raises(InvalidRequest, match=said):
        Preference(**(fields | change))


def test_every_bad_row_is_named_and_the_good_ones_are_kept(tmp_path: Path) -> None:
    table = written(
        tmp_path / "votes.csv",
        "id,clip_a,clip_b,vote,prompt\n"
        'one,a.wav,b.wav,A,"two\nlines"\n'
        "two,a.wav,b.wav,left,\n"
        "one,b.wav,c.wav,B,\n"
        "three,b.wav,,B,\n"
        "four,b.wav,c.wav\n"
        "five,c.wav,c.wav,TIE,\n"
        "six,c.wav,d.wav,BOTH_BAD,\n"
        "seven,c.wav,d.wav,tie,soft\n",
    )
    read = read_preferences([table])
    assert [(p.id, p.target, p.prompt, p.source) for p in read.pairs] == [
        ("one", 1.0, "two\nlines", "votes"),
        ("seven", 0.5, "soft", "votes"),
    ]
    assert [fault.removeprefix(f"{table}:") for fault in read.faults] == [
        "4: vote is 'left'; accepted: a, model_a, b, model_b, tie, draw, both_bad",
        "5: id 'one' was given to an earlier pair",
        "6: column 'clip_b' is missing or empty",
        "7: has not 5 cells as the first line has",
        "8: clip_a and clip_b are both 'c.wav'; they must differ",
    ]
    assert read.left_out == {"BOTH_BAD votes": 1}


def test_bad_json_lines_are_named_too(tmp_path: Path) -> None:
    table = written(
        tmp_path / "votes.jsonl",
        '{"clip_a": "a", "clip_b": "b", "vote": "A"}\n\n{"clip_a"\n[1]\n'
        '{"clip_a": ["a"], "clip_b": "b", "vote": "A"}\n',
    )
    read = read_preferences([table])
    assert [one.id for one in read.pairs] == [f"{table}:1"]
    assert [fault.split(": ", 1)[1] for fault in read.faults] == [
        "is not JSON (Expecting ':' delimiter at character 10)",
        "is a JSON list, not an object",
        "clip_a is list; it must be text",
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("votes.txt", "", "suffix '.txt'; accepted"),
        ("absent.csv", None, "No such file"),
        ("votes.csv", "clip_a,clip_b,vote\n\xff", "cannot be read"),
        ("votes.json", '{"a": 1}', "not a list of objects"),
        ("votes.json", "[", "cannot be read"),
        ("votes.parquet", "none", "cannot be read"),
    ],
)
def test_what_is_no_table_is_one_line(tmp_path: Path, name: str, content: str, said: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InvalidRequest, match=said) as caught:
        read_preferences([path])
    assert "\n" not in str(caught.value)


def test_pairs_survive_being_written(tmp_path: Path) -> None:
    pairs = [pair(1, "a", "b"), pair(2, "b", "ç", 0.5), pair(3, "a", "ç", 0.0)]
    write_preferences(pairs, tmp_path / "pairs.jsonl")
    assert read_preferences([tmp_path / "pairs.jsonl"]).pairs == pairs


@pytest.mark.parametrize(
    ("count", "sizes"), [(15_600, (12_480, 1_560, 1_560)), (2_515, (2_012, 251, 252))]
)
def test_a_random_split_has_the_published_sizes(count: int, sizes: tuple[int, ...]) -> None:
    ids = [str(number) for number in range(count)]
    split = random_split(ids, seed=42)
    assert tuple(split.sizes.values()) == sizes
    assert sorted((*split.train, *split.valid, *split.test)) == sorted(ids)
    assert split == random_split(ids, seed=42) != random_split(ids, seed=43)


def test_a_split_names_no_pair_twice(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="pair 'x' occurs 2 times"):
        Split(("x",), (), ("x",))
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for path, name in zip(paths, ("x", "y"), strict=True):
        write_split(Split((name,), (), ()), {"seed": 1}, path)
    assert read_splits(paths) == Split(("x", "y"), (), ())
    assert json.loads(paths[0].read_text())["metadata"] == {"seed": 1}
    with pytest.raises(InvalidRequest, match="is not one .KeyError: 'train'"):
        read_splits([written(tmp_path / "bad.json", "{}")])


def test_a_split_by_clips_shares_none_and_counts_what_it_costs() -> None:
    rng = np.random.default_rng(0)
    pairs = [
        pair(number, *(f"clip{i}" for i in rng.choice(200, 2, replace=False)))
        for number in range(300)
    ]
    split, cost = clip_disjoint_split(pairs, seed=1)
    by_id = {one.id: one for one in pairs}
    parts = [[by_id[i] for i in ids] for ids in (split.train, split.valid, split.test)]
    assert sum(map(len, parts)) + cost == 300 and all(parts)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert shared_clips(parts[first], parts[second]) == 0
    assert shared_clips(pairs[:150], pairs[150:]) > 100


def battle(number: int, preference: str = "A", **changed: object) -> dict:
    return {
        "battle_uuid": f"uuid-{number}", "date": "2025-08-01", "prompt": "slow jazz",
        "audio_a": f"{number}a.mp3", "system_a": "x", "audio_b": f"{number}b.mp3", "system_b": "y",
        "preference": preference, "feedback": None,
    } | changed  # fmt: skip


def rows(values: list[dict]) -> list[Row]:
    return [Row(f"table:{number}", value) for number, value in enumerate(values, 1)]


def ids(built: Built) -> list[str]:
    return [one.id for one in built.table.pairs]


def test_music_arena_loses_its_benchmark_both_bad_and_later_months() -> None:
    battles = [battle(n, "A" if n % 2 else "TIE") for n in range(20)]
    battles += [battle(20, "BOTH_BAD"), battle(21, "C"), battle(22, date="2026-02-01")]
    excluded = {f"uuid-{n}" for n in range(5)} | {"uuid-elsewhere"}
    built = build(Order("music_arena", {}, excluded), rows(battles))
    assert ids(built) == [f"uuid-{n}" for n in range(5, 20)]
    assert built.table.left_out == {
        "BOTH_BAD votes": 1,
        "outside 2025-07-01 to 2026-01-31": 1,
        "of the 6 excluded": 5,
    }
    assert built.table.faults == [
        "table:22: vote is 'C'; accepted: a, model_a, b, model_b, tie, draw, both_bad"
    ]
    assert sum(built.split.sizes.values()) == 15
    # The split of a battle does not depend on what else is removed.
    whole = build(Order("music_arena", {}, ()), rows(battles))
    assert set(built.split.test) <= set(whole.split.test)
    first = built.table.pairs[0]
    assert (first.source, first.prompt, first.system_a) == ("MusicArena", "slow jazz", "x")


def test_music_arena_is_not_built_with_its_benchmark_in_it() -> None:
    with pytest.raises(InvalidRequest, match="CMI-RewardBench; name the ids to exclude"):
        Order("music_arena", {})


def test_audio_inside_parquet_rows_gets_files_of_our_naming(tmp_path: Path) -> None:
    audio = {"bytes": b"sound", "path": "../../evil.mp3"}
    values = [battle(1, audio_a=audio, audio_b=audio | {"bytes": b"other"})]
    values[0] |= {"date": datetime(2025, 9, 1), "battle_uuid": "../x"}
    pq.write_table(pa.Table.from_pylist(values), tmp_path / "arena.parquet")
    order = Order("music_arena", {}, (), audio=tmp_path / "out" / "clips")
    built = build(order, read_rows(tmp_path / "arena.parquet"))
    (one,) = built.table.pairs
    assert (one.clip_a, one.clip_b) == ("clips/___x_a.mp3", "clips/___x_b.mp3")
    assert (tmp_path / "out" / one.clip_b).read_bytes() == b"other"


def record(winner: str) -> dict:
    return {
        "a_audio": "a.wav", "b_audio": "b.wav", "winner": winner, "prompt": "p", "model_a": "s",
    }  # fmt: skip


def test_musicprefs_has_ties_and_numbers_its_pairs_by_row() -> None:
    built = build(Order("musicprefs", {}), rows([record("model_a"), record("?"), record("tie")]))
    assert [(p.id, p.target, p.prompt) for p in built.table.pairs] == [
        ("prefs_000000", 1.0, "p"), ("prefs_000002", 0.5, "p"),
    ]  # fmt: skip
    assert len(built.table.faults) == 1


def test_aime_has_no_ties() -> None:
    built = build(Order("aime", {}), rows([record("a"), record("tie"), record("model_b")]))
    assert [p.target for p in built.table.pairs] == [1.0, 0.0]
    assert built.table.faults == ["table:2: vote is 'TIE'; AIME has A, B"]


def test_other_column_names_need_no_code() -> None:
    other = {"left": "a.wav", "right": "b.wav", "winner": "b"}
    order = Order("aime", {"clip_a": "left", "clip_b": "right"})
    assert [p.clip_b for p in build(order, rows([other])).table.pairs] == ["b.wav"]
    with pytest.raises(InvalidRequest, match="column 'clip' is unknown; accepted: clip_a"):
        Order("aime", {"clip": "left"})
    with pytest.raises(InvalidRequest, match="source is 'suno'; accepted: music_arena"):
        Order("suno", {})


def rating(value: float, **changed: object) -> dict:
    axes = ("Coherence", "Musicality", "Memorability", "Clarity", "Naturalness")
    return dict.fromkeys(axes, value) | changed


def test_a_song_scores_the_mean_of_the_means() -> None:
    assert song_score([rating(4), rating(3, Clarity=1)]) == pytest.approx((4 * 3.5 + 2.5) / 5)


@pytest.mark.parametrize(
    ("ratings", "said"),
    [
        (None, "must be a list"),
        ([], "must be a list"),
        ([{"Clarity": 3}], "Coherence is None; it must be a number from 1 to 5"),
        ([rating(6)], "Coherence is 6; it must be a number from 1 to 5"),
    ],
)
def test_a_song_without_whole_ratings_is_named(ratings: object, said: str) -> None:
    built = build(
        Order("songeval", {}), rows([{"file_name": "1.mp3", "annotation": ratings}])
    )
    (fault,) = built.table.faults
    assert fault.startswith("table:1: ") and said in fault


def test_songs_become_pairs_when_their_scores_differ_enough() -> None:
    scores = {"low": 2.1, "middle": 2.6, "near": 2.7, "high": 4.0}
    pairs = song_pairs(scores, SOURCES["songeval"])
    assert {frozenset((p.clip_a, p.clip_b)) for p in pairs} == {
        frozenset(both)
        for both in (
            ("low", "middle"), ("low", "near"), ("low", "high"), ("middle", "high"),
            ("near", "high"),
        )
    }  # fmt: skip
    for one in pairs:
        assert one.target == float(scores[one.clip_a] > scores[one.clip_b])
        assert one.prompt == ""


def test_songeval_at_full_size_has_about_the_published_counts() -> None:
    """2,399 songs: 3,760 pairs, songs 1841/230/230, pairs 2491/246/249, 774 between the parts."""
    rng = np.random.default_rng(0)
    songs = [
        {"file_name": f"{n}.mp3", "annotation": [rating(float(score))]}
        for n, score in enumerate(rng.normal(3.2, 0.7, 2399).clip(1, 5))
    ]
    built = build(Order("songeval", {}), rows(songs))
    assert len(built.table.pairs) == SONG_PAIRS and ids(built)[-1] == "songeval_003759"
    by_id = {one.id: one for one in built.table.pairs}
    parts = {
        name: {c for i in chosen for c in (by_id[i].clip_a, by_id[i].clip_b)}
        for name, chosen in vars(built.split).items()
    }
    assert not parts["train"] & parts["test"] and not parts["train"] & parts["valid"]
    assert 200 < len(built.split.valid) < 300 and 200 < len(built.split.test) < 300
    cost = built.table.left_out["between the parts of the split"]
    assert 600 < cost < 900
    assert sum(built.split.sizes.values()) + cost == SONG_PAIRS
    assert SMALLEST_GAP == 0.5


def test_a_built_source_is_read_back_with_its_split_and_faults(tmp_path: Path) -> None:
    built = build(Order("aime", {}), rows([record("a"), record("tie"), record("b")] * 10))
    write_built(built, "aime", tmp_path)
    assert read_preferences([tmp_path / "aime.jsonl"]).pairs == built.table.pairs
    assert read_splits([tmp_path / "aime-split.json"]) == built.split
    assert len((tmp_path / "aime-faults.txt").read_text().splitlines()) == 10
    metadata = json.loads((tmp_path / "aime-split.json").read_text())["metadata"]
    assert metadata["pairs"] == 20 and metadata["faults"] == 10 and metadata["seed"] == 42


def test_the_same_votes_in_another_order_are_split_alike() -> None:
    votes = [(i, f"a{i // 3}", f"b{i // 3}") for i in range(60)]
    pairs = [pair(i, a, b) for i, a, b in votes]
    turned = [pair(i, b, a) for i, a, b in reversed(votes)]
    splits = [clip_disjoint_split(order, seed=1)[0] for order in (pairs, turned)]
    parts = [[set(part) for part in (one.train, one.valid, one.test)] for one in splits]
    assert parts[0] == parts[1] and all(parts[0])
