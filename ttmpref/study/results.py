"""Whose results may be shown to whom, and the analysis behind them: what the Results tab asks.

Specification of listening studies, sections 2.2, 3.5 and 6.3. Anybody may see a study that has
ended and whose definition lets people learn which system was which. Operators, by the admin token,
see all: a study that still runs under blind codes, as its exports do, so that nobody who reads
along can tell the systems apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ttmpref.study.errors import NotFound, Unprocessable

if TYPE_CHECKING:  # heavy, and not needed before the first question
    from ttmpref.study.analysis import Analysis
    from ttmpref.study.store import Store

ENDED = ("closed", "archived")


@dataclass(frozen=True)
class Entry:
    """A study whose results may be shown.

    Attributes:
        name: `<slug>-v<version>`.
        blind: whether systems appear under their codes.
    """

    name: str
    title: str
    status: str
    votes: int
    blind: bool


class Results:
    """Entries and analyses over a store; analyses are kept until the study changes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[str, tuple[tuple[str, str], Analysis]] = {}

    def entries(self, token: str = "", address: str = "") -> list[Entry]:
        """The studies that the holder of a token may see, and anybody without one.

        Args:
            address: who asks; wrong tokens are counted by it.

        Raises:
            Unauthorised: the token is not empty and not the admin's.
            TooMany: too many wrong ones came from there.
        """
        if token:
            self._store.admins.check(token, address)
        return [
            Entry(
                f"{row['slug']}-v{row['version']}", row["title"], row["status"], row["votes"],
                blind=row["status"] not in ENDED,
            )
            for row in self._store.studies.list()
            if token or (row["status"] in ENDED and row["reveal"] != "never")
        ]  # fmt: skip

    def analysis(self, name: str, token: str = "", address: str = "") -> Analysis | None:
        """The planned analysis of one of the entries, with the votes it has now; None without any.

        Raises:
            NotFound: it is none of them.
            Unauthorised, TooMany: see `entries`.
        """
        from ttmpref.study.export import export_files
        from ttmpref.study.reporting import analyse_export

        if name not in [entry.name for entry in self.entries(token, address)]:
            raise NotFound("there are no results of such a study to show")
        state = self._store.reading.state(name)
        kept = self._kept.get(name)
        if kept is None or kept[0] != state:
            try:
                found = analyse_export(export_files(self._store.reading.dump(name)))
            except Unprocessable:
                return None
            self._kept[name] = kept = state, found
        return kept[1]
