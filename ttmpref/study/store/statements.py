"""The statements behind every trial, built once: building one costs more than running it.

Each is named for what it does; parameters carry the prefix `p_`, so that none can be taken for a
column.
"""

from __future__ import annotations

from sqlalchemy import bindparam, or_, select, update

from ttmpref.study.store import tables

_audit, _counter, _event = tables.audit, tables.pair_counter, tables.playback_event
_person, _session, _study = tables.participant, tables.session, tables.study
_trial, _vote = tables.trial, tables.vote

OPEN_STATES = ("assigned", "presented")

# The status of a study, which nobody else changes until the transaction ends. Everything that
# writes to a study begins here, so writers take turns on PostgreSQL as they do on SQLite, and the
# audit chain has one end.
LOCK_STUDY = select(_study.c.status).where(_study.c.id == bindparam("p_study")).with_for_update()

FIND_SESSION = (
    select(
        _person.c.id, _person.c.study_id, _person.c.status, _person.c.rng_seed,
        _session.c.expires_at,
    )
    .join_from(_session, _person)
    .where(_session.c.token_sha256 == bindparam("p_token"))
)  # fmt: skip

TRIAL = select(_trial).where(_trial.c.id == bindparam("p_trial"))
TRIALS_OF_PERSON = (
    select(_trial)
    .where(_trial.c.participant_id == bindparam("p_person"))
    .order_by(_trial.c.position, _trial.c.attempt)
)
# Whose trial it is belongs to the question: a token of somebody else and one that nobody has then
# take the same time to be found missing.
TRIAL_OF_CLIP = select(_trial).where(
    or_(_trial.c.token_a == bindparam("p_token"), _trial.c.token_b == bindparam("p_token")),
    _trial.c.participant_id == bindparam("p_participant"),
    _trial.c.state.in_(OPEN_STATES),
)
EXPIRED_TRIALS = select(_trial).where(
    _trial.c.study_id == bindparam("p_study"),
    _trial.c.state.in_(OPEN_STATES),
    _trial.c.lease_expires_at < bindparam("p_before"),
)
INSERT_TRIAL = _trial.insert().returning(_trial)
PRESENT_TRIAL = (
    update(_trial)
    .where(_trial.c.id == bindparam("p_trial"), _trial.c.state == "assigned")
    .values(state="presented", presented_at=bindparam("p_now"))
)
EXPIRE_TRIAL = update(_trial).where(_trial.c.id == bindparam("p_trial")).values(state="expired")
ANSWER_TRIAL = (
    update(_trial)
    .where(_trial.c.id == bindparam("p_trial"), _trial.c.state.in_(OPEN_STATES))
    .values(state="answered", answered_at=bindparam("p_now"))
)

PAIR_COUNTS = select(_counter.c.pair_id, _counter.c.n_assigned, _counter.c.n_lo_on_a).where(
    _counter.c.study_id == bindparam("p_study")
)
COUNT_PAIR = (
    update(_counter)
    .where(_counter.c.pair_id == bindparam("p_pair"))
    .values(
        n_assigned=_counter.c.n_assigned + bindparam("p_assigned"),
        n_lo_on_a=_counter.c.n_lo_on_a + bindparam("p_lo_on_a"),
        n_valid=_counter.c.n_valid + bindparam("p_valid"),
    )
)

EVENTS_OF_TRIAL = select(
    _event.c.client, _event.c.seq, _event.c.side, _event.c.kind, _event.c.media_ms,
    _event.c.mono_ms,
).where(_event.c.trial_id == bindparam("p_trial"))  # fmt: skip

VOTE_OF_KEY = select(_vote.c.trial_id, _vote.c.payload_sha256).where(
    _vote.c.idempotency_key == bindparam("p_key")
)
INSERT_VOTE = _vote.insert()

SEE_PERSON = (
    update(_person)
    .where(_person.c.id == bindparam("p_person"))
    .values(status=bindparam("p_status"), last_seen_at=bindparam("p_now"))
)

NEWEST_AUDIT = (
    select(_audit.c.seq, _audit.c.row_hash)
    .where(_audit.c.study_id == bindparam("p_study"))
    .order_by(_audit.c.seq.desc())
    .limit(1)
)
INSERT_AUDIT = _audit.insert()
