"""Votes to a dataset of the Hugging Face hub, now and then, for safety and for analysis.

What goes there is the pseudonymous export (`ttmpref.study.export`), a folder per study, in a commit
whenever something was answered. Off unless a dataset is named. A thread of its own reads the
database as any reader does, so that a slow or failing hub neither delays nor loses a vote; what
could not be sent is tried again at the next turn.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ttmpref.study.settings import PushSettings

if TYPE_CHECKING:
    from ttmpref.study.store import Store

logger = logging.getLogger(__name__)

UNSENT = "draft"  # the status of a study that nobody has answered


class VotesPush:
    """Sends studies that have changed to a private dataset."""

    def __init__(
        self, settings: PushSettings, store: Callable[[], Store], endpoint: str | None = None
    ) -> None:
        """
        Args:
            store: opens the store, or gives the open one.
            endpoint: of the hub; None for the usual one.
        """
        self._settings, self._store, self._endpoint = settings, store, endpoint
        self._sent: dict[str, tuple[str, str]] = {}
        self._over = threading.Event()

    def start(self) -> None:
        """Push at once and then at every interval, until the process ends or `stop`."""
        threading.Thread(target=self._again_and_again, name="votes push", daemon=True).start()

    def stop(self) -> None:
        self._over.set()

    def _again_and_again(self) -> None:
        while not self._over.is_set():
            self.push()
            self._over.wait(60.0 * self._settings.minutes)

    def push(self) -> int:
        """Send what has changed since the last time; how many studies were sent.

        Whatever goes wrong is logged and left for the next time.
        """
        sent = 0
        try:
            store = self._store()
            for study in store.studies.list():
                sent += study["status"] != UNSENT and self._sent_study(store, study["slug"])
        except Exception as error:
            logger.warning("votes could not be sent to %s: %s", self._settings.dataset, error)
        return sent

    def _sent_study(self, store: Store, slug: str) -> bool:
        """Send a study unless nothing was answered since; whether it was sent."""
        from ttmpref.study.export import export_files  # heavy, and seldom needed

        state = store.reading.state(slug)
        if self._sent.get(slug) == state:
            return False
        dump = store.reading.dump(slug)
        folder = f"{slug}-v{dump.study['version']}"
        self._commit({f"{folder}/{name}": data for name, data in export_files(dump).items()})
        self._sent[slug] = state
        return True

    def _commit(self, files: dict[str, bytes]) -> None:
        """One commit with these files; makes the dataset, private, where there is none."""
        from huggingface_hub import CommitOperationAdd, HfApi

        api = HfApi(endpoint=self._endpoint, token=self._settings.token)
        place: dict[str, Any] = {"repo_id": self._settings.dataset, "repo_type": "dataset"}
        api.create_repo(**place, private=True, exist_ok=True)
        added = [CommitOperationAdd(name, data) for name, data in files.items()]
        api.create_commit(**place, operations=added, commit_message="Answers so far")


def start_push(settings: PushSettings | None, store: Callable[[], Store]) -> None:
    """Push from now on, where a dataset is named."""
    if settings is not None:
        VotesPush(settings, store).start()
