"""Commands about what is installed: `presets`, `doctor`, the probes, and `app`, the web app."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ttmpref.cli.options import DeviceOption, JsonOption, PresetOption, number_option, whole
from ttmpref.cli.output import print_table
from ttmpref.types import InvalidRequest, ProbeKind, ProbeReading, ProbeResponse

if TYPE_CHECKING:
    from ttmpref.reward.entries import ScoreEntry

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


ByOption = Annotated[
    Literal["loss", "reward"],
    typer.Option(
        help="loss: that of known clips. reward: how that of new clips rises with the score."
    ),
]


@commands.command(name="probe-score-head")
def probe_score_head(
    clips: ClipsArgument,
    preset: PresetOption = "paper",
    stage: StageOption = None,
    prompt: TextOption = "",
    by: ByOption = "loss",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Which reading of a checkpoint's score embedding is right, by known clips or by the reward.

    The file's five score tensors are told by shape; whether the waves have a factor 2 pi and
    whether cosines come first is for this to find out. By loss: the flow-matching loss of the
    clips, whose scores are their rewards. By reward: each reading makes clips of the texts at
    scores from 0 to 6, and the rewards of the right one rise.
    """
    if by == "loss":
        return _probe("score_head", clips, preset, stage, prompt, device, as_json)
    from ttmpref.studio import Studio

    texts = list(dict.fromkeys(entry.prompt for entry in _told(clips, prompt)))
    studio = Studio.open(preset, device)
    responses, matched = studio.probe_response(stage or studio.settings.stage, texts)
    rows = [("correlation of reward and score", "rise", "reading")]
    for one in responses:
        correlation = f"{one.correlation:.3f} ± {one.error:.3f}"
        rows.append((correlation, f"{one.rise:+.3f}", one.name))
    _print_probe(responses, matched, rows, as_json)


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
    from ttmpref.studio import Studio

    entries = _told(clips, prompt)
    studio = Studio.open(preset, device)
    readings, matched = studio.probe(
        kind,
        stage or studio.settings.stage,
        [read_clip(entry.path) for entry in entries],
        [entry.prompt for entry in entries],
    )
    rows = [("loss", "above the best", "reading")]
    for reading in readings:
        above = f"{reading.above:.4f} ± {reading.error:.4f}"
        rows.append((f"{reading.loss:.4f}", above, reading.name))
    _print_probe(readings, matched, rows, as_json)


def _told(clips: list[Path], prompt: str) -> list[ScoreEntry]:
    """Entries that all have a text; raises `InvalidRequest` for the first that has none."""
    from ttmpref.reward.entries import entries_of

    entries = entries_of(clips, prompt)
    for entry in entries:
        if entry.fault or not entry.prompt.strip():
            raise InvalidRequest(f"{entry.id}: {entry.fault or 'a probe needs the text of a clip'}")
    return entries


def _print_probe(
    found: Sequence[ProbeReading | ProbeResponse], matched: Mapping[str, str],
    rows: list[tuple[str, ...]], as_json: bool,
) -> None:  # fmt: skip
    """What a probe found, and how it told the score tensors."""
    if as_json:
        readings = [dataclasses.asdict(one) for one in found]
        print(json.dumps({"readings": readings, "matched": dict(matched)}, indent=2))
        return
    for ours, theirs in matched.items():
        print(f"{theirs} is read as {ours}, by its shape")
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
