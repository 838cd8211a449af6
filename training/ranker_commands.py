"""`python -m training ranker | pairs`: the preference ranker from tables of pairs.

An edge: it reads arguments and prints where the results are. What could not be used is written to a
file of faults, and the exit code is then 1, although the rest was used.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

EXIT_SOME_FAILED = 1
COMPARISONS = ("ablations", "sources")
DEFAULT_PRESET = "demo"  # whose encoders and ranker stand for those of a study's votes
DEFAULT_LAYOUT = "clap_mert"
DEFAULT_OUT = Path("runs")
FEATURES_FILE = "features.safetensors"

log = logging.getLogger(__name__)


def register(app: typer.Typer) -> None:
    """Add the commands to `python -m training`."""
    app.command()(ranker)
    app.command()(pairs)


def ranker(
    tables: Annotated[
        list[str],
        typer.Argument(
            help="Pairs as CSV, JSON lines or Parquet; a listening study by its name, or the "
            "folder of its export."
        ),
    ],
    features: Annotated[
        Path | None,
        typer.Option(help="Feature store, made where a preset is given; default: inside --out."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of heads and report; default: runs/<name of the first>-ranker."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Whose encoders hear the clips; for studies: demo.")
    ] = None,
    audio: Annotated[
        Path | None,
        typer.Option(help="Folder of clips; default: a study's build, or where the table lies."),
    ] = None,
    splits: Annotated[list[Path] | None, typer.Option(help="Split file; may be repeated.")] = None,
    split_by: Annotated[
        str, typer.Option(help="Without split files: `clips` (no clip in two parts) or `pairs`.")
    ] = "clips",
    held_out: Annotated[
        float,
        typer.Option(min=0.01, max=0.4, help="Share in the test, and again in the validation."),
    ] = 0.1,
    layout: Annotated[
        str | None,
        typer.Option(help="clap_mert, clap_audio or muq_mulan; default: the preset's."),
    ] = None,
    recipe: Annotated[str, typer.Option(help="Shipped recipe or path of a YAML file.")] = "demo",
    heads: Annotated[int | None, typer.Option(min=1, help="Heads; default: the recipe's.")] = None,
    compare: Annotated[
        str | None,
        typer.Option(help="`ablations`: inputs A1 to A7; `sources`: leave one source out."),
    ] = None,
    old: Annotated[
        str | None,
        typer.Option(help="A head to hold against the same test pairs; for studies the preset's."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    minutes: Annotated[float | None, typer.Option(help="Stop each head cleanly after.")] = None,
) -> None:
    """Train heads from preference pairs and report what they are worth.

    `python -m training ranker my-study` is all it takes from the votes of a listening study to a
    ranker of its listeners' taste, held against the present one on clips that are
    new to it.

    The ranker of a preset is a step of its chain instead: `python -m training steps ranker`.
    """
    import torch

    from training import ranker_runs as runs
    from training.recipe import RankerRecipe, load_recipe
    from training.study_votes import clip_folders, old_ranker, votes_table
    from ttmpref.config import load_preset
    from ttmpref.types import check_choice

    start_logging()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    votes = [votes_table(given) for given in tables]
    of_study = any(table.of_study for table in votes)
    heard_by = load_preset(preset or DEFAULT_PRESET) if preset or of_study else None
    rewarded = None if heard_by is None else heard_by.ranker
    layout = layout or (rewarded.layout if rewarded else DEFAULT_LAYOUT)
    check_choice("layout", layout, tuple(runs.LAYOUTS))
    if compare is not None:
        check_choice("comparison", compare, COMPARISONS)
    numbers = load_recipe(recipe).ranker or RankerRecipe()
    numbers = numbers.model_copy(update={"heads": heads or numbers.heads})
    out = out or DEFAULT_OUT / f"{votes[0].name}-ranker"
    inputs = runs.Inputs(
        tables=tuple(table.path for table in votes),
        features=features or out / FEATURES_FILE,
        splits=tuple(splits or ()),
        preset=heard_by,
        clips=() if heard_by is None else clip_folders(votes, audio),
        split_by=split_by,
        held_out=held_out,
    )
    material = runs.read_material(inputs, runs.LAYOUTS[layout], numbers)
    match compare:
        case "ablations":
            runs.compare(compare, runs.ablations(material), numbers, out, minutes)
        case "sources":
            runs.compare(compare, runs.sources_left_out(material), numbers, out, minutes)
        case _:
            rival = old or (old_ranker(rewarded, layout) if of_study else None)
            runs.train_and_report(numbers, material, out, minutes, rival)
    typer.echo((out / f"{compare or 'report'}.md").read_text(encoding="utf-8"))
    typer.echo(out)
    exit_for(len(material.faults), out / "faults.txt")


def pairs(
    source: Annotated[str, typer.Argument(help="music_arena, musicprefs, aime or songeval.")],
    inputs: Annotated[list[Path], typer.Option("--input", help="Published file; repeatable.")],
    out: Annotated[Path, typer.Option(help="Folder of pairs, split and faults.")],
    exclude: Annotated[
        Path | None, typer.Option(help="Ids of a benchmark's pairs, one a line.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="ours=theirs, where a column is named otherwise.")
    ] = None,
) -> None:
    """Make pairs and a split from what a public data set publishes."""
    from training.pair_sources import Order, build, write_built
    from training.preferences import read_rows
    from ttmpref.reward.battles import read_ids

    start_logging()
    columns = dict(_named(text) for text in column or ())
    excluded = None if exclude is None else read_ids(exclude)
    order = Order(source, columns, excluded, audio=out / "clips")
    built = build(order, (row for path in inputs for row in read_rows(path)))
    write_built(built, source, out)
    table = built.table
    typer.echo(f"{out / source}.jsonl: {len(table.pairs)} pairs, {built.split.sizes}")
    for reason, count in table.left_out.items():
        typer.echo(f"left out: {count} {reason}")
    exit_for(len(table.faults), out / f"{source}-faults.txt")


def _named(text: str) -> tuple[str, str]:
    ours, separator, theirs = text.partition("=")
    if not separator or not theirs:
        raise typer.BadParameter(f"{text!r}; give ours=theirs", param_hint="--column")
    return ours, theirs


def exit_for(faults: int, path: Path) -> None:
    """Say where the faults are listed and end with the exit code for them, if there are any."""
    if faults:
        typer.echo(f"{faults} faults, listed in {path}", err=True)
        raise typer.Exit(EXIT_SOME_FAILED)


def start_logging() -> None:
    """Progress on standard error, with the time of day."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
    )
