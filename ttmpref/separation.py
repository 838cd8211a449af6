"""Taking voices out of a clip with Demucs models from a local folder (paper, section III-E).

A *bag* is a folder with `<bag>.yaml`, which names the models, perhaps their weights per source and
the segment they work on, and one `<model>.safetensors` each, whose metadata hold class and
arguments as JSON: the form in which Demucs publishes its models. The paper's `mdx_extra` and the
demo's small bag are read by the same code. This file alone imports demucs.

Demucs' own `apply_model` walks over overlapping segments one after another and shifts them by a
random offset. Here segments of one length go through the network together and nothing is random;
without its shifts the result is the same (`tests/test_separation.py`).

Shapes: M models, K sources, A channels of the network; mix (B, A, S), estimates (B, K, A, S).
"""

from __future__ import annotations

import inspect
import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import yaml
from pydantic import Field
from torch import Tensor, nn

from ttmpref import assets
from ttmpref.audio import cut_or_pad, resample, write_files
from ttmpref.config import FrozenConfig, SeparatorConfig, read_yaml, validated
from ttmpref.models.over_time import has_bf16
from ttmpref.types import Clip, ConfigError, DamagedWeights, InvalidRequest, Precision

logger = logging.getLogger(__name__)

OVERLAP = 0.25  # of neighbouring segments, as in Demucs
BATCHED_SEGMENTS = 4  # bounds the memory
REFERENCE_PEAK = 0.95  # the authors' script, after every pass
CLASSES = ("demucs.hdemucs.HDemucs", "demucs.htdemucs.HTDemucs")

ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]


class BagFile(FrozenConfig):
    """What `<bag>.yaml` says.

    Attributes:
        models: names of the safetensors files.
        weights: of each model for each source; all equal where absent.
        segment: seconds a model works on, in place of its own.
    """

    models: tuple[ModelName, ...] = Field(min_length=1)
    weights: tuple[tuple[float, ...], ...] | None = None
    segment: float | None = Field(None, gt=0)


@dataclass(frozen=True, eq=False)
class Bag:
    """Models whose estimates are averaged.

    Attributes:
        weights: (M, K), the columns sum to one.
        sources: names of the K sources.
        channels: A.
    """

    models: tuple[nn.Module, ...]
    weights: Tensor
    sources: tuple[str, ...]
    sample_rate: int
    channels: int

    @classmethod
    def of(
        cls,
        models: Sequence[nn.Module],
        weights: Sequence[Sequence[float]] | None = None,
        segment: float | None = None,
    ) -> Bag:
        """A bag of Demucs models that agree on sources, rate and channels.

        Args:
            weights: (M, K), any positive scale; equal where None.
            segment: seconds, in place of the models' own; an HTDemucs keeps a shorter one.

        Raises:
            ConfigError: the models differ, or the weights do not fit them.
        """
        kinds = {(tuple(m.sources), int(m.samplerate), int(m.audio_channels)) for m in models}
        if len(kinds) != 1:
            raise ConfigError(f"models of one bag must agree, got {sorted(kinds)}")
        sources, sample_rate, channels = kinds.pop()
        table = torch.ones(len(models), len(sources))
        if weights is not None:
            table = torch.tensor(weights)
        if table.shape != (len(models), len(sources)) or not (table.sum(0) > 0).all():
            raise ConfigError(f"weights of a bag must be {len(models)} x {len(sources)}: {weights}")
        for model in models:
            if segment is not None and not (_has_fixed_length(model) and segment > model.segment):
                model.segment = segment
        frozen = tuple(model.eval().requires_grad_(False) for model in models)
        return cls(frozen, table / table.sum(0), sources, sample_rate, channels)

    @torch.inference_mode()
    def estimates(self, mix: Tensor, precision: Precision = "fp32") -> Tensor:
        """(B, A, S) at `sample_rate`, S >= 1, to the sources (B, K, A, S), float32 both.

        Args:
            precision: of the networks' products, where the device has it; sums and spectra stay in
                fp32.
        """
        total = 0.0
        halved = precision == "bf16" and has_bf16(str(mix.device))
        with torch.autocast(mix.device.type, torch.bfloat16, enabled=halved):
            for model, weights in zip(self.models, self.weights, strict=True):
                total = total + weights.to(mix)[:, None, None] * _estimates(model, mix)
        return total


def _has_fixed_length(model: nn.Module) -> bool:
    """Whether a model says itself how long its inputs must be (HTDemucs: as its segment)."""
    return hasattr(model, "valid_length")


@dataclass(frozen=True)
class _Segment:
    """Samples `start` to `start + length` of a mix, and how long the network wants them."""

    start: int
    length: int
    wanted: int

    def cut(self, mix: Tensor) -> Tensor:
        """(B, A, wanted): the samples in the middle, their neighbours or silence around them."""
        first = self.start - (self.wanted - self.length) // 2
        last, samples = first + self.wanted, mix.shape[-1]
        kept = mix[..., max(0, first) : min(samples, last)]
        return F.pad(kept, (max(0, -first), max(0, last - samples)))

    def trimmed(self, estimates: Tensor) -> Tensor:
        """(..., wanted) back to (..., length)."""
        surplus = (self.wanted - self.length) // 2
        return estimates[..., surplus : surplus + self.length]


