"""Scores of files as the Score tab shows them: table, comparison, protocol, downloads, figures.

HTML and figures are made of finished results; every text that came from a person, a file's name
above all, is escaped here. Downloads are part of the page itself, so nothing is kept for them.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from ttmpref.metrics import chance_preferred
from ttmpref.types import RewardScore
from ttmpref.ui.figures import COLOURS, LEGEND_WIDTH, empty_figure, in_lines, intervals
from ttmpref.ui.player import clock, number
from ttmpref.ui.theme import PAPER
from ttmpref.ui.words import REWARD_SCALE

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ttmpref.reward.files import FileScore
    from ttmpref.reward.percentiles import Collections

MOST_COMPARED = 8  # files in the table of comparisons
DASHES = ("solid", "dash", "dot", "dashdot")  # of the collections, which are all grey
CLOSE = (0.45, 0.55)  # chances between which two clips are as good as equal
MIME = {"csv": "text/csv", "json": "application/json"}


def report(results: Sequence[FileScore], collections: Collections | None) -> str:
    """Everything but the figures, for results in the order of their files."""
    if not results:
        return ""
    scored = [result for result in results if result.score is not None]
    parts = [_table(results), f'<p class="soft">{REWARD_SCALE}</p>']
    if len(scored) > 1:
        parts.append(_comparison(scored[:MOST_COMPARED]))
    if scored:
        parts.append(_protocol(scored[0].score, collections))
    return f'<div class="scores">{"".join(parts)}{_downloads(results)}</div>'


def _table(results: Sequence[FileScore]) -> str:
    """A row per file; those that could not be scored keep their place with the reason."""
    scored = [result.score for result in results if result.score is not None]
    collections = tuple(scored[0].percentiles) if scored else ()
    prompted = any(score.prompt.strip() for score in scored)
    heads = ["File", "Reward", "95 % range", *(["Without text"] if prompted else [])]
    heads += [f"Percentile in {escape(name)}" for name in collections]
    heads += ["Length", "Loudness", "Remarks"]
    rows = "".join(_row(result, prompted, collections, len(heads)) for result in results)
    cells = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return (
        '<div class="wide" tabindex="0" role="region" aria-label="Scores of the files">'
        f"<table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(result: FileScore, prompted: bool, collections: Sequence[str], columns: int) -> str:
    name = f'<th scope="row">{escape(result.entry.id)}</th>'
    score = result.score
    if score is None:
        reason = f"Not scored: {escape(result.error)}"
        return f'<tr class="bad">{name}<td colspan="{columns - 1}">{reason}</td></tr>'
    low_high = "–" if score.interval is None else " to ".join(map(_signed, score.interval))
    cells = [f"<b>{_signed(score.reward)}</b>", low_high]
    cells += [_signed(score.reward_without_prompt)] if prompted else []
    cells += [f"{number(score.percentiles[one], 0)} %" for one in collections]
    cells += [clock(score.seconds), "silent" if score.lufs is None else _lufs(score.lufs)]
    numbers = "".join(f"<td>{cell}</td>" for cell in cells)
    return f"<tr>{name}{numbers}<td>{_flags(score)}</td></tr>"


def _lufs(value: float) -> str:
    return f"{number(value, 1)} LUFS"


def _signed(reward: float) -> str:
    return ("+" if round(reward, 2) > 0 else "") + number(reward, 2)


def _flags(score: RewardScore) -> str:
    """Warnings, and then what is only to be known."""
    words = (
        f'<span class="{"warning" if flag.serious else "remark"}">{escape(flag.text)}</span>'
        for flag in score.flags
    )
    return "; ".join(words)


def _comparison(scored: Sequence[FileScore]) -> str:
    """How likely each file is preferred to each other; for two, in words."""
    rewards = [result.score.reward for result in scored]
    heads = "".join(f'<th scope="col">{escape(one.entry.id)}</th>' for one in scored)
    rows = "".join(
        f'<tr><th scope="row">{escape(result.entry.id)}</th>'
        + "".join(
            "<td>–</td>" if i == j else f"<td>{_percent(chance_preferred(rewards[i], other))}</td>"
            for j, other in enumerate(rewards)
        )
        + "</tr>"
        for i, result in enumerate(scored)
    )
    return (
        '<section class="comparison"><h3>A against B</h3>'
        f"<p>{_best_in_words(scored)}</p>"
        '<div class="wide" tabindex="0" role="region" aria-label="Chances between files">'
        "<table><caption>Chance that the file of the row is preferred to that of the column, as "
        f"far as the reward tells</caption><thead><tr><td></td>{heads}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _best_in_words(scored: Sequence[FileScore]) -> str:
    """The best file against the second."""
    best, second = sorted(scored, key=lambda one: -one.score.reward)[:2]
    chance = chance_preferred(best.score.reward, second.score.reward)
    names = (f"<b>{escape(one.entry.id)}</b>" for one in (best, second))
    if CLOSE[0] < chance < CLOSE[1]:
        return "{} and {} are too close to tell: about a coin flip.".format(*names)
    return f"{{}} is preferred to {{}} with probability {_percent(chance)}.".format(*names)


def _percent(chance: float) -> str:
    return f"{100 * chance:.0f} %"


def _protocol(score: RewardScore, collections: Collections | None) -> str:
    """How the rewards were made; closed until asked for."""
    said = score.protocol
    facts = {
        "Window": f"{said['window']}, {said['window_seconds']:g} s heard by CLAP at once",
        "Band": said["band"],
        "Features": said["layout"],
        "Text": score.prompt.strip() or "none",
        "Percentiles": "none" if collections is None else collections.source,
        "Preset": said.get("preset", ""),
        "Version": f"ttmpref {said.get('ttmpref', '')}",
    }
    facts |= {
        uri: sha256[:12] for kind in ("encoders", "heads") for uri, sha256 in said[kind].items()
    }
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in facts.items()
    )
    return f'<details class="protocol"><summary>Protocol</summary><dl>{items}</dl></details>'


def _downloads(results: Sequence[FileScore]) -> str:
    from ttmpref.reward.files import results_csv, results_json

    texts = {"csv": results_csv(results), "json": results_json(results)}
    links = "".join(
        f'<a class="mini" download="scores.{kind}" aria-label="Download {kind.upper()}" '
        f'href="data:{MIME[kind]};base64,{base64.b64encode(text.encode()).decode()}">'
        f"{kind.upper()}</a>"
        for kind, text in texts.items()
    )
    return f'<p class="downloads"><span>Download</span> {links}</p>'


# ------------------------------------------------------------------------------ figures


def distribution_figure(
    results: Sequence[FileScore], collections: Collections | None
) -> go.Figure | None:
    """Share of each collection below a reward, with the files on it; None without either."""
    scored = [result for result in results if result.score is not None]
    if collections is None or not scored:
        return None
    figure = empty_figure("Reward", "% of the collection below")
    for (name, grid), dash in zip(collections.grids.items(), cycle(DASHES), strict=False):
        figure.add_scatter(
            x=grid, y=np.linspace(0, 100, len(grid)), mode="lines", name=name,
            line={"color": PAPER.c400, "width": 2, "dash": dash}, hoverinfo="name+x+y",
        )  # fmt: skip
    for result, colour in zip(scored, cycle(COLOURS), strict=False):
        score = result.score
        figure.add_scatter(
            x=[score.reward] * len(score.percentiles), y=list(score.percentiles.values()),
            mode="markers", name=in_lines(result.entry.id, LEGEND_WIDTH),
            error_x=intervals([score.reward], [score.interval]),
            marker={"color": colour, "size": 11},
        )  # fmt: skip
    return figure


def timeline_figure(results: Sequence[FileScore]) -> go.Figure | None:
    """Rewards of the windows of long files; None where all are short."""
    long = [result for result in results if result.score is not None and result.score.timeline]
    if not long:
        return None
    figure = empty_figure("Seconds", "Reward of the window")
    for result, colour in zip(long, cycle(COLOURS), strict=False):
        windows = result.score.timeline
        figure.add_scatter(
            x=[(window.start + window.end) / 2 for window in windows],
            y=[window.reward for window in windows],
            mode="lines+markers", name=in_lines(result.entry.id, LEGEND_WIDTH),
            line={"color": colour},
            customdata=[f"{clock(window.start)} to {clock(window.end)}" for window in windows],
            hovertemplate="%{customdata}: %{y:+.2f}",
        )  # fmt: skip
    return figure
