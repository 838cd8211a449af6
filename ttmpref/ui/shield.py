"""What stands between the network and the app: bounds on what comes in, headers on what goes out.

Specification of listening studies, section 4 and checks 18 to 23. An ASGI layer around Gradio and
the studies' routes. What sets stricter headers itself (`ttmpref.study`) keeps them.

- A body is limited in size, an upload also by the room left on the disk, and each piece of it must
  come in time.
- Gradio 6.31 puts the headers of a request for part of a file, cookies among them, into the answer;
  of such answers only what belongs there gets out.
- A content policy lets pages load from and reach nothing but this server.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException

from ttmpref.study.page import SPACE_HOST

MAX_BODY_BYTES = 2 * 2**20  # settings of the form, or a batch of prompts
MAX_UPLOAD_BYTES = 2 * 2**30  # all files of one upload; each has a limit of its own
ROOM_BYTES = 2**30  # of the disk, never filled by uploads
PIECE_SECONDS = 60.0  # a body that stands still for longer is given up
UPLOADS = "/gradio_api/upload"
# Gradio's page is put together by inline scripts, and its components by `new Function`.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
OF_PARTS = {  # headers of an answer with part of a file
    b"accept-ranges", b"cache-control", b"content-disposition", b"content-length",
    b"content-range", b"content-type", b"etag", b"last-modified", b"vary",
}  # fmt: skip

Send = Callable[[Any], Awaitable[None]]
Receive = Callable[[], Awaitable[Any]]


class Shield:
    """See the module's docstring."""

    def __init__(self, app: Any, folder: Path, space_id: str | None = None) -> None:
        """
        Args:
            folder: where uploads are written.
            space_id: name of the hosted Space that this runs in, whose host may frame the page.
        """
        self._app = app
        self._folder = folder
        policy = POLICY + (f" {SPACE_HOST}" if space_id else "")
        self._headers = (
            (b"content-security-policy", policy.encode("ascii")),
            (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
            (b"referrer-policy", b"same-origin"),
            (b"x-content-type-options", b"nosniff"),
        )

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await self._app(_below(scope), self._bounded(scope, receive), self._guarded(send))

    def _bounded(self, scope: Any, receive: Receive) -> Receive:
        """The same body, as long as it is short enough and keeps coming."""
        most = self._room() if scope["path"].endswith(UPLOADS) else MAX_BODY_BYTES
        too_long = HTTPException(413, f"the request is longer than {most} bytes")
        claimed = dict(scope["headers"]).get(b"content-length", b"")
        read, whole = 0, False

        async def bounded() -> Any:
            nonlocal read, whole
            if whole:
                return await receive()  # waits for the visitor to leave
            if claimed.isdigit() and int(claimed) > most:
                raise too_long  # before any of it is read
            try:
                message = await asyncio.wait_for(receive(), PIECE_SECONDS)
            except TimeoutError:
                raise HTTPException(408, f"nothing came for {PIECE_SECONDS:g} s") from None
            read += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if read > most:
                raise too_long
            return message

        return bounded

    def _room(self) -> int:
        """Bytes that an upload may have."""
        free = shutil.disk_usage(self._folder).free - ROOM_BYTES
        return max(0, min(MAX_UPLOAD_BYTES, free))

    def _guarded(self, send: Send) -> Send:
        """The same answer with our headers, and without those it should not have."""

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                given = [(name.lower(), value) for name, value in message.get("headers", ())]
                if message["status"] == 206:
                    given = [(name, value) for name, value in given if name in OF_PARTS]
                known = {name for name, _ in given}
                ours = [(name, value) for name, value in self._headers if name not in known]
                message = {**message, "headers": [*given, *ours]}
            await send(message)

        return guarded


def _below(scope: Any) -> Any:
    """The scope as mounted apps understand it behind a proxy that takes the app's path away.

    Gradio is told that path for its links (GRADIO_ROOT_PATH); mounted apps, the studies' among
    them, would look for it in front of their own and find nothing.
    """
    stripped = not scope["path"].startswith(scope.get("root_path", ""))
    return {**scope, "root_path": ""} if stripped else scope
