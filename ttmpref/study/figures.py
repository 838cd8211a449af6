"""Figures of a report as SVG and PNG, drawn by hand so that the same numbers give the same bytes.

A `Drawing` is a list of marks in points, y downwards; `svg` and `png` draw the same list, in the
colours of paper or, as SVG inside a page, in those of the page. Two figures are made of them:
intervals in rows (preferences, strengths, accuracies) and the reliability diagram. Every row
carries its number in words, the same words as the tables.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT_SIZE = 12
PNG_SCALE = 2  # pixels per point
LABEL_WIDTH, PLOT_WIDTH, WORDS_WIDTH = 190, 300, 190
ROW_HEIGHT, MARGIN, AXIS_HEIGHT, NOTE_HEIGHT = 26, 14, 40, 20
STACKED_ROW = 60  # label, words and interval below each other
LINE_HEIGHT = 17
SQUARE = 300  # side of the reliability diagram
DOT = 4.0
TICKS = 5
ROUND_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


Colour = Literal["ink", "faint", "accent"]


@dataclass(frozen=True)
class Palette:
    """What the colours of marks look like, in words of SVG."""

    ink: str
    faint: str
    accent: str
    ground: str

    def of(self, colour: Colour) -> str:
        return getattr(self, colour)


PAPER = Palette(ink="#1b1f1e", faint="#b9c2c0", accent="#0d6b62", ground="#ffffff")


@dataclass(frozen=True)
class Line:
    """A straight line."""

    x1: float
    y1: float
    x2: float
    y2: float
    colour: Colour
    width: float = 1.0


@dataclass(frozen=True)
class Dot:
    """A filled circle."""

    x: float
    y: float
    radius: float
    colour: Colour


@dataclass(frozen=True)
class Words:
    """Text whose middle height lies at y; `anchor` start, middle or end lies at x."""

    x: float
    y: float
    text: str
    anchor: str = "start"


Mark = Line | Dot | Words
Place = Callable[[float], float]  # of a value on an axis


@dataclass
class Drawing:
    """A figure: its size in points, what it shows in words, and its marks in drawing order."""

    width: float
    height: float
    title: str
    marks: list[Mark] = field(default_factory=list)

    def svg(self, palette: Palette = PAPER) -> bytes:
        """The drawing as a stand-alone SVG file, or as part of a page with colours of its own."""
        body = "\n".join(_svg_mark(mark, palette) for mark in self.marks)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width:g}" '
            f'height="{self.height:g}" viewBox="0 0 {self.width:g} {self.height:g}" role="img" '
            f'font-family="sans-serif" font-size="{FONT_SIZE}">\n'
            f"<title>{escape(self.title)}</title>\n"
            f'<rect width="100%" height="100%" fill="{palette.ground}"/>\n{body}\n</svg>\n'
        ).encode()

    def png(self) -> bytes:
        """The drawing as a PNG file, two pixels a point."""
        size = (round(self.width * PNG_SCALE), round(self.height * PNG_SCALE))
        picture = Image.new("RGB", size, PAPER.ground)
        pen, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT_SIZE * PNG_SCALE)
        for mark in self.marks:
            _png_mark(pen, font, mark)
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG", optimize=True)
        return buffer.getvalue()


def _svg_mark(mark: Mark, palette: Palette) -> str:
    match mark:
        case Line():
            return (
                f'<line x1="{mark.x1:.2f}" y1="{mark.y1:.2f}" x2="{mark.x2:.2f}" '
                f'y2="{mark.y2:.2f}" stroke="{palette.of(mark.colour)}" '
                f'stroke-width="{mark.width:g}"/>'
            )
        case Dot():
            return (
                f'<circle cx="{mark.x:.2f}" cy="{mark.y:.2f}" r="{mark.radius:g}" '
                f'fill="{palette.of(mark.colour)}"/>'
            )
        case Words():
            return (
                f'<text x="{mark.x:.2f}" y="{mark.y:.2f}" text-anchor="{mark.anchor}" '
                f'dominant-baseline="central" fill="{palette.ink}">{escape(mark.text)}</text>'
            )


def _png_mark(pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, mark: Mark) -> None:
    match mark:
        case Line():
            ends = [PNG_SCALE * v for v in (mark.x1, mark.y1, mark.x2, mark.y2)]
            pen.line(ends, fill=PAPER.of(mark.colour), width=round(PNG_SCALE * mark.width))
        case Dot():
            x, y, r = (PNG_SCALE * v for v in (mark.x, mark.y, mark.radius))
            pen.ellipse((x - r, y - r, x + r, y + r), fill=PAPER.of(mark.colour))
        case Words():
            anchor = {"start": "lm", "middle": "mm", "end": "rm"}[mark.anchor]
            at = (PNG_SCALE * mark.x, PNG_SCALE * mark.y)
            pen.text(at, mark.text, fill=PAPER.ink, font=font, anchor=anchor)


@dataclass(frozen=True)
class Row:
    """One interval: label, value with ends (None where there are none), and the number in words."""

    label: str
    value: float | None
    low: float | None
    high: float | None
    words: str


def intervals(
    title: str,
    rows: Sequence[Row],
    axis: str,
    reference: float,
    least: tuple[float, float],
    stacked: bool = False,
) -> Drawing:
    """Intervals in rows over one axis with a line at the reference.

    Args:
        least: the axis covers at least this range.
        stacked: labels and numbers above the intervals instead of beside them, for narrow screens.
    """
    ends = [end for row in rows for end in (row.low, row.value, row.high) if end is not None]
    low, high = min([least[0], *ends]), max([least[1], *ends])
    left = MARGIN if stacked else MARGIN + LABEL_WIDTH
    width = left + PLOT_WIDTH + MARGIN + (0 if stacked else WORDS_WIDTH)
    row_height = STACKED_ROW if stacked else ROW_HEIGHT
    bottom = MARGIN + row_height * len(rows)
    drawing = Drawing(width, bottom + AXIS_HEIGHT + MARGIN, title)

    def x(value: float) -> float:
        return left + PLOT_WIDTH * (value - low) / (high - low)

    put = drawing.marks.append
    put(Line(x(reference), MARGIN, x(reference), bottom, "faint"))
    _horizontal_axis(drawing, x, (low, high), bottom, axis)
    for index, row in enumerate(rows):
        y = MARGIN + row_height * (index + 0.5)
        if stacked:
            put(Words(left, y - LINE_HEIGHT, row.label))
            put(Words(left, y, row.words))
            y += LINE_HEIGHT
        else:
            put(Words(left - 8, y, row.label, "end"))
            put(Words(left + PLOT_WIDTH + MARGIN, y, row.words))
        if row.low is not None and row.high is not None:
            put(Line(x(row.low), y, x(row.high), y, "accent", 2.0))
        if row.value is not None:
            put(Dot(x(row.value), y, DOT, "accent"))
    return drawing


def _horizontal_axis(
    drawing: Drawing, x: Place, span: tuple[float, float], bottom: float, axis: str
) -> None:
    put = drawing.marks.append
    put(Line(x(span[0]), bottom, x(span[1]), bottom, "ink"))
    for tick in ticks(*span):
        put(Line(x(tick), bottom, x(tick), bottom + 4, "ink"))
        put(Words(x(tick), bottom + 13, f"{tick:g}", "middle"))
    put(Words((x(span[0]) + x(span[1])) / 2, bottom + 31, axis, "middle"))


@dataclass(frozen=True)
class Point:
    """One bar of a reliability diagram: claimed against measured rate, with ends."""

    claimed: float
    measured: float
    low: float | None
    high: float | None


def diagonal(title: str, points: Sequence[Point], notes: Sequence[str]) -> Drawing:
    """Measured over claimed accuracy, both from 1/2 to 1, with the diagonal of calibration.

    Args:
        notes: lines above the diagram, such as the calibration error and its null band.
    """
    left, top = MARGIN + 46, MARGIN + NOTE_HEIGHT * (len(notes) + 1)
    bottom = top + SQUARE
    drawing = Drawing(left + SQUARE + 2 * MARGIN, bottom + AXIS_HEIGHT + MARGIN, title)
    floor = min([0.5, *(p.low if p.low is not None else p.measured for p in points)])

    def x(value: float) -> float:
        return left + SQUARE * (value - 0.5) / 0.5

    def y(value: float) -> float:
        return bottom - SQUARE * (value - floor) / (1.0 - floor)

    put = drawing.marks.append
    for index, note in enumerate([*notes, "measured accuracy"]):
        put(Words(MARGIN, MARGIN + NOTE_HEIGHT * index, note))
    put(Line(x(0.5), y(0.5), x(1.0), y(1.0), "faint"))
    _horizontal_axis(drawing, x, (0.5, 1.0), bottom, "claimed accuracy")
    put(Line(left, top, left, bottom, "ink"))
    for tick in ticks(floor, 1.0):
        put(Line(left - 4, y(tick), left, y(tick), "ink"))
        put(Words(left - 7, y(tick), f"{tick:g}", "end"))
    for point in points:
        if point.low is not None and point.high is not None:
            at = x(point.claimed)
            put(Line(at, y(point.low), at, y(point.high), "accent", 2.0))
        put(Dot(x(point.claimed), y(point.measured), DOT, "accent"))
    return drawing


def ticks(low: float, high: float) -> list[float]:
    """About five round values within a range, low < high."""
    rough = (high - low) / TICKS
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(scale * unit for unit in ROUND_STEPS if scale * unit >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(np.round(step * k, 10)) + 0.0 for k in range(first, last + 1)]
