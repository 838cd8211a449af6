"""Options that several commands share, and how their numbers are read.

Numbers are parsed here, because Typer's own error does not name what was given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


def real_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


def number_option(parser: Callable[[str], float], text: str) -> Any:
    """An option for a number, whose error names what was given."""
    return typer.Option(parser=parser, metavar="NUMBER", help=text)


PresetOption = Annotated[str, typer.Option(help="Preset name, or the path of a .yaml file.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<number>.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress, only file names.")]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]
CsvOption = Annotated[bool, typer.Option("--csv", help="As CSV.")]
