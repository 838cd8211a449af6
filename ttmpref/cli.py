"""The command line: `python -m ttmpref generate | replay | score | best-of-n | optimise | ...`.

An edge: it reads arguments, calls the Studio, and prints. Errors meant for people end in one line
on standard error and exit code 2. Nothing heavy is imported before a command needs it, so `--help`
answers at once.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttmpref.fetch.cli import fetch
from ttmpref.study.cli import study_app
from ttmpref.types import (
    BAND_POLICIES,
    GUIDANCE_SCHEDULES,
    SOLVERS,
    WINDOW_POLICIES,
    InvalidRequest,
    MissingWeights,
    TtmprefError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ttmpref.reward.anchors import AnchorOptions
    from ttmpref.reward.battles import Battles
    from ttmpref.reward.files import FileScore
    from ttmpref.studio import Studio
    from ttmpref.types import Generation, Listening, Progress

REPORT_SUFFIXES = (".json", ".csv")
EXIT_SOME_FAILED = 1
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
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]
CsvOption = Annotated[bool, typer.Option("--csv", help="As CSV.")]


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
def score(
    files: Annotated[list[Path], typer.Argument(help="Audio files, folders, CSV manifests.")],
    prompt: Annotated[str, typer.Option(help="Text all clips were made from.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="One row per clip.")] = False,
    out: Annotated[Path | None, typer.Option(help="File for the results.")] = None,
    window: Annotated[
        str | None,
        typer.Option(help=f"What CLAP hears of long clips: {', '.join(WINDOW_POLICIES)}"),
    ] = None,
    window_seed: Annotated[int | None, _option(_whole, "Seed of the random window.")] = None,
    band: Annotated[str | None, typer.Option(help=f"Band: {', '.join(BAND_POLICIES)}")] = None,
    timeline: Annotated[
        bool, typer.Option("--timeline/--no-timeline", help="Rewards along long clips.")
    ] = True,
    preset: PresetOption = "demo",
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Rate clips with the preference reward; exit code 1 if one could not be rated.

    A manifest has the columns clip, id, prompt, or clip_a, clip_b, id, prompt, vote.
    """
    from ttmpref.studio import Studio

    _check_report(out, as_json, as_csv)
    studio = Studio.open(preset, device)
    listening = _listening(studio, window=window, band=band, seed=window_seed)
    _check_can_score(studio)
    from ttmpref.reward.entries import entries_of
    from ttmpref.reward.files import agreement

    entries = entries_of(files, prompt)
    results = []
    with _counter(len(entries), quiet) as count:
        for result in studio.score_files(entries, timeline=timeline, listening=listening):
            results.append(result)
            count()
    _report(results, out, as_json, as_csv)
    hits, votes = agreement(results)
    if votes and not quiet:
        print(f"rewards agree with {hits} of {votes} decisive votes", file=sys.stderr)
    if any(result.error for result in results):
        raise typer.Exit(EXIT_SOME_FAILED)


def _check_can_score(studio: Studio) -> None:
    """Say what is missing before minutes are spent on making clips."""
    missing = studio.scoring_missing()
    if missing is not None:
        raise MissingWeights(f"clips cannot be scored: {missing}")


def _listening(studio: Studio, **overrides: Any) -> Listening | None:
    """The preset's policies with those given on the command line in their place."""
    given = {name: value for name, value in overrides.items() if value is not None}
    if studio.preset.ranker is None or not given:
        return None
    return dataclasses.replace(studio.preset.ranker.listening, **given)


def _check_report(out: Path | None, as_json: bool, as_csv: bool) -> None:
    """Refuse results that could not be written before minutes are spent on making them."""
    from ttmpref.audio import check_place

    if as_json and as_csv:
        raise InvalidRequest("--json and --csv were both given; choose one")
    if out is None:
        return
    if not (as_json or as_csv) and out.suffix.lower() not in REPORT_SUFFIXES:
        accepted = ", ".join(REPORT_SUFFIXES)
        raise InvalidRequest(f"file of results is {str(out)!r}; accepted suffixes: {accepted}")
    check_place(out)


def _report(results: Sequence[FileScore], out: Path | None, as_json: bool, as_csv: bool) -> None:
    """Results to a file or to standard output, every failure to standard error as well."""
    from ttmpref.audio import write_files
    from ttmpref.reward.files import results_csv, results_json

    for result in results:
        if result.error:
            print("error:", f"{result.entry.id}: {result.error}", file=sys.stderr)
    if as_json or as_csv or out is not None:
        suffix = "" if out is None else out.suffix.lower()
        text = results_json(results) if as_json or suffix == ".json" else results_csv(results)
        if out is None:
            print(text, end="")
        else:
            write_files({out: text.encode("utf-8")})
            print(out)
        return
    print_table([("clip", "reward", "95 %", "remarks"), *map(_score_row, results)])


