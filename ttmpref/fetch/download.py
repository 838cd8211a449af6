"""One file over HTTP: resumed where it was cut, patient where the server asks for it.

Bytes gather in `<target>.part`; beside it lies the server's validator (ETag or date), so that a
part is only continued if the file behind the URL is still the same (RFC 9110, section 13.1.5). The
standard library's client is used: it honours the proxy variables and follows redirects.
"""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from ttmpref import __version__
from ttmpref.types import ConfigError, FetchError, OutputError

HUB = "https://huggingface.co"
ATTEMPTS = 5  # in a row without a single new byte
TIMEOUT_SECONDS = 60.0
LONGEST_WAIT_SECONDS = 120.0
BLOCK = 1 << 20
BUSY = (408, 429, 500, 502, 503, 504)
REFUSED = {
    401: "the server wants a login",
    403: "the server refuses access",
    404: "there is no such file",
    410: "the file is gone",
}

OnBytes = Callable[[int, int | None], None]
"""Called with the bytes that are here and all bytes, None where the server does not say."""


def address_of(url: str) -> str:
    """Where `hf://org/repo/path` or `https://host/path` is downloaded from.

    HF_ENDPOINT replaces the hub; TTMPREF_MIRROR replaces every other host, which becomes the first
    part of the path: `<mirror>/<host>/<path>`.

    Raises:
        ConfigError: one of the two is not an http(s) address.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "hf":
        organisation, repository, path = rest.split("/", 2)
        return f"{_base('HF_ENDPOINT', HUB)}/{organisation}/{repository}/resolve/main/{path}"
    mirror = _base("TTMPREF_MIRROR", "")
    return f"{mirror}/{rest}" if mirror else url


def _base(variable: str, default: str) -> str:
    value = (os.environ.get(variable) or default).rstrip("/")
    if value and not value.startswith(("http://", "https://")):
        raise ConfigError(f"{variable} is {value!r}; it must start with http:// or https://")
    return value


def download(
    url: str, target: Path, on_bytes: OnBytes, wait: Callable[[float], None] = time.sleep
) -> None:
    """Leave the file behind `url` at `target`, whole; goes on with a part that is there.

    Args:
        url: as in `sources.yaml`.
        wait: pauses between attempts, in seconds.

    Raises:
        FetchError: refused, gone, or cut again and again; what arrived is kept.
        OutputError: the disk is full or not writable; what arrived is kept.
    """
    address, part = address_of(url), target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    while True:
        before = _size(part)
        try:
            reason, pause = _attempt(address, part, on_bytes), 0.0
        except urllib.error.HTTPError as error:
            reason, pause = _refusal(url, part, error), _asked_pause(error)
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            ConnectionError,
            TimeoutError,
        ) as e:
            reason, pause = f"no connection ({getattr(e, 'reason', None) or e})", 0.0
        except OSError as error:
            raise OutputError(
                f"{part}: cannot be written ({error.strerror or error}); what arrived is kept"
            ) from None
        if reason is None:
            break
        failures = 0 if _size(part) > before else failures + 1
        if failures >= ATTEMPTS:
            raise FetchError(f"{url}: {reason}; {_size(part)} bytes are kept, fetch again to go on")
        wait(min(max(pause, 2.0**failures - 1), LONGEST_WAIT_SECONDS))
    os.replace(part, target)
    _validator_path(part).unlink(missing_ok=True)


def _attempt(address: str, part: Path, on_bytes: OnBytes) -> str | None:
    """Append what one request brings; None once the part is whole, else why it is not."""
    with urllib.request.urlopen(_request(address, part), timeout=TIMEOUT_SECONDS) as response:
        resumed = response.status == 206
        here = _size(part) if resumed else 0
        length = response.headers["Content-Length"]
        total = None if length is None else here + int(length)
        _keep_validator(part, response.headers["ETag"] or response.headers["Last-Modified"])
        with open(part, "ab" if resumed else "wb", buffering=0) as file:
            while block := response.read(BLOCK):
                file.write(block)
                here += len(block)
                on_bytes(here, total)
            os.fsync(file.fileno())
    return None if total is None or here == total else f"cut after {here} of {total} bytes"


def _request(address: str, part: Path) -> urllib.request.Request:
    """A request for what is missing, or for everything where the part cannot be trusted."""
    headers = {"User-Agent": f"ttmpref/{__version__}"}
    validator = _validator_path(part)
    if _size(part) and validator.exists():
        headers["Range"] = f"bytes={_size(part)}-"
        headers["If-Range"] = validator.read_text(encoding="utf-8")
    return urllib.request.Request(address, headers=headers)


def _keep_validator(part: Path, value: str | None) -> None:
    """Weak ETags do not vouch for single bytes; without a strong one nothing is resumed."""
    path = _validator_path(part)
    if value is None or value.startswith("W/"):
        path.unlink(missing_ok=True)
    else:
        path.write_text(value, encoding="utf-8")


def _validator_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.validator")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _refusal(url: str, part: Path, error: urllib.error.HTTPError) -> str:
    """Words for an answer that may become better; raises `FetchError` for one that will not."""
    if error.code == 416:  # nothing follows this part: it is whole already, or too long
        _validator_path(part).unlink(missing_ok=True)  # so the next attempt takes everything
        return "the server has nothing after the part that is here"
    if error.code in BUSY:
        return f"the server answers {error.code}"
    words = REFUSED.get(error.code, error.reason)
    raise FetchError(f"{url}: {words} (HTTP {error.code} from {error.url})") from None


def _asked_pause(error: urllib.error.HTTPError) -> float:
    """Seconds of a Retry-After header; 0 without one (or with a date)."""
    asked = error.headers["Retry-After"] or ""
    return float(asked) if asked.isdecimal() else 0.0
