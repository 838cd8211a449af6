"""What was heard follows from the events, whatever order and number they arrive in."""

from __future__ import annotations

import random

import pytest

from ttmpref.study.listening import Event, covered_spans, listening

DURATION = 10_000.0


def events(*rows, client="one"):
    """Events from (side, kind, media seconds, clock seconds), numbered in order."""
    return [
        Event(client, seq, side, kind, 1000 * media, 1000 * clock)
        for seq, (side, kind, media, clock) in enumerate(rows)
    ]


FULL = events(
    ("A", "loaded", 0, 0), ("B", "loaded", 0, 0), ("A", "play", 0, 1), ("B", "switch", 7, 8),
    ("B", "loop", 0, 11), ("none", "pause", 4, 15),
)  # fmt: skip


def test_play_switch_and_loop_are_added_up():
    heard = listening(FULL, DURATION, 20_000)
    assert (heard.heard_a_ms, heard.heard_b_ms) == (7_000, 7_000)
    assert (heard.cover_a, heard.cover_b) == (0.7, 0.7)
    assert heard.switches == 1 and heard.loaded and heard.hidden_ms == 0


def test_check_6_replayed_reordered_and_duplicated_events_change_nothing():
    shuffled = FULL.copy()
    random.Random(1).shuffle(shuffled)
    assert listening(shuffled, DURATION, 20_000) == listening(FULL, DURATION, 20_000)


def test_check_6_nobody_hears_more_than_the_time_that_passed():
    heard = listening(FULL, DURATION, 300)
    assert heard.heard_a_ms + heard.heard_b_ms == 2_300
    assert heard.cover_a == heard.cover_b == pytest.approx(0.115)
    assert listening(FULL, DURATION, -50_000).heard_a_ms <= 1_000  # a clock that was set back


def test_the_same_second_twice_is_heard_but_not_covered_twice():
    twice = events(("A", "play", 2, 0), ("A", "seek", 2, 3), ("none", "pause", 5, 6))
    heard = listening(twice, DURATION, 60_000)
    assert heard.heard_a_ms == 6_000 and heard.cover_a == 0.3


def test_a_clip_that_loops_by_itself_covers_its_beginning():
    looped = events(("A", "play", 8, 0), ("none", "pause", 1, 3))
    assert listening(looped, DURATION, 60_000).cover_a == 0.3
    whole = events(("A", "play", 3, 0), ("none", "pause", 3, 30))
    assert listening(whole, DURATION, 60_000).cover_a == 1.0


def test_time_out_of_sight_is_not_heard():
    hidden = events(
        ("A", "play", 0, 0), ("none", "hidden", 2, 2), ("none", "visible", 6, 6),
        ("none", "pause", 7, 7),
    )  # fmt: skip
    heard = listening(hidden, DURATION, 60_000)
    assert heard.heard_a_ms == 3_000 and heard.hidden_ms == 4_000 and heard.cover_a == 0.3


def test_two_page_loads_add_up_and_cover_together():
    first = events(("A", "play", 0, 100), ("none", "pause", 4, 104))
    second = events(("A", "play", 2, 3), ("none", "pause", 8, 9), client="two")
    heard = listening([*second, *first], DURATION, 60_000)
    assert heard.heard_a_ms == 10_000 and heard.cover_a == 0.8


def test_what_was_covered_is_told_as_stretches_that_do_not_overlap():
    again = events(("A", "play", 0.3, 50), ("B", "switch", 0.5, 50.2), client="two")
    played = [*FULL, *again]
    assert covered_spans(played, DURATION) == {
        "A": [(0, 7_000)], "B": [(0, 4_000), (7_000, 10_000)],
    }  # fmt: skip
    assert covered_spans([], DURATION) == {"A": [], "B": []}


def test_a_clock_that_runs_backwards_and_places_beyond_the_clip_are_harmless():
    odd = events(("A", "play", 99, 5), ("none", "pause", -3, 1), ("A", "play", -5, 2))
    assert listening(odd, DURATION, 60_000).heard_a_ms == 0
    assert listening([], DURATION, 0).cover_a == 0 and not listening([], DURATION, 0).loaded
