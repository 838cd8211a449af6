"""Who may use the app: everybody, or those whom `TTMPREF_AUTH` names.

    TTMPREF_AUTH    name:password, several separated by commas

It guards Gradio's page and programming interface. A listening study keeps its own ways in: its
listeners follow an address and need no account, and its operators have a token.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ttmpref.types import ConfigError

VARIABLE = "TTMPREF_AUTH"
SHORTEST_PASSWORD = 12
MESSAGE = "This app is for invited people. Listening studies have addresses of their own."
STYLE = Path(__file__).parent / "static" / "login.css"
# What would open the app wider than it says of itself: each is read by Gradio alone.
SWITCHES = {
    "GRADIO_VIBE_MODE": "lets visitors change the code of the app",
    "GRADIO_ALLOWED_PATHS": "lets visitors fetch files of this computer",
}


def logins(environment: Mapping[str, str] = os.environ) -> list[tuple[str, str]] | None:
    """Names and passwords; None lets everybody in.

    Raises:
        ConfigError: an entry cannot be used; says which without repeating it.
    """
    text = environment.get(VARIABLE)
    if not text:
        return None
    found: dict[str, str] = {}
    for number, entry in enumerate(text.split(","), start=1):
        name, _, password = entry.strip().partition(":")
        if not name or len(password) < SHORTEST_PASSWORD or name in found:
            raise ConfigError(
                f"{VARIABLE}: entry {number} is not name:password with a name of its own and "
                f"{SHORTEST_PASSWORD} characters or more"
            )
        found[name] = password
    return list(found.items())


def message() -> str:
    """What the page that asks for them says, as HTML with the style of that page."""
    return f"<style>{STYLE.read_text(encoding='utf-8')}</style>{MESSAGE}"


def refuse_switches(environment: Mapping[str, str] = os.environ) -> None:
    """Start only without the switches of Gradio that would open the app to anybody.

    Raises:
        ConfigError: one is set; says what it would do.
    """
    for name, danger in SWITCHES.items():
        if environment.get(name):
            raise ConfigError(f"{name} {danger}; unset it and start again")
