"""Tables as files: CSV and JSON with every digit, Markdown and LaTeX for people, a figure.

A sheet is columns and rows of plain values. What the paper printed stands in columns of its own,
whose names begin with "paper", and is never mixed with what was measured here. Files hold no date,
so that the same clips give the same bytes.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ttmpref.evaluation.comparison import Measure
from ttmpref.evaluation.figures import Panel, drawing, plotly
from ttmpref.study.report import LATEX_HEAD, NONE, Table, latex, p_words

Cell = str | int | float | Measure | None


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: in CSV and JSON.
        title: for people.
        kind: "p" for p-values; measures are a number with an interval.
        digits: decimals for people.
    """

    name: str
    title: str
    kind: Literal["words", "number", "measure", "p"] = "number"
    digits: int = 3


@dataclass(frozen=True)
class Sheet:
    """A table, what must be known to read it, and its figure.

    Attributes:
        name: of its files.
        rows: cells in the order of the columns; None where there is nothing to say.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    panels: tuple[Panel, ...] = ()

    def files(self, record: Mapping[str, Any]) -> dict[str, bytes]:
        """All files by name; `record` says what the numbers were made with."""
        table = self.table()
        notes = "".join(f"\n- {note}" for note in self.notes)
        texts = {
            "csv": self.csv(),
            "json": json.dumps(self.to_dict() | {"record": record}, indent=1) + "\n",
            "md": table.markdown() + (f"{notes}\n" if notes else ""),
            "tex": LATEX_HEAD + "".join(f"% {latex(n)}\n" for n in self.notes) + table.latex(),
        }
        found = {f"{self.name}.{suffix}": text.encode() for suffix, text in texts.items()}
        if self.panels:
            picture = json.dumps(plotly(self.title, self.panels), indent=1) + "\n"
            found[f"{self.name}.plotly.json"] = picture.encode()
            found[f"{self.name}.png"] = drawing(self.title, self.panels).png()
        return found

    def table(self) -> Table:
        """The sheet in words."""
        header = tuple(column.title for column in self.columns)
        rows = tuple(tuple(words(*cell) for cell in self._cells(row)) for row in self.rows)
        return Table(self.title, header, rows)

    def csv(self) -> str:
        """One row per row, three columns per measure, every digit; empty where there is nothing."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow([name for column in self.columns for name in _names(column)])
        for row in self.rows:
            writer.writerow([value for cell in self._cells(row) for value in _spread(*cell)])
        return buffer.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        rows = [{c.name: _plain(cell) for c, cell in self._cells(row)} for row in self.rows]
        return {"name": self.name, "title": self.title, "rows": rows, "notes": list(self.notes)}

    def _cells(self, row: tuple[Cell, ...]) -> Iterator[tuple[Column, Cell]]:
        return zip(self.columns, row, strict=True)


def words(column: Column, cell: Cell) -> str:
    """A cell for people."""
    if cell is None:
        return NONE
    if isinstance(cell, (str, int)):
        return str(cell)
    if column.kind == "p":
        return p_words(cell)
    if isinstance(cell, float):
        return f"{cell:.{column.digits}f}"
    value, low, high = (
        None if end is None else f"{end:.{column.digits}f}"
        for end in (cell.value, cell.low, cell.high)
    )
    return f"{value}" if low is None else f"{value} [{low}, {high}]"


def _names(column: Column) -> list[str]:
    ends = ("", "_low", "_high") if column.kind == "measure" else ("",)
    return [column.name + end for end in ends]


def _spread(column: Column, cell: Cell) -> list[Any]:
    if column.kind != "measure":
        return [cell]
    return [None] * 3 if cell is None else [cell.value, cell.low, cell.high]


def _plain(cell: Cell) -> Any:
    return dataclasses.asdict(cell) if isinstance(cell, Measure) else cell
