"""Training by several processes, in pieces, and by processes that die; curves and trackers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from typer.testing import CliRunner

from tests.shared_training import PACE, RECIPE, shared_job
from training import chain, engine
from training.__main__ import app
from training.engine import Share, accelerator, products, update
from training.loop import Pace, Schedule, load_checkpoint, run
from training.tracking import open_tracker, time_left
from ttmpref.config import ConfigError

ROOT = Path(__file__).parent.parent
PROGRAM = ("-m", "tests.shared_training")
SCHEDULE = Schedule(RECIPE.steps, RECIPE.learning_rate, RECIPE.warm_up)


def launched(pieces: int, *arguments: str) -> list[str]:
    """The command that the README names, for two processes on the CPU."""
    return [
        sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2",
        "--num_machines", "1", "--mixed_precision", "no", "--num_cpu_threads_per_process", "1",
        "--main_process_port", "0", "--gradient_accumulation_steps", str(pieces), *arguments,
    ]  # fmt: skip


def checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def log_of(folder: Path) -> list[dict]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    """A scalar's (step, value) as TensorBoard shows them."""
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    run(shared_job(), SCHEDULE, folder, PACE)
    return folder


@pytest.mark.parametrize("pieces, begun", [(1, 0), (2, 3)])
def test_two_processes_make_the_run_of_one(
    pieces: int, begun: int, alone: Path, tmp_path: Path
) -> None:
    """From the start, or where one process stopped; in one piece each, or in two."""
    first = Schedule(begun, RECIPE.learning_rate, RECIPE.warm_up)
    run(shared_job(), first, tmp_path, dataclasses.replace(PACE, validate_every=100))
    command = launched(pieces, *PROGRAM, str(tmp_path))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours, theirs = (
        {(line["step"], name): value for line in log_of(folder) for name, value in line.items()}
        for folder in (tmp_path, alone)
    )
    assert {key: ours[key] for key in theirs} == pytest.approx(theirs, rel=1e-4)
    ours, theirs = checkpoint(tmp_path), checkpoint(alone)
    assert ours["step"] == theirs["step"] == RECIPE.steps
    for name, module in theirs["modules"].items():
        torch.testing.assert_close(ours["modules"][name], module, rtol=1e-3, atol=1e-5)


def test_a_batch_that_cannot_be_shared_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="batch is 7; accepted: multiples of 2, which is proc"):
        Share(0, 2)(torch.zeros(7, 3))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_pieces_of_a_batch_make_the_update_of_the_whole(count: int, monkeypatch) -> None:
    monkeypatch.setattr(accelerator(), "gradient_accumulation_steps", count)
    job = shared_job()
    values = job.train_step(0)
    monkeypatch.undo()
    whole = shared_job()
    assert values == pytest.approx(whole.train_step(0), rel=1e-5)
    for mine, others in zip(job.trained, whole.trained, strict=True):
        torch.testing.assert_close(mine, others, rtol=1e-3, atol=1e-5)


def test_the_shares_of_a_batch_are_all_of_it_in_order() -> None:
    batch = torch.arange(12.0).view(6, 2)
    assert torch.equal(torch.cat([Share(i, 3)(batch) for i in range(3)]), batch)
    assert Share()(batch).data_ptr() == batch.data_ptr()


def test_an_update_moves_against_the_gradient_and_shortens_it() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    values = update(lambda share: weight.square().sum() / 2, optimizer, 1.0)
    assert values == pytest.approx({"loss": 12.5, "grad_norm": 5.0})
    assert weight.tolist() == pytest.approx([3 - 3 / 5, 4 - 4 / 5])
    assert update(lambda share: weight.sum(), optimizer)["grad_norm"] == pytest.approx(2**0.5)


