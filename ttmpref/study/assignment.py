"""Who hears which pair next, and which clip comes first.

Specification of listening studies, sections 2.2 and 7.2 (check 16). Pure functions of what has
happened so far and of seeds that are stored, so a schedule can be made again. A session is a plan
of slots (practice, then main trials mixed with attention checks and repeats); each slot is filled
when its turn comes:

- within a person, sides follow permuted blocks of four; a repeat has the sides of its first
  presentation swapped; together they never drift apart by more than two;
- within a main pair, either clip is first equally often, to within one, so a pair that leans waits
  for a slot of the other side;
- among the pairs that fit, those with the fewest votes and leases come first;
- nobody hears a prompt in two main trials running, or a clip in two different main pairs; other
  trials repeat the last prompt only where nothing else is left.

The probability of each side, given the pair and all that went before, is worked out and stored:
tests of "nobody can tell" rest on it. It is 1 where a pair's balance left no choice.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ttmpref.study.definition import Session

ALGORITHM = "least-voted-first 1"
SIDE_BLOCK = 4
MAX_SIDE_DRIFT = 2
REPEAT_GAP = 5  # trials between a pair and its repeat, where the session is long enough

TrialKind = Literal["practice", "main", "attention", "repeat"]


class Candidate(NamedTuple):
    """A pair that may be given out.

    Attributes:
        pair, prompt, lo, hi: numbers of the pair, its prompt and its two clips.
        assigned: votes and open leases it has.
        lo_on_a: in how many of them clip `lo` came first.
    """

    pair: int
    prompt: int
    lo: int
    hi: int
    assigned: int = 0
    lo_on_a: int = 0


@dataclass(frozen=True)
class Past:
    """A trial that a person was given before; one whose lease ran out was perhaps heard, and no
    more than that.
    """

    position: int
    kind: TrialKind
    candidate: Candidate
    a_is_lo: bool
    answered: bool = True


@dataclass(frozen=True)
class Assignment:
    """The pair of a trial and its sides.

    Attributes:
        probability: of this pair, given everything before.
        side_probability: of these sides, given the pair and everything before.
        block: number of the block that the side was drawn in, -1 where it was in none.
    """

    pair: int
    a_is_lo: bool
    probability: float
    side_probability: float
    block: int = -1


def session_plan(session: Session, seed: int) -> tuple[TrialKind, ...]:
    """What kind of trial stands at each position of a person's session.

    Repeats stand in the second half, so that there is something to repeat; the first trial after
    the practice is no check.
    """
    rng = random.Random(f"plan {seed}")
    count = session.trials + session.attention + session.repeats
    kinds: list[TrialKind] = ["main"] * count
    late = range(count - max(session.repeats, count // 2), count)
    repeats = rng.sample(late, session.repeats)
    free = [i for i in range(min(1, session.trials), count) if i not in repeats]
    for i in repeats:
        kinds[i] = "repeat"
    for i in rng.sample(free, session.attention):
        kinds[i] = "attention"
    return ("practice",) * session.practice + tuple(kinds)


def assign(
    kind: TrialKind, candidates: Sequence[Candidate], past: Sequence[Past], seed: int
) -> Assignment | None:
    """The trial for the next slot of a person.

    Args:
        kind: of the slot.
        candidates: pairs of that kind that want votes; for a repeat they do not matter.
        past: the person's trials so far, in order.
        seed: the person's; draws depend on it and on the number of past trials.

    Returns:
        None where the slot cannot be filled.
    """
    rng = random.Random(f"trial {seed} {len(past)}")
    if kind == "repeat":
        return _repeat(past, rng)
    seen = {trial.candidate.pair for trial in past}
    heard = _heard(past, ("main",))
    open_ = [c for c in candidates if c.pair not in seen]
    if kind == "main":
        open_ = [c for c in open_ if c.lo not in heard and c.hi not in heard]
    open_ = _other_prompts(kind, open_, past)
    if kind == "practice":
        first = min(open_, key=lambda c: c.pair, default=None)
        return None if first is None else Assignment(first.pair, rng.random() < 0.5, 1.0, 0.5)
    if not open_:
        return None
    known = heard | _heard(past, ("attention",))
    side = _next_side(past, seed)
    pools = {wanted: _best(open_, known, wanted) for wanted in (True, False)}
    chosen = rng.choice(pools[side.wanted])

    def side_of(wanted: bool) -> bool:
        """Checks are few: rather their balance suffers than a person's."""
        return _side_of(chosen, wanted) if kind == "main" else wanted

    a_is_lo = side_of(side.wanted)
    # Either wish could have led to this pair: how likely each of its sides was, by Bayes' rule.
    ways = {True: 0.0, False: 0.0}
    for wanted, chance in ((True, side.chance), (False, 1 - side.chance)):
        if chosen in pools[wanted]:
            ways[side_of(wanted)] += chance / len(pools[wanted])
    total = sum(ways.values())
    return Assignment(chosen.pair, a_is_lo, total, ways[a_is_lo] / total, side.block)


