"""A training step of the full-size network: our way against the reference's own, on two CPU cores.

Both train the 120 M network of the `paper` preset with the score in the condition vector, from the
same seeded weights and random features, in the same precision, with AdamW in one kernel and two
moving averages. The reference's way is written plainly after specification 4.1 and 7.2: one `npz`
file per clip, boolean masks for what is nulled, convolutions transposed to channels-first and back,
a gradient scaler, DDP around one process, averages in a Python loop over every tensor. Ours is the
job of `training.flow_matching`. Steps take turns, so that a busy machine slows both.

On a GPU also the time of our step, clips per second and how much of the device's measured rate of
bf16 matrix products the network's own operations are.

Shapes: n clips, latents (n, 2, N, C).
"""

from __future__ import annotations

import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import Figure, Report, Setting, cores, run
from training.ema import SIGMAS, PostHocAverage, decay, exponent
from training.engine import Share, accelerator, products
from training.flow_matching import Captions, FlowMatchingJob
from training.loop import draws
from training.recipe import BackboneRecipe
from training.scored import ScoredSplit
from ttmpref import flow
from ttmpref.config import FluxAudioConfig, load_preset
from ttmpref.models.fluxaudio import FluxAudio
from ttmpref.models.over_time import ConvOverTime, has_bf16

CORES, SEED = 2, 0
RATIO_TARGET, AGREEMENT = 1.3, 1e-4
CLIPS = 64
MATRIX = 8192  # side of the product whose rate stands for the device's


@dataclass(frozen=True)
class Size:
    """What is trained, and how often.

    Attributes:
        rounds: timed steps of each way, after one that is not counted.
    """

    config: FluxAudioConfig
    batch: int
    rounds: int = 5

    @property
    def recipe(self) -> BackboneRecipe:
        """The numbers of the paper's first stage, but for its batch."""
        precision = "bf16" if has_bf16(str(accelerator().device)) else "fp32"
        return BackboneRecipe(
            seed=SEED, steps=self.rounds, batch=self.batch, learning_rate=1e-4, weight_decay=1e-6,
            precision=precision,
        )  # fmt: skip


def measure(setting: Setting) -> Report:
    """`--clips` plays no part."""
    device = accelerator().device
    if device.type == "cpu":
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[:CORES])
        torch.set_num_threads(min(CORES, len(allowed)))
        torch.set_flush_denormal(True)
    size = Size(load_preset("paper").backbone, batch=4 if device.type == "cpu" else 32)
    with tempfile.TemporaryDirectory() as folder:
        figures = compared(size, Path(folder))
    where = f"{cores()} CPU cores" if device.type == "cpu" else torch.cuda.get_device_name()
    return Report(
        title="A training step at full size",
        question=f"120 M parameters, batch {size.batch}, {size.recipe.precision}, {where}.",
        figures=tuple(figures),
        recipe={"clips": CLIPS, "rounds": size.rounds, **size.recipe.model_dump(mode="json")},
        parts=(),
    )


def compared(size: Size, folder: Path) -> list[Figure]:
    """Time both ways in turns."""
    features = write_features(size.config, folder)
    with one_process_group(folder):
        job, plain = our_job(size, features), PlainLoop(size, folder)
        ways: dict[str, Callable[[int], object]] = {
            "ours": job.train_step,
            "the reference's way": plain.step,
            "the reference's loop around our network": plain.step_with_our_layers,
        }
        agreement = layouts_differ(plain, size)
        times = {name: [] for name in ways}
        for step in range(size.rounds + 1):
            for name, way in ways.items():
                times[name].append(_seconds(lambda way=way, step=step: way(step)))
    figures = [
        Figure(f"step, {name}", statistics.median(taken[1:]), "s", note=_spread(taken[1:]))
        for name, taken in times.items()
    ]
    for name, target in zip(list(ways)[1:], (RATIO_TARGET, None), strict=True):
        ratios = [a / b for a, b in zip(times[name][1:], times["ours"][1:], strict=True)]
        note = f"median of {size.rounds} rounds, {min(ratios):.2f} to {max(ratios):.2f}"
        figures.append(
            Figure(f"{name} / ours", statistics.median(ratios), "x", at_least=target, note=note)
        )
    figures.append(
        Figure("largest relative difference of the two layouts' velocities", agreement,
               at_most=AGREEMENT, note="fp32")
    )  # fmt: skip
    if accelerator().device.type == "cuda":
        figures += on_device(job, size, statistics.median(times["ours"][1:]))
    return figures


