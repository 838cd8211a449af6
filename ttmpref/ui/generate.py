"""The Generate tab: describe music, set what matters, watch it being made, listen, keep it.

Three blocks: what is asked (prompt, buttons, state of the run), the clips, the settings. How a run
begins, streams and stops is in `ttmpref.ui.controls`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from ttmpref.series import Made
from ttmpref.studio import Studio
from ttmpref.types import (
    GUIDANCE_SCHEDULES,
    LUFS_RANGE,
    MAX_VARIATIONS,
    PASSES_RANGE,
    SOLVERS,
    Generation,
    GenerationRequest,
    Progress,
    StageInfo,
    TtmprefError,
)
from ttmpref.ui import words
from ttmpref.ui.batch import build_batch
from ttmpref.ui.clips import ClipFolder
from ttmpref.ui.controls import Controls, Updates, build_controls, connect_run, marks, paced
from ttmpref.ui.desk import DESK_HTML, DESK_JS
from ttmpref.ui.errors import sentence, spoken, translated
from ttmpref.ui.fields import (
    guidance_slider,
    prompt_box,
    score_slider,
    score_state,
    seed_fields,
    steps_slider,
)
from ttmpref.ui.form import (
    DEFAULT_CANDIDATES,
    FIELDS,
    MOST_CANDIDATES,
    SWEPT,
    BestOf,
    Climb,
    Order,
    Sweep,
    field_values,
    parse_link,
    parse_settings,
    read_order,
)
from ttmpref.ui.player import clip_card, number
from ttmpref.ui.plots import climb_plot, expectation_plot, sweep_plot
from ttmpref.ui.run import Run

if TYPE_CHECKING:
    from ttmpref.reward.best_of_n import Choice

CLIP_LIST_JS = (Path(__file__).parent / "static" / "clip_list.js").read_text(encoding="utf-8")
CLIP_LIST_HTML = (
    '<div class="clips" aria-label="Finished clips"></div>'
    '<details class="history" hidden><summary>History of this visit</summary><ol></ol></details>'
    f"{words.EMPTY_STATE}"
)
SWEEP_HELP = "A clip for each whole score from one seed, with the reward drawn as they come."
OPTIMISE = "Moves the noise of one clip uphill on the reward; takes as long as many clips."
UPDATES = 6  # of the noise
PASSES = "How often voices are taken out of the finished clip; 0 leaves them in."
NO_SEPARATOR = "This preset has nothing that takes voices out of clips."
LOUDNESS = "Off leaves a clip as loud as it was made. Peaks are held below clipping either way."
TARGET = "Nearer to 0 is louder."
CURVE = "Reward of the clips over the score that they were asked for:"
CLIMB = "Reward of the clip after each update of its noise:"
NO_CURVE = "Clips cannot be scored here, so there is no reward to draw over the score."


def build_generate_tab(studio: Studio, folder: ClipFolder) -> None:
    """Lay out the tab inside the current `gr.Tab` and connect it."""
    with gr.Row(elem_id="workbench"):
        with gr.Column(elem_id="ask"):
            fields = {"prompt": prompt_box(studio)}
            controls = build_controls("Generate", "generate")
            choice = gr.HTML("", elem_id="choice", js_on_load=None)
        with gr.Column(elem_id="results"):
            gr.HTML({}, html_template=DESK_HTML, js_on_load=DESK_JS, elem_id="pair")
            clips = gr.HTML(
                [], html_template=CLIP_LIST_HTML, js_on_load=CLIP_LIST_JS, elem_id="clip-list"
            )
        with gr.Column(elem_id="settings", elem_classes="settings"):
            fields |= _settings(studio)
            paste, apply = _paste_box()
    page = Page(**vars(controls), studio=studio, folder=folder, fields=fields, clips=clips,
                choice=choice)  # fmt: skip
    shown = [page.clips, page.choice]
    connect_run(page, page.inputs, [fields["seed"]], shown, page.check, fields["prompt"])
    build_batch(studio, folder, page.inputs)
    _connect_settings(page, paste, apply)


# ------------------------------------------------------------------------------ layout


def _settings(studio: Studio) -> dict[str, Any]:
    defaults = studio.settings
    stages = {stage.name: stage for stage in studio.stages()}
    fields: dict[str, Any] = {}
    fields |= seed_fields()
    fields["variations"] = gr.Slider(
        1, MAX_VARIATIONS, value=1, step=1, label="Variations", info=words.VARIATIONS
    )
    fields |= _best_of(studio)
    choices = [(stage.title, stage.name) for stage in stages.values() if stage.available]
    default = stages[defaults.stage]
    fields["stage"] = gr.Dropdown(
        choices, value=default.name if default.available else None, label="Stage",
        info=words.stage_info(default), filterable=False, elem_id="stage",
    )  # fmt: skip
    if not all(stage.available for stage in stages.values()):
        gr.HTML(words.unavailable_stages(tuple(stages.values())), js_on_load=None)
    fields["score"] = score_slider(studio, default.takes_score)
    fields["sweep"] = gr.Checkbox(
        label=f"Sweep the score from {SWEPT[0]:g} to {SWEPT[-1]:g}", elem_id="sweep",
        info=SWEEP_HELP, interactive=default.takes_score,
    )  # fmt: skip
    fields["optimise"] = _needs_rewards(studio, "Optimise for the reward", OPTIMISE, "optimise")
    fields["guidance"] = guidance_slider(studio)
    with gr.Accordion("More settings", open=False, elem_id="advanced"):
        fields |= _advanced(studio)
    return fields


def _best_of(studio: Studio) -> dict[str, Any]:
    """The switch for the best of several clips, and of how many."""
    return {
        "best_of": _needs_rewards(studio, words.BEST_OF, words.BEST_OF_HELP, "best-of"),
        "candidates": gr.Slider(
            2, MOST_CANDIDATES, value=DEFAULT_CANDIDATES, step=1, label="Candidates",
            info=words.CANDIDATES, visible=False, elem_id="candidates",
        ),
    }  # fmt: skip


def _needs_rewards(studio: Studio, label: str, info: str, elem_id: str) -> gr.Checkbox:
    """A switch that is closed, and says why, where clips cannot be scored."""
    missing = studio.scoring_missing()
    if missing is not None:
        info = f"{words.NO_SCORING}: {sentence(missing)}"
    return gr.Checkbox(label=label, info=info, interactive=missing is None, elem_id=elem_id)


def _advanced(studio: Studio) -> dict[str, Any]:
    defaults = studio.settings
    return {
        "num_steps": steps_slider(studio),
        "negative_prompt": gr.Textbox(
            label="Negative prompt", info=words.NEGATIVE, value=defaults.negative_prompt,
            placeholder="empty", max_lines=4, elem_id="negative",
        ),
        "solver": gr.Radio(
            [(words.SOLVER_NAMES[name], name) for name in SOLVERS], value=SOLVERS[0],
            label="Solver", info=words.SOLVER,
        ),
        "guidance_schedule": gr.Radio(
            [(words.SCHEDULE_NAMES[name], name) for name in GUIDANCE_SCHEDULES],
            value=GUIDANCE_SCHEDULES[0], label="Guidance over time", info=words.SCHEDULE,
        ),
        **_finishing(studio),
    }  # fmt: skip


def _finishing(studio: Studio) -> dict[str, Any]:
    """What is done to a clip after it was made; passes are closed where nothing separates."""
    separator = studio.preset.separator
    return {
        "separation_passes": gr.Slider(
            *PASSES_RANGE, value=0 if separator is None else separator.passes, step=1,
            label="Separation passes", info=NO_SEPARATOR if separator is None else PASSES,
            interactive=separator is not None, elem_id="passes",
        ),
        "normalise_loudness": gr.Checkbox(
            value=True, label="Bring clips to one loudness", info=LOUDNESS, elem_id="level",
        ),
        "target_lufs": gr.Slider(
            *LUFS_RANGE, value=studio.preset.output.target_lufs, step=0.5,
            label="Loudness target (LUFS)", info=TARGET, elem_id="target",
        ),
    }  # fmt: skip


def _paste_box() -> tuple[gr.Textbox, gr.Button]:
    with gr.Accordion("Paste settings", open=False, elem_id="paste"):
        box = gr.Textbox(
            label="Settings as JSON", info=words.PASTE, lines=4, max_lines=10, elem_id="paste-box"
        )
        return box, gr.Button("Apply", size="sm", elem_id="apply")


# ------------------------------------------------------------------------------ connections


def _connect_settings(page: Page, paste: gr.Textbox, apply: gr.Button) -> None:
    quiet = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}
    stage, score = page.fields["stage"], page.fields["score"]
    seed, lock = page.fields["seed"], page.fields["lock"]
    best_of = page.fields["best_of"]
    switched = [page.fields[name] for name in ("candidates", "variations")]
    sweep = page.fields["sweep"]
    level, target = page.fields["normalise_loudness"], page.fields["target_lufs"]
    level.change(lambda on: gr.update(interactive=on), inputs=level, outputs=target, **quiet)
    stage.change(page.show_stage, inputs=stage, outputs=[stage, score, sweep], **quiet)
    gr.on(None, page.use_link, outputs=page.inputs, **quiet)  # when the page is opened
    best_of.change(page.show_candidates, inputs=best_of, outputs=switched, **quiet)
    page.clips.click(page.use_seed, outputs=[seed, lock], **quiet)
    page.clips.select(page.use_all, outputs=page.inputs, **quiet)
    apply.click(page.use_text, inputs=paste, outputs=page.inputs, **quiet)


@dataclass(frozen=True, eq=False)
class Page(Controls):
    """The parts of the tab, and the handlers of its events."""

    studio: Studio
    folder: ClipFolder
    fields: dict[str, Any]
    clips: gr.HTML
    choice: gr.HTML

    @property
    def inputs(self) -> list[Any]:
        return [self.fields[name] for name in FIELDS]

    def check(self, *values: Any) -> list[dict[str, Any]]:
        """Marks of the fields; see `ttmpref.ui.controls.marks`."""
        return marks(lambda: read_order(self.studio, values), FIELDS)

    def begin(self, *values: Any) -> Updates:
        """Fix the request, show its seed, and say that the run waits its turn."""
        with translated():
            order = read_order(self.studio, values)
        request = order if isinstance(order, GenerationRequest) else order.request
        return self.state(words.waiting(), running=True) | {
            self.run: Run(order),
            self.fields["seed"]: str(request.seed),
        }

    def stream(self, run: Run[Order]) -> Iterator[Updates]:
        """Progress and cards as they come; closing this iterator stops the sampler."""
        if run.cancelled:
            yield self.nothing()
            return
        order = run.request
        cards: list[dict[str, str]] = []
        rewards: dict[float, float] = {}
        try:
            with closing(self._events(order)) as events:
                for event in paced(takewhile(run.goes_on, events)):
                    if isinstance(event, Progress):
                        yield {self.status: words.progress(event, len(cards), _variations(order))}
                    elif isinstance(event, Generation):
                        cards.append(self._card(event))
                        yield {self.clips: list(cards), self.choice: ""}
                    elif isinstance(event, Made):
                        cards.append(self._swept(event, rewards))
                        yield {self.clips: list(cards), self.choice: swept(rewards)}
                    elif isinstance(event, Climbed):
                        cards = self._climbed(event)
                        yield {self.clips: cards, self.choice: event.plot}
                    elif isinstance(event, str):
                        yield {self.choice: event}
                    else:
                        cards = self._ranked(event)
                        yield {self.clips: cards, self.choice: worth(event)}
            end = _stopped(order) if run.cancelled else words.done(len(cards))
        except Exception as error:
            end = words.failed(spoken(error))
        yield self.nothing() if run.dropped else self.state(end, running=False)

    def _events(
        self, order: Order
    ) -> Iterator[Progress | Generation | Made | Choice | str | Climbed]:
        if isinstance(order, Climb):
            return climb(self.studio, order.request)
        if isinstance(order, BestOf):
            return self.studio.choose(order.request, order.n)
        if isinstance(order, Sweep):
            return self.studio.series(order.tasks)
        return self.studio.stream(order)

    def stop(self, run: Run[Order]) -> Updates:
        return self.stop_run(run, _stopped(run.request))

    def show_stage(self, name: str) -> Updates:
        """Help and score slider of the chosen stage."""
        info = self._stage(name)
        return {
            self.fields["stage"]: gr.update(info=words.stage_info(info)),
            self.fields["score"]: gr.update(**score_state(info.takes_score)),
            self.fields["sweep"]: gr.update(
                interactive=info.takes_score, **({} if info.takes_score else {"value": False})
            ),
        }

    def show_candidates(self, best_of: bool) -> Updates:
        """The number of candidates takes the place of the variations."""
        return {
            self.fields["candidates"]: gr.update(visible=best_of),
            self.fields["variations"]: gr.update(interactive=not best_of),
        }

    def use_seed(self, event: gr.EventData) -> Updates:
        settings = json.loads(event.settings)
        return {self.fields["seed"]: str(settings["seed"]), self.fields["lock"]: True}

    def use_all(self, event: gr.EventData) -> list[Any]:
        with translated():
            return field_values(parse_settings(self.studio, event.settings), event.optimise)

    def use_text(self, text: str) -> list[Any]:
        """Values of the whole form for pasted settings."""
        with translated():
            return field_values(parse_settings(self.studio, text))

    def use_link(self, request: gr.Request) -> list[Any]:
        """Values of the whole form for a shared address; none for a plain one."""
        with translated():
            shared = parse_link(self.studio, dict(request.query_params))
        return [gr.skip()] * len(FIELDS) if shared is None else field_values(shared)

    def _stage(self, name: str) -> StageInfo:
        return next(stage for stage in self.studio.stages() if stage.name == name)

    def _ranked(self, choice: Choice) -> list[dict[str, str]]:
        """Cards of all candidates, the winner first and marked."""
        best, *others = choice.kept
        marked = self._card(best, f"Best of {len(choice.kept)}")
        return [marked, *(self._card(generation) for generation in others)]

    def _climbed(self, climbed: Climbed) -> list[dict[str, str]]:
        """The clip as it became, and as it was where that is another."""
        if climbed.best_iteration == 0:
            return [self._card(climbed.start)]
        return [self._card(climbed.best, "Optimised"), self._card(climbed.start, "Before")]

    def _swept(self, made: Made, rewards: dict[float, float]) -> dict[str, str]:
        """The card of one clip of a sweep; its reward joins the others.

        Raises:
            TtmprefError: it could not be made.
        """
        if made.generation is None:
            raise TtmprefError(made.error)
        score = made.task.request.score
        if made.reward is not None:
            rewards[score] = made.reward.reward
        return self._card(made.generation, f"s = {score:g}")

    def _card(self, generation: Generation, badge: str = "") -> dict[str, str]:
        stored = self.folder.keep(self.studio, generation)
        stage = self._stage(generation.request.stage)
        html = clip_card(generation, stored, stage, badge, self.studio.scoring_missing() is None)
        return {"id": stored.token, "html": html}


def _variations(order: Order) -> int:
    """Clips that come at the end of one run of the sampler; a series counts its own."""
    return order.variations if isinstance(order, GenerationRequest) else 1


def _stopped(order: Order) -> str:
    return words.stopped_choosing() if isinstance(order, BestOf) else words.stopped()


def swept(rewards: Mapping[float, float]) -> str:
    """The curve of a sweep so far, or why there is none."""
    if not rewards:
        return f'<div class="choice"><p>{NO_CURVE}</p></div>'
    return f'<div class="choice"><p>{CURVE}</p>{sweep_plot(rewards, SWEPT)}</div>'


@dataclass(frozen=True, eq=False)
class Climbed:
    """An optimised clip, and the plot of the way there."""

    start: Generation
    best: Generation
    best_iteration: int
    plot: str


def climb(studio: Studio, request: GenerationRequest) -> Iterator[Progress | str | Climbed]:
    """Progress, the plot of the rewards after each update, and at last the clips."""
    from ttmpref.reward.latent_optimisation import Iterate, OptimisationSettings

    rewards: dict[int, float] = {}
    settings = OptimisationSettings(iterations=UPDATES)
    with closing(studio.optimise_stream(request, settings)) as events:
        for event in events:
            if isinstance(event, Progress):
                yield event
            elif isinstance(event, Iterate):
                rewards[event.iteration] = event.reward
                plot = climb_plot(rewards, UPDATES)
                yield f'<div class="choice"><p>{CLIMB}</p>{plot}</div>'
            else:
                gain = number(rewards[event.best_iteration] - rewards[0], 2)
                text = f"Gained {gain} after {event.best_iteration} updates. {CLIMB}"
                shown = f'<div class="choice"><p>{text}</p>{plot}</div>'
                yield Climbed(event.start, event.best, event.best_iteration, shown)


def worth(choice: Choice) -> str:
    """What choosing was worth: the winner, and what the best of fewer clips would have had."""
    best, expected = choice.kept[0], choice.expected
    text = (
        f"Best of {len(expected)}: seed {best.request.seed} with reward "
        f"{number(best.scores.reward, 2)}; a clip at random would have "
        f"{number(expected[0], 2)}. Reward to be expected of the best of n:"
    )
    return f'<div class="choice"><p>{text}</p>{expectation_plot(expected)}</div>'
