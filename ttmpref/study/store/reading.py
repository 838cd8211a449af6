"""Everything a study holds, as plain rows for exports, reports and the admin's live view.

Each function reads one state of the database, so an export taken in the middle of a study is whole.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from ttmpref.study.definition import Definition, EvalueStopping, FixedStopping, sides
from ttmpref.study.store import audit, tables
from ttmpref.study.store.context import Context, StudyView
from ttmpref.study.store.studies import find, next_states

Row = dict[str, Any]


@dataclass(frozen=True)
class Dump:
    """The rows of one study, in the order of their keys.

    Attributes:
        votes: of trials that count, each with the columns of its trial.
        trials: all, expired and withdrawn ones included.
        audit_head: hash of the newest audit row.
    """

    study: Row
    definition: Definition
    systems: list[Row]
    prompts: list[Row]
    stimuli: list[Row]
    scores: list[Row]
    pairs: list[Row]
    participants: list[Row]
    trials: list[Row]
    votes: list[Row]
    comments: list[Row]
    events: list[Row]
    exclusions: list[Row]
    audit_head: str


class Reading:
    """Reads whole studies."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def dump(self, slug: str) -> Dump:
        """All rows of a study.

        Raises:
            NotFound: there is no such study.
        """
        with self._context.database.snapshot() as connection:
            study = find(connection, slug)

            def rows(table: Any, *order: str) -> list[Row]:
                query = select(table).where(table.c.study_id == study.id)
                return _plain(connection, query.order_by(*(table.c[name] for name in order)))

            trial, vote = tables.trial, tables.vote
            of_study = select(trial.c.id).where(trial.c.study_id == study.id)
            stimuli = rows(tables.stimulus, "id")
            score, comment, event = tables.ranker_score, tables.comment, tables.playback_event
            return Dump(
                study=dict(study._mapping),
                definition=self._context.view(connection, study.id).definition,
                systems=rows(tables.system, "id"),
                prompts=rows(tables.prompt, "id"),
                stimuli=stimuli,
                scores=_plain(
                    connection,
                    select(score)
                    .join_from(score, tables.stimulus)
                    .where(tables.stimulus.c.study_id == study.id)
                    .order_by(score.c.stimulus_id, score.c.scorer, score.c.scorer_sha256),
                ),
                pairs=rows(tables.pair, "id"),
                participants=rows(tables.participant, "created_at", "id"),
                trials=rows(trial, "assigned_at", "id"),
                votes=_plain(
                    connection,
                    select(vote)
                    .join_from(vote, trial)
                    .where(vote.c.study_id == study.id, trial.c.state == "answered")
                    .order_by(vote.c.id),
                ),
                comments=_plain(
                    connection,
                    select(comment).where(comment.c.trial_id.in_(of_study)).order_by("trial_id"),
                ),
                events=_plain(
                    connection,
                    select(event)
                    .where(event.c.trial_id.in_(of_study))
                    .order_by(event.c.trial_id, event.c.client, event.c.seq),
                ),
                exclusions=rows(tables.exclusion, "id"),
                audit_head=audit.head(connection, study.id),
            )

    def overview(self, slug: str) -> dict[str, Any]:
        """Where a study stands: people, trials, votes, balance, stopping, warnings.

        Raises:
            NotFound: there is no such study.
        """
        with self._context.database.snapshot() as connection:
            study = find(connection, slug)
            view = self._context.view(connection, study.id)
            counters = _counters(connection, view)
            return {
                "study": view.definition.slug,
                "version": view.definition.version,
                "status": study.status,
                "can_become": next_states(study.status),
                "definition_sha256": study.definition_sha256,
                "participants": _grouped(connection, tables.participant.c.status, study.id),
                "trials": _grouped(connection, tables.trial.c.state, study.id),
                "answers": _grouped(connection, tables.vote.c.choice, study.id),
                "votes": sum(row.n_valid for row in counters.values()),
                "wanted": sum(view.pairs[key].target for key in counters),
                "pairs": _pair_balance(view, counters),
                "coverage": _coverage(counters),
                "contrasts": _contrasts(view, counters),
                "stopping": stopping(connection, view),
                "leaks": json.loads(study.leaks),
                "storage_warning": self._context.settings.storage_warning(),
            }

    def state(self, slug: str) -> tuple[str, str]:
        """Status and audit head: whatever counts changes one of them.

        Raises:
            NotFound: there is no such study.
        """
        with self._context.database.snapshot() as connection:
            study = find(connection, slug)
            return study.status, audit.head(connection, study.id)

    def definition(self, slug: str) -> dict[str, str]:
        """The definition as it was written, and its hash.

        Raises:
            NotFound: there is no such study.
        """
        with self._context.database.read() as connection:
            study = find(connection, slug)
            return {"yaml": study.definition_yaml, "sha256": study.definition_sha256}


