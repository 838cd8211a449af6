"""A small web server for tests of fetching: it knows ranges, and fails when told to."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Site:
    """What is served, what goes wrong, and who asked.

    Attributes:
        files: by path.
        cuts: bytes after which each of the next answers breaks off.
        answers: (status, headers) of the next requests, in place of a file.
        gate: answers wait until it is set.
        asked: paths and headers of all requests.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    address: str = ""

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.asked]


class FileHandler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site = self.site
        site.asked.append((self.path, dict(self.headers)))
        assert site.gate.wait(60)
        if site.answers:
            status, headers = site.answers.pop(0)
            return self._reply(status, headers, b"")
        if self.path not in site.files:
            return self._reply(404, {}, b"")
        data = site.files[self.path]
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        first = 0
        if self.headers["If-Range"] == etag:
            first = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if first >= len(data) > 0:
            return self._reply(416, {}, b"")
        status = 206 if first else 200
        return self._reply(status, {"ETag": etag}, data[first:])

    def _reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        cut = self.site.cuts.pop(0) if body and self.site.cuts else len(body)
        self.wfile.write(body[:cut])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Requests are kept in the site; nothing is printed."""


@contextmanager
def serving(
    site: Site, handler: type[BaseHTTPRequestHandler] = FileHandler, **heard: Any
) -> Iterator[Site]:
    """The site on a free local port.

    Args:
        handler: answers the requests; gets the site.
        heard: further attributes of the handler.
    """
    own = type("Handler", (handler,), {"site": site, **heard})
    server = ThreadingHTTPServer(("127.0.0.1", 0), own)
    site.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        site.gate.set()
        server.shutdown()
        thread.join()
        server.server_close()
