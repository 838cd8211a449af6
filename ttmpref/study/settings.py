"""What an operator decides outside any study: where data live, who is admin, limits.

Everything comes from the environment and is read here alone:

    TTMPREF_DATA_DIR          builds, and the SQLite database (default ~/.local/share/ttmpref)
    DATABASE_URL              PostgreSQL instead of SQLite
    TTMPREF_SECRET            key of all pseudonyms (default: made once, kept in the data folder)
    TTMPREF_ADMIN_TOKEN       opens the admin page and API; without it there is neither
    TTMPREF_TRUSTED_PROXIES   how many proxies in front append to X-Forwarded-For (default 0)
    TTMPREF_TRIALS_PER_MINUTE, TTMPREF_JOINS_PER_DAY      rate limits per person and per network
    TTMPREF_VOTES_DATASET     owner/name of a dataset to which answers are sent (default: none)
    TTMPREF_VOTES_MINUTES     how often (default 15)
    HF_TOKEN                  what opens that dataset
    TTMPREF_STORAGE_IS_SAFE   1: open studies although the data folder looks like it will not last
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ttmpref.study.errors import Unauthorised
from ttmpref.types import ConfigError

ADMIN_TOKEN = "TTMPREF_ADMIN_TOKEN"
DATASET = "TTMPREF_VOTES_DATASET"
SECRET_FILE = "secret.key"
DATABASE_FILE = "studies.sqlite3"
SHORTEST_TOKEN = 16
SQLITE_PREFIX = "sqlite:///"
POSTGRES_PREFIX = "postgresql+psycopg://"
NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "glusterfs")
VOLATILE_FILE_SYSTEMS = ("tmpfs", "ramfs")
MOUNTS = Path("/proc/mounts")
DEFAULT_RESULTS = Path("listening_results")  # folder of exports


@dataclass(frozen=True)
class StudySettings:
    """See the module's docstring.

    Attributes:
        database_url: of SQLAlchemy, with its driver.
        secret: key of all keyed hashes; never in the database.
        admin_token: None switches the admin API off.
        trials_per_minute: trial posts of one person.
        joins_per_day: new participants of one network.
        space_id: set inside a hosted Space, whose own disk is emptied at every restart.
    """

    data_dir: Path
    database_url: str
    secret: bytes
    admin_token: str | None = None
    trusted_proxies: int = 0
    trials_per_minute: int = 30
    joins_per_day: int = 60
    storage_is_safe: bool = False
    space_id: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> StudySettings:
        """Settings of this process; makes the data folder and the secret where missing.

        Raises:
            ConfigError: a variable has an impossible value; names it.
        """
        default = Path.home() / ".local" / "share" / "ttmpref"
        data_dir = Path(environment.get("TTMPREF_DATA_DIR") or default).expanduser().absolute()
        secret = environment.get("TTMPREF_SECRET")
        token = environment.get(ADMIN_TOKEN) or None
        if token is not None and len(token) < SHORTEST_TOKEN:
            raise ConfigError(
                f"{ADMIN_TOKEN} has {len(token)} characters; {SHORTEST_TOKEN} or more"
            )
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            key = secret.encode("utf-8") if secret else _kept_secret(data_dir / SECRET_FILE)
        except OSError as error:
            raise ConfigError(f"{data_dir}: cannot be used ({error.strerror or error})") from None
        return cls(
            data_dir=data_dir,
            database_url=_database_url(environment.get("DATABASE_URL"), data_dir),
            secret=key,
            admin_token=token,
            trusted_proxies=_whole(environment, "TTMPREF_TRUSTED_PROXIES", cls.trusted_proxies),
            trials_per_minute=_whole(
                environment, "TTMPREF_TRIALS_PER_MINUTE", cls.trials_per_minute
            ),
            joins_per_day=_whole(environment, "TTMPREF_JOINS_PER_DAY", cls.joins_per_day),
            storage_is_safe=environment.get("TTMPREF_STORAGE_IS_SAFE") == "1",
            space_id=environment.get("SPACE_ID"),
        )

    @property
    def uses_sqlite(self) -> bool:
        return self.database_url.startswith(SQLITE_PREFIX)

    def check_admin(self, token: str) -> None:
        """Raise `Unauthorised` unless this is the admin token; it takes as long for any other."""
        expected = self.admin_token
        if expected is None or not hmac.compare_digest(token.encode(), expected.encode()):
            raise Unauthorised("this is not the admin token")

    def storage_warning(self) -> str | None:
        """Why answers might not outlast this machine, or None."""
        if not self.uses_sqlite:
            return None
        kind, place = _file_system(self.data_dir)
        if kind in NETWORK_FILE_SYSTEMS:
            return f"{self.data_dir} is on {kind}, where SQLite loses data: set DATABASE_URL"
        if kind in VOLATILE_FILE_SYSTEMS:
            return f"{self.data_dir} is in memory ({kind}) and is lost at a restart"
        if self.space_id is not None and place == Path("/"):
            return f"{self.data_dir} is on the disk of a Space and is lost at a restart"
        return None


@dataclass(frozen=True)
class PushSettings:
    """Where answers are sent, and how often; see the module's docstring."""

    dataset: str
    token: str = field(repr=False)
    minutes: int = 15

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> PushSettings | None:
        """Settings of this process; None where no dataset is named.

        Raises:
            ConfigError: a variable is missing or has an impossible value; names it.
        """
        dataset = environment.get(DATASET)
        if not dataset:
            return None
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", dataset, re.ASCII):
            raise ConfigError(f"{DATASET} is {dataset!r}; owner/name of a dataset is accepted")
        token = environment.get("HF_TOKEN")
        if not token:
            raise ConfigError(f"{DATASET} is set; HF_TOKEN must hold a token that may write there")
        minutes = _whole(environment, "TTMPREF_VOTES_MINUTES", cls.minutes)
        return cls(dataset, token, max(1, minutes))


def recruitment_code(name: str | None) -> str | None:
    """The code in an environment variable that a study names; None where either is missing."""
    return os.environ.get(name) if name else None


def _kept_secret(path: Path) -> bytes:
    """The key in a file, made on first use; readable by its owner alone."""
    if not path.exists():
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
        try:
            os.link(aside, path)  # of two processes that start together, one wins
        except FileExistsError:
            pass  # the other one's key is read below
        finally:
            aside.unlink()
    return path.read_bytes()


def _database_url(given: str | None, data_dir: Path) -> str:
    if not given:
        return f"{SQLITE_PREFIX}{data_dir / DATABASE_FILE}"
    if given.startswith(SQLITE_PREFIX):
        return given
    scheme, separator, rest = given.partition("://")
    if not separator or scheme not in ("postgres", "postgresql", "postgresql+psycopg"):
        raise ConfigError(
            f"DATABASE_URL has the scheme {scheme!r}; accepted: postgresql://..., sqlite:///..."
        )
    return POSTGRES_PREFIX + rest


def _whole(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal():
        raise ConfigError(f"{name} is {text!r}; a whole number from 0 is accepted")
    return int(text)


def _file_system(path: Path) -> tuple[str, Path]:
    """Kind and mount point of the file system a folder lies on; ("", /) where nobody says."""
    best = "", Path("/")
    if not MOUNTS.exists():
        return best
    for line in MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines():
        _, mount, kind, *_ = line.split()
        place = Path(mount.replace("\\040", " "))
        if path.is_relative_to(place) and len(place.parts) >= len(best[1].parts):
            best = kind, place
    return best
