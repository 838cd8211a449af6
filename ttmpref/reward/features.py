"""From sound and words to the feature blocks of a head: the one place where both are prepared.

Everything that scores, trains or optimises goes through here, on tensors, so that files, arrays and
waveforms inside a gradient are heard alike (specification, sections 1.4 to 1.7):

waveform -> band -> encoder's rate -> CLAP: a window by policy; MERT: all of it -> blocks
prompt -> CLAP text vector, or zeros where it is empty -> block

Shapes: B clips, S samples of one (they may differ), blocks (B, width).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from ttmpref.audio import resample_samples, window_starts
from ttmpref.reward.ranker import CLAP_AUDIO, CLAP_TEXT, MERT
from ttmpref.types import Clip, ConfigError, Listening

if TYPE_CHECKING:
    from ttmpref.protocols import AudioTextEncoder, MusicEncoder

NARROW_RATE = 16_000  # Hz of the "16k" band
CACHED_PROMPTS = 1024
PROMPTS_PER_BATCH = 64


class PromptFeatures:
    """CLAP vectors of prompts, each encoded once; remembers the prompts used last."""

    def __init__(self, clap: AudioTextEncoder) -> None:
        self._clap = clap
        self._known: OrderedDict[str, Tensor] = OrderedDict()

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """(B, dim) on the CPU. An empty prompt is the zero vector, never the encoding of ""."""
        told = [prompt for prompt in prompts if prompt.strip()]
        new = [prompt for prompt in dict.fromkeys(told) if prompt not in self._known]
        for first in range(0, len(new), PROMPTS_PER_BATCH):
            batch = new[first : first + PROMPTS_PER_BATCH]
            self._known.update(zip(batch, self._clap.encode_text(batch).cpu(), strict=True))
        for prompt in told:
            self._known.move_to_end(prompt)
        nothing = torch.zeros(self._clap.dim)
        rows = [self._known[prompt] if prompt.strip() else nothing for prompt in prompts]
        while len(self._known) > CACHED_PROMPTS:
            self._known.popitem(last=False)
        return torch.stack(rows) if rows else nothing[None][:0]


class RewardFeatures:
    """The feature blocks that some heads read.

    Attributes:
        blocks: names of the blocks it makes.
        listening: window and band policy.
    """

    def __init__(
        self,
        blocks: Collection[str],
        clap: AudioTextEncoder,
        music: MusicEncoder | None = None,
        listening: Listening | None = None,
    ) -> None:
        """
        Raises:
            ConfigError: no encoder for one of the blocks.
        """
        known = (CLAP_AUDIO, CLAP_TEXT) if music is None else (CLAP_AUDIO, MERT, CLAP_TEXT)
        unknown = sorted(set(blocks) - set(known))
        if unknown:
            raise ConfigError(f"no encoder makes block {unknown[0]!r}; there are {known}")
        self.blocks = tuple(name for name in known if name in blocks)
        self.listening = listening or Listening()
        self.clap, self.music = clap, music
        self._prompts = PromptFeatures(clap)

    @property
    def window_seconds(self) -> float:
        """Length of what CLAP hears at once."""
        return self.clap.window_samples / self.clap.sample_rate

    @torch.no_grad()
    def of_clips(self, clips: Sequence[Clip], prompts: Sequence[str]) -> dict[str, Tensor]:
        """All blocks of B clips of any rates and lengths and their prompts."""
        waveforms = [torch.from_numpy(clip.mono) for clip in clips]
        sound = self.of_sound(waveforms, [clip.sample_rate for clip in clips])
        words = self.of_prompts(prompts)
        device = next((block.device for block in sound.values()), "cpu")
        return sound | {name: block.to(device) for name, block in words.items()}

    @torch.no_grad()
    def of_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """The text block, on the CPU, where it is one of the blocks."""
        return {CLAP_TEXT: self._prompts(prompts)} if CLAP_TEXT in self.blocks else {}

    def of_sound(self, waveforms: Sequence[Tensor], rates: Sequence[int]) -> dict[str, Tensor]:
        """The audio blocks of B mono waveforms (S,) at their rates in Hz; differentiable."""
        heard = [self._in_band(*sound) for sound in zip(waveforms, rates, strict=True)]
        blocks = {}
        if CLAP_AUDIO in self.blocks:
            rate = self.clap.sample_rate
            blocks[CLAP_AUDIO] = self._clap_audio([resampled(*sound, rate) for sound in heard])
        if MERT in self.blocks:
            rate = self.music.sample_rate
            blocks[MERT] = self.music.embed_audio([resampled(*sound, rate) for sound in heard])
        return blocks

    def _in_band(self, waveform: Tensor, rate: int) -> tuple[Tensor, int]:
        """Waveform and rate after the band policy."""
        if self.listening.band == "full" or rate <= NARROW_RATE:
            return waveform, rate
        return resampled(waveform, rate, NARROW_RATE), NARROW_RATE

    def _clap_audio(self, waveforms: Sequence[Tensor]) -> Tensor:
        """(B, dim): one window by policy, or the mean over windows."""
        size = self.clap.window_samples
        starts = [self._starts(len(waveform), size) for waveform in waveforms]
        windows = [
            waveform[start : start + size]
            for waveform, firsts in zip(waveforms, starts, strict=True)
            for start in firsts
        ]
        embedded = self.clap.embed_audio(windows).split([len(firsts) for firsts in starts])
        return F.normalize(torch.stack([part.mean(0) for part in embedded]), dim=-1)

    def _starts(self, samples: int, window: int) -> list[int]:
        """Where the windows begin that the policy picks."""
        spare = max(0, samples - window)
        match self.listening.window:
            case "centre":
                return [spare // 2]
            case "first":
                return [0]
            case "random":
                return [round(np.random.default_rng(self.listening.seed).random() * spare)]
            case "mean":
                return window_starts(samples, window)


class _Resample(torch.autograd.Function):
    """`ttmpref.audio.resample_samples`; its gradient is the way back (see there)."""

    @staticmethod
    def forward(ctx: FunctionCtx, waveform: Tensor, source: int, target: int) -> Tensor:
        ctx.source, ctx.target, ctx.samples = source, target, waveform.shape[-1]
        return _by_numpy(waveform, source, target)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        back = _by_numpy(gradient, ctx.target, ctx.source)[..., : ctx.samples]
        return back * (ctx.target / ctx.source), None, None


def _by_numpy(waveform: Tensor, source: int, target: int) -> Tensor:
    samples = waveform.detach().cpu().numpy().astype(np.float32, copy=False)
    return torch.from_numpy(resample_samples(samples, source, target)).to(waveform.device)


def resampled(waveform: Tensor, source: int, target: int) -> Tensor:
    """(..., S) at `source` Hz to `target` Hz, differentiable."""
    return waveform if source == target else _Resample.apply(waveform, source, target)
