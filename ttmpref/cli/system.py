"""Commands about what is installed: `presets`, `doctor`, and `app`, which opens the web app."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from ttmpref.cli.options import DeviceOption, PresetOption, number_option, whole
from ttmpref.cli.output import print_table

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
