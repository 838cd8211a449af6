"""Commands that make clips: `generate`, `replay`, `optimise`, `best-of-n`."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Annotated

import typer

from ttmpref.cli.options import (
    CsvOption,
    DeviceOption,
    JsonOption,
    PresetOption,
    QuietOption,
    number_option,
    real_number,
    whole,
)
from ttmpref.cli.output import (
    check_outputs,
    output_paths,
    print_records,
    progress_bar,
    save,
)
from ttmpref.types import GUIDANCE_SCHEDULES, SOLVERS

commands = typer.Typer()


@commands.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="Description of the music.")],
    out: Annotated[Path, typer.Option(help="Audio file: .wav, .flac or .mp3.")] = Path("clip.wav"),
    seed: Annotated[int | None, number_option(whole, "Seed of the noise; default: random.")] = None,
    stage: Annotated[str | None, typer.Option(help="Stage of the preset.")] = None,
    score: Annotated[
        float | None, number_option(real_number, "Preference score to aim for.")
    ] = None,
    guidance: Annotated[
        float | None, number_option(real_number, "Guidance scale; 1 is none.")
    ] = None,
    steps: Annotated[int | None, number_option(whole, "Solver steps.")] = None,
    negative: Annotated[str | None, typer.Option(help="What to steer away from.")] = None,
    variations: Annotated[int, number_option(whole, "Clips from consecutive seeds.")] = 1,
    solver: Annotated[str, typer.Option(help=", ".join(SOLVERS))] = SOLVERS[0],
    schedule: Annotated[
        str, typer.Option(help=f"Guidance schedule: {', '.join(GUIDANCE_SCHEDULES)}")
    ] = GUIDANCE_SCHEDULES[0],
    passes: Annotated[
        int | None, number_option(whole, "How often voices are taken out; default: the preset's.")
    ] = None,
    lufs: Annotated[
        float | None, number_option(real_number, "Loudness target; default: the preset's.")
    ] = None,
    level: Annotated[
        bool, typer.Option("--level/--no-level", help="Bring clips to the loudness target.")
    ] = True,
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
        guidance_schedule=schedule, separation_passes=passes, normalise_loudness=level,
        target_lufs=lufs,
    )  # fmt: skip
    paths = output_paths(out, request.variations)
    check_outputs(paths)
    with progress_bar(quiet) as show:
        finished = studio.generate(request, show)
    save(studio, finished, paths, quiet)


@commands.command()
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
    check_outputs([out])
    studio = Studio.open(preset or str(provenance.get("preset")), device)
    with progress_bar(quiet) as show:
        finished = studio.replay(sidecar, show)
    save(studio, finished, [out], quiet)


@commands.command()
def optimise(
    prompt: Annotated[str, typer.Argument(help="Description of the music.")],
    out: Annotated[Path, typer.Option(help="Audio file: .wav, .flac or .mp3.")] = Path("clip.wav"),
    start: Annotated[Path | None, typer.Option(help="Audio file for the clip before.")] = None,
    trace: Annotated[Path | None, typer.Option(help="JSON file for what was gained.")] = None,
    seed: Annotated[int | None, number_option(whole, "Seed of the noise; default: random.")] = None,
    iterations: Annotated[int | None, number_option(whole, "Updates of the noise.")] = None,
    learning_rate: Annotated[float | None, number_option(real_number, "Of Adam.")] = None,
    norm: Annotated[str | None, typer.Option(help="Of the noise: sphere, penalty, none")] = None,
    prompted: Annotated[
        bool, typer.Option("--text/--no-text", help="Tell the reward the prompt.")
    ] = True,
    stage: Annotated[str | None, typer.Option(help="Stage of the preset.")] = None,
    score: Annotated[
        float | None, number_option(real_number, "Preference score to aim for.")
    ] = None,
    guidance: Annotated[
        float | None, number_option(real_number, "Guidance scale; 1 is none.")
    ] = None,
    steps: Annotated[int | None, number_option(whole, "Solver steps.")] = None,
    preset: PresetOption = "demo",
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Make one clip and move its noise uphill on the reward; keep the best on the way."""
    from ttmpref.audio import check_place, write_files
    from ttmpref.config import validated
    from ttmpref.studio import Studio

    studio = Studio.open(preset, device)
    request = studio.request(
        prompt, seed=seed, stage=stage, score=score, guidance=guidance, num_steps=steps
    )
    audio = [path for path in (out, start) if path is not None]
    check_outputs(audio)
    if trace is not None:
        check_place(trace)
    studio.check_scoring()
    from ttmpref.reward.latent_optimisation import OptimisationSettings

    given = {"iterations": iterations, "learning_rate": learning_rate, "norm": norm}
    given = {name: value for name, value in given.items() if value is not None}
    settings = validated(OptimisationSettings, {**given, "prompted": prompted}, "optimise")
    with progress_bar(quiet) as show:
        found = studio.optimise(request, settings, show)
    save(studio, [found.best, found.start][: len(audio)], audio, quiet)
    rows = [dataclasses.asdict(iterate) for iterate in found.trace]
    if trace is not None:
        said = {"best_iteration": found.best_iteration, "trace": rows}
        write_files({trace: (json.dumps(said, indent=1) + "\n").encode("utf-8")})
        print(trace)
    if not quiet:
        print_records(rows)


@commands.command(name="best-of-n")
def best_of_n(
    prompts: Annotated[Path, typer.Option(help="Prompt list: .txt, .jsonl, .json or .csv.")],
    out: Annotated[Path, typer.Option(help="Folder for clips and records; resumed if begun.")],
    n: Annotated[int, number_option(whole, "Clips per prompt, from consecutive seeds.")] = 8,
    keep: Annotated[int, number_option(whole, "Best clips to keep per prompt.")] = 1,
    prompted: Annotated[
        bool, typer.Option("--text/--no-text", help="Tell the reward the prompt.")
    ] = True,
    seed: Annotated[int, number_option(whole, "First seed, the same for all prompts.")] = 42,
    stage: Annotated[str | None, typer.Option(help="Stage of the preset.")] = None,
    score: Annotated[
        float | None, number_option(real_number, "Preference score to aim for.")
    ] = None,
    guidance: Annotated[
        float | None, number_option(real_number, "Guidance scale; 1 is none.")
    ] = None,
    steps: Annotated[int | None, number_option(whole, "Solver steps.")] = None,
    preset: PresetOption = "demo",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make N clips per prompt, keep what the reward likes best, and show what n is worth."""
    from ttmpref.reward.best_of_n import Plan, Record, run, write_summary
    from ttmpref.studio import Studio
    from ttmpref.study.prompts import read_prompts

    studio = Studio.open(preset, device)
    listed = read_prompts(prompts)
    request = studio.request(
        listed[0].text, seed=seed, stage=stage, score=score, guidance=guidance, num_steps=steps
    )
    plan = Plan.of(request, n, keep, prompted)
    studio.check_scoring()
    rate = functools.partial(studio.score, timeline=False)
    records = []
    with progress_bar(quiet) as show:
        for number, item in run(studio, rate, listed, plan, out):
            if isinstance(item, Record):
                records.append(item)
            elif show is not None:
                words = f"prompt {number + 1} of {len(listed)}, {item.activity}"
                show(dataclasses.replace(item, activity=words))
    points = [dataclasses.asdict(point) for point in write_summary(records, out)]
    shown = [point for point in points if point["n"] in (n, 1 << point["n"].bit_length() - 1)]
    print_records(points if as_json or as_csv else shown, as_json, as_csv)
