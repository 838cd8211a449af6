"""The audit chain of a study: every change of note, each row sealed by the hash of the one before.

Specification of listening studies, sections 3.1 and 7.1 (check 8). A vote is in the chain by the
hash of its row, so whoever changes, adds or removes a vote behind the database's back breaks the
chain at a place that `verify` names. The first row is sealed by the hash of the definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, func, select

from ttmpref.study.definition import canonical_json, sha256_json
from ttmpref.study.store import statements, tables
from ttmpref.study.store.context import Context

SEALED = ("seq", "at", "actor", "action", "object", "detail", "prev_hash")
VOTE_SEALED = tuple(c.name for c in tables.vote.c if c.name not in ("id", "study_id", "row_hash"))


def append(
    connection: Connection,
    study_id: int,
    at: int,
    actor: str,
    action: str,
    object_: str = "",
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Add a row to the chain; the study must be locked in this transaction."""
    last = connection.execute(statements.NEWEST_AUDIT, {"p_study": study_id}).one_or_none()
    row = {
        "seq": 0 if last is None else last.seq + 1,
        "at": at,
        "actor": actor,
        "action": action,
        "object": object_,
        "detail": canonical_json(detail or {}),
        "prev_hash": _origin(connection, study_id) if last is None else last.row_hash,
    }
    sealed = {**row, "study_id": study_id, "row_hash": sha256_json(row)}
    connection.execute(statements.INSERT_AUDIT, sealed)


def _origin(connection: Connection, study_id: int) -> str:
    return connection.scalar(
        select(tables.study.c.definition_sha256).where(tables.study.c.id == study_id)
    )


def vote_hash(row: Mapping[str, Any]) -> str:
    """Seal of a vote's row."""
    return sha256_json({name: row[name] for name in VOTE_SEALED})


def head(connection: Connection, study_id: int) -> str:
    """Hash of the newest row, or of the definition before there is any."""
    newest = connection.execute(statements.NEWEST_AUDIT, {"p_study": study_id}).one_or_none()
    return _origin(connection, study_id) if newest is None else newest.row_hash


def verify(context: Context, study_id: int) -> list[str]:
    """Everything that does not fit together, in words; empty where all is well."""
    with context.database.read() as connection:
        return [
            *_broken_links(connection, study_id),
            *_broken_votes(connection, study_id),
            *_wrong_counters(connection, study_id),
        ]


def _broken_links(connection: Connection, study_id: int) -> list[str]:
    audit, found = tables.audit, []
    expected = _origin(connection, study_id)
    rows = connection.execute(
        select(audit).where(audit.c.study_id == study_id).order_by(audit.c.seq)
    )
    for place, row in enumerate(rows):
        if row.seq != place:
            found.append(f"audit row {place} is missing")
            return found  # every later row would be reported too
        if row.prev_hash != expected:
            found.append(f"audit row {row.seq} does not follow the one before")
        if sha256_json({name: getattr(row, name) for name in SEALED}) != row.row_hash:
            found.append(f"audit row {row.seq} was changed")
        expected = row.row_hash
    return found


def _broken_votes(connection: Connection, study_id: int) -> list[str]:
    """Votes that were changed, and votes that only the table or only the chain knows."""
    audit, vote, found = tables.audit, tables.vote, []
    sealed = {
        row.object: row.detail
        for row in connection.execute(
            select(audit.c.object, audit.c.detail).where(
                audit.c.study_id == study_id, audit.c.action == "vote"
            )
        )
    }
    for row in connection.execute(select(vote).where(vote.c.study_id == study_id)):
        detail = sealed.pop(row.trial_id, None)
        if vote_hash(row._mapping) != row.row_hash:
            found.append(f"vote of trial {row.trial_id} was changed")
        if detail != canonical_json({"row_hash": row.row_hash}):
            found.append(f"vote of trial {row.trial_id} is not the one in the audit chain")
    found += [f"vote of trial {trial} is gone" for trial in sealed]
    return found


def _wrong_counters(connection: Connection, study_id: int) -> list[str]:
    """Counters that differ from a recount of trials."""
    counter, trial = tables.pair_counter, tables.trial
    counted = {
        row.pair_id: (row.n, row.lo, row.valid)
        for row in connection.execute(
            select(
                trial.c.pair_id,
                func.count().label("n"),
                func.count().filter(trial.c.a_is_lo).label("lo"),
                func.count().filter(trial.c.state == "answered").label("valid"),
            )
            .where(
                trial.c.study_id == study_id,
                trial.c.kind != "repeat",
                trial.c.state.in_(("assigned", "presented", "answered")),
            )
            .group_by(trial.c.pair_id)
        )
    }
    found = []
    for row in connection.execute(select(counter).where(counter.c.study_id == study_id)):
        kept = row.n_assigned, row.n_lo_on_a, row.n_valid
        recounted = counted.get(row.pair_id, (0, 0, 0))
        if kept != recounted:
            found.append(f"counters of pair {row.pair_id} are {kept}, recounted {recounted}")
    return found