def _best(open_: Sequence[Candidate], known: set[int], wanted: bool) -> list[Candidate]:
    """The pairs that fit a wanted side best, all as good as one another."""
    pool = [c for c in open_ if _side_of(c, wanted) == wanted] or list(open_)
    fewest = min(c.assigned for c in pool)
    pool = [c for c in pool if c.assigned == fewest]
    return [c for c in pool if c.lo not in known and c.hi not in known] or pool


def _heard(past: Iterable[Past], kinds: Sequence[TrialKind]) -> set[int]:
    """Clips of the past trials of the given kinds."""
    clips: set[int] = set()
    for trial in past:
        if trial.kind in kinds:
            clips |= {trial.candidate.lo, trial.candidate.hi}
    return clips


def _drift(past: Iterable[Past]) -> int:
    """How much more often clip `lo` came first for this person, practice aside."""
    counted = (trial for trial in past if trial.answered and trial.kind != "practice")
    return sum(1 if trial.a_is_lo else -1 for trial in counted)


@dataclass(frozen=True)
class _Side:
    """Whether `lo` should come first; `chance` is how likely that was to be so."""

    wanted: bool
    chance: float
    block: int


def _other_prompts(
    kind: TrialKind, open_: list[Candidate], past: Sequence[Past]
) -> list[Candidate]:
    """Those of another prompt than the last trial's; two main trials in a row must differ.

    Where a practice or a check stands between, the same prompt is better than a lost vote.
    """
    if not past:
        return open_
    others = [c for c in open_ if c.prompt != past[-1].candidate.prompt]
    strict = kind == past[-1].kind == "main"
    return others if others or strict else open_


def _next_side(past: Sequence[Past], seed: int) -> _Side:
    """The next side of the person's block, unless they have drifted."""
    index = sum(trial.answered and trial.kind in ("main", "attention") for trial in past)
    block, place = divmod(index, SIDE_BLOCK)
    drift = _drift(past)
    if abs(drift) >= MAX_SIDE_DRIFT:
        return _Side(drift < 0, float(drift < 0), block)
    sides = [True, False] * (SIDE_BLOCK // 2)
    random.Random(f"sides {seed} {block}").shuffle(sides)
    left = sides[place:]
    return _Side(left[0], left.count(True) / len(left), block)


def _side_of(candidate: Candidate, wanted: bool) -> bool:
    """The side that keeps the pair balanced; the wanted one where it is."""
    surplus = 2 * candidate.lo_on_a - candidate.assigned
    return wanted if surplus == 0 else surplus < 0


def _repeat(past: Sequence[Past], rng: random.Random) -> Assignment | None:
    """An earlier main trial with its sides swapped, where possible one that undoes a drift."""
    repeated = {trial.candidate.pair for trial in past if trial.kind == "repeat"}
    open_ = [
        trial
        for trial in past
        if trial.kind == "main"
        and trial.answered
        and trial.candidate.pair not in repeated
        and trial.candidate.prompt != past[-1].candidate.prompt
    ]
    if not open_:
        return None
    now, drift = past[-1].position + 1, _drift(past)
    ranks = [(t.a_is_lo == (drift < 0) and drift != 0, now - t.position <= REPEAT_GAP)
             for t in open_]  # fmt: skip
    best = min(ranks)
    equals = [trial for trial, rank in zip(open_, ranks, strict=True) if rank == best]
    chosen = rng.choice(equals)
    return Assignment(chosen.candidate.pair, not chosen.a_is_lo, 1 / len(equals), 1.0)


@dataclass
class Schedule:
    """The same assignment without a database: who would hear what, if everybody finished.

    Attributes:
        session: plan of one person.
        pairs: candidates by kind ("main", "attention", "practice") with nothing assigned yet.
        target: votes wanted per main pair.
    """

    session: Session
    pairs: dict[TrialKind, list[Candidate]]
    target: int

    def run(self, seed: int, participants: int) -> Iterator[tuple[int, Past, Assignment]]:
        """(person, trial, how it was drawn) as trials are given out, person after person."""
        now = {c.pair: c for candidates in self.pairs.values() for c in candidates}
        for person in range(participants):
            past: list[Past] = []
            person_seed = random.Random(f"person {seed} {person}").getrandbits(63)
            for position, kind in enumerate(session_plan(self.session, person_seed)):
                candidates = [now[c.pair] for c in self.pairs.get(kind, ())]
                if kind == "main":
                    candidates = [c for c in candidates if c.assigned < self.target]
                chosen = assign(kind, candidates, past, person_seed)
                if chosen is None:
                    continue
                trial = Past(position, kind, now[chosen.pair], chosen.a_is_lo)
                past.append(trial)
                if kind != "repeat":
                    now[chosen.pair] = counted(now[chosen.pair], chosen.a_is_lo)
                yield person, trial, chosen


def counted(candidate: Candidate, a_is_lo: bool) -> Candidate:
    """The candidate after it was given out once more."""
    return candidate._replace(
        assigned=candidate.assigned + 1, lo_on_a=candidate.lo_on_a + a_is_lo
    )
