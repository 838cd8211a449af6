"""The listener's page as an ASGI app: a handful of static files under a strict content policy.

Specification of listening studies, sections 4 and 6.4. One HTML file serves every study; its script
(`static/listen.js`) learns from its own address which study it shows, and everything else from the
API. Nothing is built, nothing comes from elsewhere, and nothing here knows a study.

    GET /{slug}          the page
    GET /static/{name}   its scripts and styles
"""

from __future__ import annotations

from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

ADDRESS = "/listen"
STATIC = Path(__file__).parent / "static"
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors "
)
SPACE_HOST = "https://huggingface.co"  # shows a Space, and so this page, inside a frame


def build_page(space_id: str | None = None) -> Starlette:
    """The page.

    Args:
        space_id: name of the hosted Space that this runs in, whose host may frame the page; without
            one only pages of the same origin may.
    """
    headers = {
        "cache-control": "no-cache",  # a page of the last release must not meet a newer API
        "content-security-policy": f"{CONTENT_POLICY}'self'{f' {SPACE_HOST}' if space_id else ''}",
        "permissions-policy": "camera=(), geolocation=(), microphone=()",
        "referrer-policy": "no-referrer",  # nor may the address of a session leak
        "x-content-type-options": "nosniff",
    }
    parts = {path.name: path for path in STATIC.iterdir() if path.is_file()}

    async def page(request: Request) -> Response:
        return FileResponse(parts["index.html"], headers=headers)

    async def part(request: Request) -> Response:
        path = parts.get(request.path_params["name"])
        if path is None:
            return PlainTextResponse("there is nothing at this address", 404, headers=headers)
        return FileResponse(path, headers=headers)

    return Starlette(routes=[Route("/static/{name}", part), Route("/{slug}", page)])
