"""Assignment: balanced sides, covered pairs, and a schedule that follows from its seed."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

import pytest
from scipy.stats import chi2_contingency

from ttmpref.study.assignment import (
    Assignment,
    Candidate,
    Past,
    Schedule,
    assign,
    counted,
    session_plan,
)
from ttmpref.study.definition import Session

SESSION = Session(trials=20, attention=2, repeats=2, practice=2)
SYSTEMS, PROMPTS = 3, 100


def stages_schedule(target=10):
    """Two contrasts of three systems on 100 prompts, with 8 checks and 2 practice pairs."""

    def clip(prompt, system):
        return prompt * 10 + system

    main = [
        Candidate(2 * p + s, p, clip(p, s), clip(p, s + 1)) for p in range(PROMPTS) for s in (0, 1)
    ]
    checks = [Candidate(1000 + p, p, clip(p, p % SYSTEMS), clip(p, 9)) for p in range(8)]
    practice = [Candidate(2000 + p, p, clip(p, 0), clip(p, 1)) for p in (50, 51)]
    return Schedule(SESSION, {"main": main, "attention": checks, "practice": practice}, target)


@pytest.fixture(scope="module")
def trials():
    """5,000 and more trials of people who all finish."""
    run = stages_schedule(target=23).run(seed=7, participants=235)
    return [(person, trial) for person, trial, _ in run]


def counted_trials(trials):
    return [(person, t) for person, t in trials if t.kind != "practice"]


def test_check_16_sides_of_every_pair_are_balanced_to_one(trials):
    assert len(counted_trials(trials)) >= 5_000
    drift = Counter()
    for _, trial in trials:
        if trial.kind == "main":
            drift[trial.candidate.pair] += 1 if trial.a_is_lo else -1
    assert max(map(abs, drift.values())) <= 1


def test_check_16_sides_of_every_person_are_balanced_to_two_at_every_moment(trials):
    drift = defaultdict(int)
    for person, trial in counted_trials(trials):
        drift[person] += 1 if trial.a_is_lo else -1
        assert abs(drift[person]) <= 2


def test_check_16_position_says_nothing_about_the_system(trials):
    """Which contrast, and which clip comes first, is independent of the position."""
    table = defaultdict(Counter)
    for _, trial in trials:
        if trial.kind == "main":
            table[trial.position][trial.candidate.pair % 2, trial.a_is_lo] += 1
    cells = [(contrast, side) for contrast in (0, 1) for side in (True, False)]
    counts = [[table[position][cell] for cell in cells] for position in sorted(table)]
    assert chi2_contingency(counts).pvalue > 0.001


def test_check_16_no_prompt_twice_running_and_no_clip_in_two_main_pairs(trials):
    last, heard = {}, defaultdict(set)
    for person, trial in trials:
        assert last.get(person) != trial.candidate.prompt
        last[person] = trial.candidate.prompt
        if trial.kind == "main":
            clips = {trial.candidate.lo, trial.candidate.hi}
            assert not clips & heard[person]
            heard[person] |= clips


def test_a_session_as_long_as_the_study_has_prompts_loses_no_trial():
    """Where a check is of the only prompt that is left, that prompt follows it."""
    session = Session(trials=4, attention=1, repeats=1, practice=1)
    main = [Candidate(p, p, 10 * p, 10 * p + 1) for p in range(4)]
    checks = [Candidate(100 + p, p, 10 * p, 10 * p + 9) for p in range(4)]
    practice = [Candidate(200, 0, 0, 1)]
    tiny = Schedule(session, {"main": main, "attention": checks, "practice": practice}, 200)
    runs = list(tiny.run(seed=3, participants=200))
    kinds = Counter((person, trial.kind) for person, trial, _ in runs)
    assert {kinds[person, "main"] for person in range(200)} == {4}
    for (one, before, _), (two, after, _) in pairwise(runs):
        if one == two and before.kind == after.kind == "main":
            assert before.candidate.prompt != after.candidate.prompt


def test_check_16_every_pair_reaches_its_target_and_none_passes_it(trials):
    votes = Counter(t.candidate.pair for _, t in trials if t.kind == "main")
    assert len(votes) == 2 * PROMPTS and set(votes.values()) == {23}


def test_check_16_the_seed_reproduces_the_schedule_and_another_one_does_not():
    first, again, other = (
        list(stages_schedule().run(seed, participants=10)) for seed in (1, 1, 2)
    )
    assert first == again and first != other


def test_a_session_holds_what_its_plan_says(trials):
    kinds = Counter(trial.kind for person, trial in trials if person == 0)
    assert kinds == {"practice": 2, "main": 20, "attention": 2, "repeat": 2}
    plans = {session_plan(SESSION, seed) for seed in range(50)}
    assert len(plans) > 40
    for plan in plans:
        assert plan[:3] == ("practice", "practice", "main")
        assert "repeat" not in plan[2:14]


def test_a_repeat_swaps_the_sides_of_an_earlier_pair(trials):
    for person in range(20):
        own = [trial for who, trial in trials if who == person]
        for trial in own:
            if trial.kind == "repeat":
                first = next(t for t in own if t.candidate.pair == trial.candidate.pair)
                assert first.a_is_lo is not trial.a_is_lo
                assert trial.position - first.position > 5


def test_fewest_votes_come_first_and_the_probability_is_that_of_the_draw():
    busy = [Candidate(i, i, 10 * i, 10 * i + 1, assigned=4, lo_on_a=2) for i in range(3)]
    free = [Candidate(i, i, 10 * i, 10 * i + 1, assigned=2, lo_on_a=1) for i in (3, 4)]
    chosen = [assign("main", [*busy, *free], [], seed) for seed in range(60)]
    assert {one.pair for one in chosen} == {3, 4}
    assert {(one.probability, one.side_probability) for one in chosen} == {(0.5, 0.5)}


def test_an_unbalanced_pair_decides_its_own_side():
    leaning = Candidate(0, 0, 0, 1, assigned=3, lo_on_a=2)
    for seed in range(10):
        assert assign("main", [leaning], [], seed) == Assignment(0, False, 1.0, 1.0, block=0)


def test_the_stored_probability_of_a_side_is_how_often_it_comes():
    """A leaning pair fits one wish alone, so a balanced pair tells something about the wish."""
    pairs = [
        Candidate(0, 0, 0, 1, assigned=2, lo_on_a=1),
        Candidate(1, 1, 2, 3, assigned=1, lo_on_a=1),
        Candidate(2, 2, 4, 5, assigned=3, lo_on_a=2),
    ]
    chosen = [assign("main", pairs, [], seed) for seed in range(500)]
    assert {one.pair for one in chosen} == {0, 1}
    balanced = [one for one in chosen if one.pair == 0]
    # Wish "lo first" (1/2): pair 0. Wish "hi first" (1/2): pair 1, which has fewer votes.
    assert {(one.a_is_lo, one.probability, one.side_probability) for one in balanced} == {
        (True, 0.5, 1.0)
    }
    even = [Candidate(i, i, 2 * i, 2 * i + 1, assigned=2, lo_on_a=1) for i in range(2)]
    even.append(Candidate(2, 2, 4, 5, assigned=2, lo_on_a=0))  # wants lo first, as do the others
    chosen = [assign("main", even, [], seed) for seed in range(3_000)]
    balanced = [one for one in chosen if one.pair == 0]
    share = sum(one.a_is_lo for one in balanced) / len(balanced)
    by_bayes = (1 / 3) / (1 / 3 + 1 / 2)
    assert share == pytest.approx(by_bayes, abs=0.03)
    for one in balanced:
        right = by_bayes if one.a_is_lo else 1 - by_bayes
        assert one.side_probability == pytest.approx(right)
    assert sum(one.probability for one in chosen) / 3_000 == pytest.approx(0.34, abs=0.06)


def test_sides_stand_in_permuted_blocks_of_four(trials):
    """Whole blocks hold each side twice, but where no pair fitted any more, or after a drift."""
    sides = defaultdict(list)
    for person, trial in trials:
        if trial.kind in ("main", "attention"):
            sides[person].append(trial.a_is_lo)
    blocks = [own[i : i + 4] for own in sides.values() for i in range(0, len(own) - 3, 4)]
    assert sum(sum(block) == 2 for block in blocks) / len(blocks) > 0.9


def test_what_cannot_be_filled_is_none():
    pair = Candidate(0, 0, 0, 1)
    heard = [Past(0, "main", pair, True)]
    assert assign("main", [], [], 0) is None
    assert assign("main", [pair], heard, 0) is None
    assert assign("main", [Candidate(1, 0, 2, 3)], heard, 0) is None  # the same prompt again
    assert assign("main", [Candidate(2, 1, 1, 3)], heard, 0) is None  # a clip heard before
    assert assign("repeat", [], heard, 0) is None
    gone = [Past(0, "main", pair, True, answered=False), Past(1, "main", pair, True, False)]
    assert assign("repeat", [], gone, 0) is None  # nobody answered it
    assert counted(pair, True).lo_on_a == 1
