"""The listener's and the operator's API, version 1: JSON over HTTP, and the clips of a trial.

Specification of listening studies, sections 3.4, 4 and 7. A FastAPI app of its own, mounted below
`/api/v1` by `study.app`, so that its errors, headers and OpenAPI page are its own whatever else the
server serves. A session is a bearer token in a header, never a cookie: that works inside frames and
leaves nothing to forge requests with. Nothing sent to listeners names a system, a pair or a file.

    GET  /studies/{slug}                what the page shows before consent
    POST /studies/{slug}/participants   consent -> token
    GET  /session                       resume
    POST /session/screening             result of a headphone check
    POST /session/withdraw
    GET  /session/reveal                what was compared, where the study allows it
    POST /trials/next                   the open trial, or a new one
    POST /trials/{id}/events            playback events (the token may stand in the body: a beacon
                                        sent while the page closes has no headers)
    POST /trials/{id}/vote              needs the header Idempotency-Key
    GET  /stimuli/{token}               a clip
    GET  /healthz, /readyz
    ...  /admin/...                     another token; absent where none is configured

Every refusal is `{"error": {"code": ..., "message": ...}}` with the status that `study.errors`
names.
"""

from __future__ import annotations

import io
import logging
import re
import unicodedata
import zipfile
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from starlette.exceptions import HTTPException

