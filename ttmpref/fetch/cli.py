"""`python -m ttmpref fetch`: show what a preset needs from elsewhere, ask once, get it.

An edge, like `ttmpref.cli`, which it is part of.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ttmpref.fetch.fetcher import FetchProgress
    from ttmpref.fetch.plan import Plan

EXIT_INCOMPLETE = 1
SECONDS_BETWEEN_LINES = 5.0


def fetch(
    preset: Annotated[str, typer.Option(help="Preset name, or the path of a .yaml file.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    given: Annotated[
        Path | None, typer.Option("--from", help="Folder with files already at hand.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Fetch a preset's weights from their public homes, verified and converted; then all is local.

    HF_ENDPOINT replaces the Hugging Face hub, TTMPREF_MIRROR every other host, TTMPREF_CACHE the
    folder. Exit code 1 if something of the preset has no public home.
    """
    from ttmpref import assets
    from ttmpref.config import load_preset
    from ttmpref.fetch.fetcher import fetch as carry_out
    from ttmpref.fetch.plan import plan_for

    loaded = load_preset(preset)
    plan = plan_for(loaded)
    _show(plan, loaded.name)
    if plan.missing and not dry_run:
        if not yes and not _agreed(plan):
            raise typer.Abort
        carry_out(plan, given, _silent if quiet else _Lines())
        print(f"fetched into {assets.cache_folder()}")
    if plan.homeless:
        raise typer.Exit(EXIT_INCOMPLETE)


def _show(plan: Plan, name: str) -> None:
    """The plan for people: what is here, what comes from where, and on which terms."""
    if not (plan.present or plan.missing or plan.homeless):
        print(f"preset {name!r} needs nothing from elsewhere")
    for uri in plan.present:
        print(f"here     {uri}")
    for source in plan.missing:
        terms = f"; {source.terms}" if source.terms else ""
        print(f"missing  {source.uri}\n         licence: {source.licence}{terms}")
        for file in source.files:
            print(f"         {file.megabytes:>8.1f} MB  {file.url}")
    for uri in plan.homeless:
        print(f"unknown  {uri}: no public home is known; place it there yourself")
    if plan.missing:
        print(f"about {plan.megabytes / 1e3:.1f} GB to fetch")


def _agreed(plan: Plan) -> bool:
    """One question for all; no answer is no."""
    try:
        answer = input("Fetch it under these licences and terms? [y/N] ")
    except EOFError:
        return False
    return answer.strip().lower() in ("y", "yes")


def _silent(progress: FetchProgress) -> None:
    """Progress nobody wants to see."""


class _Lines:
    """Progress on standard error, a line per file and every few seconds."""

    def __init__(self) -> None:
        self._shown = ("", 0.0)

    def __call__(self, progress: FetchProgress) -> None:
        url, when = self._shown
        now = time.monotonic()
        complete = progress.done == progress.total
        if url == progress.url and now - when < SECONDS_BETWEEN_LINES and not complete:
            return
        self._shown = progress.url, now
        share = "" if not progress.total else f" of {progress.total / 1e6:.1f}"
        print(f"{progress.done / 1e6:.1f}{share} MB  {progress.url}", file=sys.stderr)