def write_features(config: FluxAudioConfig, folder: Path) -> ScoredSplit:
    """Random features of clips, as ours in memory-mapped halves, and a file per clip beside."""
    rng = np.random.default_rng(SEED)
    shapes = {
        "latents": (CLIPS, 2, config.latent_frames, config.latent_channels),
        "text": (CLIPS, config.text_tokens, config.text_dim),
        "pooled": (CLIPS, config.pooled_dim),
    }
    kept = {}
    for name, shape in shapes.items():
        np.save(folder / f"{name}.npy", rng.random(shape, np.float32).astype(np.float16))
        kept[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
    scores = rng.normal(0.62, 0.59, CLIPS).astype(np.float32)
    for clip in range(CLIPS):
        mean, std = kept["latents"][clip].astype(np.float32)
        np.savez(
            folder / f"{clip}.npz", mean=mean, std=std, score=scores[clip],
            text_features=kept["text"][clip].astype(np.float32),
            text_features_c=kept["pooled"][clip].astype(np.float32),
        )  # fmt: skip
    captions = Captions(kept["text"], kept["pooled"], np.arange(CLIPS + 1))
    return ScoredSplit(kept["latents"], np.arange(CLIPS), scores, captions)


def seeded_network(config: FluxAudioConfig) -> FluxAudio:
    """Random everywhere: zeros, which training starts from, would leave most gradients out."""
    torch.manual_seed(SEED)
    network = FluxAudio(config, "global_adaln")
    for parameter in network.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.02)
    return network


def our_job(size: Size, features: ScoredSplit) -> FlowMatchingJob:
    job = FlowMatchingJob("step", size.recipe, seeded_network(size.config), (features, features))
    job.average = PostHocAverage(job.backbone)
    return job


class PlainConv(nn.Module):
    """A convolution over time that transposes to channels-first and back; shares its weights."""

    def __init__(self, conv: ConvOverTime) -> None:
        super().__init__()
        self.weight, self.bias, self.padding = conv.weight, conv.bias, conv.kernel_size[0] // 2

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 1)
        return F.conv1d(x, self.weight, self.bias, padding=self.padding).permute(0, 2, 1)


