"""Render the result files as one page: `benchmarks/results/README.md`.

Every figure of the page comes from a result file; nothing is typed in by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.common import figure_row, parse_setting
from ttmpref.audio import write_files

ORDER = (
    "latency", "busy_machine", "separation", "separator", "round_trip", "retrieval",
    "prompt_following", "musicality", "rhythm", "ranker_training", "ranker", "scoring",
    "study_statistics", "study_load", "app_load", "prepare", "training_step", "full_size",
)  # fmt: skip
PAGE = "README.md"


def results(folder: Path) -> list[dict[str, Any]]:
    """The records in `folder`, in the order of ORDER and then by name."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    place = {name: i for i, name in enumerate(ORDER)}
    return sorted(records, key=lambda r: (place.get(r["name"], len(ORDER)), r["name"]))


def render(folder: Path) -> str:
    """The page of the results in `folder`."""
    records = results(folder)
    targets = [f for record in records for f in record["figures"] if f["met"] is not None]
    met = sum(figure["met"] for figure in targets)
    parts = [
        "# Measured figures",
        "Written by `python -m benchmarks.table` from the JSON files beside it; do not edit.",
        f"{met} of {len(targets)} targets are met. Brackets hold 95 % intervals.",
        *(_section(record, folder) for record in records),
    ]
    return "\n\n".join(parts) + "\n"


def _section(record: dict[str, Any], folder: Path) -> str:
    lines = [f"## {record['title']}", "", record["question"], ""]
    lines += ["| figure | target | measured | met | note |", "|---|---|---|---|---|"]
    for figure in record["figures"]:
        cells = (*figure_row(figure), figure["note"])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if (folder / f"{record['name']}.png").exists():
        lines += ["", f"![{record['title']}]({record['name']}.png)"]
    machine, versions = record["machine"], record["versions"]
    lines += [
        "",
        f"`{record['command']}`, {record['date']}, {record['seconds']} s on "
        f"{machine['cores']} cores ({machine['processor']}), torch {versions['torch']}, "
        f"preset {record['preset']}.",
    ]
    return "\n".join(lines)


def main() -> None:
    out = parse_setting(__doc__).out
    write_files({out / PAGE: render(out).encode("utf-8")})
    print(out / PAGE)


if __name__ == "__main__":
    main()
