"""The database of listening studies: the only source of truth, and the owner of sqlalchemy.

Specification of listening studies, section 3. `Store` bundles what operators, participants and
trials need over one database; files in `listening_results/` are derived from it and never read
back.
"""

from __future__ import annotations

from collections.abc import Callable

from ttmpref.study.settings import StudySettings
from ttmpref.study.store.admins import Admins
from ttmpref.study.store.context import Context, now_us
from ttmpref.study.store.engine import Database
from ttmpref.study.store.people import People
from ttmpref.study.store.reading import Reading
from ttmpref.study.store.studies import Studies
from ttmpref.study.store.trials import Trials


class Store:
    """Verbs of a study database; safe to share between threads and processes.

    Attributes:
        admins: telling operators from everybody else.
        studies: opening, pausing, closing, listing, verifying.
        people: joining, screening, withdrawing, forgetting.
        trials: next trial, clips, events, votes.
        reading: all rows of a study, and where it stands.
    """

    def __init__(self, settings: StudySettings, clock: Callable[[], int] = now_us) -> None:
        """Connect, and bring the schema up to date.

        Args:
            clock: microseconds of UTC since 1970; replaced in tests.

        Raises:
            Unavailable: the database cannot be reached or written.
        """
        self.settings = settings
        self.database = Database(settings.database_url)
        context = Context(self.database, settings, clock)
        self.admins = Admins(context)
        self.studies = Studies(context)
        self.people = People(context)
        self.trials = Trials(context)
        self.reading = Reading(context)

    def close(self) -> None:
        """Give all connections back."""
        self.database.close()
