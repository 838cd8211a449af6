"""Preset schema: which part fills each seam, how large it is, and where its weights are.

A preset is a frozen record read from YAML. Unknown keys, wrong types and impossible values are
refused with the dotted path of the key. Sizes live here so that neither the command line nor the
app imports torch to know them; each network in `ttmpref.models` takes its record from this file.
The numbers of the paper are in `presets/paper.yaml`, those of the small one in `presets/demo.yaml`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ttmpref.types import (
    LUFS_RANGE,
    PASSES_RANGE,
    BandPolicy,
    ConfigError,
    FlowConvention,
    Listening,
    LoudnessMode,
    Precision,
    SeparationMode,
    Settings,
    WindowPolicy,
    check_choice,
)

PRESET_FOLDER = Path(__file__).parent / "presets"

HeadKind = Literal[
    "none", "global_adaln", "input_add", "audio_prepend", "latent_adaln", "text_prepend"
]
HEADS_WITH_SCORE: tuple[HeadKind, ...] = get_args(HeadKind)[1:]  # all but "none"


class FrozenConfig(BaseModel):
    """Base of every configuration record: immutable, no unknown keys, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MelConfig(FrozenConfig):
    """Log-mel front end (paper's 44.1 kHz values are the defaults).

    Frames are hop_length samples apart, magnitude STFT, Slaney mel basis, natural or base-10 log of
    the magnitude clamped at `floor`.
    """

    sample_rate: int = Field(44_100, gt=0)
    n_fft: int = Field(2048, gt=0)
    hop_length: int = Field(512, gt=0)
    num_mels: int = Field(128, gt=0)
    f_min: float = Field(0.0, ge=0)
    f_max: float = Field(22_050.0, gt=0)
    log: Literal["natural", "base10"] = "natural"
    floor: float = Field(1e-5, gt=0)


class MelVAEConfig(FrozenConfig):
    """Magnitude-preserving 1-D VAE over mel frames (MMAudio family).

    Attributes:
        data_channels: mel bands.
        latent_channels: C.
        base_width: channels of the first level; level l has base_width * multipliers[l].
        downsample_levels: levels after which time is halved; the paper's has one, level 0.
    """

    kind: Literal["magnitude_preserving"] = "magnitude_preserving"
    data_channels: int = Field(gt=0)
    latent_channels: int = Field(gt=0)
    base_width: int = Field(gt=0)
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks_per_level: int = Field(2, gt=0)
    downsample_levels: tuple[int, ...] = (0,)

    @model_validator(mode="after")
    def _levels_exist(self) -> MelVAEConfig:
        last = len(self.multipliers) - 1
        if any(not 0 <= level < last for level in self.downsample_levels):
            raise ValueError(f"downsample_levels must lie in 0..{last - 1}, below the last level")
        return self

    @property
    def frames_per_latent(self) -> int:
        """Mel frames behind one latent frame."""
        return 2 ** len(self.downsample_levels)


class PatchVAEConfig(FrozenConfig):
    """Small VAE over patches of mel frames (the demo's): linear codes and learned corrections.

    Attributes:
        data_channels: mel bands.
        latent_channels: C.
        frames_per_latent: mel frames of one patch, coded as one latent frame.
        width, hidden: channels of the ConvNeXt blocks and inside their pointwise pairs.
        encoder_blocks, decoder_blocks: numbers of blocks, all at the latents' rate.
    """

    kind: Literal["patch"] = "patch"
    data_channels: int = Field(gt=0)
    latent_channels: int = Field(gt=0)
    frames_per_latent: int = Field(gt=0)
    width: int = Field(gt=0)
    hidden: int = Field(gt=0)
    encoder_blocks: int = Field(gt=0)
    decoder_blocks: int = Field(gt=0)


VAEConfig = Annotated[MelVAEConfig | PatchVAEConfig, Field(discriminator="kind")]


