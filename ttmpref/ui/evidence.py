"""The evidence page: tables and figures as `python -m ttmpref tables` wrote them.

Each table is `<name>.md` with its title and notes, and may have `<name>.plotly.json` beside it.
They are shown as they are: nothing is computed, rounded or left out here, so the paper's numbers
stay in the columns of their own in which they were written.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from ttmpref import assets
from ttmpref.ui import stage_words, words
from ttmpref.ui.figures import AXIS, FIGURE_HEIGHT, LOOK

if TYPE_CHECKING:
    import plotly.graph_objects as go

logger = logging.getLogger(__name__)


def tables_folder(preset_name: str) -> Path:
    """Where the tables of a preset lie; `ttmpref.evaluation` says the same, but loads torch."""
    return assets.assets_folder() / "reference" / preset_name / "tables"


def build_evidence(preset_name: str) -> None:
    """Lay out every table with its figure, or what to do where there is none."""
    with gr.Accordion("Evidence", open=False, elem_id="evidence"):
        tables = sorted(tables_folder(preset_name).glob("*.md"))
        if not tables:
            gr.HTML(stage_words.NO_EVIDENCE, js_on_load=None)
            return
        gr.HTML(f'<p class="soft">{stage_words.EVIDENCE}</p>', js_on_load=None)
        for path in tables:
            _table(path)
            figure = read_figure(path.with_suffix(".plotly.json"))
            if figure is not None:
                gr.Plot(figure, show_label=False, elem_classes="evidence-figure")


def _table(path: Path) -> None:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        logger.warning("%s cannot be shown: %s", path, error)
        gr.HTML(words.failed(f"{path.name} cannot be read; the log says why."), js_on_load=None)
    else:
        gr.Markdown(text, elem_classes="evidence-table")


def read_figure(path: Path) -> go.Figure | None:
    """A plotly figure in the app's look; None where there is none that can be read."""
    if not path.is_file():
        return None
    import plotly.graph_objects as go

    try:
        figure = go.Figure(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        logger.warning("%s is not a plotly figure: %s", path, error)
        return None
    # The table above it has the title already.
    figure.update_layout(title=None, height=FIGURE_HEIGHT, margin={"t": 24, "b": 88}, **LOOK)
    return figure.update_xaxes(**AXIS).update_yaxes(**AXIS)
