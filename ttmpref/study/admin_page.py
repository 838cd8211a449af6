"""The operator's page: three static files at `/admin`, there only where an admin token is set.

Specification of listening studies, section 6.3. The files hold nothing worth hiding: the page asks
for the token, keeps it for the browser tab's life and sends it to the admin API (`study.api`),
which decides. Its policy lets it load and reach nothing but this server.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ttmpref.study.settings import ADMIN_TOKEN

ADDRESS = "/admin"
STATIC = Path(__file__).parent / "static" / "admin"
FILES = {
    ADDRESS: ("index.html", "text/html"),
    f"{ADDRESS}/admin.css": ("admin.css", "text/css"),
    f"{ADDRESS}/admin.js": ("admin.js", "text/javascript"),
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": POLICY,
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def admin_routes(environment: Mapping[str, str] = os.environ) -> list[Route]:
    """What to put in front of an app's routes; nothing without an admin token."""
    if not environment.get(ADMIN_TOKEN):
        return []
    return [Route(path, _endpoint(name, kind)) for path, (name, kind) in FILES.items()]


def _endpoint(name: str, kind: str) -> Callable[[Request], Response]:
    def endpoint(request: Request) -> Response:
        return Response((STATIC / name).read_bytes(), media_type=kind, headers=HEADERS)

    return endpoint