class BigVGANConfig(FrozenConfig):
    """BigVGAN v2 (nvidia/bigvgan_v2_44khz_128band_512x values are the defaults).

    Attributes:
        final_tanh, final_bias: as BigVGAN v1 ended; v2 clamps and has no bias.
        precision: of the convolutions; "bf16" where the device has it.
    """

    kind: Literal["bigvgan_v2"] = "bigvgan_v2"
    num_mels: int = Field(128, gt=0)
    upsample_rates: tuple[int, ...] = (8, 4, 2, 2, 2, 2)
    upsample_kernel_sizes: tuple[int, ...] = (16, 8, 4, 4, 4, 4)
    initial_channels: int = Field(1536, gt=0)
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilations: tuple[int, ...] = (1, 3, 5)
    final_tanh: bool = False
    final_bias: bool = False
    precision: Precision = "fp32"
    weights: str


class ISTFTVocoderConfig(FrozenConfig):
    """Small ConvNeXt vocoder with an inverse-STFT head (the demo's).

    Attributes:
        width: channels of the ConvNeXt blocks.
        hidden: channels inside each block's pointwise pair.
        n_fft: size of the inverse STFT; one spectrum per `hop_length` samples.
    """

    kind: Literal["istft"] = "istft"
    num_mels: int = Field(128, gt=0)
    width: int = Field(gt=0)
    hidden: int = Field(gt=0)
    num_blocks: int = Field(gt=0)
    n_fft: int = Field(2048, gt=0)
    hop_length: int = Field(512, gt=0)
    weights: str


VocoderConfig = Annotated[BigVGANConfig | ISTFTVocoderConfig, Field(discriminator="kind")]


class AutoencoderConfig(FrozenConfig):
    """Clip <-> latents: log-mel, mel VAE, vocoder."""

    mel: MelConfig
    vae: VAEConfig
    vae_weights: str
    vocoder: VocoderConfig

    @model_validator(mode="after")
    def _parts_fit(self) -> AutoencoderConfig:
        bands = {self.mel.num_mels, self.vae.data_channels, self.vocoder.num_mels}
        if len(bands) != 1:
            raise ValueError(
                f"mel.num_mels {self.mel.num_mels}, vae.data_channels {self.vae.data_channels} and "
                f"vocoder.num_mels {self.vocoder.num_mels} must agree"
            )
        return self

    @property
    def samples_per_latent(self) -> int:
        return self.mel.hop_length * self.vae.frames_per_latent

    @property
    def seconds_per_latent(self) -> float:
        return self.samples_per_latent / self.mel.sample_rate


class ScoreEmbeddingConfig(FrozenConfig):
    """Fourier features and MLP that embed the score s (paper, section III-B).

    The released file stores its frequencies, which points to random Gaussian features; their scale,
    the 2*pi factor and the order of sine and cosine are choices kept here.
    """

    num_features: int = Field(256, gt=0, multiple_of=2)
    frequency_scale: float = Field(1.0, gt=0)
    two_pi: bool = True
    cos_first: bool = True


class PulseConfig(FrozenConfig):
    """What reads the metre of a prompt (`ttmpref.models.pulse`).

    Attributes:
        beat_frames: beats of the tempi that it knows, in latent frames.
        beats_per_bar: bars that it knows.
        harmonics: of a bar, up to which positions are told apart.
        width: of its layers.
    """

    beat_frames: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1)
    beats_per_bar: tuple[Annotated[int, Field(gt=0)], ...] = Field((4,), min_length=1)
    harmonics: int = Field(16, gt=0)
    width: int = Field(256, gt=0)


