"""The app's manners on a shared machine are taken before torch is loaded, and never forced."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ttmpref.ui import VISITS_KEPT, process

REPOSITORY = Path(__file__).resolve().parents[1]


def last_words(script: str) -> str:
    """The last line that a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


def test_threads_spin_less_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    process.share_the_machine()
    assert os.environ["GOMP_SPINCOUNT"] == str(process.SPINS)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    process.share_the_machine()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    process.share_the_machine()
    assert "GOMP_SPINCOUNT" not in os.environ


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_a_system_without_glibc_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def refuse(_: None) -> None:
        raise error

    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    monkeypatch.setattr(process.ctypes, "CDLL", refuse)
    process.share_the_machine()


def test_the_app_takes_its_manners_while_torch_is_not_yet_loaded() -> None:
    """libgomp reads its environment when torch loads it: later would be too late."""
    script = (
        "import sys\n"
        "import ttmpref.ui\n"
        "def look():\n"
        "    print('torch' in sys.modules)\n"
        "    sys.exit()\n"
        "ttmpref.ui.share_the_machine = look\n"
        "from ttmpref.studio import Studio\n"
        "ttmpref.ui.launch(Studio.open('demo'), None, None, False)\n"
    )
    assert last_words(script) == "False"


def test_the_app_forgets_the_visits_that_are_long_over() -> None:
    """Gradio's own limit is ten thousand, which is more than two gigabytes."""
    script = (
        "import os, sys\n"
        "import gradio\n"
        "import ttmpref.ui\n"
        "def look(app):\n"
        "    holder = app.state_holder\n"
        "    for visit in range(ttmpref.ui.VISITS_KEPT + 5):\n"
        "        holder[str(visit)]\n"
        "    print(len(holder.session_data), '4' in holder, '5' in holder)\n"
        "    sys.stdout.flush()\n"
        "    os._exit(0)\n"
        "gradio.Blocks.block_thread = look\n"
        "from ttmpref.studio import Studio\n"
        "ttmpref.ui.launch(Studio.open('demo'), '127.0.0.1', None, False)\n"
    )
    assert last_words(script) == f"{VISITS_KEPT} False True"
