"""Serving studies: the API and the listener's page inside another ASGI app, or alone.

`mount(app, store, results)` puts the API below `/api/v1` and the page below `/listen` of a FastAPI
or Starlette app, in front of its own routes, so that they can stand beside a Gradio page that takes
every other address. `LateApi` is the same API for an app that must start, and go on, whatever state
the database is in. `serve` runs API and page alone, in several processes if asked.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.routing import BaseRoute, Mount

from ttmpref.study.admin_page import admin_routes
from ttmpref.study.page import ADDRESS, build_page
from ttmpref.study.push import start_push
from ttmpref.study.settings import DEFAULT_RESULTS, PushSettings, StudySettings
from ttmpref.types import TtmprefError

if TYPE_CHECKING:  # heavy, and not needed before the first request
    from fastapi import FastAPI

    from ttmpref.study.store import Store

PREFIX = "/api/v1"
RESULTS_VARIABLE = "TTMPREF_RESULTS"
SECONDS_BETWEEN_TRIALS = 5.0  # a database that is gone is not asked again sooner


class LateApi:
    """The API over the database that the environment names, opened when it is first needed.

    An ASGI app. While the database cannot be used, requests are answered by 503 and the rest of the
    server is not held up; as soon as it can be used again, so can the API.
    """

    def __init__(self, results: Path = DEFAULT_RESULTS) -> None:
        """
        Args:
            results: folder of exports.
        """
        self._results = results
        self._opened: tuple[Store, FastAPI] | None = None
        self._failed: tuple[float, TtmprefError] | None = None
        self._lock = threading.Lock()

    def store(self) -> Store:
        """The store behind the API.

        Raises:
            ConfigError, Unavailable: settings or database cannot be used just now.
        """
        return self._open()[0]

    def _open(self) -> tuple[Store, FastAPI]:
        with self._lock:
            if self._opened is None:
                now = time.monotonic()
                if self._failed is not None and now < self._failed[0] + SECONDS_BETWEEN_TRIALS:
                    raise self._failed[1]
                try:
                    self._opened = self._connected()
                except TtmprefError as error:
                    self._failed = time.monotonic(), error
                    raise
            return self._opened

    def _connected(self) -> tuple[Store, FastAPI]:
        from ttmpref.study.api import build_api
        from ttmpref.study.store import Store

        store = Store(StudySettings.from_environment())
        store.people.forget()
        return store, build_api(store, self._results)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            _, app = self._opened or await run_in_threadpool(self._open)
        except TtmprefError as error:
            from ttmpref.study.api import unavailable

            app = await unavailable(Request(scope), error)
        await app(scope, receive, send)


def routes(api: Any) -> list[BaseRoute]:
    """Where an ASGI app that is the API, and the page that uses it, belong."""
    page = build_page(os.environ.get("SPACE_ID"))
    return [Mount(PREFIX, api), Mount(ADDRESS, page), *admin_routes()]


def mount(app: Any, store: Store, results: Path = DEFAULT_RESULTS) -> None:
    """Serve the API and the page from `app`, whatever routes it has already."""
    from ttmpref.study.api import build_api

    app.router.routes[:0] = routes(build_api(store, results))


def application() -> FastAPI:
    """API and page alone, set up from the environment; what each server process runs."""
    from fastapi import FastAPI

    from ttmpref.study.store import Store

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    results = Path(os.environ.get(RESULTS_VARIABLE) or DEFAULT_RESULTS)
    store = Store(StudySettings.from_environment())
    store.people.forget()
    mount(app, store, results)
    return app


def serve(host: str, port: int, workers: int, results: Path) -> None:
    """Run API and page until interrupted.

    Forwarding headers are left to `TTMPREF_TRUSTED_PROXIES`: the server itself would believe them
    from any process of this machine. The access log stays off: it would hold addresses.

    Raises:
        ConfigError, Unavailable: settings or database are wrong, before any process starts.
    """
    import uvicorn

    from ttmpref.study.store import Store

    store = Store(StudySettings.from_environment())
    start_push(PushSettings.from_environment(), lambda: store)
    os.environ[RESULTS_VARIABLE] = str(results)
    uvicorn.run(
        f"{__name__}:application", factory=True, host=host, port=port, workers=workers,
        proxy_headers=False, access_log=False, server_header=False,
    )  # fmt: skip
