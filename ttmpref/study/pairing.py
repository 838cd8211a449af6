"""Which clips of a built study meet: main pairs, attention checks, practice.

Specification of listening studies, sections 2.2 and 2.4. Everything drawn follows from the seed of
the definition.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from ttmpref.study.definition import DEGRADED, Study, WithinPairs
from ttmpref.study.records import PairRecord, ScoreRecord, StimulusRecord, rewards_of

Places = Mapping[str, int]  # key of a stimulus -> its position in the list


def good_clips_of_checks(study: Study) -> dict[str, str]:
    """The system whose clip meets its degraded self, for each prompt that a check uses.

    Systems take turns, so that being the good clip says nothing.
    """
    session = study.definition.session
    wanted = 2 * session.attention + min(1, session.practice)
    rng = random.Random(f"checks {study.definition.seed}")
    prompts = rng.sample(study.prompts, min(wanted, len(study.prompts)))
    labels = [system.label for system in study.definition.systems]
    return {prompt.id: labels[i % len(labels)] for i, prompt in enumerate(prompts)}


def most_pairs(study: Study) -> Counter[str]:
    """How many pairs of each kind the study can have at most, before anything is built.

    Where takes of one system meet, their rewards decide how many of them do.
    """
    definition, session = study.definition, study.definition.session
    texts, within = len(study.prompts), definition.pairs.within
    main = texts * sum(
        min(definition.system(label).takes for label in labels) for labels in definition.pairs.main
    )
    if within is not None:
        there = sum(math.comb(definition.system(label).takes, 2) for label in within.systems)
        main += min(texts * there, len(within.margins) * within.pairs_per_bin)
    checks = len(good_clips_of_checks(study))
    obvious = min(1, session.practice, checks)
    practice = min(session.practice, obvious + main)
    return Counter(main=main, attention=checks - obvious, practice=practice)


def pairs_of(
    study: Study, stimuli: Sequence[StimulusRecord], scores: Sequence[ScoreRecord]
) -> list[PairRecord]:
    """All pairs of a study: main, then attention, then practice."""
    places = {record.key: i for i, record in enumerate(stimuli)}
    main = _between_systems(study, places)
    if study.definition.pairs.within is not None:
        main += _within_systems(study, stimuli, scores)
    checks = _checks(study, places)
    obvious = min(1, study.definition.session.practice)  # practice takes the first check
    return [*main, *checks[obvious:], *_practice(study, main, checks[:obvious])]


def _between_systems(study: Study, places: Places) -> list[PairRecord]:
    """The contrasted systems on every prompt, take by take."""
    definition = study.definition
    pairs = []
    for prompt in study.prompts:
        for labels in definition.pairs.main:
            for take in range(min(definition.system(label).takes for label in labels)):
                lo, hi = sorted(places[f"{label}/{prompt.id}/{take}"] for label in labels)
                pairs.append(_main(study, prompt.id, lo, hi))
    return pairs


def _main(study: Study, prompt_id: str, lo: int, hi: int) -> PairRecord:
    target = study.definition.pairs.votes_per_pair
    return PairRecord(prompt_id=prompt_id, lo=lo, hi=hi, kind="main", target=target)


def _checks(study: Study, places: Places) -> list[PairRecord]:
    """Clips against their degraded selves."""
    pairs = []
    for prompt_id, label in good_clips_of_checks(study).items():
        good = places[f"{label}/{prompt_id}/0"]
        lo, hi = sorted((good, places[f"{DEGRADED}/{prompt_id}/0"]))
        expected = "lo" if good == lo else "hi"
        pairs.append(
            PairRecord(
                prompt_id=prompt_id, lo=lo, hi=hi, kind="attention", expected=expected, target=0
            )
        )
    return pairs


def _practice(
    study: Study, main: Sequence[PairRecord], obvious: Sequence[PairRecord]
) -> list[PairRecord]:
    """An obvious pair first, then ordinary ones; what is answered there is not kept."""
    count = study.definition.session.practice
    rng = random.Random(f"practice {study.definition.seed}")
    ordinary = rng.sample(main, min(count, len(main)))
    changes = {"kind": "practice", "target": 0}
    return [pair.model_copy(update=changes) for pair in [*obvious, *ordinary][:count]]


def _within_systems(
    study: Study, stimuli: Sequence[StimulusRecord], scores: Sequence[ScoreRecord]
) -> list[PairRecord]:
    """Takes of one system and prompt, as many pairs from every bin of |margin|."""
    within = study.definition.pairs.within
    rewards = rewards_of(study.definition.ranker, scores)
    takes: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, record in enumerate(stimuli):
        if record.system in within.systems:
            takes[record.system, record.prompt_id].append(i)
    bins: dict[int, list[tuple[int, int]]] = {i: [] for i in range(len(within.margins))}
    for members in takes.values():
        for lo, hi in itertools.combinations(members, 2):
            margin_bin = _bin(within, abs(rewards[lo] - rewards[hi]))
            if margin_bin is not None:
                bins[margin_bin].append((lo, hi))
    rng = random.Random(f"margins {study.definition.seed}")
    chosen = [
        pair
        for pairs in bins.values()
        for pair in _spread_over_prompts(pairs, stimuli, within.pairs_per_bin, rng)
    ]
    return [_main(study, stimuli[lo].prompt_id, lo, hi) for lo, hi in sorted(chosen)]


def _bin(within: WithinPairs, margin: float) -> int | None:
    """Number of the bin of a |margin|, None below the first edge."""
    below = [i for i, edge in enumerate(within.margins) if margin >= edge]
    return below[-1] if below else None


def _spread_over_prompts(
    pairs: Iterable[tuple[int, int]],
    stimuli: Sequence[StimulusRecord],
    count: int,
    rng: random.Random,
) -> list[tuple[int, int]]:
    """Up to `count` pairs: a random one of every prompt, then a second of every prompt, ..."""
    by_prompt: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for pair in pairs:
        by_prompt[stimuli[pair[0]].prompt_id].append(pair)
    queues = list(by_prompt.values())
    rng.shuffle(queues)
    for queue in queues:
        rng.shuffle(queue)
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*queues))
    return [pair for pair in rounds if pair is not None][:count]
