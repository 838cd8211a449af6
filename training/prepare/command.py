"""`python -m training prepare`: an edge that reads arguments and says where the results are.

What could not be used is written to a file of faults, and the exit code is then 1, although the
rest was used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from training.ranker_commands import EXIT_SOME_FAILED, exit_for, start_logging


def register(app: typer.Typer) -> None:
    """Add the command to `python -m training`."""
    app.command()(prepare)


def prepare(
    audio: Annotated[Path, typer.Argument(help="Folder of tracks.")],
    out: Annotated[Path, typer.Option(help="Folder of the data set; goes on where it stopped.")],
    captions: Annotated[
        Path | None, typer.Option(help="CSV, JSON or Parquet; default: the recipe's, in AUDIO.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="`folder`, `mtg_jamendo` or path of a YAML file.")
    ] = "folder",
    preset: Annotated[str, typer.Option(help="Whose encoders are used.")] = "demo",
    engine: Annotated[
        str, typer.Option(help="here, dask, slurm, kubernetes or tcp://host:port of a scheduler.")
    ] = "here",
    workers: Annotated[int, typer.Option(min=1, help="Processes of a Dask cluster.")] = 2,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each process.")] = 2,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what it will take; write nothing.")
    ] = False,
) -> None:
    """Tracks and captions to what training reads: latents, text, features, rewards.

    Tracks are decoded once and cut into clips of ten seconds; voices are taken out where the preset
    has a separator.
    """
    from training.prepare import plan as planning
    from training.prepare.catalogue import Catalogue, read_tracks
    from training.prepare.recipe import load_prepare_recipe
    from training.prepare.run import prepare as run
    from training.prepare.work import Order
    from ttmpref.config import load_preset

    start_logging()
    numbers = load_prepare_recipe(recipe)
    places = audio.resolve(), out.resolve()  # workers may start elsewhere
    order = Order(load_preset(preset), numbers, *places, device, threads)
    tracks, faults = read_tracks(audio, captions or audio / numbers.captions, numbers)
    found = Catalogue(tuple(tracks))
    if plan:
        typer.echo(planning.plan(order, found))
        for fault in faults:
            typer.echo(fault, err=True)
        raise typer.Exit(EXIT_SOME_FAILED if faults else 0)
    report = run(order, found, faults, engine, workers)
    typer.echo(
        f"{out}: {report.clips} clips of {report.tracks} tracks, {report.captions} captions, "
        f"{(report.clip_bytes + report.text_bytes) / 1e6:.1f} MB "
        f"({report.bytes_per_clip / 1e3:.1f} kB per clip)\n"
        f"this run: {report.clips_made} clips in {report.seconds:.1f} s "
        f"({report.clips_per_second:.2f} clips/s)"
    )
    exit_for(len(report.faults), out / "faults.txt")
