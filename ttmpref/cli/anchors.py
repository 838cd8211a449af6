"""Commands `anchors fit | apply | sweep`: rewards made fair to whole systems."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttmpref.cli.options import CsvOption, JsonOption, number_option, real_number, whole
from ttmpref.cli.output import exit_with, print_records

if TYPE_CHECKING:
    from ttmpref.reward.anchors import AnchorOptions
    from ttmpref.reward.battles import Battles

anchors = typer.Typer(help="Correct a reward's unfairness to whole systems from a few battles.")

BattlesArgument = Annotated[
    Path, typer.Argument(help="CSV: id, vote, system_a, system_b, reward_a, reward_b.")
]
PinOption = Annotated[str | None, typer.Option(help="System whose offset is 0; default: none.")]
TiesOption = Annotated[str, typer.Option(help="half, or davidson")]
RidgeOption = Annotated[float, number_option(real_number, "Pull of offsets to zero.")]


@anchors.command(name="fit")
def fit_anchors(
    table: BattlesArgument,
    out: Annotated[Path, typer.Option(help="JSON file for the calibration.")],
    scale: Annotated[str, typer.Option(help="Of margins: one, learned, none")] = "one",
    pin: PinOption = None,
    ties: TiesOption = "half",
    ridge: RidgeOption = 1.0,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Fit offsets of systems, and show what they and their controls are worth when held out."""
    from ttmpref.reward.anchors import check_pinned, controls, cross_validate, fit

    options = _anchor_options(scale=scale, pinned=pin, ties=ties, ridge=ridge)
    battles, faults = _read_battles(table)
    check_pinned(battles, options)
    held_out = [
        {"model": name, **dataclasses.asdict(found)}
        for name, found in cross_validate(battles, controls(options)).items()
    ]
    calibration = fit(battles, options)
    calibration.save(out)
    systems = [
        {"system": name, "claim": offset.claim, **offset.model_dump()}
        for name, offset in calibration.systems.items()
    ]
    if as_json:
        found = {"calibration": calibration.model_dump(), "held_out": held_out}
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print_records(systems, as_csv=as_csv)
    if not (as_json or as_csv):
        a = calibration.scale
        print(f"scale of margins {a.value:.3f} ({a.low:.3f} to {a.high:.3f}); held out, ten folds:")
        print_records(held_out)
    exit_with(faults)


@anchors.command(name="apply")
def apply_anchors(
    table: Annotated[
        Path, typer.Argument(help="CSV: system, reward; or system_a, reward_a, system_b, ...")
    ],
    calibration: Annotated[Path, typer.Option("--anchors", help="File that `fit` wrote.")],
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Add corrected rewards, whose differences are log odds, to a table of clips or battles."""
    from ttmpref.reward.anchors import AnchorCalibration, correct_table

    rows, faults = correct_table(AnchorCalibration.load(calibration), table)
    print_records(rows, as_json, as_csv)
    exit_with(faults)


@anchors.command(name="sweep")
def sweep_anchors(
    table: BattlesArgument,
    ids: Annotated[Path | None, typer.Option(help="Ids to use, in this order.")] = None,
    sizes: Annotated[str, typer.Option(help="Numbers of battles.")] = "0,3,10,30,100,250",
    splits: Annotated[int, number_option(whole, "Random halves.")] = 5,
    pin: PinOption = None,
    ties: TiesOption = "half",
    ridge: RidgeOption = 1.0,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Show how many battles it takes, with Bradley-Terry and "always B" beside."""
    from ttmpref.reward.anchors import check_pinned, controls, sweep
    from ttmpref.reward.battles import read_ids

    options = _anchor_options(pinned=pin, ties=ties, ridge=ridge)
    battles, faults = _read_battles(table)
    if ids is not None:
        battles = battles.in_order_of(read_ids(ids))
    check_pinned(battles, options)
    wanted = [whole(size) for size in sizes.split(",")]
    cells = sweep(battles, controls(options), wanted, range(splits))
    rows = [dataclasses.asdict(cell) for cell in cells]
    if not as_json:
        rows = [{key: row[key] for key in row if key != "per_split"} for row in rows]
    print_records(rows, as_json, as_csv)
    exit_with(faults)


def _anchor_options(**given: Any) -> AnchorOptions:
    from ttmpref.config import validated
    from ttmpref.reward.anchors import AnchorOptions

    return validated(AnchorOptions, given, "anchors")


def _read_battles(path: Path) -> tuple[Battles, Sequence[str]]:
    """The usable battles of a table and its faults; what was left out is said."""
    from ttmpref.reward.battles import read_battles

    table = read_battles(path)
    if table.both_bad:
        print(f"{path}: {table.both_bad} votes BOTH_BAD left out", file=sys.stderr)
    return table.battles, table.faults
