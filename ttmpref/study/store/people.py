"""Participants and their sessions: joining, screening, withdrawing, forgetting.

Specification of listening studies, sections 3.2 and 4. A person is a random id. An id from
elsewhere and a network address are kept as keyed hashes alone; the token that a browser holds is
kept as a plain hash, since it is random itself.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, and_, delete, select, update

from ttmpref.study.definition import Definition, canonical_json
from ttmpref.study.errors import Conflict, Forbidden, Gone, Unauthorised, Unprocessable
from ttmpref.study.settings import recruitment_code
from ttmpref.study.store import audit, statements, tables
from ttmpref.study.store.context import DAY, Context, StudyView, count_pair, lock_study
from ttmpref.study.store.reading import stopping
from ttmpref.study.store.studies import find, refuse_unless_open

SCREENING_ATTEMPTS = 2
SCREENING_PASS = 5 / 6  # right answers of six, as in the published headphone checks
IPV4_NETWORK, IPV6_NETWORK = 24, 48  # bits of an address that count as one network

ScreeningKind = Literal["hp", "ap"]  # Huggins pitch, antiphase


@dataclass(frozen=True)
class Joining:
    """What a person says and brings when they consent.

    Attributes:
        external_id: from the recruiting platform.
        network: address the request came from.
        device: class of the listening device.
        client: technical facts of the browser, as plain values.
    """

    consent_version: str
    accepted: bool
    network: str
    external_id: str | None = None
    locale: str = "en"
    device: str | None = None
    questionnaire: Mapping[str, str] | None = None
    client: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Who:
    """A participant behind a valid token."""

    id: str
    study_id: int
    status: str
    rng_seed: int
    expires_at: int


class People:
    """What participants do, apart from trials."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def join(self, slug: str, joining: Joining) -> tuple[str, int]:
        """Take part: the token of a new session, and when it expires (µs).

        Raises:
            NotFound, Conflict, Gone: there is no such study, it is paused, full, or has ended.
            Forbidden: no consent.
            Conflict: another version of the consent, or the external id took part before.
            Unprocessable: the study recruits by ids and none was given.
            TooMany: too many from one network today.
        """
        token = secrets.token_urlsafe(32)
        now = self._context.clock()
        with self._context.database.write() as connection:
            row = find(connection, slug)
            refuse_unless_open(lock_study(connection, row.id))
            view = self._context.view(connection, row.id)
            _check_consent(view.definition, joining)
            self._refuse_if_full(connection, view)
            network = network_of(joining.network)
            limit = self._context.settings.joins_per_day
            self._context.count(connection, f"join {row.id} {network}", limit, DAY)
            person = self._insert(connection, view, joining, network, now)
            expires = now + view.definition.session.resume_days * DAY
            connection.execute(
                tables.session.insert().values(
                    id=secrets.token_hex(16),
                    participant_id=person,
                    token_sha256=_digest(token),
                    created_at=now,
                    expires_at=expires,
                    client=canonical_json(joining.client) if joining.client else None,
                )
            )
            audit.append(connection, row.id, now, "listener", "join", person)
        return token, expires

    def _insert(
        self, connection: Connection, view: StudyView, joining: Joining, network: str, now: int
    ) -> str:
        """The id of a new participant, unless the external id is known already."""
        person, recruitment = secrets.token_hex(16), view.definition.recruitment
        external = joining.external_id if recruitment.needs_id else None
        if recruitment.needs_id and not external:
            raise Unprocessable(f"listeners come through {recruitment.source}: an id is needed")
        pseudonym = self._context.pseudonym
        inserted = connection.scalar(
            self._context.database.insert(tables.participant)
            .values(
                id=person,
                study_id=view.id,
                source=recruitment.source,
                external_hmac=(
                    pseudonym("external", str(view.id), external) if external else None
                ),
                consent_version=joining.consent_version,
                consent_at=now,
                locale=joining.locale,
                rng_seed=secrets.randbits(62),
                status="consented",
                questionnaire=(
                    canonical_json(joining.questionnaire) if joining.questionnaire else None
                ),
                net_hmac=pseudonym("network", str(now // DAY), network),
                device_class=joining.device,
                created_at=now,
                last_seen_at=now,
            )
            .on_conflict_do_nothing()
            .returning(tables.participant.c.id)
        )
        if inserted is None:
            raise Conflict("this id took part before; use the link you were given then", "twice")
        return person

    def _refuse_if_full(self, connection: Connection, view: StudyView) -> None:
        """Raise where the stopping rule, or every pair, has all it wants."""
        if stopping(connection, view)["stop"]:
            raise Gone("the study has all the listeners it needs; thank you", "full")
        counter = tables.pair_counter
        rows = connection.execute(
            select(counter.c.pair_id, counter.c.n_assigned).where(counter.c.study_id == view.id)
        )
        if all(row.n_assigned >= view.pairs[row.pair_id].target for row in rows):
            raise Conflict("every pair has all the answers it needs just now", "full")

    def info(self, token: str) -> dict[str, Any]:
        """What a browser needs to go on with a session."""
        with self._context.database.read() as connection:
            who = find_session(connection, token, self._context.clock())
            view = self._context.view(connection, who.study_id)
            status = connection.scalar(
                select(tables.study.c.status).where(tables.study.c.id == who.study_id)
            )
            tried = _screenings(connection, who.id)
            return {
                "study": view.definition.slug,
                "study_status": status,
                "status": who.status,
                "expires_at": who.expires_at,
                "screening": {
                    "required": view.definition.screening.required,
                    "passed": any(row.passed for row in tried),
                    "attempts_left": max(0, SCREENING_ATTEMPTS - len(tried)),
                },
            }

    def screen(self, token: str, kind: ScreeningKind, score: float) -> dict[str, Any]:
        """Store the result of a headphone check; two failures of a required one end the session.

        Args:
            score: share of right answers.

        Raises:
            Conflict: no attempts are left, or it was passed before.
            Unprocessable: it is another check than the study's, or the study has none.
        """
        now = self._context.clock()
        with self._context.database.write() as connection:
            who, _ = lock_session(self._context, connection, token)
            view = self._context.view(connection, who.study_id)
            wanted = view.definition.screening.headphones
            if kind != wanted:
                raise Unprocessable(f"kind is {kind!r}; the headphone check here is {wanted!r}")
            tried = _screenings(connection, who.id)
            if len(tried) >= SCREENING_ATTEMPTS or any(row.passed for row in tried):
                raise Conflict("the check is done; there is nothing to repeat")
            passed = score >= SCREENING_PASS
            connection.execute(
                tables.screening.insert().values(
                    participant_id=who.id, kind=kind, attempt=len(tried), score=score,
                    passed=passed, at=now,
                )
            )  # fmt: skip
            left = SCREENING_ATTEMPTS - len(tried) - 1
            out = not passed and left == 0 and view.definition.screening.required
            if out:
                connection.execute(_change(who.id, status="screened_out"))
                audit.append(connection, who.study_id, now, "listener", "screened_out", who.id)
        code = recruitment_code(view.definition.recruitment.screenout_code_env) if out else None
        return {"passed": passed, "attempts_left": left, "screened_out": out, "code": code}

    def withdraw(self, token: str) -> None:
        """Take all of a person's answers out of the study and forget who they were.

        Votes are append-only, so they stay as rows that no export, count or statistic includes.
        """
        now = self._context.clock()
        with self._context.database.write() as connection:
            who, _ = lock_session(self._context, connection, token)
            _release(connection, who.id)
            trials = select(tables.trial.c.id).where(tables.trial.c.participant_id == who.id)
            connection.execute(delete(tables.comment).where(tables.comment.c.trial_id.in_(trials)))
            connection.execute(
                _change(
                    who.id, status="withdrawn", external_hmac=None, net_hmac=None,
                    questionnaire=None, device_class=None,
                )
            )  # fmt: skip
            connection.execute(
                update(tables.session)
                .where(tables.session.c.participant_id == who.id)
                .values(client=None)
            )
            audit.append(connection, who.study_id, now, "listener", "withdraw", who.id)

    def forget(self) -> dict[str, int]:
        """Delete what is kept for a time only: network hashes, rate counts, expired sessions."""
        now, done = self._context.clock(), {}
        person, bucket, session = tables.participant, tables.rate_bucket, tables.session
        with self._context.database.write() as connection:
            forgotten = 0
            for row in connection.execute(select(tables.study.c.id)).all():
                days = self._context.view(connection, row.id).definition.privacy
                before = now - days.retain_net_hash_days * DAY
                forgotten += connection.execute(
                    update(person)
                    .where(
                        and_(
                            person.c.study_id == row.id,
                            person.c.net_hmac.is_not(None),
                            person.c.created_at < before,
                        )
                    )
                    .values(net_hmac=None)
                ).rowcount
            done["network hashes"] = forgotten
            old = delete(bucket).where(bucket.c.window_start < now - 2 * DAY)
            done["rate counts"] = connection.execute(old).rowcount
            expired = delete(session).where(session.c.expires_at < now)
            done["sessions"] = connection.execute(expired).rowcount
        return done


def find_session(connection: Connection, token: str, now: int) -> Who:
    """The participant who holds a token.

    Raises:
        Unauthorised: nobody does.
        Gone: the session has expired, or the person has withdrawn.
    """
    row = connection.execute(statements.FIND_SESSION, {"p_token": _digest(token)}).one_or_none()
    if row is None:
        raise Unauthorised("this session is unknown; join the study first")
    if row.status == "withdrawn":
        raise Gone("you have withdrawn from this study", "withdrawn")
    if row.expires_at < now:
        raise Gone("this session has expired", "expired")
    return Who(*row)


def lock_session(context: Context, connection: Connection, token: str) -> tuple[Who, str]:
    """The participant who holds a token and the status of their study, both held until the end.

    Raises as `find_session`.
    """
    who = find_session(connection, token, context.clock())
    status = lock_study(connection, who.study_id)
    if not context.database.is_sqlite:  # while waiting for the lock they may have changed
        who = find_session(connection, token, context.clock())
    return who, status


def screening_stands_in_the_way(connection: Connection, definition: Definition, who: Who) -> bool:
    """Whether a required check has not been passed yet."""
    needed = definition.screening.required and definition.screening.headphones != "none"
    return needed and not any(row.passed for row in _screenings(connection, who.id))


def _screenings(connection: Connection, person: str) -> list[Row[Any]]:
    screening = tables.screening
    return list(
        connection.execute(select(screening).where(screening.c.participant_id == person))
    )


def _release(connection: Connection, person: str) -> None:
    """Void a person's trials and give their places in the counters to others."""
    trial = tables.trial
    for row in connection.execute(select(trial).where(trial.c.participant_id == person)).all():
        if row.kind != "repeat" and row.state in (*statements.OPEN_STATES, "answered"):
            count_pair(
                connection, row.pair_id, assigned=-1, lo_on_a=-int(row.a_is_lo),
                valid=-int(row.state == "answered"),
            )  # fmt: skip
    connection.execute(
        update(trial).where(trial.c.participant_id == person).values(state="invalid")
    )


def _change(person: str, **values: Any) -> Any:
    return update(tables.participant).where(tables.participant.c.id == person).values(**values)


def _check_consent(definition: Definition, joining: Joining) -> None:
    if not joining.accepted:
        raise Forbidden("without consent there is no study; nothing was stored", "no_consent")
    if joining.consent_version != definition.consent.version:
        raise Conflict(
            f"consent is to version {joining.consent_version!r}; the present version is "
            f"{definition.consent.version!r}", "consent_version",
        )  # fmt: skip


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8")).digest()


def network_of(address: str) -> str:
    """The network an address belongs to, or the text as it stands where it is no address."""
    try:
        bits = IPV6_NETWORK if ipaddress.ip_address(address).version == 6 else IPV4_NETWORK
        return str(ipaddress.ip_network(f"{address}/{bits}", strict=False))
    except ValueError:
        return address