class FluxAudioConfig(FrozenConfig):
    """Flow-matching transformer over latents (FluxAudio-S values in `paper.yaml`).

    Attributes:
        latent_frames: N of one clip.
        text_tokens, text_dim: T and width of the text encoder's sequence.
        pooled_dim: width of the CLAP text vector.
        width: D; head size is width / num_heads.
        mlp_round_to: gated hidden size is floor(2/3 * mlp_ratio * D) rounded up to a multiple.
        input_kernel, block_kernel: convolution sizes at the input/output and in the blocks.
        flow: time and sign of the weights' velocity (`ttmpref.types.FlowConvention`).
        channels_last: how convolutions and the modulation are computed, equal up to rounding. True
            is faster; the demo's vocoder magnifies rounding, so its clips are made without.
        precision: of the blocks when sampling; "bf16" where the device has it.
        pulse: tells the mean course of the latents, so that the flow models what it leaves; None
            for the paper's network, which has nothing like it.
    """

    latent_channels: int = Field(gt=0)
    latent_frames: int = Field(gt=0)
    text_tokens: int = Field(77, gt=0)
    text_dim: int = Field(gt=0)
    pooled_dim: int = Field(gt=0)
    width: int = Field(gt=0)
    num_heads: int = Field(gt=0)
    num_joint_blocks: int = Field(gt=0)
    num_fused_blocks: int = Field(ge=0)
    mlp_ratio: float = Field(4.0, gt=0)
    mlp_round_to: int = Field(256, gt=0)
    input_kernel: int = Field(7, gt=0)
    block_kernel: int = Field(3, gt=0)
    rope_theta: float = Field(10_000.0, gt=0)
    score_embedding: ScoreEmbeddingConfig = ScoreEmbeddingConfig()
    flow: FlowConvention = "noise_at_one"
    channels_last: bool = False
    precision: Precision = "fp32"
    pulse: PulseConfig | None = None

    @model_validator(mode="after")
    def _heads_divide(self) -> FluxAudioConfig:
        if self.width % self.num_heads or (self.width // self.num_heads) % 2:
            raise ValueError(
                f"width {self.width} must be num_heads {self.num_heads} times an even head size"
            )
        return self

    @property
    def mlp_hidden(self) -> int:
        raw = int(2 * self.mlp_ratio * self.width / 3)
        return -(-raw // self.mlp_round_to) * self.mlp_round_to


class TextEncoderConfig(FrozenConfig):
    """T5-class encoder: a transformers folder with weights and tokenizer."""

    kind: Literal["t5"] = "t5"
    folder: str
    max_tokens: int = Field(77, gt=0)
    vocabulary: int = Field(gt=0)
    dim: int = Field(gt=0)


class ClapConfig(FrozenConfig):
    """CLAP: a transformers folder with weights, tokenizer and feature extractor.

    Attributes:
        kind: "clap_transformers" computes with transformers' network, "clap_laion" with LAION's own
            package on the same folder; equal to rounding.
        dim: width of the shared text-audio space.
        window_seconds: audio is cut into explicit windows of this length.
    """

    kind: Literal["clap_transformers", "clap_laion"] = "clap_transformers"
    folder: str
    sample_rate: int = Field(48_000, gt=0)
    window_seconds: float = Field(10.0, gt=0)
    max_tokens: int = Field(77, gt=0)
    vocabulary: int = Field(gt=0)
    dim: int = Field(gt=0)


class MusicEncoderConfig(FrozenConfig):
    """MERT-class music encoder: a transformers folder.

    Attributes:
        kind: "hubert" hears samples (MERT), "wav2vec2_bert" log-mels.
        dim: width of the last layer.
        segment_seconds: longest stretch heard at once; longer audio is the mean over its segments,
            weighted by length (TuneJury's release scores: 300 s).
        mel: front end of "wav2vec2_bert".
        frames_per_token: mel frames that it hears as one.
    """

    kind: Literal["hubert", "wav2vec2_bert"] = "hubert"
    folder: str
    sample_rate: int = Field(24_000, gt=0)
    dim: int = Field(gt=0)
    segment_seconds: float = Field(300.0, ge=1.0)
    mel: MelConfig | None = None
    frames_per_token: int = Field(4, gt=0)

    @model_validator(mode="after")
    def _front_end(self) -> MusicEncoderConfig:
        if (self.mel is None) != (self.kind == "hubert"):
            raise ValueError(f"mel must be {'left out' if self.mel else 'given'} for {self.kind!r}")
        if self.mel and self.mel.sample_rate != self.sample_rate:
            raise ValueError(
                f"mel.sample_rate is {self.mel.sample_rate}, sample_rate {self.sample_rate}"
            )
        return self


class MuqMulanConfig(FrozenConfig):
    """MuQ-MuLan, music and text in one space: a folder of its weights, settings and tokenizer.

    Attributes:
        dim: width of the shared space.
        window_seconds: audio is cut into explicit windows of this length.
        max_tokens: longer texts are cut.
    """

    kind: Literal["muq_mulan"] = "muq_mulan"
    folder: str
    sample_rate: int = Field(24_000, gt=0)
    window_seconds: float = Field(10.0, gt=0)
    max_tokens: int = Field(512, gt=0)
    vocabulary: int = Field(250_002, gt=0)
    dim: int = Field(512, gt=0)


class RankerConfig(FrozenConfig):
    """The preference reward: a score head over the metric CLAP and, for "clap_mert", MERT.

    The layout "muq_mulan" reads MuQ-MuLan in place of both.

    Attributes:
        layout: feature blocks of the head (`ttmpref.reward.ranker`).
        weights: the head whose reward is reported.
        ensemble: heads of the same training from other seeds or resampled pairs; their spread is
            the interval of a reward.
        collections: percentiles of the head's rewards over known collections, or None.
        window: which stretch of a longer clip CLAP hears; MERT hears all of it.
        band: "16k" removes what is above 8 kHz first, as the released features were made.
        seed: of the window policy "random".
        notes: whose preferences the heads learned, in a sentence for the page.
    """

    layout: Literal["clap_mert", "clap_audio", "muq_mulan"] = "clap_mert"
    weights: str
    ensemble: tuple[str, ...] = ()
    collections: str | None = None
    window: WindowPolicy = "centre"
    band: BandPolicy = "full"
    seed: int = Field(0, ge=0)
    notes: str = ""

    @property
    def listening(self) -> Listening:
        return Listening(self.window, self.band, self.seed)


class SeparatorConfig(FrozenConfig):
    """Demucs models that take sources out of a finished clip (paper, section III-E).

    Attributes:
        folder, bag: `<bag>.yaml` in this folder names the models (`ttmpref.separation`).
        remove: sources to take out, by name.
        passes: how often; the paper's three. 0: only where a request asks for it.
        mode: "sum" adds the other sources up; "residual" takes the removed ones off the clip, so
            that all which is not recognised stays; "reference" is the authors' script: the sum,
            made mono, at a sample peak of 0.95 after every pass.
        precision: of the networks' products; "bf16" is faster on a processor that has it, and a
            little off (`benchmarks/separation.py` measures both).
    """

    kind: Literal["demucs"] = "demucs"
    folder: str
    bag: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    remove: tuple[str, ...] = Field(("vocals",), min_length=1)
    passes: int = Field(3, ge=PASSES_RANGE[0], le=PASSES_RANGE[1])
    mode: SeparationMode = "sum"
    precision: Precision = "fp32"


class StageConfig(FrozenConfig):
    """A stage is (weights, score head, parent); cross-loading is the same weights, another head.

    Attributes:
        unavailable: why the stage has no weights, where that is so, and what makes them.
        backbone, autoencoder: replace the preset's where a stage was trained on other latents;
            both or neither.
    """

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    title: str
    weights: str | None
    head: HeadKind = "none"
    parent: str | None = None
    notes: str = ""
    unavailable: str | None = None
    backbone: FluxAudioConfig | None = None
    autoencoder: AutoencoderConfig | None = None

    @model_validator(mode="after")
    def _weights_or_reason(self) -> StageConfig:
        if (self.weights is None) == (self.unavailable is None):
            raise ValueError(f"stage {self.name!r} needs weights or the reason `unavailable`")
        if (self.backbone is None) != (self.autoencoder is None):
            raise ValueError(f"stage {self.name!r} replaces backbone and autoencoder, or neither")
        return self


class SamplingConfig(FrozenConfig):
    """Defaults of a request and the text treatment of the paper's section III-E.

    Attributes:
        prompt_prefix: put before every prompt.
        negative_prompt: text of the unconditional branch.
    """

    stage: str
    score: float
    guidance: float
    num_steps: int = Field(25, gt=0)
    prompt_prefix: str = ""
    negative_prompt: str = ""
    examples: tuple[str, ...] = ()


class OutputConfig(FrozenConfig):
    """Finished clips: length, loudness target and true-peak ceiling.

    Attributes:
        seconds: every clip is cut or zero-padded to this length.
        loudness: "limiter" meets both targets; "reference" is the authors' script
            (`ttmpref.loudness`).
    """

    seconds: float = Field(10.0, gt=0)
    target_lufs: float = Field(-16.5, ge=LUFS_RANGE[0], le=LUFS_RANGE[1])
    true_peak_ceiling_db: float = Field(-1.0, le=0)
    loudness: LoudnessMode = "limiter"


class Preset(FrozenConfig):
    """A whole system, read from `presets/<name>.yaml`.

    Attributes:
        low_memory: keep one part with weights in memory at a time and read the others again when
            they are used; slower.
    """

    name: str
    title: str
    description: str
    licence: str
    text_encoder: TextEncoderConfig
    conditioning_clap: ClapConfig
    metric_clap: ClapConfig
    autoencoder: AutoencoderConfig
    backbone: FluxAudioConfig
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    sampling: SamplingConfig
    output: OutputConfig = OutputConfig()
    music_encoder: MusicEncoderConfig | None = None
    muq_mulan: MuqMulanConfig | None = None
    ranker: RankerConfig | None = None
    separator: SeparatorConfig | None = None
    low_memory: bool = False

    @model_validator(mode="after")
    def _parts_fit(self) -> Preset:
        self._check_sizes("", self.backbone, self.autoencoder)
        for stage in self.stages:
            if stage.backbone is not None:
                where = f"stages.{stage.name}."
                self._check_sizes(where, stage.backbone, stage.autoencoder)
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stage names must differ, got {names}")
        for stage in self.stages:
            if stage.parent is not None and stage.parent not in names:
                raise ValueError(f"stage {stage.name!r} names an unknown parent {stage.parent!r}")
        if self.sampling.stage not in names:
            raise ValueError(f"sampling.stage {self.sampling.stage!r} is not one of {names}")
        if self.ranker and self.ranker.layout == "clap_mert" and self.music_encoder is None:
            raise ValueError("ranker.layout 'clap_mert' needs a music_encoder")
        if self.ranker and self.ranker.layout == "muq_mulan" and self.muq_mulan is None:
            raise ValueError("ranker.layout 'muq_mulan' needs a section muq_mulan")
        return self

    def _check_sizes(
        self, where: str, backbone: FluxAudioConfig, autoencoder: AutoencoderConfig
    ) -> None:
        """Raise `ValueError` unless a backbone fits its autoencoder and the encoders."""
        pairs = (
            ("backbone.latent_channels", backbone.latent_channels,
             "autoencoder.vae.latent_channels", autoencoder.vae.latent_channels),
            ("backbone.text_dim", backbone.text_dim,
             "text_encoder.dim", self.text_encoder.dim),
            ("backbone.text_tokens", backbone.text_tokens,
             "text_encoder.max_tokens", self.text_encoder.max_tokens),
            ("backbone.pooled_dim", backbone.pooled_dim,
             "conditioning_clap.dim", self.conditioning_clap.dim),
        )  # fmt: skip
        for left, a, right, b in pairs:
            if a != b:
                raise ValueError(f"{where}{left} is {a} but {right} is {b}; they must agree")

    def backbone_of(self, stage: StageConfig) -> FluxAudioConfig:
        """The stage's own backbone, or the preset's."""
        return stage.backbone or self.backbone

    def autoencoder_of(self, stage: StageConfig) -> AutoencoderConfig:
        """The stage's own autoencoder, or the preset's."""
        return stage.autoencoder or self.autoencoder

    def stage(self, name: str) -> StageConfig:
        """The stage called `name`; raises `InvalidRequest` listing the accepted names."""
        check_choice("stage", name, tuple(stage.name for stage in self.stages))
        return next(stage for stage in self.stages if stage.name == name)

    @property
    def reward_encoders(self) -> tuple[str, ...]:
        """Folders of the encoders that the ranker reads; none without a ranker."""
        if self.ranker is None:
            return ()
        if self.ranker.layout == "muq_mulan":
            return (self.muq_mulan.folder,)
        music = (self.music_encoder.folder,) if self.ranker.layout == "clap_mert" else ()
        return self.metric_clap.folder, *music

    @property
    def reward_heads(self) -> tuple[str, ...]:
        """The ranker's head, then its ensemble; none without a ranker."""
        return () if self.ranker is None else (self.ranker.weights, *self.ranker.ensemble)

    @property
    def settings(self) -> Settings:
        return Settings(
            stage=self.sampling.stage,
            score=self.sampling.score,
            guidance=self.sampling.guidance,
            num_steps=self.sampling.num_steps,
            negative_prompt=self.sampling.negative_prompt,
            examples=self.sampling.examples,
        )


ConfigT = TypeVar("ConfigT", bound=FrozenConfig)


def validated(schema: type[ConfigT], data: Any, source: str) -> ConfigT:
    """`data` as a `schema` record; raises a one-line `ConfigError` with the dotted path."""
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"]) or "(top level)"
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = "unknown key"
        if first["type"] not in ("extra_forbidden", "missing", "value_error"):
            message = f"{message}, got {first['input']!r}"
        raise ConfigError(f"{source}: {path}: {message}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises `ConfigError` in one line for anything else."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must hold a mapping of keys, got {type(data).__name__}")
    return data


def read_record(schema: type[ConfigT], path: Path) -> ConfigT:
    """The record in a JSON file; raises `ConfigError` in one line for anything else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error})") from None
    return validated(schema, data, str(path))


def record_bytes(record: FrozenConfig) -> bytes:
    """A record as the contents of a JSON file."""
    return (record.model_dump_json(indent=1) + "\n").encode("utf-8")


def preset_names() -> tuple[str, ...]:
    """Names of the shipped presets, the default first."""
    names = sorted(path.stem for path in PRESET_FOLDER.glob("*.yaml"))
    return tuple(sorted(names, key=lambda name: name != "demo"))


def load_named(schema: type[ConfigT], kind: str, folder: Path, name_or_path: str) -> ConfigT:
    """A shipped record `<folder>/<name>.yaml` by name, or any by the path of its YAML file.

    Raises:
        ConfigError: unknown name (the known ones are listed) or a mistake in the file.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        known = sorted(shipped.stem for shipped in folder.glob("*.yaml"))
        if name_or_path not in known:
            raise ConfigError(
                f"{kind} {name_or_path!r} is unknown; accepted: {', '.join(known)}, "
                "or the path of a .yaml file"
            )
        path = folder / f"{name_or_path}.yaml"
    return validated(schema, read_yaml(path), str(path))


def load_preset(name_or_path: str) -> Preset:
    """A shipped preset by name, or any preset by the path of its YAML file.

    Raises:
        ConfigError: unknown name (the known ones are listed) or a mistake in the file.
    """
    return load_named(Preset, "preset", PRESET_FOLDER, name_or_path)
