"""From a request to finished clips (paper, section III-E; specification 3.2 and 3.3).

prefix + prompt -> text encoders -> projected once -> seeded noise -> solver steps, each one pass
over a doubled batch (conditional at score s, unconditional at score 0) -> un-normalised -> decoded
-> cut or padded -> voices removed, where the preset has a separator -> loudness with a true-peak
ceiling -> score card.

`Generator.stream` is a Python generator that comes up for air after every solver step, so the
caller shows progress and cancels by closing it.

Shapes: see the legend in `ttmpref.types`; V variations of one request, B = 2 V while guided.
"""

from __future__ import annotations

import dataclasses
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ttmpref.audio import cut_or_pad
from ttmpref.config import Preset
from ttmpref.flow import Velocity, draw_noise, guidance_at, guided_velocity, solve, time_grid
from ttmpref.loudness import LoudnessReport, hold, normalise
from ttmpref.models.fluxaudio import FluxAudio, Projected, Step
from ttmpref.models.pulse import tempo_of
from ttmpref.types import (
    Clip,
    Generation,
    GenerationRequest,
    InvalidRequest,
    Progress,
    ScoreCard,
    TtmprefError,
)

if TYPE_CHECKING:
    from ttmpref.protocols import AudioTextEncoder, Autoencoder, Separator, TextEncoder

CACHED_TEXTS = 64


class TextFeatures:
    """Both encodings of a text, remembered for the texts used last.

    Shared by all stages of a preset: comparing stages encodes a prompt once.
    """

    def __init__(self, text_encoder: TextEncoder, clap: AudioTextEncoder) -> None:
        self._text_encoder = text_encoder
        self._clap = clap
        self._known: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()

    def __call__(self, text: str) -> tuple[Tensor, Tensor]:
        """(1, T, text_dim) token states and (1, pooled_dim) CLAP vector of one text."""
        if text not in self._known:
            self._known[text] = self._text_encoder.encode([text]), self._clap.encode_text([text])
        self._known.move_to_end(text)
        if len(self._known) > CACHED_TEXTS:
            self._known.popitem(last=False)
        return self._known[text]


@dataclass(frozen=True, eq=False)
class GeneratorParts:
    """What a generator is made of; every part but the backbone is shared between stages.

    Attributes:
        metric_clap: measures the CLAP score of finished clips; None leaves it out.
        separator: gives what takes voices out of finished clips, loaded when a clip first needs it;
            None leaves them in.
        provenance: copied into every generation (preset, stage, weight hashes, versions).
    """

    text_features: TextFeatures
    autoencoder: Autoencoder
    backbone: FluxAudio
    metric_clap: AudioTextEncoder | None = None
    separator: Callable[[], Separator] | None = None
    device: str = "cpu"
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Conditioning:
    """One prompt and its opposite, ready for V clips.

    Attributes:
        conditional: V projected prompts.
        both: 2 V projected prompts, the conditional ones first.
        score, both_scores: (V,) and (2 V,) scores; None for a stage without a head.
    """

    conditional: Projected
    both: Projected
    score: Tensor | None
    both_scores: Tensor | None


