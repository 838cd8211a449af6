"""The Results tab: what listeners said, and whether the ranker agrees with them.

Figures and tables are those of a study's report (`study.report`), made from the votes as they are
when the tab is opened or refreshed. Which studies are listed, and whether their systems have names,
is decided by `study.results`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from ttmpref.study.app import LateApi
from ttmpref.study.results import Entry, Results
from ttmpref.study.settings import ADMIN_TOKEN
from ttmpref.ui import words
from ttmpref.ui.errors import spoken_of_studies

if TYPE_CHECKING:
    from ttmpref.study.analysis import Analysis
    from ttmpref.study.report import Table

FIGURES = ("ranker_accuracy", "ranker_reliability", "preferences", "strengths")
COLOURS = {  # of figures: the page's own, light or dark (static/app.css)
    "ink": "currentColor", "faint": "var(--soft)", "accent": "var(--wave)", "ground": "none",
}  # fmt: skip

Updates = dict[Any, Any]


def build_results_tab(tab: gr.Tab, studies: LateApi) -> None:
    """Lay out the tab inside the current `gr.Tab` and connect it.

    Args:
        tab: the tab itself.
        studies: whose database is asked when the tab is opened.
    """
    with gr.Row(elem_id="results-ask"):
        study = gr.Dropdown([], label="Study", filterable=False, elem_id="results-study")
        token = gr.Textbox(
            label="Admin token", info=words.RESULTS_TOKEN, type="password", max_lines=1,
            visible=bool(os.environ.get(ADMIN_TOKEN)), elem_id="results-token",
        )  # fmt: skip
        refresh = gr.Button("Refresh", elem_id="results-refresh")
    view = gr.HTML(words.NO_RESULTS, elem_id="study-results", js_on_load=None)
    page = ResultsPage(studies, study, view)
    quiet = {"show_progress": "minimal", "show_progress_on": view, "api_visibility": "private"}
    gr.on(
        [tab.select, refresh.click, token.submit, study.input], page.show,
        inputs=[study, token], outputs=[study, view], **quiet,
    )  # fmt: skip


@dataclass(eq=False)
class ResultsPage:
    """The parts of the tab, and the handler of its events."""

    studies: LateApi
    study: gr.Dropdown
    view: gr.HTML
    results: Results | None = None

    def show(self, chosen: str | None, token: str, request: gr.Request = None) -> Updates:
        """Every study that may be shown, and the chosen one, or the first.

        Args:
            request: who asks; Gradio fills it in.
        """
        try:
            store = self.studies.store()
            if self.results is None:
                self.results = Results(store)
            asked = token.strip(), address_of(request, store.settings.trusted_proxies)
            entries = self.results.entries(*asked)
            names = [entry.name for entry in entries]
            chosen = chosen if chosen in names else next(iter(names), None)
            entry = next((one for one in entries if one.name == chosen), None)
            html = words.NO_RESULTS
            if entry is not None:
                html = results_html(entry, self.results.analysis(entry.name, *asked))
        except Exception as error:
            return {self.study: gr.update(), self.view: words.failed(spoken_of_studies(error))}
        choices = [(f"{one.title} · {one.name} · {one.status}", one.name) for one in entries]
        return {self.study: gr.update(choices=choices, value=chosen), self.view: html}


def address_of(request: gr.Request | None, trusted_proxies: int) -> str:
    """Where a request came from; nowhere for a call without one."""
    if request is None:
        return ""
    from ttmpref.study.api import peer_of

    return peer_of(request.request or request, trusted_proxies)


def results_html(entry: Entry, analysis: Analysis | None) -> str:
    """Counts, figures and tables of one study."""
    if analysis is None:
        return f"<p>{escape(entry.title)}: {words.NO_VOTES}</p>"
    from ttmpref.study.figures import Palette
    from ttmpref.study.report import figures, tables

    drawings, palette = figures(analysis, stacked=True), Palette(**COLOURS)
    parts = [_counts(entry, analysis)]
    if analysis.ranker is None:
        parts.append(f'<p class="soft">{words.NO_REWARDS}</p>')
    parts += [
        f"<figure><figcaption>{escape(drawings[name].title)}</figcaption>"
        f"{drawings[name].svg(palette).decode()}</figure>"
        for name in FIGURES
        if name in drawings
    ]
    parts += [_table(table) for table in tables(analysis)]
    return "".join(parts)


def _counts(entry: Entry, analysis: Analysis) -> str:
    counts = analysis.counts
    blind = f" {words.BLIND_RESULTS}" if entry.blind else ""
    return (
        f"<p><b>{escape(entry.title)}</b> is {entry.status}: {counts.votes} answers of "
        f"{counts.raters} listeners, {counts.analysed} of them analysed, on {counts.prompts} texts."
        f"{blind}</p>"
    )


def _table(table: Table) -> str:
    """A table of the report, closed until asked for."""
    body = "".join(_line(row, "td") for row in table.rows)
    return (
        f'<details><summary>{escape(table.title)}</summary><div class="scores">'
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(table.title)}">'
        f"<table><thead>{_line(table.header, 'th')}</thead><tbody>{body}</tbody></table>"
        "</div></div></details>"
    )


def _line(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"
