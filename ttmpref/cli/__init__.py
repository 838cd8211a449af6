"""The command line: `python -m ttmpref generate | replay | score | best-of-n | optimise | ...`.

An edge: it reads arguments, calls the Studio, and prints. Errors meant for people end in one line
on standard error and exit code 2. Nothing heavy is imported before a command needs it, so `--help`
answers at once. One file per group of commands.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from ttmpref.cli import evaluating, making, scoring, system
from ttmpref.cli.anchors import anchors
from ttmpref.fetch.cli import fetch
from ttmpref.study.cli import study_app
from ttmpref.types import TtmprefError

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="ttmpref",
    help="Music from a prompt, steered by a human-preference reward.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for commands in (making.commands, scoring.commands, evaluating.commands, system.commands):
    app.add_typer(commands)
app.command()(fetch)
app.add_typer(anchors, name="anchors")
app.add_typer(study_app, name="study")


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
