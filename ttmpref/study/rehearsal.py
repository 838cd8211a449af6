"""A study run before anybody is asked: the real schedule, invented listeners.

Specification of listening studies, sections 2.5 and 3.6 (`study simulate`). Who hears what comes
from the assignment that the server uses; how people answer comes from `simulation`. Every number it
leads to is simulated and must be called so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ttmpref.study.assignment import Candidate, Schedule, TrialKind
from ttmpref.study.definition import DEGRADED, Definition, FixedStopping, Study
from ttmpref.study.errors import BuildError
from ttmpref.study.records import Build, rewards_of
from ttmpref.study.simulation import Crowd, Design, Population
from ttmpref.study.votes import ANSWERS, A, B, Votes


@dataclass(frozen=True)
class Heard:
    """One clip of a rehearsal: its system, and its reward where the study spreads over rewards."""

    system: str
    reward: float = 0.0


@dataclass(frozen=True)
class Rehearsal:
    """What a study consists of when nobody listens.

    Attributes:
        clips: what candidates number as `lo` and `hi`.
        pairs: candidates by kind.
    """

    definition: Definition
    clips: tuple[Heard, ...]
    pairs: dict[TrialKind, list[Candidate]]
    prompts: int

    @classmethod
    def of(cls, study: Study, build: Build | None) -> Rehearsal:
        """From the build where there is one, else from the definition alone.

        Raises:
            BuildError: the pairs depend on rewards, which only a build knows.
        """
        if build is not None:
            return cls._of_build(study, build)
        if study.definition.pairs.within is not None:
            raise BuildError("which takes meet depends on their rewards: build the study first")
        return cls._of_definition(study)

    @classmethod
    def _of_build(cls, study: Study, build: Build) -> Rehearsal:
        within = study.definition.pairs.within
        rewards = rewards_of(study.definition.ranker, build.scores) if within else {}
        clips = tuple(Heard(s.system, rewards.get(i, 0.0)) for i, s in enumerate(build.stimuli))
        numbers = {prompt.id: i for i, prompt in enumerate(build.prompts)}
        pairs: dict[TrialKind, list[Candidate]] = {}
        for number, pair in enumerate(build.pairs):
            candidate = Candidate(number, numbers[pair.prompt_id], pair.lo, pair.hi)
            pairs.setdefault(pair.kind, []).append(candidate)
        return cls(study.definition, clips, pairs, len(numbers))

    @classmethod
    def _of_definition(cls, study: Study) -> Rehearsal:
        labels = [system.label for system in study.definition.systems] + [DEGRADED]
        clips = tuple(Heard(label) for _ in study.prompts for label in labels)
        main = [
            Candidate(0, p, *sorted(p * len(labels) + labels.index(label) for label in pair))
            for p in range(len(study.prompts))
            for pair in study.definition.pairs.main
        ]
        checks = [
            Candidate(0, p, p * len(labels), (p + 1) * len(labels) - 1)
            for p in range(min(len(study.prompts), 2 * study.definition.session.attention))
        ]
        numbered = [
            Candidate(i, c.prompt, c.lo, c.hi) for i, c in enumerate([*main, *checks])
        ]
        pairs = {"main": numbered[: len(main)], "attention": numbered[len(main) :]}
        return cls(study.definition, clips, pairs, len(study.prompts))

    def votes(self, population: Population, participants: int, seed: int) -> Votes:
        """What so many people of a population answer."""
        schedule = Schedule(
            self.definition.session, self.pairs, self.definition.pairs.votes_per_pair
        )
        given_out = [
            row for row in schedule.run(seed, participants) if row[1].kind != "practice"
        ]
        trials = [(person, trial) for person, trial, _ in given_out]
        systems = tuple(dict.fromkeys(clip.system for clip in self.clips))
        sides = [
            (t.candidate.lo, t.candidate.hi) if t.a_is_lo else (t.candidate.hi, t.candidate.lo)
            for _, t in trials
        ]
        a, b = (np.array([side[i] for side in sides], int) for i in (0, 1))
        system = np.array([systems.index(clip.system) for clip in self.clips])
        reward = np.array([clip.reward for clip in self.clips])
        rater = np.array([person for person, _ in trials], int)
        prompt = np.array([trial.candidate.prompt for _, trial in trials], int)
        checked = np.array([trial.kind == "attention" for _, trial in trials], bool)
        good_is_a = system[b] == systems.index(DEGRADED) if DEGRADED in systems else checked
        crowd = Crowd.draw(population, systems, participants, self.prompts, seed)
        expected = np.where(checked, np.where(good_is_a, A, B), -1)
        margin = crowd.margin(rater, prompt, system[a], system[b], expected)
        margin += reward[a] - reward[b]
        answers, seconds = crowd.answer(rater, margin, np.random.default_rng([seed, 3]))
        return Votes.from_frame(
            pd.DataFrame(
                {
                    "vote_id": [f"v{i:06d}" for i in range(len(trials))],
                    "rater": [f"r{person:04d}" for person in rater],
                    "prompt": [f"p{number:04d}" for number in prompt],
                    "system_a": [self.clips[i].system for i in a],
                    "system_b": [self.clips[i].system for i in b],
                    "stimulus_a": [f"s{i:05d}" for i in a],
                    "stimulus_b": [f"s{i:05d}" for i in b],
                    "answer": [ANSWERS[i] for i in answers],
                    "kind": [trial.kind for _, trial in trials],
                    "repeat_of": _first_answers(trials),
                    "expected": [ANSWERS[i] if i >= 0 else "" for i in expected],
                    "position": [trial.position for _, trial in trials],
                    "block": [drawn.block for *_, drawn in given_out],
                    "first_on_a": [trial.a_is_lo for _, trial in trials],
                    "side_probability": [drawn.side_probability for *_, drawn in given_out],
                    "seconds": seconds,
                }
            )
        )

    def participants(self) -> int:
        """How many people the study asks for, or would need to fill every pair."""
        if isinstance(self.definition.stopping, FixedStopping):
            return self.definition.stopping.participants
        votes = len(self.pairs["main"]) * self.definition.pairs.votes_per_pair
        return -(-votes // self.definition.session.trials)

    def design(self, participants: int) -> Design:
        """The study as the power calculator knows it: contrasts on all prompts."""
        session = self.definition.session
        contrasts = self.definition.pairs.main
        return Design(
            contrasts,
            self.prompts,
            participants,
            trials=min(session.trials, len(contrasts) * self.prompts),
        )


def _first_answers(trials: Sequence[tuple[int, object]]) -> list[str]:
    """vote_id of the first answer to each repeat's pair, empty for the others."""
    first: dict[tuple[int, int], str] = {}
    found = []
    for i, (person, trial) in enumerate(trials):
        key = person, trial.candidate.pair
        found.append(first[key] if trial.kind == "repeat" else "")
        first.setdefault(key, f"v{i:06d}")
    return found


def coverage(votes: Votes, rehearsal: Rehearsal) -> dict[str, int]:
    """How far so many people get: answers, pairs with all their votes, fewest votes of a pair."""
    main = votes.where((votes.kind == 0) & (votes.repeat_of < 0))
    low = np.minimum(main.stimulus_a, main.stimulus_b)
    high = np.maximum(main.stimulus_a, main.stimulus_b)
    _, counts = np.unique(np.stack([low, high], 1), axis=0, return_counts=True)
    pairs = len(rehearsal.pairs["main"])
    target = rehearsal.definition.pairs.votes_per_pair
    return {
        "main answers": len(main),
        "pairs": pairs,
        "pairs complete": int((counts >= target).sum()),
        "fewest votes of a pair": int(counts.min()) if len(counts) == pairs else 0,
        "answers A": int((main.answer == A).sum()),
    }
