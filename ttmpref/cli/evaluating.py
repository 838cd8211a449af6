"""Commands `evaluate` and `tables`: how good the stages of a preset are on held-out captions."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ttmpref.cli.options import (
    DeviceOption,
    PresetOption,
    QuietOption,
    number_option,
    real_number,
    whole,
)
from ttmpref.cli.output import counter, print_table
from ttmpref.types import InvalidRequest, check_choice, check_range

if TYPE_CHECKING:
    from ttmpref.evaluation.judge import Judge
    from ttmpref.evaluation.lab import Lab
    from ttmpref.evaluation.sheets import Sheet

commands = typer.Typer()

PER_PROMPT = "per_prompt.csv"
LEAST_CLIPS = 2
DEFAULT_RESAMPLES, LEAST_RESAMPLES, MOST_RESAMPLES = 400, 50, 100_000
TABLES = ("table1", "table2", "table3", "figure2", "pollution", "evidence")

PromptsOption = Annotated[
    Path | None, typer.Option(help="Captions: .jsonl, .json, .csv or .txt; default: the preset's.")
]
ClipsOption = Annotated[
    int | None, number_option(whole, "Captions to use, from the first; default: all.")
]
ReferenceOption = Annotated[
    Path | None,
    typer.Option(help="Real music: a reference file, or a folder of audio; default: the preset's."),
]
ResamplesOption = Annotated[
    int, number_option(whole, "Resamples behind the intervals of FAD-CLAP.")
]
CacheOption = Annotated[
    Path | None, typer.Option(help="Folder that remembers what was heard; default: in the cache.")
]


@commands.command()
def evaluate(
    stage: Annotated[
        list[str] | None, typer.Option(help="A stage; may be repeated; default: all.")
    ] = None,
    audio: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER of clips called <id of the caption>.wav; may be repeated."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the tables.")] = Path("evaluation"),
    prompts: PromptsOption = None,
    clips: ClipsOption = None,
    score: Annotated[
        float | None, number_option(real_number, "Preference score to aim for.")
    ] = None,
    guidance: Annotated[
        float | None, number_option(real_number, "Guidance scale; 1 is none.")
    ] = None,
    steps: Annotated[int | None, number_option(whole, "Solver steps.")] = None,
    seed: Annotated[int, number_option(whole, "Of the first caption; caption i has it + i.")] = 42,
    judge_url: Annotated[
        str | None, typer.Option(help="Chat-completions server that hears concepts; default: none.")
    ] = None,
    judge_model: Annotated[str, typer.Option(help="Model of the judge.")] = "",
    reference: ReferenceOption = None,
    resamples: ResamplesOption = DEFAULT_RESAMPLES,
    cache: CacheOption = None,
    preset: PresetOption = "demo",
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """FAD-CLAP, CLAP score and reward of stages, and of folders of clips, with paired tests.

    A run that was stopped goes on where it was.
    """
    from ttmpref.audio import check_place
    from ttmpref.evaluation import chain
    from ttmpref.evaluation.heard import Condition

    folders = _folders(audio or [])
    check_place(out / PER_PROMPT)
    setting = Setting(preset, device, prompts, clips, reference, resamples, cache)
    with setting.lab(quiet, _judge(judge_url, judge_model)) as lab:
        found = lab.listener.studio.preset
        names = [found.stage(name).name for name in stage or [one.name for one in found.stages]]
        lines = [
            chain.Line(name, lab.row(Condition(name, None, score, guidance, steps, seed)))
            for name in names
        ]
        lines += [
            chain.Line(name, lab.of(lab.listener.hear_folder(folder)))
            for name, folder in folders.items()
        ]
        lines = chain.one_after_another(lines, {one.name: one.parent for one in found.stages})
        title = f"Stages of preset {found.name}"
        sheets = [
            chain.levels("stages", title, lines),
            chain.steps("steps", f"{title}: differences", lines),
        ]
        _write(lab, sheets, out, quiet)
        _write_files({out / PER_PROMPT: chain.per_prompt(lab.listener.prompts, lines)})


@commands.command()
def tables(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"{', '.join(TABLES)}; default: all of them.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the tables; default: beside the reference.")
    ] = None,
    prompts: PromptsOption = None,
    clips: ClipsOption = None,
    reference: ReferenceOption = None,
    resamples: ResamplesOption = DEFAULT_RESAMPLES,
    cache: CacheOption = None,
    preset: PresetOption = "demo",
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """The paper's tables, its sweep of the score, and the claims about a chain, for a preset.

    Stages that are not there are shown as such. A run that was stopped goes on where it was.
    """
    from ttmpref.audio import check_place
    from ttmpref.evaluation import evidence, tables
    from ttmpref.evaluation.reference import reference_folder

    for name in names or ():
        check_choice("table", name, TABLES)
    setting = Setting(preset, device, prompts, clips, reference, resamples, cache)
    with setting.lab(quiet) as lab:
        folder = out or reference_folder(lab.listener.studio.preset) / "tables"
        check_place(folder / TABLES[0])
        for name in names or TABLES:
            lab.begin()
            make = evidence.evidence if name == "evidence" else getattr(tables, name)
            _write(lab, make(lab), folder, quiet)


@dataclass(frozen=True)
class Setting:
    """What both commands take: see their options."""

    preset: str
    device: str
    prompts: Path | None
    clips: int | None
    reference: Path | None
    resamples: int
    cache: Path | None

    @contextmanager
    def lab(self, quiet: bool, judge: Judge | None = None) -> Iterator[Lab]:
        """Everything checked and ready to measure; clips are counted until it is left."""
        from ttmpref.assets import cache_folder
        from ttmpref.evaluation.heard import Listener
        from ttmpref.evaluation.lab import Lab
        from ttmpref.evaluation.reference import CAPTIONS_FILE, FILE, Reference, reference_folder
        from ttmpref.studio import Studio
        from ttmpref.study.prompts import read_prompts

        check_range("resamples", self.resamples, LEAST_RESAMPLES, MOST_RESAMPLES, whole=True)
        studio = Studio.open(self.preset, self.device)
        home = reference_folder(studio.preset)
        listed = read_prompts(self.prompts or _brought(home / CAPTIONS_FILE, "--prompts"))
        count = len(listed) if self.clips is None else self.clips
        check_range("clips", count, LEAST_CLIPS, len(listed), whole=True)
        place = self.reference or _brought(home / FILE, "--reference")
        if place.is_dir():
            known = Reference.of_folder(place, studio.hearing(), studio.preset)
        else:
            known = Reference.read(place, studio.preset)
        folder = self.cache or cache_folder() / "evaluation"
        with counter(None, quiet) as count_clips:
            listener = Listener(studio, listed[:count], folder, judge, count_clips)
            yield Lab(listener, known, self.resamples)


def _brought(path: Path, option: str) -> Path:
    """What a preset brings along, made sure to be there."""
    if not path.exists():
        raise InvalidRequest(
            f"{path} is missing: run `python -m benchmarks.reference`, or give {option}"
        )
    return path


def _folders(given: Sequence[str]) -> dict[str, Path]:
    """NAME=FOLDER, checked."""
    found = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder) or name in found:
            raise InvalidRequest(f"audio is {text!r}; NAME=FOLDER is accepted, each name once")
        found[name] = Path(folder)
    return found


def _judge(url: str | None, model: str) -> Judge | None:
    from ttmpref.evaluation.judge import HttpJudge

    return None if url is None else HttpJudge(url, model)


def _write(lab: Lab, sheets: Sequence[Sheet], folder: Path, quiet: bool) -> None:
    """The files of a table, all or none; its rows go to standard error."""
    record = lab.record()
    files = {folder / name: data for sheet in sheets for name, data in sheet.files(record).items()}
    if not quiet:
        for sheet in sheets:
            table = sheet.table()
            print(f"\n{sheet.title}", file=sys.stderr)
            print_table([table.header, *table.rows], sys.stderr)
    _write_files(files)


def _write_files(files: Mapping[Path, bytes]) -> None:
    from ttmpref.audio import write_files

    write_files(files)
    for path in files:
        print(path)
