"""What commands print and write: tables, clips, progress, and the faults they end with."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

from ttmpref.types import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ttmpref.studio import Studio
    from ttmpref.types import Generation, Progress

EXIT_SOME_FAILED = 1


def output_paths(out: Path, variations: int) -> list[Path]:
    """One path per variation: `clip.wav`, or `clip-1.wav`, `clip-2.wav`, ..."""
    if variations == 1:
        return [out]
    return [out.with_name(f"{out.stem}-{i}{out.suffix}") for i in range(1, variations + 1)]


def check_outputs(paths: Sequence[Path]) -> None:
    """Refuse outputs that cannot be written before minutes are spent on making them."""
    from ttmpref.audio import check_writable

    for path in paths:
        check_writable(path)


def save(
    studio: Studio, finished: Sequence[Generation], paths: Sequence[Path], quiet: bool
) -> None:
    """Write the clips; each file name goes to standard output, measurements to standard error."""
    for generation, path in zip(finished, paths, strict=True):
        replaced = path.exists()
        studio.save(generation, path)
        print(path)
        if not quiet:
            print(_summary(generation, replaced), file=sys.stderr)


def _summary(generation: Generation, replaced: bool) -> str:
    """One line about a saved clip."""
    scores = generation.scores
    parts = [f"seed {generation.request.seed}", f"{scores.seconds:.1f} s"]
    if scores.lufs is not None:
        parts.append(f"{scores.lufs:.1f} LUFS")
    if scores.true_peak_db is not None:
        parts.append(f"{scores.true_peak_db:.1f} dBTP")
    if scores.clap_score is not None:
        parts.append(f"CLAP {scores.clap_score:.3f}")
    if replaced:
        parts.append("replaced an older file")
    return "  " + ", ".join(parts)


def print_records(
    records: Sequence[dict[str, Any]], as_json: bool = False, as_csv: bool = False
) -> None:
    """Records of the same keys, for people, as JSON or as CSV."""
    if as_json and as_csv:
        raise InvalidRequest("--json and --csv were both given; choose one")
    if as_json:
        print(json.dumps(records, indent=2, ensure_ascii=False))
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, list(records[0]) if records else [])
        writer.writeheader()
        writer.writerows(records)
    elif records:
        shown = [[_cell(value) for value in record.values()] for record in records]
        print_table([[*records[0]], *shown])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def print_table(rows: Sequence[Sequence[str]], to: TextIO | None = None) -> None:
    """Columns as wide as their longest cell; the last one runs free; standard output by default."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        print("  " + "  ".join([*cells, row[-1]]).rstrip(), file=to)


def exit_with(faults: Sequence[str]) -> None:
    """Name bad rows on standard error; exit code 1 if there are any."""
    for fault in faults:
        print("error:", fault, file=sys.stderr)
    if faults:
        raise typer.Exit(EXIT_SOME_FAILED)


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """A callback that moves a bar on standard error; None when quiet or not on a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=1, unit="step", file=sys.stderr, leave=False) as bar:

        def show(progress: Progress) -> None:
            bar.total, bar.n = progress.num_steps, progress.step
            bar.set_description(progress.activity)

        yield show


@contextmanager
def counter(total: int | None, quiet: bool) -> Iterator[Callable[..., object]]:
    """A callback that counts clips, one or as many as it is told, on standard error.

    Silent when quiet or not on a terminal.

    Args:
        total: clips to come; None where nobody knows.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda clips=1: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="clip", file=sys.stderr, leave=False) as bar:
        yield bar.update
