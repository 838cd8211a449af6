"""From sound and words to the feature blocks of a head: the one place where both are prepared.

Everything that scores, trains or optimises goes through here, on tensors, so that files, arrays and
waveforms inside a gradient are heard alike (specification, sections 1.4 to 1.7):

waveform -> band -> encoder's rate -> CLAP, MuQ-MuLan: a window by policy; MERT: all of it -> blocks
prompt -> text vector of CLAP or MuQ-MuLan, or zeros where it is empty -> block

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
from ttmpref.reward.ranker import CLAP_AUDIO, CLAP_TEXT, MERT, MUQ_AUDIO, MUQ_TEXT
from ttmpref.types import Clip, ConfigError, Listening

if TYPE_CHECKING:
    from ttmpref.protocols import AudioTextEncoder, MusicEncoder

NARROW_RATE = 16_000  # Hz of the "16k" band
CACHED_PROMPTS = 1024
PROMPTS_PER_BATCH = 64


class PromptFeatures:
    """Vectors of prompts, each encoded once; remembers the prompts used last."""

    def __init__(self, encoder: AudioTextEncoder) -> None:
        self._encoder = encoder
        self._known: OrderedDict[str, Tensor] = OrderedDict()

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """(B, dim) on the CPU. An empty prompt is the zero vector, never the encoding of ""."""
        told = [prompt for prompt in prompts if prompt.strip()]
        new = [prompt for prompt in dict.fromkeys(told) if prompt not in self._known]
        for first in range(0, len(new), PROMPTS_PER_BATCH):
            batch = new[first : first + PROMPTS_PER_BATCH]
            self._known.update(zip(batch, self._encoder.encode_text(batch).cpu(), strict=True))
        for prompt in told:
            self._known.move_to_end(prompt)
        nothing = torch.zeros(self._encoder.dim)
        rows = [self._known[prompt] if prompt.strip() else nothing for prompt in prompts]
        while len(self._known) > CACHED_PROMPTS:
            self._known.popitem(last=False)
        return torch.stack(rows) if rows else nothing[None][:0]


class RewardFeatures:
    """The feature blocks that some heads read.

    Attributes:
        blocks: names of the blocks it makes.
        listening: window and band policy.
        clap, music, muq: the encoders; what no block needs may be left out.
    """

    def __init__(
        self,
        blocks: Collection[str],
        clap: AudioTextEncoder | None = None,
        music: MusicEncoder | None = None,
        listening: Listening | None = None,
        muq: AudioTextEncoder | None = None,
    ) -> None:
        """
        Raises:
            ConfigError: no encoder for one of the blocks.
        """
        makers = {
            CLAP_AUDIO: clap, MERT: music, MUQ_AUDIO: muq, CLAP_TEXT: clap, MUQ_TEXT: muq,
        }  # fmt: skip
        known = tuple(name for name, maker in makers.items() if maker is not None)
        unknown = sorted(set(blocks) - set(known))
        if unknown:
            raise ConfigError(f"no encoder makes block {unknown[0]!r}; there are {known}")
        self.blocks = tuple(name for name in known if name in blocks)
        self.listening = listening or Listening()
        self.clap, self.music, self.muq = clap, music, muq
        self._windowed = {n: makers[n] for n in (CLAP_AUDIO, MUQ_AUDIO) if n in self.blocks}
        texts = (name for name in (CLAP_TEXT, MUQ_TEXT) if name in self.blocks)
        self._prompts = {name: PromptFeatures(makers[name]) for name in texts}

    @property
    def window_seconds(self) -> float:
        """Length of what the encoder of windows hears at once."""
        encoder = self.clap or self.muq
        return encoder.window_samples / encoder.sample_rate

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
        """The text blocks, on the CPU."""
        return {name: encode(prompts) for name, encode in self._prompts.items()}

    def of_sound(self, waveforms: Sequence[Tensor], rates: Sequence[int]) -> dict[str, Tensor]:
        """The audio blocks of B mono waveforms (S,) at their rates in Hz; differentiable."""
        heard = [self._in_band(*sound) for sound in zip(waveforms, rates, strict=True)]
        blocks = {}
        for name, encoder in self._windowed.items():
            at_rate = [resampled(*sound, encoder.sample_rate) for sound in heard]
            blocks[name] = self._by_windows(encoder, at_rate)
        if MERT in self.blocks:
            rate = self.music.sample_rate
            blocks[MERT] = self.music.embed_audio([resampled(*sound, rate) for sound in heard])
        return blocks

    def _in_band(self, waveform: Tensor, rate: int) -> tuple[Tensor, int]:
        """Waveform and rate after the band policy."""
        if self.listening.band == "full" or rate <= NARROW_RATE:
            return waveform, rate
        return resampled(waveform, rate, NARROW_RATE), NARROW_RATE

    def _by_windows(self, encoder: AudioTextEncoder, waveforms: Sequence[Tensor]) -> Tensor:
        """(B, dim): one window by policy, or the mean over windows."""
        size = encoder.window_samples
        starts = [self._starts(len(waveform), size) for waveform in waveforms]
        windows = [
            waveform[start : start + size]
            for waveform, firsts in zip(waveforms, starts, strict=True)
            for start in firsts
        ]
        embedded = encoder.embed_audio(windows).split([len(firsts) for firsts in starts])
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
