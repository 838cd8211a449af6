"""The command `score`: rewards of files, for people, as JSON or as CSV."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttmpref.cli.options import (
    DeviceOption,
    PresetOption,
    QuietOption,
    number_option,
    whole,
)
from ttmpref.cli.output import EXIT_SOME_FAILED, counter, print_table
from ttmpref.types import BAND_POLICIES, WINDOW_POLICIES, InvalidRequest

if TYPE_CHECKING:
    from ttmpref.reward.files import FileScore
    from ttmpref.studio import Studio
    from ttmpref.types import Listening

REPORT_SUFFIXES = (".json", ".csv")

commands = typer.Typer()


@commands.command()
def score(
    files: Annotated[list[Path], typer.Argument(help="Audio files, folders, CSV manifests.")],
    prompt: Annotated[str, typer.Option(help="Text all clips were made from.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="One row per clip.")] = False,
    out: Annotated[Path | None, typer.Option(help="File for the results.")] = None,
    window: Annotated[
        str | None,
        typer.Option(help=f"What CLAP hears of long clips: {', '.join(WINDOW_POLICIES)}"),
    ] = None,
    window_seed: Annotated[int | None, number_option(whole, "Seed of the random window.")] = None,
    band: Annotated[str | None, typer.Option(help=f"Band: {', '.join(BAND_POLICIES)}")] = None,
    timeline: Annotated[
        bool, typer.Option("--timeline/--no-timeline", help="Rewards along long clips.")
    ] = True,
    preset: PresetOption = "demo",
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Rate clips with the preference reward; exit code 1 if one could not be rated.

    A manifest has the columns clip, id, prompt, or clip_a, clip_b, id, prompt, vote.
    """
    from ttmpref.studio import Studio

    _check_report(out, as_json, as_csv)
    studio = Studio.open(preset, device)
    listening = _listening(studio, window=window, band=band, seed=window_seed)
    studio.check_scoring()
    from ttmpref.reward.entries import entries_of
    from ttmpref.reward.files import agreement

    entries = entries_of(files, prompt)
    results = []
    with counter(len(entries), quiet) as count:
        for result in studio.score_files(entries, timeline=timeline, listening=listening):
            results.append(result)
            count()
    _report(results, out, as_json, as_csv)
    hits, votes = agreement(results)
    if votes and not quiet:
        print(f"rewards agree with {hits} of {votes} decisive votes", file=sys.stderr)
    if any(result.error for result in results):
        raise typer.Exit(EXIT_SOME_FAILED)


def _listening(studio: Studio, **overrides: Any) -> Listening | None:
    """The preset's policies with those given on the command line in their place."""
    given = {name: value for name, value in overrides.items() if value is not None}
    if studio.preset.ranker is None or not given:
        return None
    return dataclasses.replace(studio.preset.ranker.listening, **given)


def _check_report(out: Path | None, as_json: bool, as_csv: bool) -> None:
    """Refuse results that could not be written before minutes are spent on making them."""
    from ttmpref.audio import check_place

    if as_json and as_csv:
        raise InvalidRequest("--json and --csv were both given; choose one")
    if out is None:
        return
    if not (as_json or as_csv) and out.suffix.lower() not in REPORT_SUFFIXES:
        accepted = ", ".join(REPORT_SUFFIXES)
        raise InvalidRequest(f"file of results is {str(out)!r}; accepted suffixes: {accepted}")
    check_place(out)


def _report(results: Sequence[FileScore], out: Path | None, as_json: bool, as_csv: bool) -> None:
    """Results to a file or to standard output, every failure to standard error as well."""
    from ttmpref.audio import write_files
    from ttmpref.reward.files import results_csv, results_json

    for result in results:
        if result.error:
            print("error:", f"{result.entry.id}: {result.error}", file=sys.stderr)
    if as_json or as_csv or out is not None:
        suffix = "" if out is None else out.suffix.lower()
        text = results_json(results) if as_json or suffix == ".json" else results_csv(results)
        if out is None:
            print(text, end="")
        else:
            write_files({out: text.encode("utf-8")})
            print(out)
        return
    print_table([("clip", "reward", "95 %", "remarks"), *map(_score_row, results)])


def _score_row(result: FileScore) -> tuple[str, str, str, str]:
    """Cells of a result for people."""
    score = result.score
    if score is None:
        return result.entry.id, "-", "", "not scored"
    interval = "" if score.interval is None else "{:+.2f} to {:+.2f}".format(*score.interval)
    remarks = [flag.text for flag in score.flags if flag.serious]
    remarks += [f"{w.start:.0f}-{w.end:.0f} s {w.reward:+.2f}" for w in score.timeline]
    return result.entry.id, f"{score.reward:+.3f}", interval, "; ".join(remarks)
