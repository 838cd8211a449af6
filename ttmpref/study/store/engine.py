"""The connection to the database: transactions, durability, migrations, one kind of error.

Specification of listening studies, section 3.2. SQLite runs with a write-ahead log, waits for the
disk at every commit (`synchronous=FULL`) and takes its write lock at the start of a transaction
(`BEGIN IMMEDIATE`), because one that reads first and writes later can fail although it waited. On
PostgreSQL the same transactions lock the row of their study first.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
    TimeoutError,
)

from ttmpref.study.errors import Unavailable
from ttmpref.study.settings import SQLITE_PREFIX
from ttmpref.study.store.tables import HEAD

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

BUSY_SECONDS = 30
MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 7_414_701  # advisory lock on PostgreSQL; any number that is ours
POOL_SIZE, POOL_OVERFLOW = 5, 15
# Not of our making: full or read-only disk, no connection, lock waited for in vain. Anything else
# that a database reports is a mistake of this program and stays what it is.
TROUBLE = (OperationalError, InterfaceError, InternalError, TimeoutError)


class Database:
    """An engine whose schema is the newest one; safe to share between threads."""

    def __init__(self, url: str) -> None:
        """Connect, and upgrade the schema where it is older.

        Raises:
            Unavailable: there is no connection, or the schema is newer than this program.
        """
        self.is_sqlite = url.startswith("sqlite")
        # PostgreSQL lets many write, but votes of one study wait for its row, and a thread that
        # holds that row and waits for this interpreter would hold up all others.
        self._turn = _Turn(url) if self.is_sqlite else threading.Lock()
        with self._translated():
            self.engine = _sqlite_engine(url) if self.is_sqlite else _postgresql_engine(url)
            self._writing = self.engine.execution_options(writing=True)
            self._migrate()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that changes nothing."""
        with self._translated(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """As `read`, for several statements that must see the same state on PostgreSQL too."""
        with self._translated(), self.engine.connect() as connection:
            if not self.is_sqlite:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is on disk when the block ends, or has left no trace."""
        with self._translated(), self._turn, self._writing.begin() as connection:
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Trouble with the database, as the one error that means "try again later"."""
        try:
            yield
        except TROUBLE as error:
            reason = error.orig if isinstance(error, DBAPIError) else error
            words = " ".join(str(reason).split())
            raise Unavailable(f"the database did not take it ({words})") from error

    def insert(self, table: Any) -> Any:
        """An INSERT that knows ON CONFLICT."""
        return (sqlite if self.is_sqlite else postgresql).insert(table)

    def schema(self) -> str | None:
        """Name of the newest migration that was applied; None in an empty database."""
        with self.read() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            return connection.scalar(text("SELECT version_num FROM alembic_version"))

    def _migrate(self) -> None:
        """Bring the schema up to date; of several processes that start at once, one does it."""
        if self.schema() == HEAD:
            return
        with self.write() as connection:
            if not self.is_sqlite:
                connection.execute(select(text(f"pg_advisory_xact_lock({MIGRATION_LOCK})")))
            _upgrade(connection)

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()


class _Turn:
    """Writers of SQLite take turns: threads of one process by a lock, processes by a locked file.

    SQLite would let them wait too, but asleep and in no order, so that some wait very long. The
    file is not what keeps data whole; where files cannot be locked, SQLite's own waiting remains.
    """

    def __init__(self, url: str) -> None:
        self._threads = threading.Lock()
        path = url.removeprefix(SQLITE_PREFIX) + ".lock"
        try:
            self._file = open(path, "ab")  # noqa: SIM115
        except OSError as error:
            raise Unavailable(f"{path}: cannot be written ({error.strerror})") from None

    def __enter__(self) -> None:
        self._threads.acquire()
        if fcntl is not None:
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        if fcntl is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._threads.release()


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, HEAD)
    except CommandError as error:
        words = " ".join(str(error).split())
        raise Unavailable(f"the database was made by a newer program ({words})") from None


def _sqlite_engine(url: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS, "isolation_level": None})

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writing = connection.get_execution_options().get("writing", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def _postgresql_engine(url: str) -> Engine:
    return create_engine(
        url, pool_size=POOL_SIZE, max_overflow=POOL_OVERFLOW, pool_pre_ping=True,
        connect_args={"connect_timeout": BUSY_SECONDS},
    )  # fmt: skip
