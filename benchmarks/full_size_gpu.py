"""The paper's own size on a GPU: seconds per clip and clips per second, of random weights.

    python -m benchmarks.full_size_gpu [--batches 1,32] [--steps 25] [--device cuda]

Encoded text to waveform: the blocks in bf16 with state and time in float32, the solver's network
compiled into CUDA graphs, the mel decoder and the vocoder as they are. The rate of arithmetic is
held against that of a large bf16 matrix product on the same device. Nothing is written; no GPU was
at hand when this was made, so no figure of it is quoted.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ttmpref.autoencoder import MelAutoencoder
from ttmpref.config import Preset, load_preset
from ttmpref.flow import draw_noise, guided_velocity, time_grid
from ttmpref.models.fluxaudio import FluxAudio, Projected

SQUARE = 8192  # of the product that shows what the device can do
ROUNDS = 5


@dataclass(frozen=True, eq=False)
class System:
    """Networks of a preset and one projected prompt with its opposite."""

    preset: Preset
    backbone: FluxAudio
    autoencoder: MelAutoencoder
    pair: Projected
    device: str

    @classmethod
    def random(cls, preset: Preset, device: str) -> System:
        """Random weights in the preset's precision, which cost what trained ones cost."""
        torch.manual_seed(0)
        head = preset.stage(preset.sampling.stage).head
        backbone = FluxAudio(preset.backbone, head).eval().requires_grad_(False)
        autoencoder = MelAutoencoder(preset.autoencoder).eval().requires_grad_(False)
        autoencoder.vae.fold_()
        if preset.backbone.precision == "bf16":
            backbone.halve_()
            autoencoder.vocoder.halve_()
        backbone, autoencoder = backbone.to(device), autoencoder.to(device)
        config = preset.backbone
        text = torch.randn(2, config.text_tokens, config.text_dim, device=device)
        pooled = torch.randn(2, config.pooled_dim, device=device)
        return cls(preset, backbone, autoencoder, backbone.project(text, pooled), device)

    def clips(self, velocity_at: Callable[..., Tensor], batch: int, steps: int) -> Tensor:
        """(batch, S) waveforms of as many seeds."""
        config, times = self.preset.backbone, time_grid(steps)
        both = Projected(
            self.pair.text_tokens.repeat_interleave(batch, 0),
            self.pair.pooled.repeat_interleave(batch, 0),
        )
        score = torch.tensor([self.preset.sampling.score, 0.0], device=self.device)
        conditions = self.backbone.steps(times, both, score.repeat_interleave(batch))
        noise = draw_noise(range(batch), config.latent_frames, config.latent_channels)
        z = noise.to(self.device)
        for step, t, t_next in zip(conditions, times, times[1:], strict=False):
            found = velocity_at(step, torch.cat([z, z]), both)
            slope = guided_velocity(*found.chunk(2), self.preset.sampling.guidance)
            z = z + (t_next - t) * slope
        return self.autoencoder.decode(self.backbone.unnormalise(z))


def seconds(work: Callable[[], object], device: str) -> float:
    """Median time of a warm call, the device's queue emptied."""
    work()
    taken = []
    for _ in range(ROUNDS):
        _finish(device)
        started = time.perf_counter()
        work()
        _finish(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _finish(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def largest_rate(device: str, square: int = SQUARE) -> float:
    """FLOP/s of a bf16 product of two large matrices."""
    a = torch.randn(square, square, device=device).bfloat16()
    return 2 * square**3 / seconds(lambda: a @ a, device)


@torch.no_grad()
def measure(system: System, batches: list[int], steps: int, square: int = SQUARE) -> list[str]:
    """A line per batch."""
    device, velocity_at = system.device, system.backbone.velocity_at
    with FlopCounterMode(display=False) as counter:
        system.clips(velocity_at, 1, 1)
        one = counter.get_total_flops()
        system.clips(velocity_at, 1, 2)
    step = counter.get_total_flops() - 2 * one
    work = one + (steps - 1) * step  # FLOP of a clip
    if device.startswith("cuda"):
        velocity_at = torch.compile(velocity_at, mode="reduce-overhead")
    rate, lines = largest_rate(device, square), []
    for batch in batches:
        taken = seconds(lambda b=batch: system.clips(velocity_at, b, steps), device)
        share = batch * work / taken / rate
        lines.append(
            f"batch {batch}: {taken / batch:.3f} s per clip, {batch / taken:.1f} clips/s, "
            f"{batch * work / taken / 1e12:.1f} TFLOP/s ({100 * share:.0f} % of a large product's)"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batches", default="1,32", help="clips at once, with commas")
    parser.add_argument("--steps", type=int, default=25)
    given = parser.parse_args()
    with torch.no_grad():
        system = System.random(load_preset("paper"), given.device)
    batches = [int(text) for text in given.batches.split(",")]
    for line in measure(system, batches, given.steps):
        print(line)


if __name__ == "__main__":
    main()
