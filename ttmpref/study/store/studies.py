"""Studies as rows: opening a build, moving between states, listing.

Specification of listening studies, sections 3.1 to 3.3. Opening copies everything the study is made
of into the database in one transaction; from then on the definition is frozen by a trigger.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Row, func, select, update

from ttmpref import __version__
from ttmpref.study.assignment import ALGORITHM
from ttmpref.study.definition import DEGRADED, Definition, Study, canonical_json
from ttmpref.study.errors import BuildError, Conflict, Gone, NotFound
from ttmpref.study.records import Build, build_folder, read_build
from ttmpref.study.store import audit, tables
from ttmpref.study.store.context import Context, StudyView, lock_study
from ttmpref.types import check_choice

LONGEST_NAME = 80  # of what somebody asked for, in an error
TRANSITIONS = {
    "open": ("draft", "paused"),
    "paused": ("open",),
    "closed": ("open", "paused"),
    "archived": ("closed",),
}


class Studies:
    """What operators do with studies."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def open(self, study: Study, actor: str, waive: str | None = None) -> None:
        """Put a built study into the database and open it to listeners.

        Args:
            waive: why faults of the build are accepted; without a reason they are not.

        Raises:
            BuildError: no build, one of another definition, or one with faults.
            Conflict: this version was opened before, or the storage will not last.
        """
        definition, settings = study.definition, self._context.settings
        warning = settings.storage_warning()
        if warning is not None and not settings.storage_is_safe:
            raise Conflict(f"{warning}; TTMPREF_STORAGE_IS_SAFE=1 opens the study all the same")
        build = read_build(build_folder(settings.data_dir, definition))
        if build.definition_sha256 != definition.sha256:
            raise BuildError(f"{definition.name} was built from another definition: build again")
        if build.faults and not waive:
            more = f" (and {len(build.faults) - 1} more)" if len(build.faults) > 1 else ""
            raise BuildError(f"{build.faults[0]}{more}; see `study build`, or waive it by a reason")
        now = self._context.clock()
        with self._context.database.write() as connection:
            self._refuse_second(connection, definition)
            study_id = _insert_study(connection, study, build, now)
            _insert_parts(connection, study_id, definition, build, waive, now)
            detail = {"definition": definition.sha256, "build": build.sha256, "waived": waive}
            lock_study(connection, study_id)
            audit.append(connection, study_id, now, actor, "open", definition.name, detail)
            connection.execute(_set_status(study_id, "open", opened_at=now))

    def _refuse_second(self, connection: Connection, definition: Definition) -> None:
        """One version is frozen for good, and one version of a slug runs at a time."""
        study = tables.study
        for row in connection.execute(select(study).where(study.c.slug == definition.slug)):
            if row.version == definition.version:
                raise Conflict(f"{definition.name} was opened before; a change needs a new version")
            if row.status in ("open", "paused"):
                raise Conflict(f"version {row.version} of {definition.slug} still runs: close it")

    def move(self, slug: str, status: str, actor: str) -> None:
        """Pause, reopen, close or archive a study.

        Raises:
            NotFound: unknown slug.
            Conflict: the move is not one of `TRANSITIONS`.
        """
        with self._context.database.write() as connection:
            row = find(connection, slug)
            before = lock_study(connection, row.id)
            accepted = next_states(before)
            if status not in accepted:
                raise Conflict(
                    f"{slug} is {before}; it can become {' or '.join(accepted) or 'nothing else'}"
                )
            now = self._context.clock()
            times = {"closed_at": now} if status == "closed" else {}
            connection.execute(_set_status(row.id, status, **times))
            audit.append(connection, row.id, now, actor, status, slug, {"from": before})

    def exclude(self, slug: str, scope: str, target: str, reason: str, actor: str) -> None:
        """Flag the votes of a participant or a trial; they stay in exports, marked as excluded.

        Args:
            scope: "participant" or "trial".
            target: its id.

        Raises:
            NotFound: the study has no such participant or trial.
        """
        check_choice("scope", scope, tables.EXCLUSION_SCOPES)
        table = tables.participant if scope == "participant" else tables.trial
        now = self._context.clock()
        with self._context.database.write() as connection:
            row = find(connection, slug)
            lock_study(connection, row.id)
            known = select(table.c.id).where(table.c.id == target, table.c.study_id == row.id)
            if connection.scalar(known) is None:
                raise NotFound(f"{slug} has no {scope} {target!r}")
            connection.execute(
                tables.exclusion.insert().values(
                    study_id=row.id, scope=scope, target=target, rule="manual",
                    preregistered=False, reason=reason, actor=actor, at=now,
                )
            )  # fmt: skip
            audit.append(connection, row.id, now, actor, "exclude", target, {"reason": reason})

    def lift_blind(self, slug: str, actor: str) -> None:
        """Record that somebody names the systems of a study that still runs; once is enough."""
        with self._context.database.write() as connection:
            row = find(connection, slug)
            status = lock_study(connection, row.id)
            lifted = select(tables.audit.c.seq).where(
                tables.audit.c.study_id == row.id, tables.audit.c.action == "unblind"
            )
            if status in ("open", "paused") and connection.scalar(lifted.limit(1)) is None:
                audit.append(connection, row.id, self._context.clock(), actor, "unblind", slug)

    def list(self) -> list[dict[str, Any]]:
        """All studies, newest version of each slug first, and when each may be revealed."""
        study, vote = tables.study, tables.vote
        votes = select(func.count()).where(vote.c.study_id == study.c.id).scalar_subquery()
        columns = (
            "slug", "version", "title", "status", "opened_at", "closed_at", "definition_json",
        )  # fmt: skip
        with self._context.database.read() as connection:
            rows = connection.execute(
                select(*(study.c[name] for name in columns), votes.label("votes")).order_by(
                    study.c.slug, study.c.version.desc()
                )
            )
            return [_listed(dict(row._mapping)) for row in rows]

    def running(self, slug: str) -> StudyView:
        """The study that listeners of a slug take part in.

        Raises:
            NotFound: there is none.
            Conflict: it is paused.
            Gone: it has ended.
        """
        with self._context.database.read() as connection:
            row = find(connection, slug)
            refuse_unless_open(row.status)
            return self._context.view(connection, row.id)

    def verify(self, slug: str) -> list[str]:
        """See `audit.verify`."""
        with self._context.database.read() as connection:
            study_id = find(connection, slug).id
        return audit.verify(self._context, study_id)


