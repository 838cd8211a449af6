"""Start button, cancel button and state of a tab whose runs wait for the model.

A run is two events: `begin` checks the form at once, without queueing; `stream` waits its turn and
shows what comes. Cancel marks the run, and the stream ends at its next step. Which inputs and
outputs a tab has is its own matter; how they are connected is here, once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ttmpref.types import Progress, TtmprefError
from ttmpref.ui import words
from ttmpref.ui.errors import field_at_fault, spoken
from ttmpref.ui.run import Run

UPDATE_SECONDS = 0.1

Updates = dict[Any, Any]


@dataclass(frozen=True, eq=False)
class Controls:
    """The parts every run needs; a tab's page adds its own.

    Attributes:
        run: the visitor's run, or None.
        status: what the run is doing, in words and as a bar.
    """

    run: gr.State
    start: gr.Button
    cancel: gr.Button
    status: gr.HTML

    def state(self, status: str, *, running: bool) -> Updates:
        """What the status says, and which of the buttons can be pressed."""
        return {
            self.status: status,
            self.start: gr.update(interactive=not running),
            self.cancel: gr.update(interactive=running),
        }

    def nothing(self) -> Updates:
        """No change; an empty answer would be refused."""
        return {self.status: gr.skip()}

    def stop_run(self, run: Run[Any], stopped: str) -> Updates:
        """Cancel; a run that moves says itself when it has stopped."""
        return self.nothing() if run.cancel() else self.state(stopped, running=False)

    def turned_away(self, run: Run[Any]) -> Updates:
        """The line is too long; `run` never stood in it."""
        return self.state(words.failed(words.TURNED_AWAY), running=False)


def build_controls(
    label: str, start_id: str, prefix: str = "", boxed: bool = True, usable: bool = True
) -> Controls:
    """Lay out both buttons and the state below them.

    Args:
        label: of the start button, whose `elem_id` is `start_id`.
        prefix: of the other parts' `elem_id`s.
        boxed: Enter in a box starts a run as well.
        usable: the start button can be pressed.
    """
    with gr.Row(elem_id=f"{prefix}go", elem_classes="go"):
        start = gr.Button(
            label, variant="primary", size="lg", elem_id=start_id, interactive=usable
        )
        cancel = gr.Button("Cancel", size="lg", elem_id=f"{prefix}cancel", interactive=False)
    status = gr.HTML(
        words.idle(label, boxed), elem_id=f"{prefix}status", elem_classes="status", js_on_load=None
    )
    return Controls(gr.State(), start, cancel, status)


def connect_run(
    page: Any,
    inputs: Sequence[Any],
    begun: Sequence[Any],
    shown: Sequence[Any],
    check: Callable[..., list[dict[str, Any]]] | None = None,
    prompt: gr.Textbox | None = None,
) -> None:
    """Connect the buttons of a page with its `begin`, `stream`, `stop` and `turned_away`.

    Args:
        page: a `Controls` with these handlers.
        inputs: the form, given to `begin`.
        begun, shown: what `begin` and `stream` change beside the run and its state.
        check: marks of the form's fields; see `marks`.
        prompt: a box in which Enter does what the start button does.
    """
    state = [page.status, page.start, page.cancel]
    begin = page.start.click(
        page.begin,
        inputs=inputs,
        outputs=[page.run, *begun, *state],
        validator=check,
        concurrency_limit=None,
        show_progress="hidden",
        api_visibility="private",
    )
    streaming = begin.success(
        page.stream,
        inputs=page.run,
        outputs=[*shown, *state],
        concurrency_limit=1,
        concurrency_id="model",
        trigger_mode="multiple",  # a run cancelled while waiting leaves the line only at its turn
        show_progress="minimal",
        show_progress_on=page.status,
        api_visibility="private",
    )
    streaming.failure(
        page.turned_away, inputs=page.run, outputs=state, queue=False, api_visibility="private"
    )
    stopping = words.stopping_script(page.status.elem_id)
    page.cancel.click(None, js=stopping, api_visibility="private")
    page.cancel.click(
        page.stop, inputs=page.run, outputs=state, queue=False, show_progress="hidden",
        api_visibility="private",
    )  # fmt: skip
    if prompt is not None:
        press = f"() => document.querySelector('#{page.start.elem_id}:not([disabled])')?.click()"
        prompt.submit(None, js=press, api_visibility="private")


def marks(read: Callable[[], Any], fields: tuple[str, ...]) -> list[dict[str, Any]]:
    """One mark per field, so that the page shows what is wrong where it is wrong.

    Args:
        read: raises what is wrong with the filled form.
        fields: names of the form's fields in order, "prompt" among them.
    """
    try:
        read()
    except TtmprefError as error:
        at_fault = field_at_fault(error, fields) or "prompt"
        return [gr.validate(name != at_fault, spoken(error)) for name in fields]
    return [gr.validate(True, "") for _ in fields]


def paced(events: Iterator[Any]) -> Iterator[Any]:
    """All results, and no more progress than a page can show: each update costs a message."""
    next_update = 0.0
    for event in events:
        now = time.monotonic()
        if not isinstance(event, Progress) or now >= next_update:
            next_update = now + UPDATE_SECONDS
            yield event
