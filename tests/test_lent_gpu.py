"""A host that lends GPUs: what works with the models is handed to it, and nothing else."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ttmpref.studio import Studio
from ttmpref.types import Generation
from ttmpref.ui.lent_gpu import VERBS, with_lent_gpu


@pytest.fixture
def studio(tiny_preset: Path) -> Studio:
    return Studio.open(str(tiny_preset), "cpu")


def test_without_the_package_the_studio_stays_as_it_is(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ttmpref.ui.lent_gpu.find_spec", lambda name: None)
    assert with_lent_gpu(studio) is studio


def test_with_it_every_verb_of_the_models_runs_on_the_lent_gpu(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    lent: list[str] = []

    def gpu(duration):
        def lend(verb):
            assert inspect.isgeneratorfunction(verb)  # or the host would wait for its end

            def borrowed(*args, **kwargs):
                lent.append(verb.__name__)
                return verb(*args, **kwargs)

            return borrowed

        return lend

    host = ModuleType("spaces")
    host.GPU = gpu
    monkeypatch.setitem(sys.modules, "spaces", host)
    monkeypatch.setattr("ttmpref.ui.lent_gpu.find_spec", lambda name: host)
    borrowing = with_lent_gpu(studio)
    assert borrowing.preset is studio.preset and borrowing.stages() == studio.stages()
    request = borrowing.request("calm piano", seed=1, num_steps=1)
    made = [item for item in borrowing.stream(request) if isinstance(item, Generation)]
    assert len(made) == 1 and lent == ["stream"]
    assert set(VERBS) <= set(vars(borrowing))
