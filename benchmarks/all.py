"""Run every benchmark in its own process, then render the page of results.

Takes the options of a benchmark and hands them on. Stops at the first that fails.
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.common import REPOSITORY, parse_setting
from benchmarks.table import ORDER


def main() -> None:
    parse_setting(__doc__)  # refuses wrong options before anything is measured
    for name in (*ORDER, "table"):
        print(f"\n=== {name}", flush=True)
        subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]], cwd=REPOSITORY, check=True
        )


if __name__ == "__main__":
    main()