def test_the_launcher_can_ask_for_half_precision(monkeypatch) -> None:
    monkeypatch.setattr(engine, "has_bf16", lambda _: True)
    cpu = torch.device("cpu")
    asked = {}
    for chosen in ("no", "bf16"):
        monkeypatch.setattr(type(accelerator()), "mixed_precision", chosen)
        for precision in ("fp32", "bf16"):
            with products(precision, cpu):
                asked[chosen, precision] = (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    half = torch.bfloat16
    assert asked.pop(("no", "fp32")) == torch.float32
    assert set(asked.values()) == {half}


def test_a_processor_without_half_precision_trains_in_full(monkeypatch, caplog) -> None:
    monkeypatch.setattr(engine, "has_bf16", lambda _: False)
    engine._warn_of_fp32.cache_clear()
    for _ in range(2):
        with products("bf16", torch.device("cpu")):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert [record.getMessage() for record in caplog.records] == [
        "cpu has no bf16 products, so training runs in fp32"
    ]


def test_a_precision_that_cannot_be_resumed_exactly_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(type(accelerator()), "mixed_precision", "fp16")
    with pytest.raises(ConfigError, match="mixed_precision is 'fp16'; accepted: no, bf16"):
        engine.accelerator.__wrapped__()


def kill_after(update: int, command: list[str]) -> None:
    """Start a run and kill it once it has told of an update."""
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    told = []
    for line in process.stderr:
        told.append(line)
        if line.startswith(f"shared {update}/"):
            process.kill()
    assert process.wait() == -signal.SIGKILL, "".join(told)
    second = int(time.time())
    while int(time.time()) == second:  # TensorBoard orders the files of a run by whole seconds
        time.sleep(0.02)


def test_a_killed_run_loses_at_most_the_interval_and_ends_the_same(tmp_path: Path) -> None:
    """PACE writes a checkpoint every second update, so a run is often killed while it writes."""
    steps, killed, whole = 60, tmp_path / "killed", tmp_path / "whole"
    schedule = Schedule(steps, RECIPE.learning_rate, RECIPE.warm_up)
    command = [sys.executable, *PROGRAM, str(killed), "--steps", str(steps)]
    for reached in (1, 20, 41):
        kill_after(reached, command)
        assert load_checkpoint(shared_job(), killed) > reached - 1 - PACE.checkpoint_every
    with one_thread():
        assert run(shared_job(), schedule, killed, PACE) == steps
        run(shared_job(), schedule, whole, PACE)
    assert log_of(killed) == log_of(whole)
    assert [step for step, _ in curve(killed, "loss")] == list(range(1, steps + 1))
    for name, state in checkpoint(whole)["modules"].items():
        for key, tensor in state.items():
            assert torch.equal(tensor, checkpoint(killed)["modules"][name][key])
    assert list(killed.glob(".*")) == []


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """As `tests.shared_training` runs; sums of several threads have other last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_line_that_was_cut_and_files_that_were_not_finished_are_dropped(
    tmp_path: Path,
) -> None:
    run(shared_job(), Schedule(2, RECIPE.learning_rate, RECIPE.warm_up), tmp_path, PACE)
    before = log_of(tmp_path)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    halves = [tmp_path / ".checkpoint.pt.12345.part", tmp_path / "average" / ".x.12345.part"]
    halves[1].parent.mkdir()
    for half in halves:
        half.write_bytes(b"half")
    run(shared_job(), SCHEDULE, tmp_path, PACE)
    assert not any(half.exists() for half in halves)
    assert log_of(tmp_path)[: len(before)] == before
    assert log_of(tmp_path)[-1]["step"] == RECIPE.steps


def test_tensorboard_shows_what_the_log_holds(alone: Path) -> None:
    lines = log_of(alone)
    for name in ("loss", "grad_norm", "val_loss", "val_average_loss"):
        logged = [(line["step"], line[name]) for line in lines if name in line]
        shown = curve(alone, name)
        assert [step for step, _ in shown] == [step for step, _ in logged]
        assert [v for _, v in shown] == pytest.approx([v for _, v in logged], rel=1e-5)


def test_a_run_without_trackers_leaves_none(tmp_path: Path) -> None:
    run(shared_job(), Schedule(1, 1e-3), tmp_path, Pace(trackers=()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "log.jsonl"]


def test_trackers_that_are_not_there_are_named(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(ConfigError, match="tracker is 'paper'; accepted: tensorboard, wandb"):
        open_tracker("paper", "run", tmp_path, 0)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="tracker 'wandb' needs a package: pip install wandb"):
        open_tracker("wandb", "run", tmp_path, 0)


def test_the_command_line_says_where_curves_go(monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(chain, "chain", lambda place, steps: seen.append(tuple(place.trackers)))
    for name in ("set_num_threads", "set_flush_denormal"):
        monkeypatch.setattr(torch, name, lambda value: None)
    for options in ([], ["--track", "wandb"], ["--track", "tensorboard", "--track", "wandb"]):
        done = CliRunner().invoke(app, ["vae", *options])
        assert done.exit_code == 0, done.output
    assert seen == [("tensorboard",), ("wandb",), ("tensorboard", "wandb")]


def test_time_left_follows_from_the_time_taken() -> None:
    assert time_left(60.0, 100, 500) == "5 min left"
    assert time_left(3600.0, 10, 25) == "2 h 30 min left"
    assert time_left(10.0, 1, 0) == "0 min left"
