"""Plotly figures in the app's look: distinct colours, greys for light and for dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from ttmpref.ui.theme import PAPER, TEAL

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ttmpref.series import Made

COLOURS = (TEAL.c500, "#c8811f", "#7a5ea8", "#b3452f", "#4a7fb5", PAPER.c500, "#5d8a34", "#a8487f")
FIGURE_HEIGHT = 320
AXIS = {"gridcolor": "rgba(128,128,128,0.25)", "zerolinecolor": "rgba(128,128,128,0.5)"}
LOOK: dict[str, Any] = {
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"color": "#7d8783"},
    # Below, where many names push the axes up and lie on nothing.
    "legend": {"orientation": "h", "yref": "container", "yanchor": "bottom", "y": 0},
}
NAME_WIDTH, LEGEND_WIDTH = 16, 28  # characters of a name on an axis or in a legend, in one line


def empty_figure(x: str, y: str) -> go.Figure:
    """A figure with titled axes and nothing on it yet."""
    import plotly.graph_objects as go

    return go.Figure(
        layout={
            "height": FIGURE_HEIGHT,
            "margin": {"l": 56, "r": 12, "t": 48, "b": 48},  # the plot's label lies in a corner
            **LOOK,
            "xaxis": {"title": {"text": x}, **AXIS},
            "yaxis": {"title": {"text": y}, **AXIS},
            "showlegend": True,
        }
    )


def in_lines(name: str, width: int) -> str:
    """A name as plotly shows it: no markup, in lines of at most `width` characters if it can be."""
    return "<br>".join(escape(line) for line in wrap(name, width))


def climb_figure(names: Sequence[str], made: Sequence[Made]) -> go.Figure:
    """Reward with its 95 % range and, on an axis of its own, CLAP score from stage to stage.

    Args:
        names: of the clips.
        made: finished clips in the same order.
    """
    figure = empty_figure("", "Reward")
    places = list(range(len(names)))
    ticks = [in_lines(name, NAME_WIDTH) for name in names]
    rewards = [one.generation.scores.reward for one in made]
    if None not in rewards:
        ranges = [one.reward.interval for one in made]
        figure.add_scatter(
            x=places, y=rewards, mode="lines+markers", name="Reward, with its 95 % range",
            error_y=intervals(rewards, ranges), line={"color": COLOURS[0]}, marker={"size": 9},
        )  # fmt: skip
    figure.add_scatter(
        x=places, y=[one.generation.scores.clap_score for one in made], mode="lines+markers",
        name="Fits the words (right)", yaxis="y2", line={"color": COLOURS[1], "dash": "dot"},
    )  # fmt: skip
    return figure.update_layout(
        xaxis={"tickvals": places, "ticktext": ticks},
        yaxis2={"title": {"text": "CLAP score of the words"}, "overlaying": "y", "side": "right",
                "showgrid": False},
        margin={"r": 60},
    )  # fmt: skip


def intervals(
    rewards: Sequence[float], ranges: Sequence[tuple[float, float] | None]
) -> dict[str, Any]:
    """Error bars that reach from the lower to the upper end of each range; none for None."""
    pairs = [(value, ends or (value, value)) for value, ends in zip(rewards, ranges, strict=True)]
    return {
        "array": [high - value for value, (_, high) in pairs],
        "arrayminus": [value - low for value, (low, _) in pairs],
        "width": 5,
    }