def next_states(status: str) -> list[str]:
    """What a study of this status can become."""
    return [to for to, origins in TRANSITIONS.items() if status in origins]


def find(connection: Connection, slug: str) -> Row[Any]:
    """The row of a study by its slug (its newest version) or by `<slug>-v<version>`.

    Raises:
        NotFound: there is none.
    """
    study = tables.study
    name, _, version = slug.rpartition("-v")
    query = select(study).order_by(study.c.version.desc()).limit(1)
    row = connection.execute(query.where(study.c.slug == slug)).one_or_none()
    if row is None and version.isdecimal() and len(version) < 9:
        exact = query.where(study.c.slug == name, study.c.version == int(version))
        row = connection.execute(exact).one_or_none()
    if row is None:
        name = slug[:LONGEST_NAME]
        raise NotFound(f"there is no study {name!r}; one is there once it was opened")
    return row


def refuse_unless_open(status: str) -> None:
    """Raise unless new listeners and new trials are welcome."""
    if status == "paused":
        raise Conflict("the study is paused; please come back later", "paused")
    if status != "open":
        raise Gone("the study has ended", "closed")


def _listed(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the list: of the definition only what decides who may see results."""
    reveal = json.loads(row.pop("definition_json"))["reveal"]
    return {**row, "reveal": reveal}


def _set_status(study_id: int, status: str, **times: int) -> Any:
    return update(tables.study).where(tables.study.c.id == study_id).values(status=status, **times)


def _insert_study(connection: Connection, study: Study, build: Build, now: int) -> int:
    definition = study.definition
    done = connection.execute(
        tables.study.insert().values(
            slug=definition.slug,
            version=definition.version,
            title=definition.title,
            status="draft",
            definition_yaml=study.text,
            definition_json=definition.model_dump_json(by_alias=True),
            definition_sha256=definition.sha256,
            build_sha256=build.sha256,
            leaks=canonical_json([leak.model_dump(mode="json") for leak in build.leaks]),
            schema_version=definition.schema_version,
            seed=definition.seed,
            assign_algo=ALGORITHM,
            consent_version=definition.consent.version,
            app_version=__version__,
            created_at=now,
        )
    )
    return done.inserted_primary_key[0]


def _insert_parts(
    connection: Connection,
    study_id: int,
    definition: Definition,
    build: Build,
    waive: str | None,
    now: int,
) -> None:
    """Systems, prompts, stimuli, scores, pairs and their counters."""
    systems = _insert_all(connection, tables.system, _systems(study_id, definition))
    system_ids = {row["label"]: key for row, key in systems}
    prompts = _insert_all(connection, tables.prompt, _prompts(study_id, build))
    prompt_ids = {row["key"]: key for row, key in prompts}
    stimuli = [
        key
        for _, key in _insert_all(
            connection,
            tables.stimulus,
            _stimuli(study_id, definition, build, system_ids, prompt_ids, waive),
        )
    ]
    if build.scores:
        connection.execute(
            tables.ranker_score.insert(),
            [
                {
                    "stimulus_id": stimuli[score.stimulus],
                    "scorer": score.scorer,
                    "scorer_sha256": score.scorer_sha256,
                    "score": score.score,
                    "at": now,
                }
                for score in build.scores
            ],
        )
    pairs = [
        {
            "study_id": study_id,
            "prompt_id": prompt_ids[pair.prompt_id],
            "stim_lo": stimuli[pair.lo],
            "stim_hi": stimuli[pair.hi],
            "kind": pair.kind,
            "expected": pair.expected,
            "target": pair.target,
        }
        for pair in build.pairs
    ]
    connection.execute(
        tables.pair_counter.insert(),
        [
            {"pair_id": key, "study_id": study_id, "n_assigned": 0, "n_lo_on_a": 0, "n_valid": 0}
            for _, key in _insert_all(connection, tables.pair, pairs)
        ],
    )


def _insert_all(connection: Connection, table: Any, rows: Any) -> list[tuple[dict[str, Any], int]]:
    """Insert rows one by one, so that their ids rise in their order; each with its id."""
    return [
        (row, connection.execute(table.insert().values(**row)).inserted_primary_key[0])
        for row in rows
    ]


def _systems(study_id: int, definition: Definition) -> Iterator[dict[str, Any]]:
    """Systems in the order of the definition, under codes in another order."""
    codes = [f"system-{i}" for i in range(1, len(definition.systems) + 1)]
    random.Random(f"codes {definition.seed} {definition.sha256}").shuffle(codes)
    for system, code in zip(definition.systems, codes, strict=True):
        yield {
            "study_id": study_id,
            "label": system.label,
            "blind_code": code,
            "role": system.role,
            "source": canonical_json(system.model_dump(mode="json", exclude_defaults=True)),
        }
    yield {
        "study_id": study_id,
        "label": DEGRADED,
        "blind_code": DEGRADED,
        "role": "attention",
        "source": "{}",
    }


def _prompts(study_id: int, build: Build) -> Iterator[dict[str, Any]]:
    for prompt in build.prompts:
        yield {
            "study_id": study_id,
            "key": prompt.id,
            "text": prompt.text,
            "text_sha256": hashlib.sha256(prompt.text.encode("utf-8")).hexdigest(),
            "source": prompt.source,
            "licence": prompt.licence,
            "tags": json.dumps(prompt.tags, ensure_ascii=False),
        }


def _stimuli(
    study_id: int,
    definition: Definition,
    build: Build,
    system_ids: dict[str, int],
    prompt_ids: dict[str, int],
    waive: str | None,
) -> Iterator[dict[str, Any]]:
    form = definition.audio
    for record in build.stimuli:
        values = record.model_dump(mode="json")
        system, prompt = values.pop("system"), values.pop("prompt_id")
        faults = values.pop("faults")
        yield {
            **values,
            "study_id": study_id,
            "system_id": system_ids[system],
            "prompt_id": prompt_ids[prompt],
            "duration_ms": form.duration_ms,
            "sample_rate": form.sample_rate,
            "channels": form.channels,
            "qa": canonical_json({"faults": faults, "waived": waive if faults else None}),
            "qa_status": "waived" if faults else "pass",
        }
