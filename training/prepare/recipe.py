"""Numbers of a preparation, read from `recipes/<name>.yaml`; the preset says the rest.

What a number decides is decided for the whole data set: `python -m training prepare` refuses to go
on in a folder that was begun with another recipe.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from ttmpref.config import FrozenConfig, load_named

RECIPE_FOLDER = Path(__file__).parent / "recipes"


class PrepareRecipe(FrozenConfig):
    """From tracks to clips (specification of the backbone, section 4.3).

    Attributes:
        captions: table of captions, CSV, JSON, JSON lines or Parquet, inside the audio folder.
        path_column, caption_column: path inside the audio folder, and the text.
        id_column: name of the track, unique; where the cell is absent, the path without its suffix.
        clips_per_track: at most so many clips, evenly spread; as few as cover a shorter track.
        shortest_seconds, longest_seconds: other tracks are refused.
        peak: of the whole track's mono mix, before it is cut.
        separation_passes: of the preset's separator, where it has one.
        prompted: rewards are of a clip with its caption; otherwise without any text.
        seed: of the shuffle that divides tracks into splits, test first.
        validation, test: tracks held out; below 1, a share of them, rounded up.
        tracks_per_shard, captions_per_shard: sizes of the files.
    """

    name: str
    captions: str = "captions.csv"
    path_column: str = "path"
    caption_column: str = "caption"
    id_column: str = "id"
    clips_per_track: int = Field(10, gt=0)
    shortest_seconds: float = Field(5.0, gt=0)
    longest_seconds: float = Field(1800.0, gt=0)
    peak: float = Field(0.95, gt=0, le=1)
    separation_passes: int = Field(1, ge=1, le=10)
    prompted: bool = True
    seed: int = Field(42, ge=0)
    validation: float = Field(0, ge=0)
    test: float = Field(0, ge=0)
    tracks_per_shard: int = Field(128, gt=0)
    captions_per_shard: int = Field(1024, gt=0)


def load_prepare_recipe(name_or_path: str) -> PrepareRecipe:
    """A shipped recipe by name or any by path; raises `ConfigError` naming the wrong key."""
    return load_named(PrepareRecipe, "recipe", RECIPE_FOLDER, name_or_path)
