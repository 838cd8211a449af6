"""The Listen tab: which studies are open, each with its own address and inside a frame.

The page in the frame and its votes are `ttmpref.study`'s, served beside Gradio and never through
its queue. This tab only asks which studies there are, each time it is opened; a database that
cannot be used is said here, and nowhere else in the app.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from ttmpref.study.app import LateApi
from ttmpref.study.page import ADDRESS
from ttmpref.ui import words
from ttmpref.ui.errors import spoken_of_studies

FRAME = "listen-frame"
SHOWN = ("open", "paused")


def build_listen_tab(tab: gr.Tab, studies: LateApi) -> None:
    """Lay out the tab inside the current `gr.Tab` and fill it whenever it is opened.

    Args:
        tab: the tab itself.
        studies: the API that the page in the frame talks to.
    """
    place = gr.HTML(
        words.LOOKING_FOR_STUDIES, elem_id="listen", elem_classes="status", js_on_load=None
    )
    tab.select(
        lambda: listen_html(studies), outputs=place, queue=False, show_progress="hidden",
        api_visibility="private",
    )  # fmt: skip


def listen_html(studies: LateApi) -> str:
    """The tab's contents as things stand: open studies, how to open one, or what is wrong."""
    try:
        found = [study for study in studies.store().studies.list() if study["status"] in SHOWN]
    except Exception as error:
        return words.failed(spoken_of_studies(error))
    return _studies(found) if found else words.HOW_TO_OPEN_A_STUDY


def _studies(found: Sequence[dict[str, Any]]) -> str:
    """A line for each study, and below them a frame that shows the first one that is open."""
    lines = "".join(_line(study) for study in found)
    running = [study for study in found if study["status"] == "open"]
    return f'<ul class="studies">{lines}</ul>' + (_frame(running[0]) if running else "")


def _line(study: dict[str, Any]) -> str:
    title = f"<b>{escape(study['title'])}</b>"
    if study["status"] == "paused":
        return f"<li>{title}<span>paused</span></li>"
    address = escape(_address(study))
    return (
        f'<li>{title}<a href="{address}" target="{FRAME}">Listen here</a>'
        f'<a href="{address}" target="_blank" rel="noopener">Open on its own page</a></li>'
    )


def _frame(study: dict[str, Any]) -> str:
    return (
        f'<iframe name="{FRAME}" src="{escape(_address(study))}" title="Listening study" '
        'allow="autoplay; clipboard-write" loading="lazy"></iframe>'
    )


def _address(study: dict[str, Any]) -> str:
    """Relative, so that the app may stand below any path."""
    return f"{ADDRESS.lstrip('/')}/{study['slug']}"
