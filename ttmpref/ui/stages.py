"""The Stages tab: one prompt and one seed through every available stage, side by side.

All clips start from the same noise and play on one transport at equal loudness, so that switching
between stages compares nothing but the stages. A visitor may listen blind first: clips then come in
random order under letters, and what they are is not in the page before it is asked for.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from html import escape
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import gradio as gr

from ttmpref.config import HEADS_WITH_SCORE
from ttmpref.series import Made, Task
from ttmpref.studio import Studio
from ttmpref.types import InvalidRequest, MissingWeights, Progress, StageInfo
from ttmpref.ui import stage_words, words
from ttmpref.ui.clips import ClipFolder
from ttmpref.ui.controls import Controls, Updates, build_controls, connect_run, marks, paced
from ttmpref.ui.desk import DESK_HTML, DESK_JS
from ttmpref.ui.errors import sentence, spoken, translated
from ttmpref.ui.evidence import build_evidence
from ttmpref.ui.fields import (
    guidance_slider,
    prompt_box,
    score_slider,
    seed_fields,
    steps_slider,
)
from ttmpref.ui.figures import climb_figure
from ttmpref.ui.form import read_seed
from ttmpref.ui.player import download_links, facts, file_address, pictures, setting_words
from ttmpref.ui.run import Run
from ttmpref.ui.series import Series

if TYPE_CHECKING:
    import plotly.graph_objects as go

PREFIX = "stages-"
FIELDS = ("prompt", "seed", "lock", "score", "guidance", "num_steps", "blind")
MOST_CLIPS = 12
LETTERS = "ABCDEFGHIJKL"


def build_stages_tab(studio: Studio, folder: ClipFolder) -> None:
    """Lay out the tab inside the current `gr.Tab` and connect it."""
    stages = studio.stages()
    available = [stage for stage in stages if stage.available]
    with gr.Row(elem_id="stages-bench"):
        with gr.Column(elem_id="stages-ask", elem_classes="settings"):
            fields: dict[str, Any] = {"prompt": prompt_box(studio, PREFIX)}
            controls = build_controls("Compare", "stages-start", PREFIX)
            gr.HTML(_which_stages(studio, stages), elem_id="stages-list", js_on_load=None)
        with gr.Column(elem_id="stages-results"):
            desk = gr.HTML(
                {}, html_template=DESK_HTML + stage_words.EMPTY_DESK, js_on_load=DESK_JS,
                elem_id="desk",
            )  # fmt: skip
            reveal = gr.Button("Which is which?", visible=False, elem_id="stages-reveal")
            climb = gr.Plot(label="The climb", visible=False, elem_id="stages-climb")
            archive = gr.HTML("", elem_id="stages-archive", js_on_load=None)
        with gr.Column(elem_id="stages-settings", elem_classes="settings"):
            fields |= _settings(studio, available)
            rows = _other_heads(available)
    build_evidence(studio.preset.name)
    page = Page(
        **vars(controls), studio=studio, folder=folder, fields=fields, rows=rows, desk=desk,
        reveal=reveal, climb=climb, archive=archive,
    )  # fmt: skip
    shown = [desk, reveal, climb, archive]
    connect_run(page, page.inputs, [fields["seed"]], shown, page.check, fields["prompt"])
    reveal.click(
        page.uncover, inputs=page.run, outputs=shown, concurrency_limit=None,
        show_progress="hidden", api_visibility="private",
    )  # fmt: skip


def _settings(studio: Studio, available: Sequence[StageInfo]) -> dict[str, Any]:
    takes_score = any(stage.takes_score for stage in available)
    return {
        **seed_fields(PREFIX),
        "score": score_slider(studio, takes_score, PREFIX),
        "guidance": guidance_slider(studio, PREFIX),
        "num_steps": steps_slider(studio, PREFIX),
        "blind": gr.Checkbox(
            label="Listen blind first", info=stage_words.BLIND, elem_id="stages-blind"
        ),
    }


def _which_stages(studio: Studio, stages: Sequence[StageInfo]) -> str:
    """What will be compared, and what is missing with the reason and the command."""
    available = [stage for stage in stages if stage.available]
    names = ", ".join(escape(stage.title) for stage in available) or "none"
    text = f'<p class="soft">Stages: {names}.</p>'
    if len(available) == 1:
        text += f'<p class="soft">{stage_words.ONLY_ONE}</p>'
    if len(available) < len(stages):
        text += words.unavailable_stages(tuple(stages))
        text += f'<p class="soft">{stage_words.how_to_make(studio.preset.name)}</p>'
    return text


def _other_heads(available: Sequence[StageInfo]) -> dict[str, gr.CheckboxGroup]:
    """By stage, the heads to run its weights under beside its own."""
    scored = [stage for stage in available if stage.takes_score]
    with gr.Accordion("Weights × forward (ablation)", open=False, elem_id="stages-heads"):
        text = stage_words.OTHER_HEADS if scored else stage_words.NO_OTHER_HEADS
        gr.HTML(f'<p class="soft">{text}</p>', js_on_load=None)
        return {
            stage.name: gr.CheckboxGroup(
                [
                    (stage_words.HEADS[head], head)
                    for head in HEADS_WITH_SCORE
                    if head != stage.head
                ],
                label=f"{stage.title}: weights under",
                info=f"Its own head is {stage_words.HEADS[stage.head]}.",
            )
            for stage in scored
        }


# ------------------------------------------------------------------------------ runs


@dataclass(eq=False)
class Comparison:
    """What a filled form asks for, and what came of it.

    Attributes:
        blind: clips were asked for under letters.
        covered: they still stand under them.
        token: tells this run's clips from another's on the page.
        cards: HTML of clips that are not covered, by number; drawn once.
    """

    series: Series
    blind: bool
    covered: bool
    token: str
    cards: dict[int, str] = field(default_factory=dict)


def read_comparison(
    studio: Studio, values: Sequence[Any], rows: Sequence[str]
) -> tuple[list[Task], bool]:
    """Tasks in the order of the preset, other heads after their stage's own, and the blind switch.

    Args:
        values: of `FIELDS`, then the other heads chosen for each stage in `rows`.

    Raises:
        InvalidRequest: a value is not accepted, or there are too many clips.
        MissingWeights: no stage can be used.
    """
    form = dict(zip(FIELDS, values[: len(FIELDS)], strict=True))
    heads = dict(zip(rows, values[len(FIELDS) :], strict=True))
    available = [stage for stage in studio.stages() if stage.available]
    if not available:
        raise MissingWeights("no stage of this preset can be used; see the reasons in the list")
    request = studio.request(
        form["prompt"], stage=available[0].name, score=form["score"], guidance=form["guidance"],
        num_steps=int(form["num_steps"]), seed=read_seed(form["seed"]) if form["lock"] else None,
    )  # fmt: skip
    again = request.to_dict()
    prompt = again.pop("prompt")
    tasks = []
    for stage in available:
        own = studio.request(prompt, **again | {"stage": stage.name})
        tasks += [Task(own), *(Task(own, head) for head in heads.get(stage.name) or ())]
    if len(tasks) > MOST_CLIPS:
        raise InvalidRequest(f"{len(tasks)} clips were asked for; at most {MOST_CLIPS} are made")
    return tasks, bool(form["blind"])


@dataclass(frozen=True, eq=False)
class Page(Controls):
    """The parts of the tab, and the handlers of its events."""

    studio: Studio
    folder: ClipFolder
    fields: dict[str, Any]
    rows: dict[str, gr.CheckboxGroup]
    desk: gr.HTML
    reveal: gr.Button
    climb: gr.Plot
    archive: gr.HTML

    @property
    def inputs(self) -> list[Any]:
        return [*(self.fields[name] for name in FIELDS), *self.rows.values()]

    def _read(self, values: Sequence[Any]) -> tuple[list[Task], bool]:
        return read_comparison(self.studio, values, tuple(self.rows))

    def check(self, *values: Any) -> list[dict[str, Any]]:
        """Marks of the fields; see `ttmpref.ui.controls.marks`."""
        return marks(lambda: self._read(values), (*FIELDS, *self.rows))

    def begin(self, *values: Any) -> Updates:
        """Fix seed and order, show the seed, and say that the run waits its turn."""
        with translated():
            tasks, blind = self._read(values)
        if blind:
            random.SystemRandom().shuffle(tasks)
        series = Series(tasks, [file_stem(task) for task in tasks])
        return self.state(words.waiting(), running=True) | {
            self.run: Run(Comparison(series, blind, blind, secrets.token_hex(4))),
            self.fields["seed"]: str(tasks[0].request.seed),
        }

    def stream(self, run: Run[Comparison]) -> Iterator[Updates]:
        """Progress and clips as they come; closing this iterator stops the sampler."""
        if run.cancelled:
            yield self.nothing()
            return
        comparison = run.request
        series = comparison.series
        yield self.shown(comparison, running=True)
        try:
            with closing(self.studio.series(series.tasks)) as events:
                for event in paced(takewhile(run.goes_on, events)):
                    if isinstance(event, Progress):
                        yield {self.status: words.progress(event, 0, 1)}
                    else:
                        series.keep(self.studio, self.folder, event)
                        yield self.shown(comparison, running=True)
            end = words.stopped() if run.cancelled else words.done(len(series.finished))
        except Exception as error:
            end = words.failed(spoken(error))
        if run.dropped:
            yield self.nothing()
        else:
            yield self.state(end, running=False) | self.shown(comparison, running=False)

    def stop(self, run: Run[Comparison]) -> Updates:
        return self.stop_run(run, words.stopped())

    def uncover(self, run: Run[Comparison]) -> Updates:
        """Say which clip is which; a run that goes on shows the rest with names."""
        run.request.covered = False
        waiting = len(run.request.series.made) < len(run.request.series.tasks)
        return self.shown(run.request, running=waiting and not run.cancelled)

    def shown(self, comparison: Comparison, *, running: bool) -> Updates:
        """Clips so far; measurements, figure and archive only of what is not covered."""
        series, covered = comparison.series, comparison.covered
        figure, archive = None, ""
        if not covered and series.finished:
            figure = self._figure(series)
            archive = "" if running else series.archive(self.folder, "stages")
        made = series.made if covered else self._in_order(series.made)
        return {
            self.desk: {
                "run": comparison.token,
                "clips": [self._entry(comparison, one) for one in made],
            },
            self.reveal: gr.update(visible=covered and bool(series.finished)),
            self.climb: gr.update(value=figure, visible=figure is not None),
            self.archive: archive,
        }

    def _in_order(self, made: Sequence[Made]) -> list[Made]:
        """Sorted as the preset lists the stages, each before its ablations."""
        places = {stage.name: place for place, stage in enumerate(self.studio.stages())}
        return sorted(
            made, key=lambda one: (places[one.task.request.stage], one.task.head is not None)
        )

    def _entry(self, comparison: Comparison, made: Made) -> dict[str, Any]:
        """One clip as `desk.js` wants it; what failed has no sound."""
        stored = comparison.series.stored.get(made.number)
        name = _covered_name(made) if comparison.covered else self.title(made.task)
        return {
            "id": LETTERS[made.number],
            "name": name,
            "source": None if stored is None else file_address(stored.files["wav"]),
            "lufs": None if made.generation is None else made.generation.scores.lufs,
            "html": self._card(comparison, made, name),
        }

    def _card(self, comparison: Comparison, made: Made, name: str) -> str:
        if made.generation is None:
            problem = words.failed(f"This clip could not be made. {sentence(made.error)}")
            return f"<h3>{escape(name)}</h3>{problem}"
        if comparison.covered:
            return f'{_switch(made, name)}<p class="soft">{stage_words.COVERED}</p>'
        if made.number not in comparison.cards:
            comparison.cards[made.number] = self._open_card(comparison, made, name)
        return comparison.cards[made.number]

    def _open_card(self, comparison: Comparison, made: Made, name: str) -> str:
        stage = self._stage(made.task.request.stage)
        marks = '<span class="badge">Ablation</span>' if made.task.head else ""
        if comparison.blind:
            marks += f'<span class="soft">was {_covered_name(made)}</span>'
        interval = None if made.reward is None else made.reward.interval
        settings = " · ".join(setting_words(made.task.request, stage))
        stored = comparison.series.stored[made.number]
        return (
            f'{_switch(made, name, marks)}<p class="soft">{escape(stage.notes)}</p>'
            f'<p class="soft">{escape(settings)}</p>'
            f"{pictures(made.generation.clip)}{facts(made.generation, interval)}"
            f'<footer class="clip-actions">{download_links(stored)}</footer>'
        )

    def title(self, task: Task) -> str:
        """The stage's title, and the head that its weights are under where that is another."""
        title = self._stage(task.request.stage).title
        return f"{title} under {stage_words.HEADS[task.head]}" if task.head else title

    def _stage(self, name: str) -> StageInfo:
        return next(stage for stage in self.studio.stages() if stage.name == name)

    def _figure(self, series: Series) -> go.Figure:
        made = self._in_order(series.finished)
        return climb_figure([self.title(one.task) for one in made], made)


def _covered_name(made: Made) -> str:
    return f"Clip {LETTERS[made.number]}"


def _switch(made: Made, name: str, marks: str = "") -> str:
    """The control that makes this clip the one that is heard."""
    return (
        f'<label class="hear"><input type="radio" name="heard" value="{LETTERS[made.number]}" '
        f"disabled><b>{escape(name)}</b>{marks}<kbd></kbd></label>"
    )


def file_stem(task: Task) -> str:
    """What a clip is called inside the archive."""
    stage = task.request.stage
    return f"{stage}-under-{task.head}" if task.head else stage
