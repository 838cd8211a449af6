"""Commands about what is installed: `presets`, `doctor`, the probes, and `app`, the web app."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from ttmpref.cli.options import DeviceOption, JsonOption, PresetOption, number_option, whole
from ttmpref.cli.output import print_table
from ttmpref.types import InvalidRequest, ProbeKind

commands = typer.Typer()


@commands.command()
def presets(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """List presets, their stages, and what is missing."""
    from ttmpref.config import preset_names
    from ttmpref.studio import Studio

    studios = {name: Studio.open(name) for name in preset_names()}
    if as_json:
        listing = [
            {
                "name": name,
                "title": studio.preset.title,
                "description": studio.preset.description,
                "licence": studio.preset.licence,
                "stages": [
                    {**dataclasses.asdict(stage), "available": stage.available}
                    for stage in studio.stages()
                ],
            }
            for name, studio in studios.items()
        ]
        print(json.dumps(listing, indent=2, ensure_ascii=False))
        return
    for name, studio in studios.items():
        print(f"{name}: {studio.preset.description.strip()} (licence: {studio.preset.licence})")
        rows = [("stage", "title", "head", "state")]
        for stage in studio.stages():
            rows.append((stage.name, stage.title, stage.head, stage.missing or "ready"))
        print_table(rows)


@commands.command()
def doctor(
    preset: PresetOption = "demo",
    device: DeviceOption = "auto",
) -> None:
    """Check packages, device and weights; exit code 1 if something is broken."""
    from ttmpref.doctor import examine

    findings = examine(preset, device)
    marks = {True: "ok", False: "BROKEN"}
    print_table([(marks[finding.ok], finding.what, finding.detail) for finding in findings])
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


ClipsArgument = Annotated[
    list[Path], typer.Argument(help="Clips, folders or CSV manifests with `clip` and `prompt`.")
]
StageOption = Annotated[str | None, typer.Option(help="Stage; default: the preset's.")]
TextOption = Annotated[str, typer.Option(help="Text of clips whose manifest has none.")]


@commands.command(name="probe-score-head")
def probe_score_head(
    clips: ClipsArgument,
    preset: PresetOption = "paper",
    stage: StageOption = None,
    prompt: TextOption = "",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Which reading of a checkpoint's score embedding fits known clips best, by flow-matching loss.

    The file's five score tensors are told by shape; whether the waves have a factor 2 pi and
    whether cosines come first is for this to find out. The clips' scores are their rewards.
    """
    _probe("score_head", clips, preset, stage, prompt, device, as_json)


@commands.command(name="probe-flow")
def probe_flow(
    clips: ClipsArgument,
    preset: PresetOption = "paper",
    stage: StageOption = None,
    prompt: TextOption = "",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Which direction and sign of the flow a checkpoint was trained with, by flow-matching loss."""
    _probe("flow", clips, preset, stage, prompt, device, as_json)


def _probe(
    kind: ProbeKind, clips: list[Path], preset: str, stage: str | None, prompt: str, device: str,
    as_json: bool,
) -> None:  # fmt: skip
    from ttmpref.audio import read_clip
    from ttmpref.reward.entries import entries_of
    from ttmpref.studio import Studio

    entries = entries_of(clips, prompt)
    for entry in entries:
        if entry.fault or not entry.prompt.strip():
            raise InvalidRequest(f"{entry.id}: {entry.fault or 'a probe needs the text of a clip'}")
    studio = Studio.open(preset, device)
    readings, matched = studio.probe(
        kind,
        stage or studio.settings.stage,
        [read_clip(entry.path) for entry in entries],
        [entry.prompt for entry in entries],
    )
    if as_json:
        found = [dataclasses.asdict(reading) for reading in readings]
        print(json.dumps({"readings": found, "matched": dict(matched)}, indent=2))
        return
    for ours, theirs in matched.items():
        print(f"{theirs} is read as {ours}, by its shape")
    rows = [("loss", "above the best", "reading")]
    for reading in readings:
        above = f"{reading.above:.4f} ± {reading.error:.4f}"
        rows.append((f"{reading.loss:.4f}", above, reading.name))
    print_table(rows)


@commands.command(name="app")
def serve(
    preset: PresetOption = "demo",
    device: DeviceOption = "auto",
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, number_option(whole, "Port; default: the first free one.")] = None,
    share: Annotated[bool, typer.Option("--share", help="Public link through Gradio.")] = False,
) -> None:
    """Open the web app."""
    from ttmpref.studio import Studio

    studio = Studio.open(preset, device)
    from ttmpref.ui import build_app, launch

    launch(build_app(studio), studio, host, port, share)