def _segments(model: nn.Module, samples: int) -> Iterator[list[_Segment]]:
    """Overlapping segments that cover `samples`, those of one length together."""
    longest = int(model.samplerate * model.segment)
    grouped = defaultdict(list)
    for start in range(0, samples, int((1 - OVERLAP) * longest)):
        length = min(longest, samples - start)
        wanted = model.valid_length(length) if _has_fixed_length(model) else length
        grouped[wanted].append(_Segment(start, length, wanted))
    for group in grouped.values():
        yield from (group[i : i + BATCHED_SEGMENTS] for i in range(0, len(group), BATCHED_SEGMENTS))


@cache
def _triangle(samples: int) -> Tensor:
    """(samples,) weights of a segment: 1 in the middle, nearly 0 at the ends."""
    rising = torch.arange(1, samples // 2 + 1)
    falling = torch.arange(samples - samples // 2, 0, -1)
    window = torch.cat([rising, falling]).float()
    return window / window.max()


def _estimates(model: nn.Module, mix: Tensor) -> Tensor:
    """(B, A, S) to (B, K, A, S) by one model, segments blended by triangles."""
    batch, channels, samples = mix.shape
    window = _triangle(int(model.samplerate * model.segment)).to(mix)
    blended = mix.new_zeros(batch, len(model.sources), channels, samples)
    total = mix.new_zeros(samples)
    for group in _segments(model, samples):
        found = model(torch.cat([segment.cut(mix) for segment in group]))
        for segment, estimates in zip(group, found.split(batch), strict=True):
            place = slice(segment.start, segment.start + segment.length)
            weights = window[: segment.length]
            blended[..., place] += weights * segment.trimmed(estimates)
            total[place] += weights
    return blended / total


class DemucsSeparator:
    """The seam `Separator` filled with a bag.

    Args:
        config: which sources are removed, how often and how.
        bag: as `read_bag` returns it.

    Raises:
        ConfigError: a source to remove is unknown, or nothing would be left.
    """

    def __init__(self, config: SeparatorConfig, bag: Bag, device: str = "cpu") -> None:
        unknown = [name for name in config.remove if name not in bag.sources]
        if unknown:
            known = ", ".join(bag.sources)
            raise ConfigError(f"separator.remove: {unknown[0]!r} is unknown; accepted: {known}")
        removed = torch.tensor([name in config.remove for name in bag.sources])
        if removed.all() and config.mode != "residual":
            raise ConfigError("separator.remove: no source is left; mode 'residual' needs none")
        for model in bag.models:
            model.to(device)
        self.sources = bag.sources
        self.sample_rate = bag.sample_rate
        self._bag, self._config, self._device = bag, config, device
        self._removed = removed.to(device)

    def separate(self, clip: Clip) -> dict[str, Clip]:
        """Every source, of the clip's rate, channels and length; one pass, no gain."""
        if clip.samples == 0:
            return dict.fromkeys(self.sources, clip)
        estimates = self._bag.estimates(self._given(clip), self._config.precision)  # (B, K, A, S)
        found = zip(self.sources, estimates.unbind(1), strict=True)
        return {name: self._returned(waveform, clip) for name, waveform in found}

    def instrumental(self, clip: Clip, passes: int | None = None) -> Clip:
        """The clip after `passes` passes (None: the configured ones) without the sources to remove.

        Rate and length stay; channels too, but "reference" makes one.

        Raises:
            InvalidRequest: the clip has more channels than the network takes.
        """
        if clip.samples == 0:
            return clip
        given = waveform = self._given(clip)
        for _ in range(self._config.passes if passes is None else passes):
            waveform = self._passed(waveform)
        if self._config.mode == "residual":  # above the network's rate the clip stays as it is
            removed = self._returned(given - waveform, clip)
            return Clip(clip.waveform - removed.waveform, clip.sample_rate)
        return self._returned(waveform, clip)

    def _passed(self, mix: Tensor) -> Tensor:
        """(B, A, S) without the sources to remove, by one pass."""
        estimates = self._bag.estimates(mix, self._config.precision)
        if self._config.mode == "residual":
            return mix - estimates[:, self._removed].sum(1)
        kept = estimates[:, ~self._removed].sum(1)
        return _as_reference(kept) if self._config.mode == "reference" else kept

    def _given(self, clip: Clip) -> Tensor:
        """The clip as the network takes it: (B, A, S) at its rate.

        A network of one channel hears the channels as a batch, one of two hears mono twice.
        """
        waveform = torch.from_numpy(resample(clip, self.sample_rate).waveform).to(self._device)
        if self._bag.channels == 1:
            return waveform[:, None]
        if clip.channels not in (1, self._bag.channels):
            raise InvalidRequest(
                f"separation takes 1 or {self._bag.channels} channels, got {clip.channels}"
            )
        return waveform.expand(self._bag.channels, -1)[None]

    def _returned(self, waveform: Tensor, clip: Clip) -> Clip:
        """(B, A, S) back to the clip's rate and length, mono to mono."""
        rows = waveform.flatten(0, 1)  # (channels, S)
        if clip.channels == 1 or self._config.mode == "reference":
            rows = rows.mean(0, keepdim=True)
        found = resample(Clip(rows.cpu().numpy(), self.sample_rate), clip.sample_rate)
        return cut_or_pad(found, clip.samples)


def _as_reference(kept: Tensor) -> Tensor:
    """What the authors' script does after a pass: one channel, twice, at a sample peak of 0.95.

    Its unseeded random shift and the rounding of the files in between are left out, so that the
    result is a function of the clip (specification, section 7.1, trap 17).
    """
    mono = kept.mean(1, keepdim=True)
    peak = mono.abs().amax(-1, keepdim=True)
    return (mono * torch.where(peak > 0, REFERENCE_PEAK / peak, 1.0)).expand_as(kept)


def load_separator(config: SeparatorConfig, device: str = "cpu") -> DemucsSeparator:
    """The separator of a preset from its verified folder; errors as `read_bag` raises them."""
    assets.verify(config.folder)
    return DemucsSeparator(config, read_bag(config.folder, config.bag), device)


def read_bag(folder: str, name: str) -> Bag:
    """The bag `name` of a local folder.

    Args:
        folder: URI of a folder with `<name>.yaml` and the safetensors files it names.

    Raises:
        MissingWeights: the folder or one of its files is absent.
        ConfigError: the bag's file is wrong, or its models do not fit together.
        DamagedWeights: a model is not safetensors, or not one of the two classes.
    """
    path = assets.locate(f"{folder}/{name}.yaml")
    file = validated(BagFile, read_yaml(path), str(path))
    models = [_read_model(f"{folder}/{model}.safetensors") for model in file.models]
    return Bag.of(models, file.weights, file.segment)


def _read_model(uri: str) -> nn.Module:
    """A Demucs network from safetensors; only the two known classes are ever built."""
    from demucs.hdemucs import HDemucs
    from demucs.htdemucs import HTDemucs

    says = assets.metadata(uri)
    if says.get("klass") not in CLASSES:
        raise DamagedWeights(
            f"{uri}: class {says.get('klass')!r} is unknown; accepted: {', '.join(CLASSES)}"
        )
    chosen = dict(zip(CLASSES, (HDemucs, HTDemucs), strict=True))[says["klass"]]
    try:
        args, kwargs = (json.loads(says[key], object_hook=_fraction) for key in ("args", "kwargs"))
        model = chosen(*args, **_known(chosen, kwargs, uri))
        model.load_state_dict(assets.load_tensors(uri))
    except (KeyError, TypeError, ValueError, AssertionError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DamagedWeights(f"{uri}: not a {chosen.__name__} ({reason[:300]})") from None
    return model


def _fraction(data: dict[str, Any]) -> Any:
    """JSON has no fractions; Demucs writes them as mappings."""
    if data.get("_type") == "fraction":
        return Fraction(data["numerator"], data["denominator"])
    return data


def _known(chosen: type, kwargs: dict[str, Any], uri: str) -> dict[str, Any]:
    """Arguments that the class takes; old files hold some that mean nothing any more."""
    parameters = inspect.signature(chosen).parameters
    dropped = sorted(kwargs.keys() - parameters.keys())
    if dropped:
        logger.warning("%s: arguments left out: %s", uri, ", ".join(dropped))
    return {key: value for key, value in kwargs.items() if key in parameters}


def write_bag(
    folder: Path, name: str, models: dict[str, nn.Module], segment: float | None = None
) -> None:
    """Write models as a bag that `read_bag` reads; all files are whole or none is there.

    Args:
        models: Demucs networks by file name; kept in half precision, as Demucs keeps its own.
        segment: seconds, in place of the models' own.
    """
    file = {"models": list(models), **({} if segment is None else {"segment": segment})}
    contents = {}
    for key, model in models.items():
        args, kwargs = model._init_args_kwargs  # kept by Demucs for this purpose
        says = {
            "klass": f"{type(model).__module__}.{type(model).__name__}",
            "args": json.dumps(args, default=_from_fraction),
            "kwargs": json.dumps(kwargs, default=_from_fraction),
        }
        halves = {tensor: value.half() for tensor, value in model.state_dict().items()}
        contents[folder / f"{key}.safetensors"] = assets.pack_tensors(halves, says)
    contents[folder / f"{name}.yaml"] = yaml.safe_dump(file).encode()
    write_files(contents)


def _from_fraction(value: Any) -> dict[str, Any]:
    if not isinstance(value, Fraction):
        raise TypeError(f"{value!r} cannot be written as JSON")
    return {"_type": "fraction", "numerator": value.numerator, "denominator": value.denominator}
