"""Serving studies: the API inside another ASGI app, or alone.

`mount(app, store, results)` puts the API below `/api/v1` of a FastAPI or Starlette app, in front of
its own routes, so that it can stand beside a Gradio page that takes every other address. `serve`
runs it alone, in several processes if asked.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.routing import Mount

from ttmpref.study.api import PREFIX, build_api
from ttmpref.study.settings import StudySettings
from ttmpref.study.store import Store

RESULTS_VARIABLE = "TTMPREF_RESULTS"
DEFAULT_RESULTS = Path("listening_results")


def mount(app: Any, store: Store, results: Path = DEFAULT_RESULTS) -> None:
    """Serve the API below `/api/v1` of `app`, whatever routes it has already."""
    app.router.routes.insert(0, Mount(PREFIX, build_api(store, results)))


def application() -> FastAPI:
    """The API alone, set up from the environment; what each server process runs."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    results = Path(os.environ.get(RESULTS_VARIABLE) or DEFAULT_RESULTS)
    store = Store(StudySettings.from_environment())
    store.people.forget()
    mount(app, store, results)
    return app


def serve(host: str, port: int, workers: int, results: Path) -> None:
    """Run the API until interrupted.

    Forwarding headers are left to `TTMPREF_TRUSTED_PROXIES`: the server itself would believe them
    from any process of this machine. The access log stays off: it would hold addresses.

    Raises:
        ConfigError, Unavailable: settings or database are wrong, before any process starts.
    """
    import uvicorn

    Store(StudySettings.from_environment()).close()
    os.environ[RESULTS_VARIABLE] = str(results)
    uvicorn.run(
        f"{__name__}:application", factory=True, host=host, port=port, workers=workers,
        proxy_headers=False, access_log=False, server_header=False,
    )  # fmt: skip