class PlainLoop:
    """The reference's training loop around the same network."""

    def __init__(self, size: Size, folder: Path) -> None:
        self.size, self.folder, self.device = size, folder, accelerator().device
        self.network = seeded_network(size.config).to(self.device)
        self.places = [
            (parent, name, child)
            for parent in self.network.modules()
            for name, child in parent.named_children()
            if isinstance(child, ConvOverTime)
        ]
        self.plain = [PlainConv(conv) for _, _, conv in self.places]
        self.parallel = DistributedDataParallel(self.network)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        recipe = size.recipe
        self.optimizer = AdamW(
            trained, recipe.learning_rate, betas=(0.9, 0.95), eps=1e-6,
            weight_decay=recipe.weight_decay, fused=True,
        )  # fmt: skip
        self.scaler = torch.amp.GradScaler(self.device.type, init_scale=2048)
        self.averages = [copy.deepcopy(self.network) for _ in SIGMAS]
        self.updates = 0

    @contextmanager
    def plain_layers(self) -> Iterator[None]:
        """The network with the reference's convolutions, on the same weights."""
        for (parent, name, _), conv in zip(self.places, self.plain, strict=True):
            setattr(parent, name, conv)
        yield
        for parent, name, conv in self.places:
            setattr(parent, name, conv)

    def step(self, step: int) -> float:
        with self.plain_layers():
            return self.step_with_our_layers(step)

    def step_with_our_layers(self, step: int) -> float:
        loss = self._loss(step)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.size.recipe.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._average()
        return loss.item()

    def _batch(self, step: int) -> list[Tensor]:
        names = ("mean", "std", "text_features", "text_features_c", "score")
        rows = torch.randint(CLIPS, (self.size.batch,), generator=draws(SEED, "plain", step))
        clips = []
        for row in rows.tolist():
            with np.load(self.folder / f"{row}.npz") as file:
                clips.append([torch.from_numpy(np.asarray(file[name])) for name in names])
        return [torch.stack(column).to(self.device) for column in zip(*clips, strict=True)]

    def _loss(self, step: int) -> Tensor:
        mean, std, text, pooled, score = self._batch(step)
        count, network, recipe = len(mean), self.network, self.size.recipe
        data = network.normalise(mean + std * torch.randn_like(mean))
        t = torch.sigmoid(torch.randn(count, device=self.device))
        noise = torch.randn_like(data)
        drop = torch.rand(count, device=self.device) < recipe.null_text
        text[drop] = network.empty_string_feat
        pooled[drop] = network.empty_string_feat_c
        score[torch.rand(count, device=self.device) < recipe.null_score] = 0.0
        with products(recipe.precision, self.device):
            velocity = self.parallel(flow.interpolate(data, noise, t), t, text, pooled, score)
        return (velocity.float() - flow.velocity_target(data, noise)).square().mean()

    @torch.no_grad()
    def _average(self) -> None:
        self.updates += 1
        for sigma_rel, average in zip(SIGMAS, self.averages, strict=True):
            share = 1 - decay(exponent(sigma_rel), self.updates) if self.updates > 1 else 1.0
            states = (network.state_dict().values() for network in (average, self.network))
            for mine, live in zip(*states, strict=True):
                mine.lerp_(live, share)


@contextmanager
def one_process_group(folder: Path) -> Iterator[None]:
    """What DDP asks for, even alone."""
    backend = "gloo" if accelerator().device.type == "cpu" else "nccl"
    place = f"file://{folder / 'processes'}"
    torch.distributed.init_process_group(backend, init_method=place, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@torch.no_grad()
def layouts_differ(plain: PlainLoop, size: Size) -> float:
    """Largest difference of the velocities of one clip, relative to the largest velocity."""
    config, generator = size.config, torch.Generator().manual_seed(SEED)
    shapes = (
        (1, config.latent_frames, config.latent_channels), (1,),
        (1, config.text_tokens, config.text_dim), (1, config.pooled_dim), (1,),
    )  # fmt: skip
    given = [torch.rand(shape, generator=generator).to(plain.device) for shape in shapes]
    ours = plain.network(*given)
    with plain.plain_layers():
        theirs = plain.network(*given)
    return ((ours - theirs).abs().max() / ours.abs().max()).item()


def on_device(job: FlowMatchingJob, size: Size, seconds: float) -> list[Figure]:
    """What a GPU makes of our step."""
    device = accelerator().device
    with FlopCounterMode(display=False) as counter:
        job.loss(False, draws(SEED, "count", 0), 0.0, Share(device=device)).backward()
    job.optimizer.zero_grad()
    matrix = torch.randn(MATRIX, MATRIX, dtype=torch.bfloat16, device=device)
    times = [_seconds(lambda: matrix @ matrix) for _ in range(20)]
    rate = 2 * MATRIX**3 / statistics.median(times)
    used = counter.get_total_flops() / seconds / rate
    note = f"of {rate / 1e12:.0f} TFLOP/s, the rate of a bf16 product of {MATRIX} x {MATRIX}"
    return [
        Figure("clips per second", size.batch / seconds, "/s"),
        Figure("model FLOP utilisation", used, "%", note=note),
    ]


def _seconds(call: Callable[[], object]) -> float:
    """Until the device is done."""
    _await_device()
    started = time.perf_counter()
    call()
    _await_device()
    return time.perf_counter() - started


def _await_device() -> None:
    if accelerator().device.type == "cuda":
        torch.cuda.synchronize()


def _spread(times: list[float]) -> str:
    return f"{len(times)} steps, {min(times):.2f} to {max(times):.2f} s"


if __name__ == "__main__":
    run("training_step", measure, __doc__)
