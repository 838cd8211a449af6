"""Pictures of a clip as HTML: waveform (vector) and spectrogram (one small image), with axes;
and the curve of what choosing among clips is worth.

Both pictures share the time axis, so that one playhead can run over them. The waveform takes its
colour from the page. The spectrogram is stored once, in greys; a colour map for light pages and one
for dark pages stand in the page as SVG filters, and the style sheet picks one. Numbers come from
elsewhere; here they only become marks.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from PIL import Image

from ttmpref.audio import Spectrogram, envelope, spectrogram
from ttmpref.types import Clip

WAVEFORM_POINTS = 600
FREQUENCY_TICKS = (300, 1_000, 3_000, 10_000)
TIME_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
MOST_TIME_TICKS = 6
GREY_SHADES = 64
SHOWN_DB = 65.0  # below the loudest cell; what lies lower counts as silence
# Colours from silence to the loudest cell, evenly spaced.
COLOUR_MAPS = {
    "light": ("#ecf1f0", "#c9e0db", "#8cc7bc", "#3f9c8f", "#0d6b62", "#083f3a", "#041f1d"),
    "dark": ("#101514", "#0e3531", "#14665d", "#35a08c", "#a3c978", "#f6d67e", "#fff6dc"),
}


def waveform_plot(clip: Clip) -> str:
    """The clip's envelope, full scale from top to bottom."""
    low_high = envelope(clip, WAVEFORM_POINTS)
    xs = np.arange(len(low_high)) + 0.5
    upper = [f"{x:g},{-high:.3f}" for x, high in zip(xs, low_high[:, 1], strict=True)]
    lower = [f"{x:g},{-low:.3f}" for x, low in zip(xs, low_high[:, 0], strict=True)]
    points = " ".join(upper + lower[::-1])
    label = f"Waveform, {clip.seconds:.1f} seconds"
    ticks = _vertical_ticks([(0.0, "1"), (0.5, "0"), (1.0, "−1")])
    return (
        f'<div class="plot plot-wave" role="img" aria-label="{label}">{ticks}'
        f'<svg viewBox="0 -1 {len(low_high)} 2" preserveAspectRatio="none" aria-hidden="true">'
        f'<line x1="0" x2="{len(low_high)}" y1="0" y2="0"/><polygon points="{points}"/></svg></div>'
    )


def spectrogram_plot(clip: Clip) -> str:
    """The clip's mel-spaced spectrogram with ticks in Hz."""
    picture = spectrogram(clip, frames=480, bands=112)
    span = (picture.times[-1] - picture.times[0]) if len(picture.times) > 1 else clip.seconds
    column = span / max(1, len(picture.times) - 1)
    left = (picture.times[0] - column / 2) / clip.seconds
    width = (span + column) / clip.seconds
    low, high = picture.frequencies[[0, -1]]
    label = f"Spectrogram, {low:.0f} to {high:.0f} Hz over {clip.seconds:.1f} seconds"
    return (
        f'<div class="plot plot-spec" role="img" aria-label="{label}">'
        f"{_vertical_ticks(_frequency_ticks(picture))}"
        f'<div class="plot-area"><img alt="" src="{_image(picture)}" '
        f'style="left:{100 * left:.2f}%;width:{100 * width:.2f}%"></div></div>'
    )


def expectation_plot(expected: Sequence[float]) -> str:
    """Reward to be expected of the best of n clips, n = 1 ... N (2 at least) from left to right."""
    low, high, count = min(expected), max(expected), len(expected)
    label = f"Expected reward of the best of n: {low:.2f} for 1, {high:.2f} for {count}"
    return _curve(dict(enumerate(expected, 1)), range(1, count + 1), label)


def sweep_plot(rewards: Mapping[float, float], scores: Sequence[float]) -> str:
    """Reward of a clip over its score, as far as clips are there.

    Args:
        rewards: by score, one at least.
        scores: all of the sweep, rising.
    """
    said = ", ".join(f"{reward:.2f} at {score:g}" for score, reward in rewards.items())
    return _curve(rewards, scores, f"Reward over the score: {said}")


def climb_plot(rewards: Mapping[int, float], updates: int) -> str:
    """Reward of a clip after so many updates of its noise, as far as they are done.

    Args:
        rewards: by number of updates, one at least.
        updates: how many there will be.
    """
    said = ", ".join(f"{reward:.2f} after {done}" for done, reward in rewards.items())
    return _curve(rewards, range(updates + 1), f"Reward after each update: {said}")


