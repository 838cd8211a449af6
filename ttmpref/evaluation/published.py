"""The paper's printed numbers, for columns of their own beside what is measured here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ttmpref.config import read_yaml

FILE = Path(__file__).with_name("published.yaml")
NOTE = (
    "Columns named paper hold what the text of arXiv 2606.21670 and its project page state of the "
    "full-size system on other prompts and another reference; a dash where they state nothing."
)


@cache
def _sections() -> Mapping[str, Any]:
    return read_yaml(FILE)


def printed(section: str, *keys: str) -> Mapping[str, float]:
    """What is printed there by metric ("fad", "clap", "reward"); empty where nothing is."""
    found: Any = _sections()[section]
    for key in keys:
        found = found.get(key, {})
    return found
