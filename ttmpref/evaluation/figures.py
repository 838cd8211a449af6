"""Figures of the tables: a plotly figure as plain JSON, and the same drawn as a picture.

A figure is panels side by side; a panel holds series of points with intervals, over numbers (a
curve) or over the rows of a table (`labels`, downwards). Neither plotly nor a browser is needed to
write them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ttmpref.evaluation.comparison import Measure
from ttmpref.study.figures import DOT, Colour, Dot, Drawing, Line, Words, ticks

COLOURS: dict[Colour, str] = {"accent": "#0d6b62", "ink": "#c8811f", "faint": "#8a938f"}
PANEL_WIDTH, CURVE_HEIGHT, ROW_HEIGHT = 300, 240, 26
LABEL_WIDTH, GAP, MARGIN, TOP, AXIS_HEIGHT = 200, 62, 16, 72, 44
PADDING = 0.06  # of an axis, beyond its extreme points


@dataclass(frozen=True)
class Series:
    """Points of one kind.

    Attributes:
        x: numbers; for a panel with labels, the values.
        y: measures; for a panel with labels, row numbers as they are.
        colour: of the picture; "faint" for what the paper printed.
        line: whether points are joined.
    """

    name: str
    points: tuple[tuple[float, Measure], ...]
    colour: Colour
    line: bool = False


@dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
        title: of the axis of measures.
        over: title of the other axis.
        labels: of rows 0, 1, ...; measures then lie along x.
    """

    title: str
    series: tuple[Series, ...]
    over: str = ""
    labels: tuple[str, ...] = ()

    @property
    def rows(self) -> bool:
        return bool(self.labels)


def plotly(title: str, panels: Sequence[Panel]) -> dict[str, Any]:
    """The figure as plotly reads it."""
    width = 1.0 / len(panels)
    layout: dict[str, Any] = {"title": {"text": title}, "legend": {"orientation": "h"}}
    data = []
    for index, panel in enumerate(panels):
        number = "" if index == 0 else str(index + 1)
        x: dict[str, Any] = {
            "domain": [index * width, (index + 0.85) * width],
            "anchor": f"y{number}",
            "title": {"text": panel.title if panel.rows else panel.over},
        }
        y: dict[str, Any] = {"anchor": f"x{number}"}
        if panel.rows:
            texts = panel.labels if index == 0 else ("",) * len(panel.labels)
            y |= {"tickvals": list(range(len(texts))), "ticktext": list(texts)}
            y |= {"autorange": "reversed"}
        else:
            y["title"] = {"text": panel.title}
        layout |= {f"xaxis{number}": x, f"yaxis{number}": y}
        data += [_trace(panel, series, number, index == 0) for series in panel.series]
    return {"data": data, "layout": layout}


def _trace(panel: Panel, series: Series, number: str, first: bool) -> dict[str, Any]:
    places = [place for place, _ in series.points]
    measures = [measure for _, measure in series.points]
    values = [measure.value for measure in measures]
    error = {
        "type": "data",
        "symmetric": False,
        "array": [0.0 if m.high is None else m.high - m.value for m in measures],
        "arrayminus": [0.0 if m.low is None else m.value - m.low for m in measures],
    }
    paper = series.colour == "faint"
    return {
        "type": "scatter",
        "name": series.name,
        "legendgroup": series.name,
        "showlegend": first,
        "mode": "lines+markers" if series.line else "markers",
        "marker": {
            "color": COLOURS[series.colour],
            "symbol": "diamond-open" if paper else "circle",
        },
        "x": values if panel.rows else places,
        "y": places if panel.rows else values,
        "error_x" if panel.rows else "error_y": error,
        "xaxis": f"x{number}",
        "yaxis": f"y{number}",
    }


def drawing(title: str, panels: Sequence[Panel]) -> Drawing:
    """The figure as a picture: the same points, with a legend above."""
    rows = max((len(panel.labels) for panel in panels), default=0)
    height = ROW_HEIGHT * rows if rows else CURVE_HEIGHT
    left = MARGIN + (LABEL_WIDTH if rows else GAP)
    width = left + len(panels) * (PANEL_WIDTH + GAP)
    picture = Drawing(width, TOP + height + AXIS_HEIGHT + MARGIN, title)
    picture.marks.append(Words(MARGIN, MARGIN, title))
    at = float(MARGIN)
    for series in {series.name: series for panel in panels for series in panel.series}.values():
        picture.marks += [
            Dot(at + DOT, MARGIN + 20, DOT, series.colour),
            Words(at + 4 * DOT, MARGIN + 20, series.name),
        ]
        at += 40 + 7 * len(series.name)
    for index, panel in enumerate(panels):
        _draw(picture, panel, left + index * (PANEL_WIDTH + GAP), height, index == 0)
    return picture


def _draw(picture: Drawing, panel: Panel, left: float, height: float, labelled: bool) -> None:
    """One panel with its axes."""
    points = [point for series in panel.series for point in series.points]
    ends = [end for _, m in points for end in (m.value, m.low, m.high) if end is not None]
    if not points:
        return
    places = [place for place, _ in points]
    right, bottom = left + PANEL_WIDTH, TOP + height
    put = picture.marks.append
    if panel.rows:
        along = _scale(ends, left, right)
        across: Callable[[float], float] = lambda row: TOP + ROW_HEIGHT * (row + 0.5)  # noqa: E731
        _axis(picture, ends, along, bottom, panel.title)
        for row, label in enumerate(panel.labels if labelled else ()):
            put(Words(left - 10, across(row), label, "end"))
    else:
        along, across = _scale(places, left, right), _scale(ends, bottom, TOP)
        _axis(picture, places, along, bottom, panel.over)
        put(Line(left, TOP, left, bottom, "ink"))
        for tick in ticks(min(ends), max(ends) + 1e-9):
            put(Line(left - 4, across(tick), left, across(tick), "ink"))
            put(Words(left - 7, across(tick), f"{tick:g}", "end"))
        put(Words(left, TOP - 12, panel.title))
    for series in panel.series:
        _draw_series(picture, panel, series, along, across)


def _draw_series(
    picture: Drawing,
    panel: Panel,
    series: Series,
    along: Callable[[float], float],
    across: Callable[[float], float],
) -> None:
    def place(at: float, value: float) -> tuple[float, float]:
        return (along(value), across(at)) if panel.rows else (along(at), across(value))

    put, last = picture.marks.append, None
    for at, measure in series.points:
        here = place(at, measure.value)
        if measure.low is not None and measure.high is not None:
            ends = (*place(at, measure.low), *place(at, measure.high))
            put(Line(*ends, series.colour, 1.5))
        if series.line and last is not None:
            put(Line(*last, *here, series.colour, 1.0))
        put(Dot(*here, DOT, series.colour))
        last = here


def _scale(values: Sequence[float], start: float, stop: float) -> Callable[[float], float]:
    low, high = min(values), max(values)
    spare = PADDING * (high - low) or 1.0
    low, high = low - spare, high + spare
    return lambda value: start + (stop - start) * (value - low) / (high - low)


def _axis(
    picture: Drawing,
    values: Sequence[float],
    along: Callable[[float], float],
    bottom: float,
    title: str,
) -> None:
    low, high = min(values), max(values)
    put = picture.marks.append
    put(Line(along(low), bottom, along(high), bottom, "ink"))
    for tick in ticks(low, high + 1e-9):
        put(Line(along(tick), bottom, along(tick), bottom + 4, "ink"))
        put(Words(along(tick), bottom + 13, f"{tick:g}", "middle"))
    put(Words((along(low) + along(high)) / 2, bottom + 31, title, "middle"))
