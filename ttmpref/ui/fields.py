"""Form fields that more than one tab asks for: prompt, seed, score, guidance, steps.

Every function lays its fields out where it is called. The prefix keeps the `elem_id`s of the tabs
apart; looks follow the classes.
"""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from ttmpref.studio import Studio
from ttmpref.types import GUIDANCE_RANGE, SCORE_RANGE, STEPS_RANGE
from ttmpref.ui import words


def prompt_box(studio: Studio, prefix: str = "") -> gr.Textbox:
    """The box for the prompt, with the preset's examples below it."""
    prompt = gr.Textbox(
        label="Describe the music",
        placeholder="Style, mood, instruments, tempo …",
        lines=1,  # with one line Enter submits; the style sheet makes the box taller
        max_lines=8,
        elem_id=f"{prefix}prompt",
        elem_classes="prompt",
    )
    with gr.Row(elem_id=f"{prefix}examples", elem_classes="examples"):
        for text in studio.settings.examples:
            chip = gr.Button(text, size="sm", elem_classes="chip")
            chip.click(
                None, outputs=prompt, js=f"() => {json.dumps(text)}", api_visibility="private"
            )
    return prompt


def seed_fields(prefix: str = "") -> dict[str, Any]:
    """The seed and whether it is locked."""
    with gr.Row(elem_id=f"{prefix}seed-row", elem_classes="seed-row"):
        seed = gr.Textbox(
            label="Seed", info=words.SEED, placeholder="drawn at random", max_lines=1,
            elem_id=f"{prefix}seed", min_width=120,
        )  # fmt: skip
        lock = gr.Checkbox(
            label=words.LOCK, elem_id=f"{prefix}lock", elem_classes="lock", min_width=60
        )
    return {"seed": seed, "lock": lock}


def score_slider(studio: Studio, takes_score: bool, prefix: str = "") -> gr.Slider:
    return gr.Slider(
        *SCORE_RANGE, value=studio.settings.score, step=0.1, label="Score s",
        elem_id=f"{prefix}score", **score_state(takes_score),
    )  # fmt: skip


def score_state(takes_score: bool) -> dict[str, Any]:
    """The slider is closed, and says why, where nothing would listen to it."""
    return {"interactive": takes_score, "info": words.SCORE if takes_score else words.NO_SCORE}


def guidance_slider(studio: Studio, prefix: str = "") -> gr.Slider:
    return gr.Slider(
        *GUIDANCE_RANGE, value=studio.settings.guidance, step=0.1, label="Guidance w",
        info=words.GUIDANCE, elem_id=f"{prefix}guidance",
    )  # fmt: skip


def steps_slider(studio: Studio, prefix: str = "") -> gr.Slider:
    return gr.Slider(
        *STEPS_RANGE, value=studio.settings.num_steps, step=1, label="Steps", info=words.STEPS,
        elem_id=f"{prefix}steps",
    )  # fmt: skip
