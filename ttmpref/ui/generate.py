"""The Generate tab: describe music, set what matters, watch it being made, listen, keep it.

Three blocks: what is asked (prompt, buttons, state of the run), the clips, the settings. A run is
two events: `begin` checks the form at once, without queueing; `run` waits its turn and streams.
Cancel closes the stream, which stops the sampler at its next step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from ttmpref.studio import Studio
from ttmpref.types import (
    GUIDANCE_RANGE,
    GUIDANCE_SCHEDULES,
    MAX_SEED,
    MAX_VARIATIONS,
    SCORE_RANGE,
    SOLVERS,
    STEPS_RANGE,
    Generation,
    GenerationRequest,
    InvalidRequest,
    Progress,
    StageInfo,
    TtmprefError,
)
from ttmpref.ui import words
from ttmpref.ui.clips import ClipFolder
from ttmpref.ui.errors import field_at_fault, spoken, translated
from ttmpref.ui.player import clip_card

CLIP_LIST_JS = (Path(__file__).parent / "static" / "clip_list.js").read_text(encoding="utf-8")
CLIP_LIST_HTML = (
    '<div class="clips" role="list" aria-label="Finished clips"></div>' + words.EMPTY_STATE
)
# Names of the form's fields in the order in which handlers receive them; all but `lock` are
# fields of `GenerationRequest`.
FIELDS = (
    "prompt", "seed", "lock", "stage", "score", "guidance", "num_steps", "negative_prompt",
    "variations", "solver", "guidance_schedule",
)  # fmt: skip
UPDATE_SECONDS = 0.1

Updates = dict[Any, Any]


def build_generate_tab(studio: Studio, folder: ClipFolder) -> None:
    """Lay out the tab inside the current `gr.Tab` and connect it."""
    with gr.Row(elem_id="workbench"):
        with gr.Column(elem_id="ask"):
            fields = {"prompt": _prompt_box(studio)}
            with gr.Row(elem_id="go"):
                generate = gr.Button("Generate", variant="primary", size="lg", elem_id="generate")
                cancel = gr.Button("Cancel", size="lg", elem_id="cancel", interactive=False)
            status = gr.HTML(words.idle(), elem_id="status", js_on_load=None)
        clips = gr.HTML(
            [], html_template=CLIP_LIST_HTML, js_on_load=CLIP_LIST_JS, elem_id="results"
        )
        with gr.Column(elem_id="settings"):
            fields |= _settings(studio)
            paste, apply = _paste_box()
    page = Page(studio, folder, fields, generate, cancel, status, clips)
    _connect_run(page)
    _connect_settings(page, paste, apply)


@dataclass(frozen=True, eq=False)
class Page:
    """The parts of the tab that handlers read and write."""

    studio: Studio
    folder: ClipFolder
    fields: dict[str, Any]
    generate: gr.Button
    cancel: gr.Button
    status: gr.HTML
    clips: gr.HTML

    @property
    def inputs(self) -> list[Any]:
        return [self.fields[name] for name in FIELDS]

    def stage(self, name: str) -> StageInfo:
        return next(stage for stage in self.studio.stages() if stage.name == name)

    def buttons(self, running: bool) -> Updates:
        return {
            self.generate: gr.update(interactive=not running),
            self.cancel: gr.update(interactive=running),
        }


# ------------------------------------------------------------------------------ layout


def _prompt_box(studio: Studio) -> gr.Textbox:
    prompt = gr.Textbox(
        label="Describe the music",
        placeholder="Style, mood, instruments, tempo …",
        lines=1,  # with one line Enter submits; the style sheet makes the box taller
        max_lines=8,
        elem_id="prompt",
    )
    with gr.Row(elem_id="examples"):
        for text in studio.settings.examples:
            chip = gr.Button(text, size="sm", elem_classes="chip")
            chip.click(
                None, outputs=prompt, js=f"() => {json.dumps(text)}", api_visibility="private"
            )
    return prompt


def _settings(studio: Studio) -> dict[str, Any]:
    defaults = studio.settings
    stages = {stage.name: stage for stage in studio.stages()}
    fields: dict[str, Any] = {}
    with gr.Row(elem_id="seed-row"):
        fields["seed"] = gr.Textbox(
            label="Seed", info=words.SEED, value="", placeholder="drawn at random",
            max_lines=1, elem_id="seed", min_width=120,
        )  # fmt: skip
        fields["lock"] = gr.Checkbox(label=words.LOCK, elem_id="lock", min_width=60)
    fields["variations"] = gr.Slider(
        1, MAX_VARIATIONS, value=1, step=1, label="Variations", info=words.VARIATIONS
    )
    choices = [(stage.title, stage.name) for stage in stages.values() if stage.available]
    chosen = defaults.stage if stages[defaults.stage].available else None
    fields["stage"] = gr.Dropdown(
        choices, value=chosen, label="Stage", filterable=False, elem_id="stage",
        info=words.stage_info(stages[defaults.stage]),
    )  # fmt: skip
    gr.HTML(words.unavailable_stages(tuple(stages.values())), js_on_load=None)
    fields["score"] = gr.Slider(
        *SCORE_RANGE, value=defaults.score, step=0.1, label="Score s", elem_id="score",
        **_score_state(stages[defaults.stage]),
    )  # fmt: skip
    fields["guidance"] = gr.Slider(
        *GUIDANCE_RANGE, value=defaults.guidance, step=0.1, label="Guidance w",
        info=words.GUIDANCE, elem_id="guidance",
    )  # fmt: skip
    with gr.Accordion("More settings", open=False, elem_id="advanced"):
        fields |= _advanced(studio)
    return fields


def _advanced(studio: Studio) -> dict[str, Any]:
    defaults = studio.settings
    return {
        "num_steps": gr.Slider(
            *STEPS_RANGE, value=defaults.num_steps, step=1, label="Steps", info=words.STEPS,
            elem_id="steps",
        ),
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
    }  # fmt: skip


def _paste_box() -> tuple[gr.Textbox, gr.Button]:
    with gr.Accordion("Paste settings", open=False, elem_id="paste"):
        box = gr.Textbox(
            label="Settings as JSON", info=words.PASTE, lines=4, max_lines=10, elem_id="paste-box"
        )
        return box, gr.Button("Apply", size="sm", elem_id="apply")


def _score_state(stage: StageInfo) -> dict[str, Any]:
    return {
        "interactive": stage.takes_score,
        "info": words.SCORE if stage.takes_score else words.NO_SCORE,
    }


# ------------------------------------------------------------------------------ a run


def _connect_run(page: Page) -> None:
    request = gr.State(None)
    begin = gr.on(
        [page.generate.click, page.fields["prompt"].submit],
        lambda *values: _begin(page, request, values),
        inputs=page.inputs,
        outputs=[request, page.fields["seed"], page.status, page.generate, page.cancel],
        validator=lambda *values: _check(page, values),
        concurrency_limit=None,
        show_progress="hidden",
        api_visibility="private",
    )
    run = begin.success(
        lambda asked: (yield from _run(page, asked)),
        inputs=request,
        outputs=[page.clips, page.status, page.generate, page.cancel],
        concurrency_limit=1,
        concurrency_id="model",
        show_progress="minimal",
        show_progress_on=page.status,
        api_visibility="private",
    )
    # Two events, because a step that is already on its way would overwrite what the first says.
    page.cancel.click(None, cancels=[begin, run]).then(
        lambda: page.buttons(running=False) | {page.status: words.stopped()},
        outputs=[page.status, page.generate, page.cancel],
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )


def _check(page: Page, values: tuple[Any, ...]) -> list[dict[str, Any]]:
    """One mark per field, so that the page shows what is wrong where it is wrong."""
    try:
        read_request(page.studio, dict(zip(FIELDS, values, strict=True)))
    except TtmprefError as error:
        at_fault = field_at_fault(error, FIELDS) or "prompt"
        return [gr.validate(name != at_fault, spoken(error)) for name in FIELDS]
    return [gr.validate(True, "") for _ in FIELDS]


def _begin(page: Page, request: gr.State, values: tuple[Any, ...]) -> Updates:
    with translated():
        asked = read_request(page.studio, dict(zip(FIELDS, values, strict=True)))
    return page.buttons(running=True) | {
        request: asked,
        page.fields["seed"]: str(asked.seed),
        page.status: words.waiting(),
    }


def _run(page: Page, asked: GenerationRequest) -> Iterator[Updates]:
    cards: list[dict[str, str]] = []
    try:
        with closing(page.studio.stream(asked)) as events:
            for event in paced(events):
                match event:
                    case Progress():
                        yield {page.status: words.progress(event, len(cards), asked.variations)}
                    case Generation():
                        cards.append(_card(page, event))
                        yield {page.clips: list(cards)}
    except Exception as error:
        yield page.buttons(running=False) | {page.status: words.failed(spoken(error))}
    else:
        yield page.buttons(running=False) | {page.status: words.done(len(cards))}


def paced(events: Iterator[Progress | Generation]) -> Iterator[Progress | Generation]:
    """All generations, and no more progress than a page can show: each update costs a message."""
    next_update = 0.0
    for event in events:
        now = time.monotonic()
        if isinstance(event, Generation) or now >= next_update:
            next_update = now + UPDATE_SECONDS
            yield event


def _card(page: Page, generation: Generation) -> dict[str, str]:
    stored = page.folder.keep(page.studio, generation)
    html = clip_card(generation, stored, page.stage(generation.request.stage))
    return {"id": stored.token, "html": html}


def read_request(studio: Studio, form: dict[str, Any]) -> GenerationRequest:
    """The request a filled form stands for; raises `InvalidRequest` as the Studio does."""
    form = dict(form)
    locked = form.pop("lock")
    form["seed"] = read_seed(form["seed"]) if locked else None
    for name in ("num_steps", "variations"):  # sliders may send 25.0
        form[name] = int(form[name])
    return studio.request(form.pop("prompt"), **form)


def read_seed(text: str) -> int:
    """A typed seed. It is text because a number field rounds above 2**53."""
    digits = (text or "").strip()
    if not (digits.isascii() and digits.isdigit() and int(digits) <= MAX_SEED):
        raise InvalidRequest(
            f"seed is {digits!r}; a locked seed must be a whole number from 0 to {MAX_SEED}"
        )
    return int(digits)


# ------------------------------------------------------------------------------ settings


def _connect_settings(page: Page, paste: gr.Textbox, apply: gr.Button) -> None:
    quiet = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}
    stage, score = page.fields["stage"], page.fields["score"]

    def show_stage(name: str) -> Updates:
        info = page.stage(name)
        return {
            stage: gr.update(info=words.stage_info(info)),
            score: gr.update(**_score_state(info)),
        }

    stage.change(show_stage, inputs=stage, outputs=[stage, score], **quiet)

    def use_seed(event: gr.EventData) -> Updates:
        settings = json.loads(event.settings)
        return {page.fields["seed"]: str(settings["seed"]), page.fields["lock"]: True}

    def use_all(event: gr.EventData) -> list[Any]:
        return _restored(page, event.settings)

    page.clips.click(use_seed, outputs=[page.fields["seed"], page.fields["lock"]], **quiet)
    page.clips.select(use_all, outputs=page.inputs, **quiet)
    apply.click(lambda text: _restored(page, text), inputs=paste, outputs=page.inputs, **quiet)


def _restored(page: Page, text: str) -> list[Any]:
    """Values of the form, in the order of `FIELDS`, for pasted settings."""
    with translated():
        request = parse_settings(page.studio, text)
        values = request.to_dict() | {"seed": str(request.seed), "lock": True}
        return [values[name] for name in FIELDS]


def parse_settings(studio: Studio, text: str) -> GenerationRequest:
    """The request in copied settings or in a downloaded settings file."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError:
        raise InvalidRequest("this is not JSON; paste what “Copy settings” gave you") from None
    if isinstance(data, dict) and isinstance(data.get("request"), dict):
        data = data["request"]
    known = set(FIELDS) - {"lock"}
    if not isinstance(data, dict) or not {"prompt", "seed"} <= set(data) or set(data) - known:
        raise InvalidRequest("these are not settings of a clip; paste what “Copy settings” gave")
    return studio.request(data.pop("prompt"), **data)
