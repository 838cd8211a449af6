"""Check 32: app and study server answer soon after a cold start, before any model.

How many seconds that is depends on the machine (`python -m benchmarks.latency` and `.app_load` say
it); here starting is held against importing the libraries that it cannot do without.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

from tests import browser as driver
from tests.browser import ROOT

MOST_TIMES = 3.0
MODELS = {"torch", "torchaudio", "transformers", "laion_clap", "demucs"}


def packages(import_log: str) -> set[str]:
    """Top-level packages in what `python -X importtime` says."""
    lines = (line for line in import_log.splitlines() if line.startswith("import time:"))
    return {line.rpartition("|")[2].strip().split(".")[0] for line in lines}


def seconds_to_import(*names: str) -> float:
    """Of the processor, in a fresh interpreter."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", f"import {', '.join(names)}"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_the_study_server_answers_soon_and_without_any_model(tmp_path: Path) -> None:
    port, log = driver.free_port(), tmp_path / "server.log"
    command = [sys.executable, "-X", "importtime", "-m", "ttmpref", "study", "serve"]
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=ROOT, stdout=output, stderr=output,
            env=os.environ | {"TTMPREF_DATA_DIR": str(tmp_path / "data"), "DATABASE_URL": ""},
        )  # fmt: skip
    try:
        driver.wait_for_answer(f"http://127.0.0.1:{port}/api/v1/readyz", process, log)
        taken = driver.processor_seconds(process.pid)
    finally:
        process.terminate()
        process.wait(timeout=driver.PATIENCE_SECONDS)
    loaded = packages(log.read_text())
    assert {"fastapi", "sqlalchemy", "uvicorn"} <= loaded  # the log is one
    assert not loaded & (MODELS | {"gradio", "scipy"})
    assert taken < MOST_TIMES * seconds_to_import("fastapi", "sqlalchemy", "uvicorn", "alembic")


def test_the_app_answers_soon(tiny_preset: Path, tmp_path: Path) -> None:
    with driver.running_app(tiny_preset, tmp_path) as app:
        taken = app.seconds_to_start
    assert taken < MOST_TIMES * seconds_to_import("gradio")
