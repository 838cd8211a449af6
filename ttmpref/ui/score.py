"""The Score tab: upload audio or videos, read how much listeners would like them, keep nothing.

A run is two events, as on the Generate tab: `begin` takes the uploads over and empties the box;
`stream` waits its turn for the model and shows results as they come. Whatever happens to the run,
its uploads are deleted when it ends.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from html import escape
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from ttmpref.studio import Studio
from ttmpref.types import InvalidRequest, Progress, check_text
from ttmpref.ui import words
from ttmpref.ui.clips import ClipFolder
from ttmpref.ui.controls import Controls, Updates, build_controls, connect_run
from ttmpref.ui.errors import sentence, spoken, translated
from ttmpref.ui.run import Run
from ttmpref.ui.score_report import distribution_figure, report, timeline_figure
from ttmpref.uploads import UPLOAD_SUFFIXES

if TYPE_CHECKING:
    from ttmpref.reward.entries import ScoreEntry
    from ttmpref.reward.files import FileScore

MAX_FILES = 32
LONGEST_NAME = 80
FORMULA_STARTS = "=+-@"  # of a cell that spreadsheets would compute


def build_score_tab(studio: Studio, folder: ClipFolder) -> None:
    """Lay out the tab inside the current `gr.Tab` and connect it."""
    missing = studio.scoring_missing()
    with gr.Row(elem_id="score-bench"):
        with gr.Column(elem_id="score-ask"):
            if missing is not None:
                gr.HTML(words.failed(f"{words.NO_SCORING}: {sentence(missing)}"), js_on_load=None)
            elif studio.preset.ranker.notes:
                gr.HTML(
                    f'<p class="soft">{escape(studio.preset.ranker.notes)}</p>', js_on_load=None
                )
            files = gr.File(
                label="Audio or video", file_count="multiple", file_types=list(UPLOAD_SUFFIXES),
                elem_id="uploads", height=170,
            )  # fmt: skip
            gr.HTML(f'<p class="soft">{words.UPLOADS}</p>', js_on_load=None)
            text = gr.Textbox(
                label="Text (optional)", info=words.TEXT, lines=2, max_lines=6, elem_id="score-text"
            )
            controls = build_controls(
                "Score", "score-start", prefix="score-", boxed=False, usable=missing is None
            )
        with gr.Column(elem_id="score-results"):
            report = gr.HTML(words.NO_SCORES, elem_id="score-report", js_on_load=None)
            figures = [
                gr.Plot(label=label, visible=False, elem_id=name)
                for label, name in (
                    ("Where the files stand", "score-distribution"),
                    ("Along long files", "score-timeline"),
                )
            ]
    page = Page(
        **vars(controls), studio=studio, folder=folder, files=files, report=report,
        distribution=figures[0], timeline=figures[1],
    )  # fmt: skip
    connect_run(page, [files, text], [files], [page.report, page.distribution, page.timeline])


@dataclass(frozen=True, eq=False)
class Page(Controls):
    """The parts of the tab, and the handlers of its events."""

    studio: Studio
    folder: ClipFolder
    files: gr.File
    report: gr.HTML
    distribution: gr.Plot
    timeline: gr.Plot

    def begin(self, files: Sequence[str] | None, text: str) -> Updates:
        """Take the uploads over, and say that the run waits its turn."""
        self.folder.forget_old()
        with translated():
            entries = entries_of_uploads(files or (), text)
        waiting = self.state(words.waiting(), running=True)
        return waiting | {self.run: Run(entries), self.files: None}

    def stream(self, run: Run[Sequence[ScoreEntry]]) -> Iterator[Updates]:
        """Results as they come; closing this iterator ends the scoring."""
        results: list[FileScore] = []
        try:
            if not run.cancelled:
                with closing(self._events(run.request)) as events:
                    for event in takewhile(run.goes_on, events):
                        if not isinstance(event, Progress):
                            results.append(without_paths(event))
                        yield {self.status: words.scoring(len(results), len(run.request))}
            end = self._end(run, results)
        except Exception as error:
            end = words.failed(spoken(error))
        finally:
            self._forget(run)
        if run.dropped:
            yield self.nothing()
        else:
            yield self.state(end, running=False) | self._shown(results)

    def _events(self, entries: Sequence[ScoreEntry]) -> Iterator[Progress | FileScore]:
        """A tick before the weights are loaded, then the results."""
        yield Progress(0, len(entries), "loading the weights")
        with closing(self.studio.score_files(entries, untrusted=True)) as results:
            yield from results

    def _end(self, run: Run[Sequence[ScoreEntry]], results: Sequence[FileScore]) -> str:
        if run.cancelled:
            return words.stopped_scoring(len(results))
        good = sum(result.score is not None for result in results)
        return words.scored(good, len(results) - good)

    def _shown(self, results: Sequence[FileScore]) -> Updates:
        collections = self.studio.collections() if results else None
        figures = {
            self.distribution: distribution_figure(results, collections),
            self.timeline: timeline_figure(results),
        }
        shown = {plot: gr.update(value=f, visible=f is not None) for plot, f in figures.items()}
        return {self.report: report(results, collections), **shown}

    def stop(self, run: Run[Sequence[ScoreEntry]]) -> Updates:
        return self.stop_run(run, words.stopped_scoring(0))

    def turned_away(self, run: Run[Sequence[ScoreEntry]]) -> Updates:
        self._forget(run)
        return super().turned_away(run)

    def _forget(self, run: Run[Sequence[ScoreEntry]]) -> None:
        self.folder.forget(entry.path for entry in run.request)


def entries_of_uploads(files: Sequence[str], text: str) -> list[ScoreEntry]:
    """One entry per upload, named as its file was.

    Raises:
        InvalidRequest: none or too many files, or a text that is no usable prompt.
    """
    from ttmpref.reward.entries import ScoreEntry

    if not files:
        raise InvalidRequest("there is no file to score; choose or drop one first")
    if len(files) > MAX_FILES:
        raise InvalidRequest(f"{len(files)} files were given; at most {MAX_FILES} are accepted")
    check_text("text", text, may_be_empty=True)
    entries: dict[str, ScoreEntry] = {}
    for path in map(Path, files):
        name = safe_name(path.name)
        number = 1
        while (unique := name if number == 1 else f"{name} ({number})") in entries:
            number += 1
        entries[unique] = ScoreEntry(unique, path, text)
    return list(entries.values())


def safe_name(name: str) -> str:
    """A file's name as one short line that no spreadsheet takes for a formula."""
    visible = "".join(c for c in name if unicodedata.category(c)[0] != "C")  # no control, no bidi
    return visible.lstrip(FORMULA_STARTS + " ")[:LONGEST_NAME] or "file"


def without_paths(result: FileScore) -> FileScore:
    """A result that says nothing of where the upload lay."""
    path = result.entry.path
    entry = dataclasses.replace(result.entry, path=Path(result.entry.id))
    error = result.error.removeprefix(f"{path}: ")
    return dataclasses.replace(result, entry=entry, error=error.replace(str(path), entry.id))