def _score_row(result: FileScore) -> tuple[str, str, str, str]:
    """Cells of a result for people."""
    score = result.score
    if score is None:
        return result.entry.id, "-", "", "not scored"
    interval = "" if score.interval is None else "{:+.2f} to {:+.2f}".format(*score.interval)
    remarks = [flag.text for flag in score.flags if flag.serious]
    remarks += [f"{w.start:.0f}-{w.end:.0f} s {w.reward:+.2f}" for w in score.timeline]
    return result.entry.id, f"{score.reward:+.3f}", interval, "; ".join(remarks)


@app.command()
def optimise(
    prompt: Annotated[str, typer.Argument(help="Description of the music.")],
    out: Annotated[Path, typer.Option(help="Audio file: .wav, .flac or .mp3.")] = Path("clip.wav"),
    start: Annotated[Path | None, typer.Option(help="Audio file for the clip before.")] = None,
    trace: Annotated[Path | None, typer.Option(help="JSON file for what was gained.")] = None,
    seed: Annotated[int | None, _option(_whole, "Seed of the noise; default: random.")] = None,
    iterations: Annotated[int | None, _option(_whole, "Updates of the noise.")] = None,
    learning_rate: Annotated[float | None, _option(_number, "Of Adam.")] = None,
    norm: Annotated[str | None, typer.Option(help="Of the noise: sphere, penalty, none")] = None,
    prompted: Annotated[
        bool, typer.Option("--text/--no-text", help="Tell the reward the prompt.")
    ] = True,
    stage: Annotated[str | None, typer.Option(help="Stage of the preset.")] = None,
    score: Annotated[float | None, _option(_number, "Preference score to aim for.")] = None,
    guidance: Annotated[float | None, _option(_number, "Guidance scale; 1 is none.")] = None,
    steps: Annotated[int | None, _option(_whole, "Solver steps.")] = None,
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
    _check_outputs(audio)
    if trace is not None:
        check_place(trace)
    _check_can_score(studio)
    from ttmpref.reward.latent_optimisation import OptimisationSettings

    given = {"iterations": iterations, "learning_rate": learning_rate, "norm": norm}
    given = {name: value for name, value in given.items() if value is not None}
    settings = validated(OptimisationSettings, {**given, "prompted": prompted}, "optimise")
    with _progress_bar(quiet) as show:
        found = studio.optimise(request, settings, show)
    _save(studio, [found.best, found.start][: len(audio)], audio, quiet)
    rows = [dataclasses.asdict(iterate) for iterate in found.trace]
    if trace is not None:
        said = {"best_iteration": found.best_iteration, "trace": rows}
        write_files({trace: (json.dumps(said, indent=1) + "\n").encode("utf-8")})
        print(trace)
    if not quiet:
        _print_records(rows)


@app.command(name="best-of-n")
def best_of_n(
    prompts: Annotated[Path, typer.Option(help="Prompt list: .txt, .jsonl, .json or .csv.")],
    out: Annotated[Path, typer.Option(help="Folder for clips and records; resumed if begun.")],
    n: Annotated[int, _option(_whole, "Clips per prompt, from consecutive seeds.")] = 8,
    keep: Annotated[int, _option(_whole, "Best clips to keep per prompt.")] = 1,
    prompted: Annotated[
        bool, typer.Option("--text/--no-text", help="Tell the reward the prompt.")
    ] = True,
    seed: Annotated[int, _option(_whole, "First seed, the same for all prompts.")] = 42,
    stage: Annotated[str | None, typer.Option(help="Stage of the preset.")] = None,
    score: Annotated[float | None, _option(_number, "Preference score to aim for.")] = None,
    guidance: Annotated[float | None, _option(_number, "Guidance scale; 1 is none.")] = None,
    steps: Annotated[int | None, _option(_whole, "Solver steps.")] = None,
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
    _check_can_score(studio)
    rate = functools.partial(studio.score, timeline=False)
    records = []
    with _progress_bar(quiet) as show:
        for number, item in run(studio, rate, listed, plan, out):
            if isinstance(item, Record):
                records.append(item)
            elif show is not None:
                words = f"prompt {number + 1} of {len(listed)}, {item.activity}"
                show(dataclasses.replace(item, activity=words))
    points = [dataclasses.asdict(point) for point in write_summary(records, out)]
    shown = [point for point in points if point["n"] in (n, 1 << point["n"].bit_length() - 1)]
    _print_records(points if as_json or as_csv else shown, as_json, as_csv)


app.command()(fetch)
app.add_typer(study_app, name="study")
anchors = typer.Typer(help="Correct a reward's unfairness to whole systems from a few battles.")
app.add_typer(anchors, name="anchors")

BattlesArgument = Annotated[
    Path, typer.Argument(help="CSV: id, vote, system_a, system_b, reward_a, reward_b.")
]
PinOption = Annotated[str | None, typer.Option(help="System whose offset is 0; default: none.")]
TiesOption = Annotated[str, typer.Option(help="half, or davidson")]
RidgeOption = Annotated[float, _option(_number, "Pull of offsets to zero.")]


@anchors.command(name="fit")
def fit_anchors(
    table: BattlesArgument,
    out: Annotated[Path, typer.Option(help="JSON file for the calibration.")],
    scale: Annotated[str, typer.Option(help="Of margins: one, learned, none")] = "one",
    pin: PinOption = None,
    ties: TiesOption = "half",
    ridge: RidgeOption = 1.0,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Fit offsets of systems, and show what they and their controls are worth when held out."""
    from ttmpref.reward.anchors import check_pinned, controls, cross_validate, fit

    options = _anchor_options(scale=scale, pinned=pin, ties=ties, ridge=ridge)
    battles, faults = _read_battles(table)
    check_pinned(battles, options)
    held_out = [
        {"model": name, **dataclasses.asdict(found)}
        for name, found in cross_validate(battles, controls(options)).items()
    ]
    calibration = fit(battles, options)
    calibration.save(out)
    systems = [
        {"system": name, "claim": offset.claim, **offset.model_dump()}
        for name, offset in calibration.systems.items()
    ]
    if as_json:
        found = {"calibration": calibration.model_dump(), "held_out": held_out}
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        _print_records(systems, as_csv=as_csv)
    if not (as_json or as_csv):
        a = calibration.scale
        print(f"scale of margins {a.value:.3f} ({a.low:.3f} to {a.high:.3f}); held out, ten folds:")
        _print_records(held_out)
    _exit_with(faults)


@anchors.command(name="apply")
def apply_anchors(
    table: Annotated[
        Path, typer.Argument(help="CSV: system, reward; or system_a, reward_a, system_b, ...")
    ],
    calibration: Annotated[Path, typer.Option("--anchors", help="File that `fit` wrote.")],
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Add corrected rewards, whose differences are log odds, to a table of clips or battles."""
    from ttmpref.reward.anchors import AnchorCalibration, correct_table

    rows, faults = correct_table(AnchorCalibration.load(calibration), table)
    _print_records(rows, as_json, as_csv)
    _exit_with(faults)


@anchors.command(name="sweep")
def sweep_anchors(
    table: BattlesArgument,
    ids: Annotated[Path | None, typer.Option(help="Ids to use, in this order.")] = None,
    sizes: Annotated[str, typer.Option(help="Numbers of battles.")] = "0,3,10,30,100,250",
    splits: Annotated[int, _option(_whole, "Random halves.")] = 5,
    pin: PinOption = None,
    ties: TiesOption = "half",
    ridge: RidgeOption = 1.0,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Show how many battles it takes, with Bradley-Terry and "always B" beside."""
    from ttmpref.reward.anchors import check_pinned, controls, sweep
    from ttmpref.reward.battles import read_ids

    options = _anchor_options(pinned=pin, ties=ties, ridge=ridge)
    battles, faults = _read_battles(table)
    if ids is not None:
        battles = battles.in_order_of(read_ids(ids))
    check_pinned(battles, options)
    wanted = [_whole(size) for size in sizes.split(",")]
    cells = sweep(battles, controls(options), wanted, range(splits))
    rows = [dataclasses.asdict(cell) for cell in cells]
    if not as_json:
        rows = [{key: row[key] for key in row if key != "per_split"} for row in rows]
    _print_records(rows, as_json, as_csv)
    _exit_with(faults)


def _anchor_options(**given: Any) -> AnchorOptions:
    from ttmpref.config import validated
    from ttmpref.reward.anchors import AnchorOptions

    return validated(AnchorOptions, given, "anchors")


def _read_battles(path: Path) -> tuple[Battles, Sequence[str]]:
    """The usable battles of a table and its faults; what was left out is said."""
    from ttmpref.reward.battles import read_battles

    table = read_battles(path)
    if table.both_bad:
        print(f"{path}: {table.both_bad} votes BOTH_BAD left out", file=sys.stderr)
    return table.battles, table.faults


def _exit_with(faults: Sequence[str]) -> None:
    """Name bad rows on standard error; exit code 1 if there are any."""
    for fault in faults:
        print("error:", fault, file=sys.stderr)
    if faults:
        raise typer.Exit(EXIT_SOME_FAILED)


def _print_records(
    records: Sequence[dict[str, Any]], as_json: bool = False, as_csv: bool = False
) -> None:
    """Records of the same keys, for people, as JSON or as CSV."""
    if as_json and as_csv:
        raise InvalidRequest("--json and --csv were both given; choose one")
    if as_json:
        print(json.dumps(records, indent=2, ensure_ascii=False))
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, list(records[0]) if records else [])
        writer.writeheader()
        writer.writerows(records)
    elif records:
        shown = [[_cell(value) for value in record.values()] for record in records]
        print_table([[*records[0]], *shown])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


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
        print_table(rows)


@app.command()
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


@contextmanager
def _counter(total: int, quiet: bool) -> Iterator[Callable[[], object]]:
    """A callback that counts clips on standard error; silent when quiet or not on a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="clip", file=sys.stderr, leave=False) as bar:
        yield bar.update


def print_table(rows: Sequence[Sequence[str]]) -> None:
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
