"""The command line: `python -m ttmpref generate | replay | presets | doctor | app`.

An edge: it reads arguments, calls the Studio, and prints. Errors meant for people end in one line
on standard error and exit code 2. Nothing heavy is imported before a command needs it, so `--help`
answers at once.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttmpref.types import GUIDANCE_SCHEDULES, SOLVERS, TtmprefError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ttmpref.studio import Studio
    from ttmpref.types import Generation, Progress

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="ttmpref",
    help="Music from a prompt, steered by a human-preference reward.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


def _option(parser: Callable[[str], float], text: str) -> Any:
    """An option for a number, whose error names what was given."""
    return typer.Option(parser=parser, metavar="NUMBER", help=text)


PresetOption = Annotated[str, typer.Option(help="Preset name, or the path of a .yaml file.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<number>.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress, only file names.")]


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="Description of the music.")],
    out: Annotated[Path, typer.Option(help="Audio file: .wav, .flac or .mp3.")] = Path("clip.wav"),
    seed: Annotated[int | None, _option(_whole, "Seed of the noise; default: random.")] = None,
    stage: Annotated[str | None, typer.Option(help="Stage of the preset.")] = None,
    score: Annotated[float | None, _option(_number, "Preference score to aim for.")] = None,
    guidance: Annotated[float | None, _option(_number, "Guidance scale; 1 is none.")] = None,
    steps: Annotated[int | None, _option(_whole, "Solver steps.")] = None,
    negative: Annotated[str | None, typer.Option(help="What to steer away from.")] = None,
    variations: Annotated[int, _option(_whole, "Clips from consecutive seeds.")] = 1,
    solver: Annotated[str, typer.Option(help=", ".join(SOLVERS))] = SOLVERS[0],
    schedule: Annotated[
        str, typer.Option(help=f"Guidance schedule: {', '.join(GUIDANCE_SCHEDULES)}")
    ] = GUIDANCE_SCHEDULES[0],
    preset: PresetOption = "demo",
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Make one clip, or several, and write each with a sidecar that can replay it."""
    from ttmpref.studio import Studio

    studio = Studio.open(preset, device)
    request = studio.request(
        prompt, seed=seed, stage=stage, score=score, guidance=guidance, num_steps=steps,
        negative_prompt=negative, variations=variations, solver=solver,
        guidance_schedule=schedule,
    )  # fmt: skip
    paths = output_paths(out, request.variations)
    _check_outputs(paths)
    with _progress_bar(quiet) as show:
        finished = studio.generate(request, show)
    _save(studio, finished, paths, quiet)


@app.command()
def replay(
    sidecar: Annotated[Path, typer.Argument(help="The .json file written beside a clip.")],
    out: Annotated[Path, typer.Option(help="Audio file: .wav, .flac or .mp3.")],
    preset: Annotated[
        str | None, typer.Option(help="Preset; default: the one named in the sidecar.")
    ] = None,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Make the clip of a sidecar again."""
    from ttmpref.studio import Studio, read_sidecar

    _, provenance = read_sidecar(sidecar)
    _check_outputs([out])
    studio = Studio.open(preset or str(provenance.get("preset")), device)
    with _progress_bar(quiet) as show:
        finished = studio.replay(sidecar, show)
    _save(studio, finished, [out], quiet)


@app.command()
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
        _print_table(rows)


@app.command()
def doctor(
    preset: PresetOption = "demo",
    device: DeviceOption = "auto",
) -> None:
    """Check packages, device and weights; exit code 1 if something is broken."""
    from ttmpref.doctor import examine

    findings = examine(preset, device)
    marks = {True: "ok", False: "BROKEN"}
    _print_table([(marks[finding.ok], finding.what, finding.detail) for finding in findings])
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@app.command(name="app")
def serve(
    preset: PresetOption = "demo",
    device: DeviceOption = "auto",
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, _option(_whole, "Port; default: the first free one.")] = None,
    share: Annotated[bool, typer.Option("--share", help="Public link through Gradio.")] = False,
) -> None:
    """Open the web app."""
    from ttmpref.studio import Studio

    studio = Studio.open(preset, device)
    from ttmpref.ui import build_app, launch

    launch(build_app(studio), studio, host, port, share)


def output_paths(out: Path, variations: int) -> list[Path]:
    """One path per variation: `clip.wav`, or `clip-1.wav`, `clip-2.wav`, ..."""
    if variations == 1:
        return [out]
    return [out.with_name(f"{out.stem}-{i}{out.suffix}") for i in range(1, variations + 1)]


def _check_outputs(paths: Sequence[Path]) -> None:
    """Refuse outputs that cannot be written before minutes are spent on making them."""
    from ttmpref.audio import check_writable

    for path in paths:
        check_writable(path)


def _save(
    studio: Studio, finished: Sequence[Generation], paths: Sequence[Path], quiet: bool
) -> None:
    """Write the clips; each file name goes to standard output, measurements to standard error."""
    for generation, path in zip(finished, paths, strict=True):
        replaced = path.exists()
        studio.save(generation, path)
        print(path)
        if not quiet:
            print(_summary(generation, replaced), file=sys.stderr)


def _summary(generation: Generation, replaced: bool) -> str:
    """One line about a saved clip."""
    scores = generation.scores
    parts = [f"seed {generation.request.seed}", f"{scores.seconds:.1f} s"]
    if scores.lufs is not None:
        parts.append(f"{scores.lufs:.1f} LUFS")
    if scores.true_peak_db is not None:
        parts.append(f"{scores.true_peak_db:.1f} dBTP")
    if scores.clap_score is not None:
        parts.append(f"CLAP {scores.clap_score:.3f}")
    if replaced:
        parts.append("replaced an older file")
    return "  " + ", ".join(parts)


@contextmanager
def _progress_bar(quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """A callback that moves a bar on standard error; None when quiet or not on a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=1, unit="step", file=sys.stderr, leave=False) as bar:

        def show(progress: Progress) -> None:
            bar.total, bar.n = progress.num_steps, progress.step
            bar.set_description(progress.activity)

        yield show


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their longest cell; the last one runs free."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        print("  " + "  ".join([*cells, row[-1]]).rstrip())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; what people did wrong becomes one line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(args=given or ["--help"], prog_name="ttmpref", standalone_mode=False)
    except TtmprefError as error:
        return _fail(str(error))
    except typer.TyperException as error:  # a wrong command, option or number
        return _fail(error.format_message())
    except typer.Abort:
        return EXIT_INTERRUPTED
    return code if isinstance(code, int) else 0


def _fail(message: str) -> int:
    print("error:", " ".join(message.split()), file=sys.stderr)
    return EXIT_ERROR
