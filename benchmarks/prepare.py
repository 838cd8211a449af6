"""Preparation of training data against the plain way, in the same run.

Tracks as long as songs, in MP3, made of seeded tones and noise: how they sound does not decide how
long they take. The plain way is what the reference's scripts do: for every clip it decodes and
scales the whole track, cuts, encodes the clip alone, its caption again, and writes one fp32 file.
Its encoders are the same, so only the way differs; that both make the same numbers is measured too.
Both take turns, so that a busy machine is busy for both, and medians are compared.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import Figure, Report, Setting, cores, run
from training.prepare.catalogue import Catalogue, Track
from training.prepare.encoders import Encoders
from training.prepare.plan import PAPER_CLIPS, PAPER_TRACKS, sizes_of
from training.prepare.reader import PreparedData
from training.prepare.recipe import PrepareRecipe
from training.prepare.run import prepare
from training.prepare.store import FULL_MIX
from training.prepare.work import Order, clips_of, decoded
from ttmpref.audio import write_clip
from ttmpref.config import load_preset
from ttmpref.types import Clip

CORES = 2
RATIO, GIGABYTES = 2.0, 60.0
LATENTS_APART, REWARDS_APART = 1e-3, 1e-3


@dataclass(frozen=True)
class Size:
    """The experiment: stereo tracks at 44.1 kHz."""

    tracks: int = 2
    seconds: float = 200.0
    rounds: int = 3
    rate: int = 44_100


def measure(setting: Setting) -> Report:
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, allowed[:CORES])
    size, preset = Size(), setting.studio.preset
    with tempfile.TemporaryDirectory() as folder:
        order = Order(
            preset, PrepareRecipe(name="benchmark"), Path(folder) / "audio", Path(folder) / "out",
            device="cpu", threads=min(CORES, cores()),
        )  # fmt: skip
        figures = compare(order, size)
    ranker = () if preset.ranker is None else ("ranker",)
    return Report(
        title="Preparation of training data",
        question=f"How much sooner is a folder prepared than clip by clip, on {cores()} cores?",
        figures=(*figures, *disk()),
        recipe=dict(vars(size)),
        parts=("text_encoder", "clap", "autoencoder", *ranker),
    )


def compare(order: Order, size: Size) -> tuple[Figure, ...]:
    """Clips per second of both ways, their ratio, and how far apart their numbers are."""
    found = tracks(order.audio, size)
    encoders = Encoders(order.preset, order.recipe, order.device)
    torch.set_num_threads(order.threads)
    one = Catalogue(found.tracks[:1])
    prepare(replace(order, out=order.out / "warm"), one, [])
    _plain(encoders, order, one, order.out / "warm plain", clips=1)
    taken: dict[str, list[float]] = {"plain": [], "here": []}
    for number in range(size.rounds):
        here = replace(order, out=order.out / f"{number}")
        plain = order.out / f"{number} plain"
        taken["here"].append(_seconds(lambda o=here: prepare(o, found, [])))
        taken["plain"].append(_seconds(lambda p=plain: _plain(encoders, order, found, p)))
    data = PreparedData(here.out)
    seconds = {name: statistics.median(times) for name, times in taken.items()}
    rates = {name: len(data) / spent for name, spent in seconds.items()}
    ratios = [a / b for a, b in zip(taken["plain"], taken["here"], strict=True)]
    latents, rewards = _apart(data, plain)
    return (
        Figure("clip by clip, whole track decoded for each", rates["plain"], "clips/s"),
        Figure("prepared here", rates["here"], "clips/s"),
        Figure(
            "ratio", seconds["plain"] / seconds["here"], "x", at_least=RATIO,
            note=f"rounds: {', '.join(f'{ratio:.2f}' for ratio in ratios)}",
        ),
        Figure("relative difference of the latents", latents, at_most=LATENTS_APART),
        Figure("largest difference of a reward", rewards, at_most=REWARDS_APART),
        Figure("a clip on disk, clip by clip", _bytes(plain) / len(data) / 1e3, "kB"),
        Figure("a clip on disk here", _bytes(here.out) / len(data) / 1e3, "kB"),
    )  # fmt: skip


def disk() -> tuple[Figure, ...]:
    """The paper's data set at its own sizes, by arithmetic."""
    sizes = sizes_of(load_preset("paper"))
    ours = (PAPER_CLIPS * sizes.clip + PAPER_TRACKS * sizes.text) / 1e9
    theirs = PAPER_CLIPS * sizes.reference / 1e9
    note = f"{PAPER_CLIPS} clips of {PAPER_TRACKS} tracks, preset paper"
    return (
        Figure("the paper's data set, clip by clip", theirs, "GB", note=note),
        Figure("the paper's data set here", ours, "GB", at_most=GIGABYTES, note=note),
    )


def tracks(folder: Path, size: Size) -> Catalogue:
    """MP3 files with captions."""
    found = []
    for number in range(size.tracks):
        rng = np.random.default_rng(number)
        at = np.arange(round(size.seconds * size.rate)) / size.rate
        tones = sum(np.sin(2 * np.pi * rate * at) for rate in rng.uniform(60, 4000, 6)) / 12
        noise = 0.1 * rng.normal(size=(2, len(at)))
        clip = Clip((tones * (1 + np.sin(at)) / 2 + noise).astype(np.float32), size.rate)
        write_clip(clip, folder / f"{number}.mp3")
        found.append(Track(f"{number}", f"{number}.mp3", f"{number} slow tones over noise"))
    return Catalogue(tuple(found))


def _plain(
    encoders: Encoders, order: Order, found: Catalogue, out: Path, clips: int | None = None
) -> None:
    """One file per clip, each from the beginning; the first `clips` of a track, or all."""
    out.mkdir(parents=True)
    for row, track in enumerate(found.tracks):
        first = _cut(order, track)
        for number in range(min(len(first), clips or len(first))):
            clip = _cut(order, track)[number] if number else first[0]
            latents = encoders.latents([clip])[0]
            words = encoders.words([track.caption])
            blocks = encoders.heard([clip])
            reward = encoders.rewards(blocks, track.caption) if blocks else torch.zeros(1)
            tensors = {"mean": latents[0], "std": latents[1], **words, **blocks, "reward": reward}
            arrays = {name: tensor.float().numpy() for name, tensor in tensors.items()}
            np.savez(out / f"{row:03d}-{number:03d}.npz", **arrays)


def _cut(order: Order, track: Track) -> list[Clip]:
    return clips_of(decoded(order, track), order.preset.output.seconds, order.recipe)[1]


def _apart(data: PreparedData, plain: Path) -> tuple[float, float]:
    """Relative difference of the latents and the largest one of a reward."""
    files = [np.load(path) for path in sorted(plain.iterdir())]
    batch = data.batch(range(len(data)))
    means = torch.from_numpy(np.stack([file["mean"] for file in files]))
    rewards = torch.from_numpy(np.concatenate([file["reward"] for file in files]))
    latents = (batch.mean - means).norm() / means.norm()
    if batch.rewards.isnan().any():
        return latents.item(), 0.0
    return latents.item(), (batch.rewards[:, FULL_MIX] - rewards).abs().max().item()


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    run("prepare", measure, __doc__)
