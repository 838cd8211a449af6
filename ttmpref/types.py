"""The nouns of the package: clips, requests, conditionings, generations, score cards, errors.

Nothing here imports torch: the app and the command line handle these types without it.

Shape legend used everywhere: B batch, N latent frames, C latent channels, T text tokens,
D network width, F frequency bins, M mel bands, S audio samples.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

MAX_PROMPT_CHARACTERS = 2_000
MAX_SEED = 2**63 - 1
MAX_VARIATIONS = 8
SCORE_RANGE = (-2.0, 10.0)
GUIDANCE_RANGE = (0.0, 15.0)
PASSES_RANGE = (0, 3)  # of source separation; the paper's are three
LUFS_RANGE = (-40.0, -5.0)  # from what is hardly heard to what no limiter makes louder
STEPS_RANGE = (1, 200)

Solver = Literal["euler", "heun"]
GuidanceSchedule = Literal["constant", "anneal", "interval"]
WindowPolicy = Literal["centre", "first", "mean", "random"]
BandPolicy = Literal["full", "16k"]
LoudnessMode = Literal["limiter", "reference"]
SeparationMode = Literal["sum", "residual", "reference"]
Precision = Literal["fp32", "bf16"]
# A network's time and sign. Ours is "noise_at_one": z_t = (1 - t) u + t eps, dz/dt = eps - u. Under
# the two others, of older MeanAudio weights, t is 1 - t; "data_at_one" has u - eps as target,
# "data_at_one_negated" eps - u (specification, section 3.4).
FlowConvention = Literal["noise_at_one", "data_at_one", "data_at_one_negated"]
FLOW_CONVENTIONS: tuple[FlowConvention, ...] = (
    "noise_at_one", "data_at_one", "data_at_one_negated",
)  # fmt: skip
ProbeKind = Literal["flow", "score_head"]
SOLVERS: tuple[Solver, ...] = ("euler", "heun")
GUIDANCE_SCHEDULES: tuple[GuidanceSchedule, ...] = ("constant", "anneal", "interval")
WINDOW_POLICIES: tuple[WindowPolicy, ...] = ("centre", "first", "mean", "random")
BAND_POLICIES: tuple[BandPolicy, ...] = ("full", "16k")
LOUDNESS_MODES: tuple[LoudnessMode, ...] = ("limiter", "reference")

Vote = Literal["A", "B", "TIE", "BOTH_BAD"]  # Music Arena's four answers
VOTES: tuple[Vote, ...] = ("A", "B", "TIE", "BOTH_BAD")


class TtmprefError(Exception):
    """An error whose message is one line, names the offending value and says what to do."""


class InvalidRequest(TtmprefError, ValueError):
    """A value given by the user lies outside what is accepted."""


class ConfigError(TtmprefError, ValueError):
    """A preset or recipe file is wrong; the message carries the dotted path of the key."""


class MissingWeights(TtmprefError, FileNotFoundError):
    """A weight file is absent; the message says where it is expected and how to get it."""


class DamagedWeights(TtmprefError, ValueError):
    """A weight file is truncated, altered, or does not fit the network it is meant for."""


class UnreadableAudio(TtmprefError, ValueError):
    """An audio file cannot be decoded or lies outside the accepted limits."""


class OutputError(TtmprefError, OSError):
    """A result could not be written; nothing was left half written."""


class FetchError(TtmprefError, OSError):
    """A file could not be fetched; the message says from where and why."""


class Cancelled(TtmprefError):
    """The caller asked to stop; nothing was kept."""


@dataclass(frozen=True)
class ProbeReading:
    """A way to read a checkpoint, and how well it agrees with known clips (`ttmpref.probes`).

    Attributes:
        name: what a preset's backbone has to say for it.
        loss: flow-matching loss; the right reading's is lowest.
        above: mean difference to the best reading.
        error: standard error of `above`.
    """

    name: str
    loss: float
    above: float
    error: float


@dataclass(frozen=True)
class ProbeResponse:
    """A way to read a checkpoint, and how its clips' rewards follow the score asked for.

    Attributes:
        name: what a preset's backbone has to say for it.
        correlation: Spearman's of reward with score, from -1 to 1; the mean over prompts.
        error: standard error of `correlation`.
        rise: reward at the highest score above the lowest one's, the mean over prompts.
    """

    name: str
    correlation: float
    error: float
    rise: float


@dataclass(frozen=True, eq=False)
class Clip:
    """Audio with its sample rate; the only form in which audio crosses a module's edge.

    Attributes:
        waveform: (channels, samples) float32, nominally in [-1, 1], 1 to 8 channels.
        sample_rate: Hz, positive.
    """

    waveform: np.ndarray
    sample_rate: int

    def __post_init__(self) -> None:
        shape = np.shape(self.waveform)
        if len(shape) != 2 or not 1 <= shape[0] <= 8:
            raise ValueError(f"Clip.waveform must be (channels 1-8, samples), got shape {shape}")
        if self.waveform.dtype != np.float32:
            raise ValueError(f"Clip.waveform must be float32, got {self.waveform.dtype}")
        if self.sample_rate <= 0:
            raise ValueError(f"Clip.sample_rate must be positive, got {self.sample_rate}")

    @property
    def channels(self) -> int:
        return self.waveform.shape[0]

    @property
    def samples(self) -> int:
        return self.waveform.shape[1]

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate

    @property
    def mono(self) -> np.ndarray:
        """(samples,) float32, mean over channels."""
        return self.waveform[0] if self.channels == 1 else self.waveform.mean(0)


def check_range(name: str, value: Any, low: float, high: float, *, whole: bool = False) -> None:
    """Raise `InvalidRequest` naming value and range unless low <= value <= high."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if whole:
        number = isinstance(value, int) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        bounds = f"{low} to {high}" if whole else f"{low:g} to {high:g}"
        raise InvalidRequest(f"{name} is {value!r}; it must be {kind} from {bounds}")


