"""How the server's process uses a machine that it shares with its own listeners, with a second
server, with whatever else runs there."""

from __future__ import annotations

import ctypes
import os

# Threads of a matrix product wait for each other by spinning this often before they sleep. The
# library's own number is in the millions: where another process takes one of two cores, most of a
# clip's time is then spent waiting (`benchmarks.busy_machine`).
SPINS = 1000
M_ARENA_MAX = -8  # of glibc's mallopt
ARENAS = 2  # heaps that threads share; one for each keeps memory that no other thread may use


def share_the_machine() -> None:
    """Take these manners, for this process; to be called before torch is loaded.

    `GOMP_SPINCOUNT` or `OMP_WAIT_POLICY` in the environment is left as it is. Where libgomp or
    glibc is not what the system has, nothing happens.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
    try:
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)
    except (AttributeError, OSError, TypeError):  # not glibc; Windows
        return
