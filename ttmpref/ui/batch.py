"""Many prompts from a CSV file: one clip for each row, a table of them, everything as one ZIP.

A row needs a prompt and may set what else decides its clip; what it leaves out is taken from the
form above. Seeds that are not given are consecutive from the form's, as in the paper (section
III-E: base + index). The file is read at once and deleted.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from html import escape
from itertools import takewhile
from pathlib import Path
from typing import Any

import gradio as gr

from ttmpref.series import Made, Task
from ttmpref.studio import Studio
from ttmpref.types import GenerationRequest, InvalidRequest, Progress
from ttmpref.ui import words
from ttmpref.ui.clips import ClipFolder
from ttmpref.ui.controls import Controls, Updates, build_controls, connect_run, paced
from ttmpref.ui.errors import sentence, spoken, translated
from ttmpref.ui.form import SETTINGS, read_request, setting_of
from ttmpref.ui.player import file_address, number
from ttmpref.ui.run import Run
from ttmpref.ui.series import Series

MOST_PROMPTS = 48
COLUMNS = tuple(name for name in SETTINGS if name != "variations")
HELP = (
    "A CSV file with a column <code>prompt</code>, one row per clip, "
    f"{MOST_PROMPTS} at most. Columns named like settings ({', '.join(COLUMNS[1:])}) set them for "
    "their row; all else is as in the form above, with consecutive seeds."
)


def build_batch(studio: Studio, folder: ClipFolder, form: Sequence[Any]) -> None:
    """Lay out the batch and connect it.

    Args:
        form: fields of the Generate tab, in the order of `ttmpref.ui.form.FIELDS`.
    """
    with gr.Accordion("Many prompts from a CSV file", open=False, elem_id="batch"):
        gr.HTML(f'<p class="soft">{HELP}</p>', js_on_load=None)
        file = gr.File(label="CSV file", file_types=[".csv"], elem_id="batch-file", height=120)
        controls = build_controls("Make all", "batch-start", "batch-", boxed=False)
        table = gr.HTML("", elem_id="batch-table", elem_classes="scores", js_on_load=None)
        archive = gr.HTML("", elem_id="batch-archive", js_on_load=None)
    page = Page(
        **vars(controls), studio=studio, folder=folder, file=file, table=table, archive=archive
    )
    connect_run(page, [file, *form], [file], [table, archive])


def read_rows(text: str) -> list[dict[str, str]]:
    """Rows of a CSV file, without empty cells.

    Raises:
        InvalidRequest: no prompts, unknown columns, or too many rows.
    """
    rows = csv.DictReader(io.StringIO(text))
    found = [name.strip() for name in rows.fieldnames or ()]
    unknown = [name for name in found if name not in COLUMNS]
    if "prompt" not in found or unknown:
        raise InvalidRequest(
            f"the CSV file has the columns {', '.join(found) or 'none'}; accepted: prompt and, if "
            f"wanted, {', '.join(COLUMNS[1:])}"
        )
    rows.fieldnames = found
    kept = [
        {name: cell.strip() for name, cell in row.items() if name and cell and cell.strip()}
        for row in rows
    ]
    kept = [row for row in kept if row]
    if not 1 <= len(kept) <= MOST_PROMPTS:
        raise InvalidRequest(f"the CSV file has {len(kept)} rows; 1 to {MOST_PROMPTS} are accepted")
    return kept


def read_tasks(
    studio: Studio, rows: Sequence[dict[str, str]], base: GenerationRequest
) -> list[Task]:
    """A task per row; what a row leaves out is `base`'s.

    Raises:
        InvalidRequest: a value is not accepted; the message says in which row.
        MissingWeights: a stage cannot be used.
    """
    tasks = []
    for index, row in enumerate(rows):
        try:
            own = {name: setting_of(name, text) for name, text in row.items()}
            if "prompt" not in own:
                raise InvalidRequest("prompt is empty; describe the music in a few words")
            values = base.to_dict() | {"seed": base.seed + index, "variations": 1} | own
            tasks.append(Task(studio.request(values.pop("prompt"), **values)))
        except InvalidRequest as error:
            raise InvalidRequest(f"row {index + 1}: {error}") from None
    return tasks


@dataclass(frozen=True, eq=False)
class Page(Controls):
    """The parts of the batch, and the handlers of its events."""

    studio: Studio
    folder: ClipFolder
    file: gr.File
    table: gr.HTML
    archive: gr.HTML

    def begin(self, file: str | None, *values: Any) -> Updates:
        """Read the file, and say that the run waits its turn."""
        with translated():
            rows = read_rows(self._text(file))
            # The form's own prompt does not count, so it may be empty.
            base = read_request(self.studio, ("batch", *values[1:]))
            tasks = read_tasks(self.studio, rows, base)
        series = Series(tasks, [f"seed{task.request.seed}" for task in tasks])
        return self.state(words.waiting(), running=True) | {
            self.run: Run(series),
            self.file: None,
        }

    def _text(self, file: str | None) -> str:
        """Contents of the upload, which is deleted."""
        if file is None:
            raise InvalidRequest("there is no CSV file; choose or drop one first")
        path = Path(file)
        try:
            return path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise InvalidRequest("the CSV file is not UTF-8 text") from None
        finally:
            self.folder.forget([path])

    def stream(self, run: Run[Series]) -> Iterator[Updates]:
        """Progress, and a row of the table for every clip; closing this iterator stops it."""
        if run.cancelled:
            yield self.nothing()
            return
        series = run.request
        try:
            with closing(self.studio.series(series.tasks)) as events:
                for event in paced(takewhile(run.goes_on, events)):
                    if isinstance(event, Progress):
                        yield {self.status: words.progress(event, 0, 1)}
                    else:
                        series.keep(self.studio, self.folder, event)
                        yield {self.table: table_html(series), self.archive: ""}
            end = words.stopped() if run.cancelled else words.done(len(series.finished))
        except Exception as error:
            end = words.failed(spoken(error))
        if run.dropped:
            yield self.nothing()
        else:
            archive = series.archive(self.folder, "batch")
            yield self.state(end, running=False) | {self.archive: archive}

    def stop(self, run: Run[Series]) -> Updates:
        return self.stop_run(run, words.stopped())


HEADS = ("Prompt", "Seed", "Stage", "Reward", "Fits the words", "Loudness", "Listen")


def table_html(series: Series) -> str:
    """A row per clip that is there; failures keep their place with the reason."""
    heads = "".join(f'<th scope="col">{head}</th>' for head in HEADS)
    rows = "".join(_row(series, one) for one in series.made)
    return (
        '<div class="wide" tabindex="0" role="region" aria-label="Clips of the batch">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(series: Series, made: Made) -> str:
    request = made.task.request
    prompt = f'<th scope="row">{escape(request.prompt)}</th><td>{request.seed}</td>'
    if made.generation is None:
        reason = escape(sentence(made.error))
        return f'<tr class="bad">{prompt}<td colspan="{len(HEADS) - 2}">{reason}</td></tr>'
    scores = made.generation.scores
    cells = [escape(request.stage)]
    cells += ["–" if one is None else number(one, 2) for one in (scores.reward, scores.clap_score)]
    cells.append("silent" if scores.lufs is None else f"{number(scores.lufs, 1)} LUFS")
    sound = file_address(series.stored[made.number].files["mp3"])
    cells.append(
        f'<audio controls preload="none" src="{sound}" aria-label="{escape(request.prompt)}">'
        "</audio>"
    )
    return f"<tr>{prompt}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
