"""Trials and votes: leases, playback events, and the transaction that takes an answer.

Specification of listening studies, sections 3.2 and 3.3. A vote is acknowledged after its commit
and never before; it is accepted once, whatever arrives how often. What the client claims to have
heard is worked out again from its stored events (`listening`).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, select, update

from ttmpref.study.assignment import Candidate, Past, assign, session_plan
from ttmpref.study.definition import Definition
from ttmpref.study.errors import Conflict, Forbidden, Gone, NotFound, Unprocessable
from ttmpref.study.listening import Event, Listening, both_loaded, covered_spans, listening
from ttmpref.study.settings import recruitment_code
from ttmpref.study.store import audit, statements, tables
from ttmpref.study.store.context import (
    MICROSECONDS,
    MINUTE,
    Context,
    StudyView,
    count_pair,
)
from ttmpref.study.store.people import (
    Who,
    find_session,
    lock_session,
    screening_stands_in_the_way,
)
from ttmpref.study.store.statements import OPEN_STATES
from ttmpref.study.store.studies import refuse_unless_open
from ttmpref.types import Vote

GRACE = MINUTE  # an answer may be on its way when the lease ends
MAX_EVENTS = 500  # per trial; what comes after is not kept
EVENT_POSTS_PER_MINUTE = 120
CHOSEN_LO = {"A": True, "B": False}


@dataclass(frozen=True)
class Ballot:
    """An answer as it arrived.

    Attributes:
        choice: for a graded study, the sign of the grade.
        payload_sha256: of everything the client sent, to tell a retry from another answer.
        events: playback events not sent before.
    """

    choice: Vote
    rt_ms: int
    payload_sha256: str
    grade: int | None = None
    confidence: int | None = None
    tags: tuple[str, ...] = ()
    comment: str = ""
    client_ts: str | None = None
    events: Sequence[Event] = ()


@dataclass(frozen=True)
class TrialView:
    """A trial as a listener may see it: nothing in it tells what is compared.

    Attributes:
        prompt: None where the study hides prompts.
        answered, total: how far the person is.
        token_a, token_b: opaque names of the two clips, of this trial alone.
        lease_seconds: until the trial goes to somebody else.
        heard: what was played so far, see `listening.covered_spans`; a page that was loaded again
            counts on from there.
    """

    id: str
    practice: bool
    prompt: str | None
    answered: int
    total: int
    token_a: str
    token_b: str
    presented: bool
    lease_seconds: int
    heard: Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True)
class Finished:
    """There is no further trial; `code` is what the recruiting platform wants to see."""

    code: str | None


class Trials:
    """What listeners do, trial by trial."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def next(self, token: str) -> TrialView | Finished:
        """The open trial of a session, or a new one.

        Raises:
            Unauthorised, Gone: no such session, or it has ended, or the study has.
            Conflict: the study is paused, or a required check comes first.
            TooMany: too many posts in a minute.
        """
        with self._context.database.write() as connection:
            who, status = lock_session(self._context, connection, token)
            self._count_post(connection, who)
            return self._next(connection, who, status)

    def _count_post(self, connection: Connection, who: Who) -> None:
        limit = self._context.settings.trials_per_minute
        self._context.count(connection, f"trials {who.id}", limit, MINUTE)

    def _next(self, connection: Connection, who: Who, status: str) -> TrialView | Finished:
        now = self._context.clock()
        view = self._context.view(connection, who.study_id)
        rows = _trials_of(connection, who.id)
        current = rows[-1] if rows and rows[-1].state in OPEN_STATES else None
        if current is not None and current.lease_expires_at + GRACE >= now:
            return _view_of(view, current, rows, now, _events_of(connection, current.id))
        if who.status in ("completed", "screened_out"):
            return _finished(view.definition, who.status)
        refuse_unless_open(status)
        if screening_stands_in_the_way(connection, view.definition, who):
            raise Conflict("the headphone check comes first", "screening")
        self._expire(connection, view, now)
        if current is not None:  # it was among the expired ones
            rows = _trials_of(connection, who.id)
        row = self._assign(connection, view, who, rows, now)
        if row is None and not any(one.state == "answered" for one in rows):
            raise Conflict("every pair has all the answers it needs just now", "full")
        if row is None:
            person = tables.participant
            done = {"status": "completed", "completed_at": now, "last_seen_at": now}
            connection.execute(update(person).where(person.c.id == who.id).values(**done))
            audit.append(connection, view.id, now, "listener", "complete", who.id)
            return _finished(view.definition, "completed")
        seen = {"p_person": who.id, "p_status": "active", "p_now": now}
        connection.execute(statements.SEE_PERSON, seen)
        return _view_of(view, row, [*rows, row], now)

    def _expire(self, connection: Connection, view: StudyView, now: int) -> None:
        """Take back all leases of the study that have run out."""
        which = {"p_study": view.id, "p_before": now - GRACE}
        for row in connection.execute(statements.EXPIRED_TRIALS, which).all():
            connection.execute(statements.EXPIRE_TRIAL, {"p_trial": row.id})
            if row.kind != "repeat":
                count_pair(connection, row.pair_id, assigned=-1, lo_on_a=-int(row.a_is_lo))

    def _assign(
        self,
        connection: Connection,
        view: StudyView,
        who: Who,
        rows: Sequence[Row[Any]],
        now: int,
    ) -> Row[Any] | None:
        """A new trial for the first slot that can be filled; None where the session is over."""
        plan = session_plan(view.definition.session, who.rng_seed)
        past = [
            Past(
                row.position,
                row.kind,
                view.pairs[row.pair_id].candidate,
                row.a_is_lo,
                answered=row.state == "answered",
            )
            for row in rows
        ]
        position, attempt = _next_place(rows)
        for place in range(position, len(plan)):
            kind = plan[place]
            candidates = self._candidates(connection, view, kind)
            chosen = assign(kind, candidates, past, who.rng_seed)
            if chosen is None:
                continue
            lease = view.definition.session.lease_minutes * MINUTE
            values = {
                "id": secrets.token_hex(16),
                "study_id": view.id,
                "participant_id": who.id,
                "pair_id": chosen.pair,
                "position": place,
                "attempt": attempt if place == position else 0,
                "kind": kind,
                "repetition": int(kind == "repeat"),
                "a_is_lo": chosen.a_is_lo,
                "assign_prob": chosen.probability,
                "side_prob": chosen.side_probability,
                "block": chosen.block,
                "state": "assigned",
                "token_a": secrets.token_hex(16),
                "token_b": secrets.token_hex(16),
                "assigned_at": now,
                "lease_expires_at": now + lease,
            }
            row = connection.execute(statements.INSERT_TRIAL, values).one()
            if kind != "repeat":
                count_pair(connection, chosen.pair, assigned=1, lo_on_a=int(chosen.a_is_lo))
            return row
        return None

    def _candidates(self, connection: Connection, view: StudyView, kind: str) -> list[Candidate]:
        """Pairs of a kind that want votes, as they stand now."""
        if kind == "repeat":
            return []
        found = []
        for row in connection.execute(statements.PAIR_COUNTS, {"p_study": view.id}):
            pair = view.pairs[row.pair_id]
            if pair.kind == kind and (kind != "main" or row.n_assigned < pair.target):
                found.append(Candidate(*pair.candidate[:4], row.n_assigned, row.n_lo_on_a))
        return found

    def clip(self, token: str, stimulus: str) -> Path:
        """The file behind an opaque token of the session's open trial.

        Raises:
            NotFound: unknown, somebody else's, or of a trial that is over; all alike.
        """
        with self._context.database.read() as connection:
            who = find_session(connection, token, self._context.clock())
            asked = {"p_token": stimulus, "p_participant": who.id}
            row = connection.execute(statements.TRIAL_OF_CLIP, asked).one_or_none()
            if row is None:
                raise NotFound("there is no such clip")
            view = self._context.view(connection, who.study_id)
        pair = view.pairs[row.pair_id].candidate
        wants_lo = row.a_is_lo == (row.token_a == stimulus)
        return view.clip_path(pair.lo if wants_lo else pair.hi)

    def add_events(self, token: str, trial_id: str, events: Sequence[Event]) -> int:
        """Store playback events; those stored before, or beyond `MAX_EVENTS`, are not kept again.

        Returns:
            How many events the trial has now.
        """
        now = self._context.clock()
        with self._context.database.write() as connection:
            who = find_session(connection, token, now)
            row = _own_trial(connection, who, trial_id)
            if row.state not in OPEN_STATES:
                raise Conflict("this trial is over", "over")
            self._context.count(connection, f"events {who.id}", EVENT_POSTS_PER_MINUTE, MINUTE)
            return len(self._store_events(connection, row, events, now))

    def _store_events(
        self, connection: Connection, row: Row[Any], events: Sequence[Event], now: int
    ) -> list[Event]:
        """Store what is new, mark the trial presented once both clips were loaded; all events."""
        stored = _events_of(connection, row.id)
        known = {(event.client, event.seq) for event in stored}
        fresh = {(e.client, e.seq): e for e in events if (e.client, e.seq) not in known}
        kept = list(fresh.values())[: max(0, MAX_EVENTS - len(stored))]
        if kept:
            values = [{**vars(event), "trial_id": row.id, "server_ts": now} for event in kept]
            connection.execute(self._context.insert_events, values)
        everything = [*stored, *kept]
        if row.state == "assigned" and both_loaded(everything):
            connection.execute(statements.PRESENT_TRIAL, {"p_trial": row.id, "p_now": now})
        return everything

    def vote(
        self, token: str, trial_id: str, key: str, ballot: Ballot
    ) -> TrialView | Finished | None:
        """Take an answer, commit it, and give out the next trial.

        Args:
            key: idempotency key; the same key with the same answer is the same vote.

        Returns:
            The next trial, or None where there is none just now (the study is paused or over).

        Raises:
            Unauthorised, Gone: the session, the lease or the study has ended.
            NotFound, Forbidden: no such trial, or somebody else's.
            Conflict: not presented yet, answered before, or the key came with another answer.
            Unprocessable: too little was heard, or the answer is none of the study's.
        """
        with self._context.database.write() as connection:
            who, status = lock_session(self._context, connection, token)
            self._count_post(connection, who)
            row = _own_trial(connection, who, trial_id)
            if not _is_retry(connection, row, key, ballot):
                self._take(connection, who, row, key, ballot, status)
            try:
                return self._next(connection, who, status)
            except (Conflict, Gone):
                return None  # the vote stands all the same

    def _take(
        self,
        connection: Connection,
        who: Who,
        row: Row[Any],
        key: str,
        ballot: Ballot,
        status: str,
    ) -> None:
        """Everything of a vote that must happen together."""
        now = self._context.clock()
        view = self._context.view(connection, who.study_id)
        _check_ballot(view.definition, ballot)
        if row.state == "expired" or row.lease_expires_at + GRACE < now:
            raise Gone("this trial waited too long and went to somebody else", "lease_expired")
        if status not in ("open", "paused"):  # what was given out before a pause may be answered
            raise Gone("the study has ended", "closed")
        if row.state not in OPEN_STATES:
            raise Conflict("this trial is answered", "answered")
        events = self._store_events(connection, row, ballot.events, now)
        elapsed_ms = (now - row.assigned_at) / 1000
        heard = listening(events, view.definition.audio.duration_ms, elapsed_ms)
        if not heard.loaded:
            raise Conflict("both clips must be loaded before an answer counts", "not_presented")
        _check_heard(view.definition, heard)
        done = connection.execute(statements.ANSWER_TRIAL, {"p_trial": row.id, "p_now": now})
        if done.rowcount != 1:
            raise Conflict("this trial is answered", "answered")
        if row.kind != "repeat":
            count_pair(connection, row.pair_id, valid=1)
        if row.kind != "practice":
            self._insert_vote(connection, row, key, ballot, heard, now)

    def _insert_vote(
        self,
        connection: Connection,
        row: Row[Any],
        key: str,
        ballot: Ballot,
        heard: Listening,
        now: int,
    ) -> None:
        """The vote, its comment, and its seal in the audit chain."""
        lo = CHOSEN_LO.get(ballot.choice)
        values = {
            "trial_id": row.id,
            "idempotency_key": key,
            "payload_sha256": ballot.payload_sha256,
            "choice": ballot.choice,
            "grade": ballot.grade,
            "chosen": ballot.choice.lower() if lo is None else "lo" if lo == row.a_is_lo else "hi",
            "confidence": ballot.confidence,
            "tags": json.dumps(ballot.tags, ensure_ascii=False),
            "rt_ms": ballot.rt_ms,
            "heard_a_ms": heard.heard_a_ms,
            "heard_b_ms": heard.heard_b_ms,
            "cover_a": heard.cover_a,
            "cover_b": heard.cover_b,
            "switches": heard.switches,
            "hidden_ms": heard.hidden_ms,
            "client_ts": ballot.client_ts,
            "server_ts": now,
        }
        values["row_hash"] = audit.vote_hash(values)
        connection.execute(statements.INSERT_VOTE, {"study_id": row.study_id, **values})
        if ballot.comment:
            text = {"trial_id": row.id, "text": ballot.comment}
            connection.execute(tables.comment.insert().values(**text))
        seal = {"row_hash": values["row_hash"]}
        audit.append(connection, row.study_id, now, "listener", "vote", row.id, seal)

    def reveal(self, token: str) -> list[dict[str, Any]]:
        """What a person compared, once the study allows it.

        Raises:
            Forbidden: not in this study, or not yet.
        """
        trial, vote, study = tables.trial, tables.vote, tables.study
        with self._context.database.read() as connection:
            who = find_session(connection, token, self._context.clock())
            view = self._context.view(connection, who.study_id)
            status = connection.scalar(select(study.c.status).where(study.c.id == view.id))
            allowed = {
                "never": False,
                "session": who.status == "completed",
                "close": status in ("closed", "archived"),
            }
            if not allowed[view.definition.reveal]:
                raise Forbidden("what was compared is not told, or not yet")
            rows = connection.execute(
                select(trial.c.pair_id, trial.c.a_is_lo, trial.c.position, vote.c.choice)
                .join_from(trial, vote)
                .where(trial.c.participant_id == who.id, trial.c.kind == "main")
                .order_by(trial.c.position)
            )
            return [_revealed(view, row) for row in rows]