def check_text(name: str, text: Any, *, may_be_empty: bool) -> None:
    """Raise `InvalidRequest` for text that is not a usable prompt."""
    if not isinstance(text, str):
        raise InvalidRequest(f"{name} is {type(text).__name__}; it must be text")
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise InvalidRequest(
            f"{name} has {len(text)} characters; at most {MAX_PROMPT_CHARACTERS} are accepted"
        )
    bad = next((c for c in text if ord(c) < 32 and c not in "\t\n\r" or ord(c) == 127), None)
    if bad is not None:
        raise InvalidRequest(
            f"{name} holds the control character {bad!r}; printable text is accepted"
        )
    if any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise InvalidRequest(f"{name} holds an unpaired surrogate; valid Unicode is accepted")
    if not may_be_empty and not text.strip():
        raise InvalidRequest(f"{name} is empty; describe the music in a few words")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise `InvalidRequest` naming the accepted values unless `value` is one of them."""
    if value not in choices:
        raise InvalidRequest(f"{name} is {value!r}; accepted: {', '.join(choices)}")


@dataclass(frozen=True)
class Preference:
    """What one comparison of two clips says.

    Attributes:
        id: unique among the pairs of a data set.
        clip_a, clip_b: paths of audio files, or keys of cached features; they differ.
        prompt: text both were made from; empty where there is none.
        target: 1 where A was preferred, 0 where B was, 0.5 for a tie.
        source: data set it comes from.
        system_a, system_b: what made the clips; empty where unknown.
    """

    id: str
    clip_a: str
    clip_b: str
    prompt: str
    target: float
    source: str
    system_a: str = ""
    system_b: str = ""

    def __post_init__(self) -> None:
        for name in ("id", "clip_a", "clip_b", "source"):
            if not getattr(self, name):
                raise InvalidRequest(f"{name} is empty")
        if self.clip_a == self.clip_b:
            raise InvalidRequest(f"clip_a and clip_b are both {self.clip_a!r}; they must differ")
        check_text("prompt", self.prompt, may_be_empty=True)
        if self.target not in (0.0, 0.5, 1.0):
            raise InvalidRequest(f"target is {self.target!r}; accepted: 1 (A), 0 (B), 0.5 (tie)")

    @property
    def is_tie(self) -> bool:
        return self.target == 0.5


def vote_target(vote: Vote) -> float | None:
    """The target of a vote's preference, or None for BOTH_BAD, which prefers nothing.

    The one place that turns votes into preferences: public data and listening studies alike.

    Raises:
        InvalidRequest: not one of the four answers.
    """
    check_choice("vote", vote, VOTES)
    return {"A": 1.0, "B": 0.0, "TIE": 0.5, "BOTH_BAD": None}[vote]


@dataclass(frozen=True)
class GenerationRequest:
    """Everything that decides how a clip sounds, apart from the preset's weights.

    Attributes:
        prompt: description of the music, 1 to 2,000 characters.
        seed: seed of the initial noise, 0 to 2**63 - 1. Variation i uses seed + i, as in the
            reference (paper, section III-E; the released script adds the prompt's index).
        stage: name of a stage of the preset.
        score: conditioning scalar s; ignored by a stage without a score head.
        guidance: classifier-free guidance scale w; 1 means no guidance.
        num_steps: solver steps (the paper uses 25).
        negative_prompt: text of the unconditional branch; empty means the stored empty features.
        variations: clips to make from consecutive seeds.
        solver: "euler" or "heun".
        guidance_schedule: how w moves along the path ("constant" in the paper).
        separation_passes: how often voices are taken out of the finished clip, 0 for never; None
            leaves it to the preset.
        normalise_loudness: bring the clip to the target; otherwise it keeps the level at which it
            was made, under the preset's true-peak ceiling.
        target_lufs: integrated loudness to reach; None leaves it to the preset.
    """

    prompt: str
    seed: int
    stage: str
    score: float
    guidance: float
    num_steps: int
    negative_prompt: str
    variations: int = 1
    solver: Solver = "euler"
    guidance_schedule: GuidanceSchedule = "constant"
    separation_passes: int | None = None
    normalise_loudness: bool = True
    target_lufs: float | None = None

    def __post_init__(self) -> None:
        check_text("prompt", self.prompt, may_be_empty=False)
        check_text("negative prompt", self.negative_prompt, may_be_empty=True)
        check_range("seed", self.seed, 0, MAX_SEED, whole=True)
        check_range("score", self.score, *SCORE_RANGE)
        check_range("guidance", self.guidance, *GUIDANCE_RANGE)
        check_range("num_steps", self.num_steps, *STEPS_RANGE, whole=True)
        check_range("variations", self.variations, 1, MAX_VARIATIONS, whole=True)
        check_choice("solver", self.solver, SOLVERS)
        check_choice("guidance_schedule", self.guidance_schedule, GUIDANCE_SCHEDULES)
        if self.separation_passes is not None:
            check_range("separation_passes", self.separation_passes, *PASSES_RANGE, whole=True)
        if not isinstance(self.normalise_loudness, bool):
            given = self.normalise_loudness
            raise InvalidRequest(f"normalise_loudness is {given!r}; it must be true or false")
        if self.target_lufs is not None:
            check_range("target_lufs", self.target_lufs, *LUFS_RANGE)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class ScoreCard:
    """What is measured of a clip. `reward` and `clap_score` are None where nothing can say them.

    Attributes:
        lufs: integrated loudness (ITU-R BS.1770), None for silence.
        true_peak_db: dBTP, None for silence.
        seconds: length of the clip.
    """

    lufs: float | None
    true_peak_db: float | None
    seconds: float
    clap_score: float | None = None
    reward: float | None = None


@dataclass(frozen=True, eq=False)
class Generation:
    """A finished clip with everything needed to make it again.

    Attributes:
        request: the request of this one clip (its own seed, variations 1).
        clip: the finished audio.
        scores: measurements of the clip.
        provenance: preset, stage, weight hashes and package versions.
        seconds_taken: wall-clock time of the whole request this clip came from.
    """

    request: GenerationRequest
    clip: Clip
    scores: ScoreCard
    provenance: dict[str, Any]
    seconds_taken: float

    def sidecar(self) -> dict[str, Any]:
        """JSON-ready record written beside the audio file."""
        return {
            "format": 1,
            "request": self.request.to_dict(),
            "scores": dataclasses.asdict(self.scores),
            "provenance": self.provenance,
            "seconds_taken": round(self.seconds_taken, 3),
        }


@dataclass(frozen=True)
class Listening:
    """What the reward's encoders are given of a clip (TuneJury specification, section 1.6).

    The reference has six ways and draws one of them at random on every call; here it is data.

    Attributes:
        window: which stretch of a clip longer than one CLAP window CLAP hears: the "centre" (the
            protocol of the released scores), the "first", the "mean" over windows that cover the
            clip, or one at "random", whose place follows from `seed` and the clip's length alone.
            The music encoder hears the whole clip under every policy.
        band: "full", or "16k": nothing above 8 kHz, as the training features were made.
    """

    window: WindowPolicy = "centre"
    band: BandPolicy = "full"
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("window policy", self.window, WINDOW_POLICIES)
        check_choice("band policy", self.band, BAND_POLICIES)
        check_range("seed", self.seed, 0, MAX_SEED, whole=True)


@dataclass(frozen=True)
class RewardFlag:
    """Something about a clip that a reader of its reward must know.

    Attributes:
        code: "silent", "clipped", ... (`ttmpref.reward.guards`).
        text: one sentence with the measured value.
        serious: the reward says little about such a clip; otherwise it is a remark.
    """

    code: str
    text: str
    serious: bool


@dataclass(frozen=True)
class WindowReward:
    """The reward of one stretch of a clip, heard as if it were a clip of its own; in seconds."""

    start: float
    end: float
    reward: float


@dataclass(frozen=True)
class RewardScore:
    """The preference reward of a clip with what is needed to judge it.

    Attributes:
        reward: of the preset's head; typically -2 to 2, neither a percentage nor absolute.
        interval: 95 % range over the heads of the ensemble; None with one head.
        rewards: of every head, the preset's first.
        reward_without_prompt: the same with an empty prompt; equals `reward` if it was empty.
        prompt: as given; empty is the zero vector.
        timeline: the windows that cover a clip longer than one, in order; else empty.
        percentiles: share in percent of each known collection with a lower reward.
        flags: see `RewardFlag`.
        seconds, sample_rate, channels, lufs: of the clip as given; lufs None for silence.
        protocol: window and band policy, feature layout, hashes of encoders and heads, versions.
    """

    reward: float
    interval: tuple[float, float] | None
    rewards: tuple[float, ...]
    reward_without_prompt: float
    prompt: str
    timeline: tuple[WindowReward, ...]
    percentiles: dict[str, float]
    flags: tuple[RewardFlag, ...]
    seconds: float
    sample_rate: int
    channels: int
    lufs: float | None
    protocol: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Progress:
    """One tick of a running generation: `step` of `num_steps` solver steps are done."""

    step: int
    num_steps: int
    activity: str


@dataclass(frozen=True)
class StageInfo:
    """A stage as the app and the command line show it.

    Attributes:
        name: key used in requests.
        title: words for people.
        head: score head, "none" where the stage takes no score.
        parent: name of the stage it was trained from, or None.
        missing: why it cannot be used, or None when it can.
        notes: one sentence about how it was made.
    """

    name: str
    title: str
    head: str
    parent: str | None
    missing: str | None
    notes: str = ""

    @property
    def available(self) -> bool:
        return self.missing is None

    @property
    def takes_score(self) -> bool:
        return self.head != "none"


@dataclass(frozen=True)
class Settings:
    """Default values of a preset's requests, read by the app and the command line."""

    stage: str
    score: float
    guidance: float
    num_steps: int
    negative_prompt: str
    examples: tuple[str, ...] = field(default_factory=tuple)
