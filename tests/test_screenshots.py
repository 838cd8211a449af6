"""Pictures of the app: each tab can be taken, and README shows those that are there."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from benchmarks.browser import NoBrowser
from benchmarks.common import REPOSITORY
from benchmarks.screenshots import ALL, FOLDER, SHOWN, SIZES, take
from tests.parts import lacking
from tests.stage_preset import build_stage_preset

MOST_BYTES = 1_500_000  # that a reader of README loads


def test_every_tab_has_its_pictures(scoring_preset: Path, tmp_path: Path) -> None:
    preset = build_stage_preset(tmp_path, scoring_preset)
    looks = [look for look in ALL if look.scheme == "dark"]
    try:
        paths = take(str(preset), tmp_path / "pictures", looks)
    except NoBrowser as error:
        lacking(str(error))
    assert sorted(path.name for path in paths) == sorted(look.name for look in looks)
    for look in looks:
        width, height = Image.open(tmp_path / "pictures" / look.name).size
        assert width == SIZES[look.size][0]  # nothing sticks out
        assert height >= SIZES[look.size][1]


def test_readme_shows_the_committed_pictures_and_stays_light() -> None:
    pictures = sorted(FOLDER.glob("*.png"))
    assert [path.name for path in pictures] == sorted(look.name for look in SHOWN)
    assert sum(path.stat().st_size for path in pictures) <= MOST_BYTES
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for path in pictures:
        assert path.relative_to(REPOSITORY).as_posix() in text
