"""The studio: turns a preset into working parts and offers the verbs that everything above calls.

Composition root: the only place where presets, weights and networks meet. Nothing is imported or
loaded before it is needed; a part is built on first use and kept by its configuration, so stages
share everything but their backbone. One lock guards the models; it is held for one solver step at
a time, so several users take turns and a request that is dropped blocks nobody.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import secrets
import threading
from collections import abc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ttmpref import __version__, assets
from ttmpref.audio import check_suffix, encode_clip, read_clip, write_files
from ttmpref.config import (
    HEADS_WITH_SCORE,
    FrozenConfig,
    HeadKind,
    Preset,
    RankerConfig,
    StageConfig,
    load_preset,
)
from ttmpref.idle import Guest, Room
from ttmpref.types import (
    MAX_VARIATIONS,
    Clip,
    Generation,
    GenerationRequest,
    InvalidRequest,
    Listening,
    MissingWeights,
    ProbeKind,
    ProbeReading,
    ProbeResponse,
    Progress,
    RewardScore,
    Settings,
    StageInfo,
    TtmprefError,
    check_choice,
    check_range,
)
from ttmpref.uploads import read_upload

if TYPE_CHECKING:
    from torch import Tensor

    from ttmpref.autoencoder import MelAutoencoder
    from ttmpref.encoders.clap import ClapEncoder
    from ttmpref.generator import Generator, TextFeatures
    from ttmpref.models.fluxaudio import FluxAudio, Projected
    from ttmpref.reward.best_of_n import Choice
    from ttmpref.reward.entries import ScoreEntry
    from ttmpref.reward.features import RewardFeatures
    from ttmpref.reward.files import FileScore
    from ttmpref.reward.latent_optimisation import Event, OptimisationSettings, Optimised
    from ttmpref.reward.percentiles import Collections
    from ttmpref.reward.ranker import RankerHead
    from ttmpref.reward.scorer import Scorer
    from ttmpref.separation import DemucsSeparator
    from ttmpref.series import Made, Task

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

RANDOM_SEED_BITS = 31
MAX_THREADS = 8  # more threads make networks of this size slower, not faster
SIDECAR_FORMAT = 1


def sidecar_path(audio_path: Path | str) -> Path:
    """Where the record of an audio file lies: `clip.wav` -> `clip.json`."""
    return Path(audio_path).with_suffix(".json")


class Studio:
    """Working parts of one preset behind a handful of verbs; safe to share between threads."""

    def __init__(self, preset: Preset, device: str = "auto") -> None:
        self.preset = preset
        self._wanted_device = device
        self._parts: dict[Any, Any] = {}
        self._lock = threading.RLock()

    @classmethod
    def open(cls, preset: str = "demo", device: str = "auto") -> Studio:
        """A studio for a shipped preset or a preset file. Loads no weights and imports no torch.

        Args:
            device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:<number>".

        Raises:
            ConfigError: unknown preset or a mistake in its file.
            InvalidRequest: unknown device.
        """
        name, _, number = device.partition(":")
        if name not in ("auto", "cpu", "cuda") or number and not number.isdecimal():
            raise InvalidRequest(f"device is {device!r}; accepted: auto, cpu, cuda, cuda:<number>")
        return cls(load_preset(preset), device)

    @property
    def settings(self) -> Settings:
        """Default values of requests."""
        return self.preset.settings

    def stages(self) -> tuple[StageInfo, ...]:
        """All stages of the preset; those that cannot be used say why."""
        return tuple(
            StageInfo(
                name=stage.name,
                title=stage.title,
                head=stage.head,
                parent=stage.parent,
                missing=self._missing(stage),
                notes=stage.notes,
            )
            for stage in self.preset.stages
        )

    def _missing(self, stage: StageConfig) -> str | None:
        """Why a stage cannot be used, or None; looks at files without reading them."""
        if stage.unavailable is not None:
            return stage.unavailable
        try:
            for uri in self.weights_of(stage):
                assets.locate(uri)
        except MissingWeights as error:
            return str(error)
        return None

    def weights_of(self, stage: StageConfig) -> tuple[str, ...]:
        """URIs of everything a stage needs, without repeats."""
        preset = self.preset
        uris = (
            preset.text_encoder.folder,
            preset.conditioning_clap.folder,
            preset.metric_clap.folder,
            preset.autoencoder_of(stage).vae_weights,
            preset.autoencoder_of(stage).vocoder.weights,
            *(() if stage.weights is None else (stage.weights,)),
            *(() if preset.separator is None else (preset.separator.folder,)),
        )
        return tuple(dict.fromkeys(uris))

    def request(self, prompt: str, **overrides: Any) -> GenerationRequest:
        """A checked request; what is not given, or given as None, takes the preset's default.

        Args:
            prompt: description of the music.
            overrides: fields of `GenerationRequest`; a seed of None is drawn at random.

        Raises:
            InvalidRequest: a value lies outside what is accepted.
            MissingWeights: the stage cannot be used; the message is the reason.
        """
        settings = self.settings
        values = {
            "seed": secrets.randbits(RANDOM_SEED_BITS),
            "stage": settings.stage,
            "score": settings.score,
            "guidance": settings.guidance,
            "num_steps": settings.num_steps,
            "negative_prompt": settings.negative_prompt,
            "separation_passes": self.preset.separator.passes if self.preset.separator else 0,
            "target_lufs": self.preset.output.target_lufs,
        }
        values.update((key, value) for key, value in overrides.items() if value is not None)
        request = GenerationRequest(prompt=prompt, **values)
        self._check(request)
        return request

    def _check(self, request: GenerationRequest) -> None:
        """Raise unless the request's stage can be used, and a separator where it asks for one."""
        self._usable(request.stage)
        if request.separation_passes and self.preset.separator is None:
            raise InvalidRequest(
                f"separation_passes is {request.separation_passes}; preset {self.preset.name!r} "
                "has no separator, so only 0 is accepted"
            )

    def stream(
        self, request: GenerationRequest, head: HeadKind | None = None
    ) -> Iterator[Progress | Generation]:
        """Progress after every solver step, then one generation per variation.

        Closing the iterator stops the work within one step. It may be advanced from different
        threads, one at a time.

        Args:
            head: runs the stage's weights under another score head, as in the cross-loading
                ablation; None for the stage's own.

        Raises:
            InvalidRequest: the weights of a stage without a score under a score head, or the
                reverse.
        """
        self._check(request)
        if _key(self._under(request.stage, head)) not in self._parts:
            yield Progress(0, request.num_steps, "loading the weights")
        with self._lock:
            steps = self._generator(request.stage, head).stream(request)
        yield from self._in_turns(steps)

    def _under(self, stage_name: str, head: HeadKind | None) -> StageConfig:
        """A stage with its own head, or its weights under another that takes what it takes."""
        stage = self.preset.stage(stage_name)
        if head is None:
            return stage
        check_choice("head", head, ("none",) if stage.head == "none" else HEADS_WITH_SCORE)
        return stage.model_copy(update={"head": head})

    def _in_turns(self, steps: abc.Generator[Item]) -> Iterator[Item]:
        """Items of a generator that works with the models, holding the lock for one at a time."""
        try:
            while True:
                with self._lock:
                    item = next(steps, None)
                if item is None:
                    return
                yield item
        finally:
            steps.close()

    def series(self, tasks: Sequence[Task]) -> Iterator[Progress | Made]:
        """Progress over several clips, and each with its reward as soon as it is finished.

        See `ttmpref.series`. Without a usable ranker clips come without rewards. Closing the
        iterator stops the work within one step.
        """
        from ttmpref.series import make_series

        def score(clips: Sequence[Clip], prompts: Sequence[str]) -> list[RewardScore]:
            return self.score(clips, prompts, timeline=False)

        yield from make_series(self.stream, None if self.scoring_missing() else score, tasks)

    def generate(
        self,
        request: GenerationRequest,
        on_progress: Callable[[Progress], None] | None = None,
        head: HeadKind | None = None,
    ) -> list[Generation]:
        """All variations of a request, in order of their seeds; `head` as in `stream`."""
        finished = []
        for item in self.stream(request, head):
            if isinstance(item, Generation):
                finished.append(item)
            elif on_progress is not None:
                on_progress(item)
        return finished

    def batch(
        self, requests: Sequence[GenerationRequest], head: HeadKind | None = None
    ) -> list[Clip]:
        """Clips of requests that differ in prompt and seed alone, made together and not measured.

        For measuring hundreds of clips; see `Generator.batch`. `head` as in `stream`.

        Raises:
            InvalidRequest: the requests differ in more.
            MissingWeights: the stage cannot be used; the message is the reason.
        """
        self._check(requests[0])
        with self._lock:
            return self._generator(requests[0].stage, head).batch(requests)

    def choose(self, request: GenerationRequest, n: int) -> Iterator[Progress | Choice]:
        """Progress over n clips of a request's prompt from consecutive seeds, then all of them.

        See `ttmpref.reward.best_of_n`: the reward's favourite comes first. The request's own
        variations do not count. Closing the iterator stops the work within one step.

        Raises:
            ConfigError: n is not accepted.
            MissingWeights: the preset cannot score, or the stage cannot be used.
        """
        from ttmpref.reward.best_of_n import Plan, choose

        self._check(request)
        self.check_scoring()

        def score(clips: Sequence[Clip], prompts: Sequence[str]) -> list[RewardScore]:
            return self.score(clips, prompts, timeline=False)

        yield from choose(self, score, request.prompt, Plan.of(request, n, keep=n))

    def optimise_stream(
        self, request: GenerationRequest, settings: OptimisationSettings | None = None
    ) -> Iterator[Event]:
        """Progress, iterates and at last the result of latent optimisation of one clip.

        See `ttmpref.reward.latent_optimisation`. Closing the iterator stops the work within one
        solver step, forwards or backwards.

        Raises:
            InvalidRequest: more than one variation.
            MissingWeights: the preset cannot score, or the stage cannot be used.
        """
        from ttmpref.reward.latent_optimisation import LatentOptimiser, OptimisationSettings
        from ttmpref.reward.scorer import DifferentiableScorer

        self._check(request)
        with self._lock:
            optimiser = LatentOptimiser(
                self._generator(request.stage),
                DifferentiableScorer(self.scorer()),
                self._scoring_protocol(),
            )
        yield from self._in_turns(optimiser.stream(request, settings or OptimisationSettings()))

    def optimise(
        self,
        request: GenerationRequest,
        settings: OptimisationSettings | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Optimised:
        """The clip of a request with its noise moved uphill on the reward; see the stream."""
        for event in self.optimise_stream(request, settings):
            if isinstance(event, Progress) and on_progress is not None:
                on_progress(event)
        return event

    def save(self, generation: Generation, path: Path | str) -> Path:
        """Write the audio (WAV, FLAC or MP3 by suffix) and its sidecar `<name>.json`.

        Both are whole or neither is there; the sidecar appears last.

        Raises:
            InvalidRequest: unknown suffix.
            OutputError: the folder cannot be written or the disk is full.
        """
        path = Path(path)
        check_suffix(path.suffix)
        sidecar = json.dumps(generation.sidecar(), indent=2, ensure_ascii=False) + "\n"
        audio = encode_clip(generation.clip, path.suffix)
        write_files({path: audio, sidecar_path(path): sidecar.encode("utf-8")})
        return path

    def replay(
        self,
        sidecar: Path | str,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> list[Generation]:
        """The clip of a sidecar again: sample for sample on the same machine and versions.

        A clip that was one of several variations is made again among the same ones, because a
        processor rounds differently in batches of different size. Logs a warning for every
        weight file, version or device that differs from the sidecar's.

        Returns:
            A list of the one generation.

        Raises:
            InvalidRequest: not a sidecar, or one of another preset.
        """
        request, provenance = read_sidecar(sidecar)
        if provenance.get("preset") != self.preset.name:
            raise InvalidRequest(
                f"{sidecar}: made with preset {provenance.get('preset')!r}; "
                f"the open preset is {self.preset.name!r}"
            )
        from ttmpref.reward.latent_optimisation import PROVENANCE_KEY, replayed

        batch = provenance["batch"]
        whole = dataclasses.replace(request, seed=batch["seed"], variations=batch["variations"])
        if PROVENANCE_KEY in provenance:
            settings = replayed(provenance[PROVENANCE_KEY])
            again = self.optimise(whole, settings, on_progress).best
        else:
            again = self.generate(whole, on_progress, provenance.get("head"))[batch["index"]]
        for difference in _differences(provenance, again.provenance):
            logger.warning("%s: %s", sidecar, difference)
        return [again]

    def scoring_missing(self) -> str | None:
        """Why this preset cannot score clips, or None; looks at files without reading them."""
        if self.preset.ranker is None:
            return f"preset {self.preset.name!r} has no ranker"
        if self.preset.ranker.layout == "muq_mulan":
            from ttmpref.encoders.muq import missing_package

            if missing := missing_package():
                return missing
        try:
            for uri in (*self.preset.reward_encoders, *self.preset.reward_heads):
                assets.locate(uri)
        except MissingWeights as error:
            return str(error)
        return None

    def check_scoring(self) -> None:
        """Raise `MissingWeights` with the reason unless this preset can score clips."""
        missing = self.scoring_missing()
        if missing is not None:
            raise MissingWeights(f"clips cannot be scored: {missing}")

    def score(
        self,
        clips: Sequence[Clip],
        prompts: Sequence[str] | str = "",
        *,
        timeline: bool = True,
        listening: Listening | None = None,
    ) -> list[RewardScore]:
        """The preference reward of clips, in order; see `ttmpref.reward.scorer.Scorer`.

        Args:
            prompts: one per clip, or one for all; empty for no prompt.
            timeline: score the windows of clips longer than one window as well.
            listening: window and band policy; default: the preset's.

        Raises:
            InvalidRequest: an empty or non-finite clip, or an unusable prompt.
            MissingWeights: the preset cannot score; the message is the reason.
        """
        if not clips:
            return []
        with self._lock:
            return self.scorer(listening).score_clips(clips, prompts, timeline)

    def score_files(
        self,
        entries: Iterable[ScoreEntry],
        *,
        timeline: bool = True,
        listening: Listening | None = None,
        untrusted: bool = False,
    ) -> Iterator[FileScore]:
        """Results of `ttmpref.reward.entries.entries_of`, in order, a few files at a time.

        What is wrong with a file is said in its result. Other arguments and errors as in `score`.

        Args:
            untrusted: files come from strangers (`ttmpref.uploads`), and may be videos.
        """
        from ttmpref.reward.files import score_files

        def score(clips: Sequence[Clip], prompts: Sequence[str]) -> list[RewardScore]:
            return self.score(clips, prompts, timeline=timeline, listening=listening)

        return score_files(score, entries, read_upload if untrusted else read_clip)

    def probe(
        self, kind: ProbeKind, stage_name: str, clips: Sequence[Clip], prompts: Sequence[str]
    ) -> tuple[list[ProbeReading], Mapping[str, str]]:
        """Readings of a stage's weights, the likeliest first; see `ttmpref.probes`.

        Args:
            kind: "flow" for its time and sign, "score_head" for how a score becomes waves.
            clips: a few that the stage could have been trained on, with their texts.

        Returns:
            The readings, and the score tensors that were told by shape: our names and the file's.

        Raises:
            InvalidRequest: too few clips, or a score head is asked of a stage without one.
            MissingWeights: the stage, or for a score head the ranker, cannot be used.
        """
        from ttmpref.probes import Known, rank_readings, readings_of

        stage = self._usable(stage_name)
        readings = readings_of(kind, self.preset.backbone_of(stage), stage.head)
        scores = [0.0] * len(clips)
        if stage.head != "none":
            scores = [one.reward for one in self.score(clips, prompts, timeline=False)]
        with self._lock:
            backbone, matched = self._as_stored(stage)
            known = [
                Known(self._latents(stage, backbone, clip), self._projected(backbone, text), score)
                for clip, text, score in zip(clips, prompts, scores, strict=True)
            ]
            return rank_readings(backbone, readings, known), matched

    def probe_response(
        self, stage_name: str, prompts: Sequence[str], seed: int = 42
    ) -> tuple[list[ProbeResponse], Mapping[str, str]]:
        """Readings of how a score is embedded, first the one whose rewards rise with the score.

        Every reading makes a clip of each prompt, number i from `seed + i`, at every score of
        `ttmpref.probes.SCORES`; voices stay in. Returns and raises as `probe` does.
        """
        import torch

        from ttmpref.generator import Generator
        from ttmpref.probes import SCORES, rank_responses, read_as, readings_of

        stage = self._usable(stage_name)
        readings = readings_of("score_head", self.preset.backbone_of(stage), stage.head)
        self.check_scoring()

        def heard(generator: Generator, score: float) -> list[float]:
            given = {"stage": stage_name, "score": score}
            asked = [self.request(p, seed=seed + i, **given) for i, p in enumerate(prompts)]
            return [
                one.reward for one in self.score(generator.batch(asked), prompts, timeline=False)
            ]

        rewards = {}
        with self._lock:
            backbone, matched = self._as_stored(stage)
            parts = dataclasses.replace(self._generator(stage_name).parts, separator=None)
            for name, config in readings.items():
                read = dataclasses.replace(parts, backbone=read_as(backbone, config))
                generator = Generator(self.preset, read)
                rewards[name] = torch.tensor([heard(generator, score) for score in SCORES]).T
        return rank_responses(rewards), matched

    def _usable(self, stage_name: str) -> StageConfig:
        """The stage of a name; raises `MissingWeights` with the reason where it cannot be used."""
        stage = self.preset.stage(stage_name)
        missing = self._missing(stage)
        if missing is not None:
            raise MissingWeights(f"stage {stage_name!r} cannot be used: {missing}")
        return stage

    def _as_stored(self, stage: StageConfig) -> tuple[FluxAudio, Mapping[str, str]]:
        """A stage's backbone in fp32, and which score tensors were told by shape."""
        from ttmpref.models.fluxaudio import FluxAudio, load_backbone_state

        backbone = FluxAudio(self.preset.backbone_of(stage), stage.head)
        report = load_backbone_state(backbone, assets.load_tensors(stage.weights))
        return backbone.to(self.device).requires_grad_(False), report.matched

    def _latents(self, stage: StageConfig, backbone: FluxAudio, clip: Clip) -> Tensor:
        """(1, N, C) normalised latents of a clip, cut or padded to the preset's length."""
        import torch

        from ttmpref.audio import cut_or_pad, resample

        autoencoder = self._autoencoder(stage)
        rate = autoencoder.sample_rate
        heard = cut_or_pad(resample(clip, rate), round(self.preset.output.seconds * rate))
        with torch.no_grad():
            mean, _ = autoencoder.encode(torch.from_numpy(heard.mono)[None].to(self.device))
        return backbone.normalise(mean)

    def _projected(self, backbone: FluxAudio, text: str) -> Projected:
        """A text as the backbone uses it."""
        return backbone.project(*self._text_features()(text))

    def clap_score(self, clip: Clip, text: str) -> float:
        """How well a clip fits a text, as the metric CLAP hears them; -1 to 1.

        Raises:
            MissingWeights, DamagedWeights: its folder cannot be used.
        """
        from ttmpref.encoders.clap import similarity

        with self._lock:
            return similarity(self._clap(self.preset.metric_clap), text, clip)

    def similarity_of_sounds(self) -> float:
        """How alike the metric CLAP hears sounds that have nothing in common; about 1 is broken.

        Raises:
            MissingWeights, DamagedWeights: its folder cannot be used.
        """
        from ttmpref.encoders.clap import mean_similarity

        with self._lock:
            return mean_similarity(self._clap(self.preset.metric_clap))

    def collections(self) -> Collections | None:
        """Distributions of the ranker's rewards over known collections; None without a file."""
        config = self.preset.ranker
        if config is None or config.collections is None:
            return None
        return self._part("collections", lambda: self._read_collections(config))

    def warm_up(self) -> None:
        """Load the default stage and run one solver step, so that the first request is fast.

        Meant for a background thread: a stage that cannot be used is logged, not raised; the first
        request says so to whom it concerns.
        """
        try:
            self.generate(self.request("warm-up", seed=0, num_steps=1))
        except TtmprefError as error:
            logger.warning("not warmed up: %s", error)

    def _part(self, key: Any, build: Callable[[], Any]) -> Any:
        """The part kept under `key`, built on first use."""
        with self._lock:
            if key not in self._parts:
                self._parts[key] = build()
            return self._parts[key]

    def _weighty(self, key: Any, build: Callable[[], Any]) -> Any:
        """A part with weights; under `low_memory` it is in memory only while it is used."""
        if not self.preset.low_memory:
            return self._part(key, build)
        room = self._part("room", Room)
        return self._part(key, lambda: Guest(room, build))

    @property
    def device(self) -> str:
        """The device the models run on; asking imports torch."""
        return self._part("device", lambda: _prepare_device(self._wanted_device))

    def _generator(self, stage_name: str, head: HeadKind | None = None) -> Generator:
        stage = self._under(stage_name, head)
        return self._part(_key(stage), lambda: self._build_generator(stage))

    def _build_generator(self, stage: StageConfig) -> Generator:
        """Everything a stage needs; the parts it shares come from the cache."""
        from ttmpref.generator import Generator, GeneratorParts

        parts = GeneratorParts(
            text_features=self._text_features(),
            autoencoder=self._autoencoder(stage),
            backbone=self._weighty(("backbone", _key(stage)), lambda: self._build_backbone(stage)),
            metric_clap=self._clap(self.preset.metric_clap),
            separator=None if self.preset.separator is None else self._separator,
            device=self.device,
            provenance=self._provenance(stage),
        )
        return Generator(self.preset, parts)

    def _separator(self) -> DemucsSeparator:
        from ttmpref.separation import load_separator

        config = self.preset.separator
        return self._weighty(config, lambda: load_separator(config, self.device))

    def _build_backbone(self, stage: StageConfig) -> Any:
        from ttmpref.models.fluxaudio import FluxAudio, load_backbone_state
        from ttmpref.models.over_time import has_bf16

        config = self.preset.backbone_of(stage)
        backbone = FluxAudio(config, stage.head)
        load_backbone_state(backbone, assets.load_tensors(stage.weights))
        if config.precision == "bf16" and has_bf16(self.device):
            backbone.halve_()
        return backbone.to(self.device).eval().requires_grad_(False)

    def _text_features(self) -> TextFeatures:
        from ttmpref.generator import TextFeatures

        clap = self._clap(self.preset.conditioning_clap)
        return self._part("text features", lambda: TextFeatures(self._text_encoder(), clap))

    def _text_encoder(self) -> Any:
        from ttmpref.encoders.t5 import T5TextEncoder

        return self._encoder(T5TextEncoder, self.preset.text_encoder)

    def _clap(self, config: FrozenConfig) -> ClapEncoder:
        from ttmpref.encoders.clap import ClapEncoder

        return self._encoder(ClapEncoder, config)

    def _encoder(self, load: Callable[..., Any], config: Any) -> Any:
        """An encoder from its verified folder; two roles with one configuration share it."""

        def build() -> Any:
            assets.verify(config.folder)
            return load(config, assets.locate(config.folder), self.device)

        return self._weighty(config, build)

    def scorer(self, listening: Listening | None = None) -> Scorer:
        """The scorer behind `score`, for what works on waveforms or many heads.

        Raises:
            MissingWeights: the preset cannot score; the message is the reason.
        """
        self.check_scoring()
        listening = listening or self.preset.ranker.listening
        return self._part(listening, lambda: self._build_scorer(self.preset.ranker, listening))

    def hearing(self) -> RewardFeatures:
        """What the ranker hears of clips; without a usable ranker, what the metric CLAP does."""
        from ttmpref.reward.features import RewardFeatures
        from ttmpref.reward.ranker import CLAP_AUDIO, CLAP_TEXT

        blocks, given = (CLAP_AUDIO, CLAP_TEXT), {}
        if self.scoring_missing() is None:
            heard = self.scorer().parts.features
            if heard.clap is not None:
                return heard
            blocks = (CLAP_AUDIO, *heard.blocks)
            given = {"listening": heard.listening, "muq": heard.muq}
        clap = self._clap(self.preset.metric_clap)
        return self._part("hearing", lambda: RewardFeatures(blocks, clap, **given))

    def _build_scorer(self, config: RankerConfig, listening: Listening) -> Scorer:
        from ttmpref.encoders.music import music_encoder
        from ttmpref.reward.features import RewardFeatures
        from ttmpref.reward.scorer import Scorer, ScorerParts

        heads = self._part("heads", lambda: self._heads(config))
        names, reports = heads[0].layout.names, (self.collections(), self._scoring_protocol())
        if config.layout == "muq_mulan":
            from ttmpref.encoders.muq import MuqMulanEncoder

            muq = self._encoder(MuqMulanEncoder, self.preset.muq_mulan)
            features = RewardFeatures(names, listening=listening, muq=muq)
            return Scorer(ScorerParts(features, heads, *reports))
        clap, music = self._clap(self.preset.metric_clap), None
        if config.layout == "clap_mert":
            music = self._encoder(music_encoder, self.preset.music_encoder)
        features = RewardFeatures(names, clap, music, listening)
        return Scorer(ScorerParts(features, heads, *reports))

    def _heads(self, config: RankerConfig) -> list[RankerHead]:
        """The head and its ensemble, made sure to read what the preset's encoders give."""
        from ttmpref.reward.ranker import clap_audio, clap_mert, muq_mulan, read_ranker

        dim = self.preset.metric_clap.dim
        if config.layout == "clap_mert":
            layout = clap_mert(dim, self.preset.music_encoder.dim)
        elif config.layout == "muq_mulan":
            layout = muq_mulan(self.preset.muq_mulan.dim)
        else:
            layout = clap_audio(dim)
        heads = [read_ranker(uri, layout) for uri in self.preset.reward_heads]
        return [head.to(self.device).requires_grad_(False) for head in heads]

    def _read_collections(self, config: RankerConfig) -> Collections | None:
        from ttmpref.reward.percentiles import SOURCE_MD5_KEY, read_collections

        try:
            assets.verify(config.collections)
        except MissingWeights as error:
            logger.warning("rewards come without percentiles: %s", error)
            return None
        names = {assets.digest(config.weights)}
        original = assets.metadata(config.weights).get(SOURCE_MD5_KEY)
        return read_collections(
            assets.locate(config.collections), names if original is None else {*names, original}
        )

    def _scoring_protocol(self) -> dict[str, Any]:
        """What a score says about how it was made, beside what the scorer knows itself."""
        preset = self.preset
        return {
            "preset": preset.name,
            "encoders": {uri: assets.digest(uri) for uri in preset.reward_encoders},
            "heads": {uri: assets.digest(uri) for uri in preset.reward_heads},
            **_versions(),
        }

    def _autoencoder(self, stage: StageConfig) -> MelAutoencoder:
        from ttmpref.autoencoder import MelAutoencoder

        config = self.preset.autoencoder_of(stage)
        return self._weighty(
            config, lambda: MelAutoencoder.load(config, assets.load_tensors, self.device)
        )

    def _provenance(self, stage: StageConfig) -> dict[str, Any]:
        """What a sidecar says about how a clip was made."""
        hashes: dict[str, str] = {}
        for uri in self.weights_of(stage):
            hashes.update(assets.hashes(uri))
        return {
            "preset": self.preset.name,
            "stage": stage.name,
            "head": stage.head,
            "prompt_prefix": self.preset.sampling.prompt_prefix,
            "weights": hashes,
            "versions": _versions(),
            "device": self.device,
        }


def _key(stage: StageConfig) -> tuple[str, str, str]:
    """What a stage's generator is kept by: one stage may run under several heads."""
    return "stage", stage.name, stage.head


def _versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    packages = ("torch", "transformers")
    return {"ttmpref": __version__, **{package: version(package) for package in packages}}


def read_sidecar(path: Path | str) -> tuple[GenerationRequest, dict[str, Any]]:
    """Request and provenance of a sidecar file.

    Raises:
        InvalidRequest: the file is not a sidecar, or its request is not acceptable.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidRequest(f"sidecar {path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InvalidRequest(f"sidecar {path}: not JSON ({error})") from None
    if not isinstance(data, dict) or data.get("format") != SIDECAR_FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise InvalidRequest(f"sidecar {path}: format {found!r}; {SIDECAR_FORMAT} is accepted")
    try:
        request = GenerationRequest(**data["request"])
        return request, _checked_provenance(request, data["provenance"])
    except InvalidRequest as error:
        raise InvalidRequest(f"sidecar {path}: {error}") from None
    except (KeyError, TypeError) as error:
        raise InvalidRequest(f"sidecar {path}: incomplete or wrong ({error})") from None


def _checked_provenance(request: GenerationRequest, given: dict[str, Any]) -> dict[str, Any]:
    """Provenance whose parts have their types; a clip without a batch was made alone."""
    alone = {"seed": request.seed, "variations": 1, "index": 0}
    provenance = {"batch": alone, "weights": {}, "versions": {}, **given}
    for name in ("batch", "weights", "versions"):
        if not isinstance(provenance[name], dict):
            raise InvalidRequest(f"{name} is {provenance[name]!r}; it must be a mapping")
    batch = provenance["batch"]
    check_range("variations", batch["variations"], 1, MAX_VARIATIONS, whole=True)
    check_range("index", batch["index"], 0, batch["variations"] - 1, whole=True)
    if batch["seed"] != request.seed - batch["index"]:
        raise InvalidRequest(f"seed {request.seed} is not number {batch['index']} of {batch}")
    return provenance


def _differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One sentence per weight file, version, prefix or device that is not what it was."""
    found = []
    for kind in ("weights", "versions"):
        old, new = then[kind], now[kind]
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                found.append(f"{name} was {old.get(name)}, is {new.get(name)}")
    for name in ("prompt_prefix", "device"):
        if then.get(name) != now[name]:
            found.append(f"{name} was {then.get(name)!r}, is {now[name]!r}")
    return found


def _prepare_device(wanted: str) -> str:
    """Resolve "auto", and give torch no more threads than this process may use."""
    import torch

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(min(allowed or 1, MAX_THREADS, torch.get_num_threads()))
    has_gpu = torch.cuda.is_available()
    if wanted == "auto":
        return "cuda" if has_gpu else "cpu"
    if wanted.startswith("cuda"):
        count = torch.cuda.device_count() if has_gpu else 0
        number = int(wanted.partition(":")[2] or 0)
        if number >= count:
            raise InvalidRequest(f"device is {wanted!r} but torch sees {count} GPUs; accepted: cpu")
    return wanted