def _trials_of(connection: Connection, person: str) -> list[Row[Any]]:
    return list(connection.execute(statements.TRIALS_OF_PERSON, {"p_person": person}))


def _next_place(rows: Sequence[Row[Any]]) -> tuple[int, int]:
    """Position and attempt of the next trial: an expired one is given again, as another pair."""
    if not rows:
        return 0, 0
    last = rows[-1]
    expired = last.state == "expired"
    return (last.position, last.attempt + 1) if expired else (last.position + 1, 0)


def _view_of(
    view: StudyView,
    row: Row[Any],
    rows: Sequence[Row[Any]],
    now: int,
    events: Sequence[Event] = (),
) -> TrialView:
    pair = view.pairs[row.pair_id].candidate
    return TrialView(
        id=row.id,
        practice=row.kind == "practice",
        prompt=view.prompts[pair.prompt] if view.definition.prompts.show else None,
        answered=sum(one.state == "answered" for one in rows),
        total=view.session_length,
        token_a=row.token_a,
        token_b=row.token_b,
        presented=row.state == "presented",
        lease_seconds=max(0, (row.lease_expires_at - now) // MICROSECONDS),
        heard=covered_spans(events, view.definition.audio.duration_ms),
    )


def _finished(definition: Definition, status: str) -> Finished:
    recruitment = definition.recruitment
    completed = status == "completed"
    name = recruitment.complete_code_env if completed else recruitment.screenout_code_env
    return Finished(recruitment_code(name))


def _own_trial(connection: Connection, who: Who, trial_id: str) -> Row[Any]:
    row = connection.execute(statements.TRIAL, {"p_trial": trial_id}).one_or_none()
    if row is None:
        raise NotFound("there is no such trial")
    if row.participant_id != who.id:
        raise Forbidden("this trial is somebody else's")
    return row


def _events_of(connection: Connection, trial_id: str) -> list[Event]:
    rows = connection.execute(statements.EVENTS_OF_TRIAL, {"p_trial": trial_id})
    return [Event(*row) for row in rows]


def _is_retry(connection: Connection, row: Row[Any], key: str, ballot: Ballot) -> bool:
    """Whether this very answer is stored already.

    Raises:
        Conflict: the key was used for another answer or another trial.
    """
    stored = connection.execute(statements.VOTE_OF_KEY, {"p_key": key}).one_or_none()
    if stored is None:
        return row.kind == "practice" and row.state == "answered"  # nothing is kept of practice
    if stored != (row.id, ballot.payload_sha256):
        raise Conflict("this idempotency key came with another answer", "key_reused")
    return True


def _check_ballot(definition: Definition, ballot: Ballot) -> None:
    """Raise unless the answer is one that the study offers."""
    method = definition.method
    graded = method.type == "cmos"
    if (ballot.grade is not None) != graded:
        raise Unprocessable(f"this study asks for a {'grade' if graded else 'choice'}")
    if not graded and ballot.choice not in method.answers:
        raise Unprocessable(f"choice is {ballot.choice!r}; accepted: {', '.join(method.answers)}")
    if ballot.confidence is not None and not 1 <= ballot.confidence <= method.confidence:
        raise Unprocessable(
            f"confidence is {ballot.confidence}; this study has {method.confidence} levels"
        )


def _check_heard(definition: Definition, heard: Listening) -> None:
    """Raise with the missing seconds of each side unless enough was heard of both."""
    least, seconds = definition.session.min_coverage, definition.audio.duration_ms / 1000
    missing = [
        f"{(least - cover) * seconds:.1f} s of {side}"
        for side, cover in (("A", heard.cover_a), ("B", heard.cover_b))
        if cover < least
    ]
    if missing:
        raise Unprocessable(f"listen to {' and '.join(missing)} before you answer", "not_heard")


def _revealed(view: StudyView, row: Row[Any]) -> dict[str, Any]:
    pair = view.pairs[row.pair_id].candidate
    first, second = (pair.lo, pair.hi) if row.a_is_lo else (pair.hi, pair.lo)
    return {
        "position": row.position,
        "prompt": view.prompts[pair.prompt],
        "system_a": view.systems[view.clips[first][1]],
        "system_b": view.systems[view.clips[second][1]],
        "choice": row.choice,
    }
