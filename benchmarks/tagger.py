"""A judge that hears lead instrument, genre and tempo class of a 10 s clip.

A small convolutional network, trained here and now on evaluation-split audio that no other training
has seen, so it shares nothing with what it judges. It has two inputs: a log-mel *picture* (timbre
and texture) and a *tempogram*, the autocorrelation of the onset strength in four bands (the beat,
whatever plays it). Training varies windows, level, colour (random smooth equaliser), pitch by a few
mel bands and tempo by a few percent, and masks stripes of the picture.

Shapes: picture (B, 1, M, frames) at 43 frames a second, onsets (B, BANDS, frames) at 86 frames a
second, tempogram (B, BANDS, LAGS).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.corpus.vocabulary import GENRES, LEADS, TEMPO_CLASSES, tempo_class_of
from ttmpref.audio import cut_or_pad, resample
from ttmpref.config import MelConfig
from ttmpref.models.mel import LogMel
from ttmpref.types import Clip

CLASSES = {"lead": tuple(LEADS), "genre": tuple(GENRES), "tempo_class": TEMPO_CLASSES}
MEL = MelConfig(num_mels=96, f_min=30.0, f_max=16_000.0)
SECONDS = 10.0
FRAMES_PER_SECOND = MEL.sample_rate / MEL.hop_length
DYNAMIC_RANGE = 9.0  # natural log units below the loudest cell that are kept, about 78 dB
BANDS = 4
LAGS = range(17, 190)  # 0.2 s to 2.2 s


@dataclass(frozen=True)
class TaggerRecipe:
    """Numbers of the training; the rest is in the code.

    Attributes:
        crop_frames: onset-rate frames of a training window.
        largest_stretch: tempo is changed by up to this share.
        largest_shift: pitch is moved by up to this many mel bands.
    """

    seed: int = 5
    updates: int = 700
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    crop_frames: int = 430
    largest_stretch: float = 0.08
    largest_shift: int = 2


@dataclass(frozen=True, eq=False)
class Features:
    """What the tagger hears of a piece.

    Attributes:
        log_mel: (M, frames) float16 natural log, level as recorded.
        onsets: (BANDS, frames) float32 rise of the log-mel per band of the spectrum.
    """

    log_mel: Tensor
    onsets: Tensor


class FrontEnd:
    """Clips to features, those under 10 s padded with silence; holds constants only."""

    def __init__(self) -> None:
        self._log_mel = LogMel(MEL)

    @torch.inference_mode()
    def __call__(self, clip: Clip) -> Features:
        resampled = resample(clip, MEL.sample_rate)
        length = max(resampled.samples, round(SECONDS * MEL.sample_rate))
        mono = torch.from_numpy(cut_or_pad(resampled, length).mono.copy())
        log_mel = _levelled(self._log_mel(mono[None])[0])
        rise = F.pad(log_mel, (1, 0), mode="replicate").diff(dim=1).clamp(min=0.0)
        onsets = torch.stack([band.mean(0) for band in rise.chunk(BANDS)])
        return Features(log_mel.half(), onsets)


def _levelled(log_mel: Tensor) -> Tensor:
    """(..., M, frames) with its loudest cell at 0 and a floor; no level is left to judge by."""
    return (log_mel - log_mel.amax((-2, -1), keepdim=True)).clamp(min=-DYNAMIC_RANGE)


def picture(log_mel: Tensor) -> Tensor:
    """(B, M, frames) log-mel to the network's picture (B, 1, M, frames // 2), about unit scale."""
    halved = F.avg_pool1d(log_mel.float(), 2)
    return (_levelled(halved) / DYNAMIC_RANGE + 0.5)[:, None] * 2.0


def tempogram(onsets: Tensor) -> Tensor:
    """(B, BANDS, frames) onset strength to its autocorrelation (B, BANDS, LAGS) at LAGS.

    1 where the onsets repeat exactly, 0 where they are unrelated.
    """
    centred = onsets - onsets.mean(-1, keepdim=True)
    frames = onsets.shape[-1]
    power = torch.fft.rfft(centred, 2 * frames).abs().square()
    correlation = torch.fft.irfft(power)[..., : LAGS.stop]
    overlap = frames / (frames - torch.arange(LAGS.stop))
    normalised = correlation * overlap / correlation[..., :1].clamp(min=1e-6)
    return normalised[..., LAGS.start :]


class Block(nn.Sequential):
    """Convolution, norm and activation, then half the size in both directions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )


class Tagger(nn.Module):
    """Logits of the three tags."""

    def __init__(self, width: int = 16, embedding: int = 192) -> None:
        super().__init__()
        channels = (width, 2 * width, 4 * width, 6 * width, 8 * width)
        pairs = zip(channels, channels[1:], strict=False)
        self.look = nn.Sequential(
            nn.Conv2d(1, width, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            *(Block(a, b) for a, b in pairs),
        )
        rows = MEL.num_mels // 2 ** len(channels)
        # Frequency is not pooled away: where a timbre lies says what plays it.
        self.embed = nn.Sequential(
            nn.Dropout(0.3), nn.Linear(2 * rows * channels[-1], embedding), nn.ReLU()
        )
        self.beat = nn.Sequential(
            nn.Conv1d(BANDS, 32, 7, padding=3), nn.ReLU(),
            nn.Conv1d(32, 32, 7, stride=2, padding=3), nn.ReLU(),
            nn.AdaptiveAvgPool1d(44), nn.Flatten(),
            nn.Dropout(0.3), nn.Linear(32 * 44, 64), nn.ReLU(),
        )  # fmt: skip
        self.heads = nn.ModuleDict(
            {
                "lead": nn.Linear(embedding, len(CLASSES["lead"])),
                "genre": nn.Linear(embedding + 64, len(CLASSES["genre"])),
                "tempo_class": nn.Linear(embedding + 64, len(CLASSES["tempo_class"])),
            }
        )

    def forward(self, picture: Tensor, tempogram: Tensor) -> dict[str, Tensor]:
        seen = self.look(picture)  # (B, C, rows, columns)
        pooled = torch.cat([seen.mean(3), seen.amax(3)], dim=1).flatten(1)
        timbre = self.embed(pooled)  # (B, embedding)
        both = torch.cat([timbre, self.beat(tempogram)], dim=1)
        return {
            tag: head(timbre if tag == "lead" else both) for tag, head in self.heads.items()
        }


def labels_of(tags: dict[str, Any]) -> dict[str, int]:
    """Class numbers of a piece's tags."""
    return {name: classes.index(tags[name]) for name, classes in CLASSES.items()}