from ttmpref.study.definition import GRADES, sha256_json
from ttmpref.study.errors import (
    NotFound,
    StudyError,
    TooLarge,
    TooMany,
    Unauthorised,
    Unavailable,
    Unprocessable,
)
from ttmpref.study.export import export_study, find_export
from ttmpref.study.listening import Event, EventKind, Side
from ttmpref.study.settings import recruitment_code
from ttmpref.study.store import Store
from ttmpref.study.store.context import StudyView
from ttmpref.study.store.people import Joining, ScreeningKind
from ttmpref.study.store.tables import HEAD
from ttmpref.study.store.trials import MAX_EVENTS, Ballot, Finished, TrialView
from ttmpref.types import InvalidRequest, OutputError, TtmprefError, Vote

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 256 * 1024  # 500 events and a comment fit
MAX_COMMENT = 2_000
SECURITY_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
TOO_LARGE = f"the request is longer than the accepted {MAX_BODY_BYTES} bytes"
NOT_NOW = "nothing can be stored just now; nothing is lost, try again in a moment"
NOWHERE = "there is nothing at this address"
RETRY_SECONDS = 2  # after the database could not take something
DIRECTION_MARKS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def _clean(text: str) -> str:
    """Text without control characters and without marks that turn its direction."""
    kept = (c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs"))
    return DIRECTION_MARKS.sub("", "".join(kept)).strip()


class Strict(BaseModel):
    """Base of all bodies: no unknown keys, no numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Word = Annotated[str, StringConstraints(max_length=40), AfterValidator(_clean)]
ClientId = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z-]{1,36}$")]
Milliseconds = Annotated[float, Field(ge=-1e12, le=1e12)]


class Questionnaire(Strict):
    """Answers before the first trial; all but the device may be left out."""

    age_band: Literal["18-24", "25-34", "35-44", "45-54", "55-64", "65+"] | None = None
    device: Literal["headphones", "earphones", "speakers", "phone", "other"]
    hearing: Literal["normal", "impaired", "unsure"] | None = None
    training: Literal["none", "some", "amateur", "professional"] | None = None


class ClientFacts(Strict):
    """Technical facts that decide how a clip sounds and how precise events are."""

    audio_sample_rate: int | None = Field(None, ge=1, le=1_000_000)
    base_latency_ms: float | None = Field(None, ge=0, le=10_000)
    user_agent_family: Word | None = None
    viewport: Literal["small", "medium", "large"] | None = None


class JoinBody(Strict):
    """Consent, and what comes with it."""

    consent_version: str = Field(max_length=40)
    accepted: bool
    external_id: str | None = Field(None, max_length=200)
    locale: str = Field("en", pattern=r"^[a-z]{2,3}(-[A-Z]{2})?$")
    questionnaire: Questionnaire | None = None
    client: ClientFacts | None = None


class ScreeningBody(Strict):
    """Share of right answers in a headphone check."""

    kind: ScreeningKind
    score: float = Field(ge=0, le=1)


class EventBody(Strict):
    """One thing the player did; see `listening.Event`."""

    seq: int = Field(ge=0, le=1_000_000)
    side: Side
    kind: EventKind
    media_ms: Milliseconds
    mono_ms: Milliseconds


class EventsBody(Strict):
    """A batch of events of one page load."""

    client: ClientId
    events: tuple[EventBody, ...] = Field(max_length=MAX_EVENTS)
    token: str | None = Field(None, max_length=100)

    def to_events(self) -> list[Event]:
        return [Event(client=self.client, **event.model_dump()) for event in self.events]


class VoteBody(Strict):
    """An answer; `events` are those not sent before."""

    choice: Vote | None = None
    grade: int | None = Field(None, ge=GRADES[0], le=GRADES[1])
    confidence: int | None = Field(None, ge=1, le=7)
    tags: tuple[Word, ...] = Field((), max_length=10)
    comment: Annotated[str, Field(max_length=MAX_COMMENT), AfterValidator(_clean)] = ""
    rt_ms: int = Field(ge=0, le=86_400_000)
    client_ts: str | None = Field(None, pattern=r"^[0-9TZ:.+-]{1,40}$")
    client: ClientId = "vote"
    events: tuple[EventBody, ...] = Field((), max_length=MAX_EVENTS)

    def to_ballot(self) -> Ballot:
        """Raises `Unprocessable` unless exactly one of choice and grade is given."""
        if (self.choice is None) == (self.grade is None):
            raise Unprocessable("an answer needs either choice or grade")
        return Ballot(
            choice=self.choice or _sign(self.grade),
            grade=self.grade,
            confidence=self.confidence,
            tags=self.tags,
            comment=self.comment,
            rt_ms=self.rt_ms,
            client_ts=self.client_ts,
            payload_sha256=sha256_json(self.model_dump(mode="json")),
            events=[Event(client=self.client, **event.model_dump()) for event in self.events],
        )


class StateBody(Strict):
    """Where a study should go."""

    status: Literal["open", "paused", "closed", "archived"]


class ExclusionBody(Strict):
    """What to flag, and why."""

    scope: Literal["participant", "trial"]
    target: str = Field(pattern=r"^[0-9a-f]{32}$")
    reason: Annotated[str, StringConstraints(min_length=3, max_length=500), AfterValidator(_clean)]


class ExportBody(Strict):
    """`unblind` names the systems of a study that still runs; the audit chain records it."""

    unblind: bool = False


def _sign(grade: int) -> Vote:
    return "A" if grade < 0 else "B" if grade > 0 else "TIE"


def build_api(store: Store, results: Path) -> FastAPI:
    """The whole API over a store.

    Args:
        results: folder of exports.
    """
    api = FastAPI(
        title="ttmpref listening studies", version="1", docs_url=None, redoc_url=None,
        description=__doc__,
    )  # fmt: skip
    api.include_router(_listener_routes(store))
    if store.settings.admin_token is not None:
        api.include_router(_admin_routes(store, results), prefix="/admin")
    api.add_exception_handler(StudyError, _refusal)
    api.add_exception_handler(InvalidRequest, _invalid_value)
    api.add_exception_handler(OutputError, _cannot_write)
    api.add_exception_handler(RequestValidationError, _invalid_body)
    api.add_exception_handler(HTTPException, _http_error)
    api.add_middleware(Guard)
    return api


def _listener_routes(store: Store) -> APIRouter:
    routes = APIRouter()
    trusted = store.settings.trusted_proxies

    @routes.get("/healthz")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @routes.get("/readyz")
    def ready() -> dict[str, str]:
        if store.database.schema() != HEAD:
            raise Unavailable("the database has another schema than this program")
        return {"status": "ready"}

    @routes.get("/studies/{slug}")
    def study(slug: str) -> dict[str, Any]:
        return public_study(store.studies.running(slug))

    @routes.post("/studies/{slug}/participants", status_code=201)
    def join(slug: str, body: JoinBody, request: Request) -> dict[str, Any]:
        given = body.questionnaire
        joining = Joining(
            consent_version=body.consent_version,
            accepted=body.accepted,
            network=peer_of(request, trusted),
            external_id=body.external_id,
            locale=body.locale,
            device=given.device if given else None,
            questionnaire=given.model_dump(exclude_none=True) if given else None,
            client=body.client.model_dump(exclude_none=True) if body.client else None,
        )
        token, expires_at = store.people.join(slug, joining)
        return {"token": token, "expires_at": expires_at // 1_000}

    @routes.get("/session")
    def session(token: Token) -> dict[str, Any]:
        info = store.people.info(token)
        return {**info, "expires_at": info["expires_at"] // 1_000}

    @routes.post("/session/screening")
    def screening(body: ScreeningBody, token: Token) -> dict[str, Any]:
        return store.people.screen(token, body.kind, body.score)

    @routes.post("/session/withdraw")
    def withdraw(token: Token) -> dict[str, str]:
        store.people.withdraw(token)
        return {"status": "withdrawn"}

    @routes.get("/session/reveal")
    def reveal(token: Token) -> list[dict[str, Any]]:
        return store.trials.reveal(token)

    @routes.post("/trials/next")
    def next_trial(token: Token) -> dict[str, Any]:
        return trial_json(store.trials.next(token))

    @routes.post("/trials/{trial}/events")
    def events(
        trial: str, body: EventsBody, authorization: Annotated[str | None, Header()] = None
    ) -> dict[str, int]:
        token = body.token or bearer_token(authorization)
        return {"stored": store.trials.add_events(token, trial, body.to_events())}

    @routes.post("/trials/{trial}/vote")
    def vote(
        trial: str, body: VoteBody, token: Token, idempotency_key: Annotated[UUID, Header()]
    ) -> dict[str, Any]:
        following = store.trials.vote(token, trial, str(idempotency_key), body.to_ballot())
        return {"stored": True, "next": None if following is None else trial_json(following)}

    @routes.get("/stimuli/{stimulus}")
    def clip(stimulus: str, token: Token) -> Response:
        path = store.trials.clip(token, stimulus)
        try:
            return Response(path.read_bytes(), media_type="audio/wav")
        except OSError:
            raise Unavailable("the clip cannot be read on the server") from None

    return routes


def _admin_routes(store: Store, results: Path) -> APIRouter:
    trusted = store.settings.trusted_proxies

    def admin(request: Request, authorization: Annotated[str | None, Header()] = None) -> None:
        store.admins.check(bearer_token(authorization), peer_of(request, trusted))

    routes = APIRouter(dependencies=[Depends(admin)])

    @routes.get("/studies")
    def studies() -> list[dict[str, Any]]:
        return store.studies.list()

    @routes.get("/studies/{slug}")
    def overview(slug: str) -> dict[str, Any]:
        return store.reading.overview(slug)

    @routes.get("/studies/{slug}/definition")
    def definition(slug: str) -> dict[str, str]:
        return store.reading.definition(slug)

    @routes.post("/studies/{slug}/status")
    def move(slug: str, body: StateBody) -> dict[str, Any]:
        store.studies.move(slug, body.status, "admin")
        return store.reading.overview(slug)

    @routes.post("/studies/{slug}/exclusions", status_code=201)
    def exclude(slug: str, body: ExclusionBody) -> dict[str, str]:
        store.studies.exclude(slug, body.scope, body.target, body.reason, "admin")
        return {"status": "excluded"}

    @routes.get("/studies/{slug}/audit")
    def verify(slug: str) -> dict[str, Any]:
        problems = store.studies.verify(slug)
        return {"whole": not problems, "problems": problems}

    @routes.post("/studies/{slug}/exports", status_code=201)
    def export(slug: str, body: ExportBody) -> dict[str, str]:
        if body.unblind:
            store.studies.lift_blind(slug, "admin")
        folder = export_study(store.reading.dump(slug), results, body.unblind)
        return {"study": folder.parent.name, "name": folder.name}

    @routes.get("/exports/{study}/{name}")
    def download(study: str, name: str) -> Response:
        folder = find_export(results, study, name)
        return Response(zipped(folder), media_type="application/zip")

    return routes


def bearer_token(authorization: str | None) -> str:
    """The token of an Authorization header.

    Raises:
        Unauthorised: there is none.
    """
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorised("a bearer token is needed in the Authorization header")
    return token.strip()


def _token(authorization: Annotated[str | None, Header()] = None) -> str:
    return bearer_token(authorization)


Token = Annotated[str, Depends(_token)]


def peer_of(request: Request, trusted_proxies: int) -> str:
    """Address of whoever sent the request; forwarding headers count as far as proxies are ours.

    Each of our proxies appends the address it saw, so the last `trusted_proxies` entries are true
    and everything before them may be invented.
    """
    forwarded = request.headers.get("x-forwarded-for", "")
    hops = [hop.strip() for hop in forwarded.split(",") if hop.strip()]
    if trusted_proxies > 0 and len(hops) >= trusted_proxies:
        return hops[-trusted_proxies]
    return request.client.host if request.client else "unknown"


def public_study(view: StudyView) -> dict[str, Any]:
    """What a page may know of a study before and during a session."""
    definition = view.definition
    session, consent, method = definition.session, definition.consent, definition.method
    return {
        "slug": definition.slug,
        "title": definition.title,
        "question": definition.question,
        "method": {
            "type": method.type,
            "answers": method.answers,
            "confidence": method.confidence,
        },
        "consent": {
            "version": consent.version,
            "text": consent.text,
            "minimum_age": consent.minimum_age,
            "contact": consent.contact,
            "ethics": consent.ethics,
            "decline_code": recruitment_code(definition.recruitment.no_consent_code_env),
        },
        "needs_id": definition.recruitment.needs_id,
        "prompts_shown": definition.prompts.show,
        "trials": view.session_length,
        "max_minutes": session.max_minutes,
        "min_coverage": session.min_coverage,
        "clip_ms": definition.audio.duration_ms,
        "loudness_lufs": definition.audio.loudness_lufs,
        "screening": {
            "headphones": definition.screening.headphones,
            "required": definition.screening.required,
        },
        "reveal": definition.reveal,
    }


def trial_json(trial: TrialView | Finished) -> dict[str, Any]:
    """A trial as listeners get it, or the end of the session."""
    if isinstance(trial, Finished):
        return {"done": True, "code": trial.code}
    values = asdict(trial)
    stimuli = {"A": values.pop("token_a"), "B": values.pop("token_b")}
    return {"done": False, "trial": {**values, "stimuli": stimuli}}


def zipped(folder: Path) -> bytes:
    """An export folder as one file; the same folder gives the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = f"{folder.name}/{path.relative_to(folder).as_posix()}"
            archive.writestr(zipfile.ZipInfo(name), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


class Guard:
    """Outermost layer: bounds what comes in before anything reads it, and sets the same headers on
    everything that goes out.

    Plain ASGI, because it stands in every request's way.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        read = 0

        async def bounded() -> Any:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MAX_BODY_BYTES:
                raise HTTPException(TooLarge.status, TOO_LARGE)
            return message

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *SECURITY_HEADERS]
            await send(message)

        app = self._app
        if _claimed_length(scope) > MAX_BODY_BYTES:
            app = _error_response(TooLarge(TOO_LARGE))
        if any(ord(character) < 32 for character in scope["path"]):
            app = _error_response(NotFound(NOWHERE))
        await app(scope, bounded, guarded)


def _claimed_length(scope: Any) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


def _error_response(error: StudyError, headers: dict[str, str] | None = None) -> JSONResponse:
    body = {"error": {"code": error.code, "message": " ".join(str(error).split())}}
    return JSONResponse(body, error.status, headers)


async def _refusal(request: Request, error: StudyError) -> Response:
    if isinstance(error, TooMany):
        return _error_response(error, {"Retry-After": str(error.retry_after)})
    if isinstance(error, Unavailable):
        logger.error("%s %s: %s", request.method, request.url.path, error)
        return _error_response(Unavailable(NOT_NOW), {"Retry-After": str(RETRY_SECONDS)})
    return _error_response(error)


async def unavailable(request: Request, error: TtmprefError) -> Guard:
    """The API's answer, as an ASGI app, while there is no database to build the API over."""
    return Guard(await _refusal(request, Unavailable(str(error))))


async def _invalid_value(request: Request, error: InvalidRequest) -> Response:
    return _error_response(Unprocessable(str(error)))


async def _cannot_write(request: Request, error: OutputError) -> Response:
    return await _refusal(request, Unavailable(str(error)))


async def _invalid_body(request: Request, error: RequestValidationError) -> Response:
    """Where and what, but not the value: it may hold anything."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    return _error_response(Unprocessable(f"{path}: {first['msg']}", "invalid"))


async def _http_error(request: Request, error: HTTPException) -> Response:
    """What the framework refuses by itself: no such address, wrong method, body too long."""
    known = {404: NotFound(NOWHERE), TooLarge.status: TooLarge(TOO_LARGE)}
    if error.status_code in known:
        return _error_response(known[error.status_code])
    body = {"error": {"code": "http", "message": str(error.detail)}}
    return JSONResponse(body, error.status_code, error.headers)
