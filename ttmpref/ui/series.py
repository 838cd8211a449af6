"""What tabs keep of a series of clips, and the archive that a visitor may take of it.

A series belongs to one run of one visitor; clips already lie in the app's folder, and this
remembers which belongs to what.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

from ttmpref.series import TABLE, Made, Task, table_rows
from ttmpref.studio import Studio
from ttmpref.ui.clips import ClipFolder, StoredClip
from ttmpref.ui.player import file_address

ARCHIVED = ("wav", "json")


@dataclass(eq=False)
class Series:
    """Clips of a run as they come.

    Attributes:
        tasks: what is to be made, in order.
        names: of the tasks for people and for files, in the same order.
        made: what became of the tasks so far, in order.
        stored: files of those that were made, by number of the task.
    """

    tasks: Sequence[Task]
    names: Sequence[str]
    made: list[Made] = field(default_factory=list)
    stored: dict[int, StoredClip] = field(default_factory=dict)

    def keep(self, studio: Studio, folder: ClipFolder, made: Made) -> None:
        """Write a clip's files and remember it; failures are remembered as well."""
        if made.generation is not None:
            self.stored[made.number] = folder.keep(studio, made.generation)
        self.made.append(made)

    @property
    def finished(self) -> list[Made]:
        return [one for one in self.made if one.generation is not None]

    def archive(self, folder: ClipFolder, name: str) -> str:
        """A link to all clips with their sidecars and a table; empty where there is no clip."""
        if not self.stored:
            return ""
        stems = {number: self._stem(number) for number in self.stored}
        files = {
            f"{stems[number]}.{kind}": stored.files[kind]
            for number, stored in self.stored.items()
            for kind in ARCHIVED
        }
        rows = table_rows((f"{stems[one.number]}.wav" if one.generation else "", one)
                          for one in self.made)  # fmt: skip
        path = folder.bundle(f"{name}.zip", {**files, "clips.csv": _csv(rows).encode()})
        count = f"{len(self.stored)} clips" if len(self.stored) > 1 else "the clip"
        return (
            f'<p class="downloads"><a class="mini" href="{file_address(path)}" '
            f'download="{path.name}">Download {count} with settings and a table (ZIP)</a></p>'
        )

    def _stem(self, number: int) -> str:
        """A name inside the archive: its place, and what its file is called."""
        return f"{number + 1:02d}-{self.names[number]}_{self.stored[number].files['wav'].stem}"


def _csv(rows: Sequence[dict[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, TABLE, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
