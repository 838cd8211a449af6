"""Error translation: what went wrong, in one plain sentence, for the person at the page.

A `TtmprefError` already names the value and the remedy in one line; it is only dressed as a
sentence. Anything else is our mistake: it goes to the log with its traceback, and the visitor
reads that it did.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from ttmpref.study.errors import Unavailable
from ttmpref.types import ConfigError, TtmprefError

logger = logging.getLogger(__name__)

OUR_MISTAKE = "Something went wrong on our side, not yours; the details are in the app's log."
SERVER_PATH = re.compile(r"(?<![\w:/])/(?:[^\s/:;,'\"]+/)+([^\s/:;,'\"]+)")
NO_STUDIES = "Listening studies cannot be shown just now; the reason is in the app's log."


def without_folders(text: str) -> str:
    """`text` with the server's files by their names alone; where they lie is not for visitors."""
    return SERVER_PATH.sub(r"\1", text)


def sentence(text: str) -> str:
    """`text` for visitors: with a capital first letter and a full stop, on one line."""
    line = " ".join(text.split())
    if not line:
        return ""
    # Folders go last: a name of a file at the beginning keeps its small letter.
    return without_folders(line[0].upper() + line[1:] + ("" if line[-1] in ".!?" else "."))


def spoken(error: Exception) -> str:
    """The sentence shown for `error`; unexpected errors are logged on the way."""
    if isinstance(error, TtmprefError):
        return sentence(str(error))
    logger.error("unexpected error in a handler", exc_info=error)
    return OUR_MISTAKE


def spoken_of_studies(error: Exception) -> str:
    """As `spoken`; but what is wrong with the database would name folders and hosts to visitors."""
    if isinstance(error, (ConfigError, Unavailable)):
        logger.error("no listening studies: %s", error)
        return NO_STUDIES
    return spoken(error)


@contextmanager
def translated() -> Iterator[None]:
    """Turn any error inside the block into a notice on the page."""
    try:
        yield
    except Exception as error:
        raise gr.Error(spoken(error), title="", print_exception=False) from None


def field_at_fault(error: TtmprefError, fields: tuple[str, ...]) -> str | None:
    """The field whose name (underscores as spaces or not) starts the message, or None."""
    message = str(error)
    names = {name.replace("_", " "): name for name in fields} | {name: name for name in fields}
    return next((names[spoken] for spoken in names if message.startswith(f"{spoken} ")), None)