class Lessons:
    """Random training batches of augmented windows."""

    def __init__(
        self, recipe: TaggerRecipe, features: Sequence[Features], tags: Sequence[dict[str, Any]]
    ) -> None:
        self.recipe = recipe
        self._features, self._tags = features, tags
        self._rng = np.random.default_rng(recipe.seed)

    def batch(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Pictures, tempograms and class numbers (B,) by tag."""
        rows = self._rng.integers(len(self._features), size=self.recipe.batch)
        pictures, onsets, targets = zip(*(self._example(int(row)) for row in rows), strict=True)
        labels = {name: torch.tensor([t[name] for t in targets]) for name in CLASSES}
        return picture(torch.stack(pictures)), tempogram(torch.stack(onsets)), labels

    def _example(self, row: int) -> tuple[Tensor, Tensor, dict[str, int]]:
        features, tags, recipe = self._features[row], self._tags[row], self.recipe
        log_mel = self._coloured(self._crop(features.log_mel, recipe.crop_frames).float())
        stretch = 1.0 + self._rng.uniform(-recipe.largest_stretch, recipe.largest_stretch)
        labels = labels_of(tags | {"tempo_class": tempo_class_of(tags["tempo_bpm"] * stretch)})
        return self._masked(log_mel), self._stretched(features.onsets, stretch), labels

    def _crop(self, frames: Tensor, length: int) -> Tensor:
        start = int(self._rng.integers(frames.shape[1] - length + 1))
        return frames[:, start : start + length]

    def _stretched(self, onsets: Tensor, stretch: float) -> Tensor:
        """A 10 s window of the onsets (BANDS, frames), played `stretch` times as fast."""
        frames = round(SECONDS * FRAMES_PER_SECOND)
        source = self._crop(onsets, min(onsets.shape[1], round(frames * stretch)))
        return F.interpolate(source[None], frames, mode="linear", align_corners=True)[0]

    def _coloured(self, log_mel: Tensor) -> Tensor:
        """Moved by some bands and sent through a random smooth equaliser of a few dB."""
        most = self.recipe.largest_shift
        moved = torch.roll(log_mel, int(self._rng.integers(-most, most + 1)), dims=0)
        points = torch.from_numpy(self._rng.normal(0.0, 0.4, 5).astype(np.float32))
        curve = F.interpolate(points[None, None], len(log_mel), mode="linear")[0, 0]
        return moved + curve[:, None]

    def _masked(self, log_mel: Tensor) -> Tensor:
        """Two stripes of bands and two of frames are set to the window's mean."""
        masked, mean = log_mel.clone(), log_mel.mean()
        for _ in range(2):
            band, height = self._rng.integers(len(masked)), self._rng.integers(10)
            frame, breadth = self._rng.integers(masked.shape[1]), self._rng.integers(50)
            masked[band : band + height] = mean
            masked[:, frame : frame + breadth] = mean
        return masked


def train_tagger(
    features: Sequence[Features], tags: Sequence[dict[str, Any]], recipe: TaggerRecipe
) -> Tagger:
    """A tagger that has seen these pieces; a fixed number of updates, nothing is selected.

    Args:
        features: of whole pieces, at least 11 s each.
        tags: of the same pieces, as in the corpus index.
    """
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        return _train(Lessons(recipe, features, tags), recipe)


def _train(lessons: Lessons, recipe: TaggerRecipe) -> Tagger:
    tagger = Tagger().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        tagger.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.updates
    )
    started = time.perf_counter()
    for update in range(1, recipe.updates + 1):
        pictures, tempograms, labels = lessons.batch()
        logits = tagger(pictures, tempograms)
        losses = [
            F.cross_entropy(logits[tag], labels[tag], label_smoothing=recipe.label_smoothing)
            for tag in CLASSES
        ]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
        schedule.step()
        if update % 100 == 0:
            shown = ", ".join(
                f"{tag} {loss.item():.2f}" for tag, loss in zip(CLASSES, losses, strict=True)
            )
            taken = time.perf_counter() - started
            print(f"tagger {update}/{recipe.updates}: {shown} ({taken:.0f} s)", flush=True)
    return tagger.eval()


@torch.inference_mode()
def tags_heard(
    tagger: Tagger, features: Iterable[Features], recipe: TaggerRecipe
) -> list[dict[str, str]]:
    """The likeliest class of every tag, for each clip.

    The picture is seen in three windows of the training's length, whose logits are averaged.
    """
    heard = []
    for one in features:
        frames = one.log_mel.shape[1]
        length = min(recipe.crop_frames, frames)
        starts = np.linspace(0, frames - length, 3).astype(int)
        windows = torch.stack([one.log_mel[:, start : start + length] for start in starts])
        onsets = one.onsets.expand(len(windows), -1, -1)
        logits = tagger(picture(windows), tempogram(onsets))
        heard.append(
            {tag: CLASSES[tag][int(values.mean(0).argmax())] for tag, values in logits.items()}
        )
    return heard
