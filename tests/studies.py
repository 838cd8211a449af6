"""Studies of a few synthetic clips for tests: two systems that differ in timbre, rendered small."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import yaml

from ttmpref.audio import write_clip
from ttmpref.study.definition import Study, load_study, sha256_json
from ttmpref.study.listening import Event
from ttmpref.study.records import build_folder
from ttmpref.study.settings import StudySettings
from ttmpref.study.stimuli import build_study
from ttmpref.study.store import Store
from ttmpref.study.store.people import Joining
from ttmpref.study.store.trials import Ballot, Finished
from ttmpref.types import Clip, Vote

RATE = 8_000
DEFINITION: dict[str, Any] = {
    "schema": 1,
    "slug": "tiny",
    "title": "Which clip do you prefer?",
    "question": {"en": "Which do you prefer?"},
    "method": {"confidence": 3},
    "systems": [
        {"label": "old", "role": "baseline", "audio": "old"},
        {"label": "new", "audio": "new"},
    ],
    "prompts": {"file": "prompts.txt"},
    "pairs": {"main": [["old", "new"]], "votes_per_pair": 4},
    "audio": {"sample_rate": RATE, "seconds": 1.0, "min_seconds": 0.5},
    "session": {"trials": 4, "attention": 1, "repeats": 1, "practice": 1},
    "exclusion": {"attention_failed_ge": 1},
    "analysis": {"primary": "old<new"},
    "stopping": {"rule": "fixed", "participants": 50},
    "reveal": "session",
}


def tone(
    seconds: float, frequency: float, level: float = 0.2, rate: int = RATE, channels: int = 1
) -> Clip:
    """A plucked, decaying and repeating tone with two overtones: music enough for a meter."""
    time = np.arange(round(seconds * rate)) / rate
    pluck = np.exp(-6 * (time % 0.25)) * (1 - np.exp(-400 * (time % 0.25)))
    wave = sum(np.sin(2 * np.pi * k * frequency * time) / k for k in (1, 2, 3))
    return Clip(np.tile((level * pluck * wave).astype(np.float32), (channels, 1)), rate)


def write_study(folder: Path, prompts: int = 6, **changes: Any) -> Study:
    """Write clips, prompts and a definition into `folder`, and load it.

    Args:
        changes: keys of the definition; mappings are merged into its own.
    """
    data = dict(DEFINITION)
    for key, value in changes.items():
        merged = isinstance(value, dict) and isinstance(data.get(key), dict) and key != "stopping"
        data[key] = {**data[key], **value} if merged else value
    lines = [f"prompt number {i}" for i in range(1, prompts + 1)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts.txt").write_text("\n".join(lines))
    for i in range(1, prompts + 1):
        write_clip(tone(1.2, 200 + 10 * i), folder / "old" / f"{i}.wav")
        write_clip(tone(1.3, 207 + 10 * i, 0.05, channels=2), folder / "new" / f"{i}.flac")
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return load_study(path)


def shared_data(name: str) -> Path:
    """A folder of data that is not part of the project; skips the test where it is absent."""
    root = Path(__file__).resolve().parents[1]
    path = Path(os.environ.get("TTMPREF_SHARED", root.parent / "shared")) / "data" / name
    if not path.is_dir():
        pytest.skip(f"data are not at hand: {path} (set TTMPREF_SHARED)")
    return path


class Clock:
    """A clock that moves when a test says so; microseconds of UTC."""

    def __init__(self) -> None:
        self.now = 1_800_000_000_000_000

    def __call__(self) -> int:
        return self.now

    def pass_(self, seconds: float = 0.0, days: float = 0.0) -> None:
        self.now += round(1_000_000 * (seconds + 86_400 * days))


def heard(seconds: float = 1.0, client: str = "page") -> list[Event]:
    """Events of somebody who loads both clips and plays each for `seconds`."""
    ms = 1000 * seconds
    rows = [
        ("A", "loaded", 0.0, 0.0),
        ("B", "loaded", 0.0, 0.0),
        ("A", "play", 0.0, 0.0),
        ("B", "switch", 0.0, ms),
        ("none", "pause", 0.0, 2 * ms),
    ]
    return [Event(client, seq, *row) for seq, row in enumerate(rows)]


def ballot(choice: str = "A", **changes: Any) -> Ballot:
    """An answer after hearing both clips; its hash is that of what it says."""
    values = {"choice": choice, "rt_ms": 5_000, "events": heard(), **changes}
    return Ballot(**values, payload_sha256=sha256_json({**values, "events": len(values["events"])}))


def take_part(
    store: Store, clock: Clock, slug: str, raters: int, choose: Callable[[Path, Path], Vote]
) -> int:
    """Simulated raters who take whole sessions one after another; how many answers they gave.

    Args:
        choose: the answer of somebody who hears two files, A and B.
    """
    answers = 0
    for _ in range(raters):
        token, _ = store.people.join(slug, Joining("1", True, network="simulated"))
        trial = store.trials.next(token)
        while not isinstance(trial, Finished):
            a, b = (store.trials.clip(token, name) for name in (trial.token_a, trial.token_b))
            clock.pass_(20)
            following = store.trials.vote(token, trial.id, str(uuid4()), ballot(choose(a, b)))
            answers += 1
            trial = store.trials.next(token) if following is None else following
    return answers


def answered_study(
    root: Path, store: Store, clock: Clock, slug: str, raters: int = 4, **changes: Any
) -> None:
    """Build and open a study whose ranker likes "new" better, and have simulated raters finish it.

    Args:
        root: folder of the store's data; the study is written below it.
        changes: of the definition.
    """
    folder = root / slug
    folder.mkdir(parents=True)
    rewards = [f"{system},{prompt},{score}" for system, score in (("old", 0), ("new", 1))
               for prompt in range(1, 7)]  # fmt: skip
    (folder / "rewards.csv").write_text("\n".join(["system,prompt_id,score", *rewards]))
    session = {"trials": 6, "attention": 0, "repeats": 0, "practice": 0}
    study = write_study(
        folder, slug=slug, session=session, ranker={"file": "rewards.csv"}, **changes
    )
    build_study(study, build_folder(root, study.definition))
    store.studies.open(study, "tester")
    take_part(store, clock, slug, raters, lambda a, b: "A" if a.name < b.name else "B")


def settings_for(folder: Path, url: str, **environment: str) -> StudySettings:
    """Settings with a data folder of their own and generous limits."""
    given = {
        "TTMPREF_DATA_DIR": str(folder),
        "DATABASE_URL": url,
        "TTMPREF_SECRET": "a secret of tests",
        "TTMPREF_ADMIN_TOKEN": "an admin token of tests",
        "TTMPREF_TRIALS_PER_MINUTE": "10000",
        "TTMPREF_JOINS_PER_DAY": "10000",
        "TTMPREF_STORAGE_IS_SAFE": "1",
        **environment,
    }
    return StudySettings.from_environment(given)