def stopping(connection: Connection, view: StudyView) -> dict[str, Any]:
    """How far the planned stopping rule is, and whether it says stop."""
    rule, person = view.definition.stopping, tables.participant
    if isinstance(rule, FixedStopping):
        completed = connection.scalar(
            select(func.count()).where(person.c.study_id == view.id, person.c.status == "completed")
        )
        done = {"completed": completed, "wanted": rule.participants}
        return {"rule": rule.rule, **done, "stop": completed >= rule.participants}
    votes = sum(row.n_valid for row in _counters(connection, view).values())
    e_value = _largest_e_value(connection, view, rule)
    return {
        "rule": rule.rule,
        "votes": votes,
        "max_votes": rule.max_votes,
        "largest_e_value": e_value,
        "stop_at": 1 / rule.alpha,
        "stop": votes >= rule.max_votes or e_value >= 1 / rule.alpha,
    }


def _largest_e_value(connection: Connection, view: StudyView, rule: EvalueStopping) -> float:
    """Of the primary contrast, over all looks so far; 1 before the first decisive answer."""
    if view.definition.analysis.primary is None:
        return 1.0
    import numpy as np

    from ttmpref.study.sequential import log_e_values

    x, y = sides(view.definition.analysis.primary, "<")
    trial, vote = tables.trial, tables.vote
    rows = connection.execute(
        select(trial.c.pair_id, trial.c.a_is_lo, trial.c.side_prob, vote.c.choice)
        .join_from(vote, trial)
        .where(
            vote.c.study_id == view.id,
            trial.c.state == "answered",
            trial.c.kind == "main",
            vote.c.choice.in_(("A", "B")),
        )
        .order_by(vote.c.id)
    )
    wins, chances = [], []
    for row in rows:
        first, second = _systems_of(view, row.pair_id, row.a_is_lo)
        if {first, second} == {x, y}:
            won = (first if row.choice == "A" else second) == y
            wins.append(won)
            chances.append(row.side_prob if won else 1 - row.side_prob)
    if not wins:
        return 1.0
    largest = log_e_values(np.array(wins), np.array(chances)).max()
    return float(np.exp(min(largest, 700.0)).clip(1.0))


def _systems_of(view: StudyView, pair_id: int, a_is_lo: bool) -> tuple[str, str]:
    """Labels of the systems that made clips A and B."""
    pair = view.pairs[pair_id].candidate
    lo, hi = (view.systems[view.clips[clip][1]] for clip in (pair.lo, pair.hi))
    return (lo, hi) if a_is_lo else (hi, lo)


def _plain(connection: Connection, query: Any) -> list[Row]:
    return [dict(row) for row in connection.execute(query).mappings()]


def _grouped(connection: Connection, column: Any, study_id: int) -> dict[str, int]:
    query = select(column, func.count()).where(column.table.c.study_id == study_id)
    return {word: count for word, count in connection.execute(query.group_by(column))}


def _counters(connection: Connection, view: StudyView) -> dict[int, Any]:
    """Counters of the main pairs."""
    counter = tables.pair_counter
    rows = connection.execute(select(counter).where(counter.c.study_id == view.id))
    return {row.pair_id: row for row in rows if view.pairs[row.pair_id].kind == "main"}


def _pair_balance(view: StudyView, counters: dict[int, Any]) -> dict[str, int]:
    """Coverage and side balance of the main pairs."""
    valid = [row.n_valid for row in counters.values()]
    drifts = [abs(2 * row.n_lo_on_a - row.n_assigned) for row in counters.values()]
    full = sum(row.n_valid >= view.pairs[key].target for key, row in counters.items())
    return {
        "pairs": len(counters),
        "complete": full,
        "fewest_votes": min(valid, default=0),
        "most_votes": max(valid, default=0),
        "largest_side_difference": max(drifts, default=0),
    }


def _coverage(counters: dict[int, Any]) -> dict[int, int]:
    """How many main pairs have so many votes."""
    return dict(sorted(Counter(row.n_valid for row in counters.values()).items()))


def _contrasts(view: StudyView, counters: dict[int, Any]) -> list[Row]:
    """Of each pair of systems: votes, presentations, and in how many of those the first one was
    clip A; who won is for the report.
    """
    sums: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for key, row in counters.items():
        sums[_systems_of(view, key, True)].update(
            votes=row.n_valid, assigned=row.n_assigned, first_on_a=row.n_lo_on_a
        )
    return [{"first": a, "second": b, **found} for (a, b), found in sorted(sums.items())]