class Generator:
    """Makes clips with one stage of a preset."""

    def __init__(self, preset: Preset, parts: GeneratorParts) -> None:
        self.preset = preset
        self.parts = parts

    def stream(self, request: GenerationRequest) -> Iterator[Progress | Generation]:
        """Progress after every solver step, then one generation per variation.

        Variation i has seed `request.seed + i`. Closing the iterator stops the work.

        Raises:
            InvalidRequest: the last variation's seed would exceed the largest one.
        """
        started = time.perf_counter()
        singles = [
            dataclasses.replace(request, seed=request.seed + i, variations=1)
            for i in range(request.variations)
        ]
        yield Progress(0, request.num_steps, "reading the prompt")
        velocity = torch.no_grad()(self.velocity(request))
        latents = self.noise(singles)
        states = solve(velocity, latents, request.num_steps, request.solver)
        for step, state in enumerate(states, start=1):
            latents = state
            yield Progress(step, request.num_steps, "sampling")
        finished = []
        for i, single in enumerate(singles):
            yield Progress(request.num_steps, request.num_steps, f"decoding clip {i + 1}")
            with torch.no_grad():
                waveform = self.decode(latents[i : i + 1])
            clip, loudness = self.finish(waveform, request)
            finished.append((single, clip, self.measure(single.prompt, clip, loudness)))
        taken = time.perf_counter() - started
        for i, (single, clip, scores) in enumerate(finished):
            batch = {"seed": request.seed, "variations": request.variations, "index": i}
            yield Generation(single, clip, scores, self.provenance(single.prompt, batch), taken)

    def batch(self, requests: Sequence[GenerationRequest]) -> list[Clip]:
        """Finished clips, unmeasured, of requests as `latents` takes them."""
        return self.clips(self.latents(requests), requests[0])

    @torch.no_grad()
    def clips(self, latents: Tensor, request: GenerationRequest | None = None) -> list[Clip]:
        """Clips of normalised latents (V, N, C), finished as in `finish`."""
        return [self.finish(self.decode(one[None]), request)[0] for one in latents]

    @torch.no_grad()
    def latents(self, requests: Sequence[GenerationRequest]) -> Tensor:
        """(V, N, C) normalised, of V requests that differ in nothing but prompt and seed.

        They share every pass through the backbone, which costs less than one by one; a clip is that
        of `stream` up to rounding.

        Raises:
            InvalidRequest: the requests differ in more, or ask for variations.
        """
        first = requests[0]
        for request in requests:
            same = dataclasses.replace(request, prompt=first.prompt, seed=first.seed)
            if same != first or request.variations != 1:
                raise InvalidRequest(
                    "requests of a batch may differ in prompt and seed alone, one clip each; got "
                    f"{first} and {request}"
                )
        conditional = Projected.concatenate(*(self._prompt(one.prompt) for one in requests))
        velocity = self._guided(first, self._conditioning(first, conditional))
        noise = self.noise(list(requests))
        *_, latents = solve(velocity, noise, first.num_steps, first.solver)
        return latents

    def provenance(self, prompt: str, batch: dict[str, int]) -> dict[str, Any]:
        """What a clip's record says: how it was made, its place in a batch, and the tempo that was
        read in its prompt, where the backbone has a pulse."""
        said = {**self.parts.provenance, "batch": batch}
        pulse, frame = self.parts.backbone.pulse, self.preset.autoencoder.seconds_per_latent
        if pulse is not None:
            metre = int(pulse.likeliest(*self._encoded(prompt)))
            beats, tempo = tempo_of(pulse.config, metre, frame)
            said["tempo"] = {"bpm": round(tempo, 1), "beats_per_bar": beats}
        return said

    def _encoded(self, prompt: str) -> tuple[Tensor, Tensor]:
        return self.parts.text_features(self.preset.sampling.prompt_prefix + prompt)

    def _prompt(self, prompt: str) -> Projected:
        """A prompt, encoded and projected."""
        return self.parts.backbone.project(*self._encoded(prompt))

    @torch.no_grad()
    def _conditioning(self, request: GenerationRequest, conditional: Projected) -> Conditioning:
        """Both branches for all steps: V projected prompts, and what they are guided away from."""
        backbone, count = self.parts.backbone, conditional.batch
        if request.negative_prompt.strip():
            features = self.parts.text_features(request.negative_prompt)
            unconditional = backbone.project(*features).expand(count)
        else:
            unconditional = backbone.project_empty(count)
        score = both_scores = None
        if backbone.head != "none":
            score = torch.full((count,), float(request.score), device=self.parts.device)
            both_scores = torch.cat([score, torch.zeros_like(score)])  # (2 V,)
        both = Projected.concatenate(conditional, unconditional.following(conditional))
        return Conditioning(conditional, both, score, both_scores)

    def velocity(self, request: GenerationRequest) -> Velocity:
        """The guided velocity field: (z (V, N, C), t) -> (V, N, C), differentiable in z."""
        with torch.no_grad():
            conditional = self._prompt(request.prompt).expand(request.variations)
        return self._guided(request, self._conditioning(request, conditional))

    def _guided(self, request: GenerationRequest, conditioning: Conditioning) -> Velocity:
        alone = self._field(request, conditioning.conditional, conditioning.score)
        both = self._field(request, conditioning.both, conditioning.both_scores)

        def velocity(z: Tensor, t: float) -> Tensor:
            guidance = guidance_at(request.guidance_schedule, request.guidance, 1.0 - t)
            if guidance == 1.0:  # the unconditional half would be multiplied by zero
                return alone(z, t)
            return guided_velocity(*both(torch.cat([z, z]), t).chunk(2), guidance)  # 2 V at once

        return velocity

    def _field(
        self, request: GenerationRequest, projected: Projected, score: Tensor | None
    ) -> Velocity:
        """The network's own velocity for given prompts and scores."""
        backbone = self.parts.backbone
        if not backbone.config.channels_last:
            return lambda z, t: backbone.velocity(z, z.new_full((len(z),), t), projected, score)

        @cache
        def steps() -> dict[float, Step]:
            times = time_grid(request.num_steps)
            return dict(zip(times, backbone.steps(times, projected, score), strict=True))

        return lambda z, t: backbone.velocity_at(steps()[t], z, projected)

    def noise(self, singles: list[GenerationRequest]) -> Tensor:
        """(V, N, C), each clip's from its own seed; drawn on the CPU, so equal on every device."""
        config = self.parts.backbone.config
        seeds = [single.seed for single in singles]
        return draw_noise(seeds, config.latent_frames, config.latent_channels).to(self.parts.device)

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents (V, N, C) to waveforms (V, S) as they come, differentiable."""
        return self.parts.autoencoder.decode(self.parts.backbone.unnormalise(latents))

    def finish(
        self, waveform: Tensor, request: GenerationRequest | None = None
    ) -> tuple[Clip, LoudnessReport]:
        """A waveform (1, S) to a finished clip of the preset's length.

        Args:
            request: says how voices and loudness are treated; None: as the preset does.
        """
        output, sample_rate = self.preset.output, self.parts.autoencoder.sample_rate
        if not waveform.isfinite().all():
            raise TtmprefError("the clip is not finite numbers: lower the guidance or the score")
        clip = Clip(waveform.detach().float().cpu().numpy(), sample_rate)
        clip = cut_or_pad(clip, round(output.seconds * sample_rate))
        passes = self._passes(request)
        if passes:
            clip = self.parts.separator().instrumental(clip, passes)
        if request is not None and not request.normalise_loudness:
            return hold(clip, output.true_peak_ceiling_db)
        target = output.target_lufs
        if request is not None and request.target_lufs is not None:
            target = request.target_lufs
        return normalise(clip, target, output.true_peak_ceiling_db, output.loudness)

    def _passes(self, request: GenerationRequest | None) -> int:
        """How often voices are taken out; as the preset says where the request does not."""
        if self.parts.separator is None:
            return 0
        asked = None if request is None else request.separation_passes
        return self.preset.separator.passes if asked is None else asked

    def measure(self, prompt: str, clip: Clip, loudness: LoudnessReport) -> ScoreCard:
        """Measurements of a finished clip; the CLAP score is against the prompt as asked."""
        from ttmpref.encoders.clap import similarity

        clap = self.parts.metric_clap
        clap_score = None if clap is None else similarity(clap, prompt, clip)
        return ScoreCard(loudness.lufs, loudness.true_peak_db, clip.seconds, clap_score)
