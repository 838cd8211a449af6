"""Who is the operator: the admin token, and a limit to guessing it.

Specification of listening studies, section 4. Wrong tokens are counted per network in the
database, so that the limit holds across server processes and whichever door is tried: the admin
API and the app's Results tab.
"""

from __future__ import annotations

from ttmpref.study.errors import TooMany, Unauthorised
from ttmpref.study.store.context import MINUTE, Context
from ttmpref.study.store.people import network_of

WRONG_TOKENS_PER_MINUTE = 10  # of one network


class Admins:
    """What tells operators from everybody else."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def check(self, token: str, address: str) -> None:
        """Let the admin token pass.

        Args:
            address: where the request came from; its whole network shares one limit.

        Raises:
            Unauthorised: it is another token, or none is configured.
            TooMany: too many wrong ones came from this network; the right one must wait too, or
                guessing would go on.
        """
        what = f"wrong admin token {network_of(address)}"
        with self._context.database.read() as connection:
            self._context.refuse_at(connection, what, WRONG_TOKENS_PER_MINUTE, MINUTE)
        try:
            self._context.settings.check_admin(token)
        except Unauthorised:
            self._count(what)
            raise

    def _count(self, what: str) -> None:
        try:
            with self._context.database.write() as connection:
                self._context.count(connection, what, WRONG_TOKENS_PER_MINUTE, MINUTE)
        except TooMany:
            pass  # others filled the limit meanwhile; this one learns no more than they do