def _curve(points: Mapping[float, float], ticks: Sequence[float], label: str) -> str:
    """Points joined by lines over an axis from the first tick to the last."""
    low, high = min(points.values()), max(points.values())
    first, span = ticks[0], ticks[-1] - ticks[0]
    # from the left in units of the axis, from the top as a share of the height
    places = [(x - first, (high - y) / ((high - low) or 1.0)) for x, y in points.items()]
    line = " ".join(f"{x:g},{top:.3f}" for x, top in places)
    dots = "".join(f"M{x:g} {top:.3f}h0" for x, top in places)
    values = _vertical_ticks([(0.0, f"{high:.2f}"), (1.0, f"{low:.2f}")][: 1 + (low < high)])
    numbers = "".join(
        f'<span style="left:{100 * (x - first) / span:.1f}%">{x:g}</span>' for x in ticks
    )
    return (
        f'<div class="plot plot-curve" role="img" aria-label="{label}">{values}'
        f'<svg viewBox="0 0 {span:g} 1" preserveAspectRatio="none" aria-hidden="true">'
        f'<polyline points="{line}"/><path d="{dots}"/></svg></div>'
        f'<div class="time-axis" aria-hidden="true">{numbers}</div>'
    )


def time_axis(seconds: float) -> str:
    """Tick labels under the pictures, in seconds."""
    step = next((s for s in TIME_STEPS if seconds / s <= MOST_TIME_TICKS), TIME_STEPS[-1])
    ticks = np.arange(0, seconds + step / 100, step).round(3)
    names = [f"{at:g}" for at in ticks[:-1]] + [f"{ticks[-1]:g} s"]
    marks = "".join(
        f'<span style="left:{100 * at / seconds:.2f}%">{name}</span>'
        for at, name in zip(ticks, names, strict=True)
    )
    return f'<div class="time-axis" aria-hidden="true">{marks}</div>'


def _frequency_ticks(picture: Spectrogram) -> list[tuple[float, str]]:
    """(distance from the top, label) of the round frequencies that lie inside the picture."""
    bands = len(picture.frequencies)
    ticks = []
    for hertz in FREQUENCY_TICKS:
        if picture.frequencies[0] <= hertz <= picture.frequencies[-1]:
            row = np.interp(hertz, picture.frequencies, np.arange(bands))
            name = f"{hertz // 1000}k" if hertz >= 1000 else str(hertz)
            ticks.append((1 - (row + 0.5) / bands, name))
    return [(top, f"{name} Hz" if top == ticks[-1][0] else name) for top, name in ticks]


def _vertical_ticks(ticks: list[tuple[float, str]]) -> str:
    marks = (f'<span style="top:{100 * top:.1f}%">{escape(name)}</span>' for top, name in ticks)
    return f'<div class="value-axis" aria-hidden="true">{"".join(marks)}</div>'


def _image(picture: Spectrogram) -> str:
    """The levels as a data address of a grey PNG, low frequencies at the bottom."""
    levels = np.clip(picture.levels_db[::-1] / SHOWN_DB + 1, 0, 1)  # 0 silent, 1 loudest
    shades = np.rint(levels * (GREY_SHADES - 1)) * (255 / (GREY_SHADES - 1))
    buffer = io.BytesIO()
    Image.fromarray(shades.astype(np.uint8)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def colour_filters() -> str:
    """The SVG filters that colour grey spectrograms; wanted once per page."""
    filters = "".join(_colour_filter(name, stops) for name, stops in COLOUR_MAPS.items())
    return f'<svg class="filters" width="0" height="0" aria-hidden="true">{filters}</svg>'


def _colour_filter(name: str, stops: tuple[str, ...]) -> str:
    tables = (
        " ".join(f"{int(stop[at : at + 2], 16) / 255:.3f}" for stop in stops) for at in (1, 3, 5)
    )
    functions = "".join(
        f'<feFunc{channel} type="table" tableValues="{table}"/>'
        for channel, table in zip("RGB", tables, strict=True)
    )
    return (
        f'<filter id="colours-{name}" color-interpolation-filters="sRGB">'
        f"<feComponentTransfer>{functions}</feComponentTransfer></filter>"
    )
