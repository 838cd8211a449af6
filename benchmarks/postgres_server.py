"""A PostgreSQL server of one's own, in a temporary folder, from the system's package.

It listens on a socket in its folder alone and is gone afterwards. The server refuses to run as
root, so root starts it as another user.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

START_SECONDS = 60.0
PACKAGE_FOLDERS = Path("/usr/lib/postgresql")  # where Debian keeps the programs of each version
UNPRIVILEGED = ("postgres", "nobody")
SUPERUSER = "tester"


class NoPostgres(RuntimeError):
    """The programs are not installed, or nobody may run them."""


@contextmanager
def postgres_server(safe: bool = True) -> Iterator[str]:
    """Run a server; gives the address of its maintenance database.

    Args:
        safe: wait for the disk at every commit, as a real one must; tests need not.

    Raises:
        NoPostgres: it cannot be run here.
    """
    programs = _programs()
    user = _user()
    folder = Path(tempfile.mkdtemp(prefix="ttmpref-pg-"))
    try:
        if user is not None:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        data = folder / "data"
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", SUPERUSER, "-A", "trust", "-E", "UTF8",
             "--locale=C"] + ([] if safe else ["--no-sync"]),
            check=True, capture_output=True, user=user, cwd=folder,
        )  # fmt: skip
        options = ["-k", str(folder), "-h", "", "-c", "max_connections=120"]
        options += [] if safe else ["-c", "fsync=off"]
        process = subprocess.Popen(
            [programs / "postgres", "-D", data, *options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=user, cwd=folder,
        )  # fmt: skip
        try:
            _wait(programs, process, folder)
            yield f"postgresql://{SUPERUSER}@/postgres?host={folder}"
        finally:
            # What is thrown away needs no orderly end, which would write it all out first.
            process.send_signal(signal.SIGTERM if safe else signal.SIGQUIT)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def create_database(server: str, template: str | None = None) -> str:
    """The address of a new database on a running server, empty or a copy of another one.

    Args:
        template: address of the database to copy; nobody may be connected to it.
    """
    import psycopg

    name = f"study_{uuid4().hex}"
    copied = f" TEMPLATE {_name_of(template)}" if template else ""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}{copied}")
    return server.replace("/postgres?", f"/{name}?")


def _name_of(address: str) -> str:
    return address.rpartition("/")[0].rpartition("?")[0].rpartition("/")[2]


def _programs() -> Path:
    """Folder of initdb and postgres, the newest version first."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    for folder in sorted(PACKAGE_FOLDERS.glob("*/bin"), reverse=True):
        if (folder / "initdb").exists():
            return folder
    raise NoPostgres("PostgreSQL is not installed (Debian: apt-get install postgresql)")


def _user() -> str | None:
    """Whom to run the server as; None for whoever runs this, unless that is root."""
    if os.geteuid() != 0:
        return None
    for name in UNPRIVILEGED:
        try:
            pwd.getpwnam(name)
            return name
        except KeyError:
            continue
    raise NoPostgres(f"root cannot run PostgreSQL, and there is no user {UNPRIVILEGED}")


def _wait(programs: Path, process: subprocess.Popen[bytes], folder: Path) -> None:
    started = time.monotonic()
    while time.monotonic() - started < START_SECONDS:
        if process.poll() is not None:
            raise NoPostgres(f"PostgreSQL ended with code {process.returncode} while starting")
        ready = subprocess.run(
            [programs / "pg_isready", "-q", "-h", folder], check=False, capture_output=True
        )
        if ready.returncode == 0:
            return
        time.sleep(0.1)
    raise NoPostgres(f"PostgreSQL did not start within {START_SECONDS:g} s")
