"""`python -m training <step> --recipe demo`: make the weights of a preset.

`chain` runs every step that is not finished; each step can also be run alone. Steps resume from
their last checkpoint, so a run may be stopped and started again at any time.

The commands beside them (`ranker`, `pairs`, `prepare`, ...) work on data that are named; see their
--help.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from training import ranker_commands
from training.prepare import command as prepare_command

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is local; never wait for a network


class StepsByDefault(TyperGroup):
    """`python -m training vae vocoder` is short for `python -m training steps vae vocoder`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *self.get_help_option_names(ctx)):
            args = ["steps", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=StepsByDefault, help=__doc__, add_completion=False, no_args_is_help=True)
ranker_commands.register(app)
prepare_command.register(app)

RecipeOption = Annotated[str, typer.Option(help="Shipped recipe or path of a YAML file.")]
DataOption = Annotated[Path, typer.Option(help="Corpus and caches (about 28 GB for demo).")]
RunsOption = Annotated[Path, typer.Option(help="Checkpoints and logs of unfinished runs.")]
AssetsOption = Annotated[Path | None, typer.Option(help="Default: assets/<preset>.")]
ThreadsOption = Annotated[int, typer.Option(help="CPU threads of the optimisation.")]
MinutesOption = Annotated[float | None, typer.Option(help="Stop cleanly after so many minutes.")]
FromAssetsOption = Annotated[
    bool,
    typer.Option(
        "--from-assets",
        help="Without a checkpoint music encoder, vocoder and backbone go on from the assets.",
    ),
]
PreparedOption = Annotated[
    Path | None,
    typer.Option(help="Folder of `prepare` that backbones learn from instead of the corpus."),
]
TrackOption = Annotated[
    list[str] | None,
    typer.Option(help="Where curves go: tensorboard (the default), wandb; may be repeated."),
]
StepsArgument = Annotated[list[str], typer.Argument(help="`chain` for all steps, or some of them.")]


@app.command("steps", help=__doc__)
def run_steps(
    steps: StepsArgument,
    recipe: RecipeOption = "demo",
    data: DataOption = Path("data"),
    runs: RunsOption = Path("runs"),
    assets: AssetsOption = None,
    threads: ThreadsOption = 2,
    minutes: MinutesOption = None,
    from_assets: FromAssetsOption = False,
    track: TrackOption = None,
    prepared: PreparedOption = None,
) -> None:
    import torch

    from training import chain
    from training.loop import Pace
    from training.recipe import load_recipe
    from training.workplace import Workplace

    ranker_commands.start_logging()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    chosen = load_recipe(recipe)
    accepted = ("chain", *chain.STEPS, *chain.EXTRA_STEPS)
    if unknown := [step for step in steps if step not in accepted]:
        raise typer.BadParameter(f"{unknown[0]!r}; accepted: {', '.join(accepted)}")
    place = Workplace(
        recipe=chosen,
        data=data,
        runs=runs / chosen.name,
        assets=assets or Path(__file__).parent.parent / "assets" / chosen.preset,
        workers=threads,
        max_minutes=minutes,
        from_assets=from_assets,
        trackers=track or Pace.trackers,
        prepared=prepared,
    )
    chain.chain(place, chain.STEPS if "chain" in steps else tuple(steps))


def main() -> None:
    """Entry point: one-line errors for what a user can mend."""
    from ttmpref.types import TtmprefError

    try:
        app()
    except TtmprefError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
