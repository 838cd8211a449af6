"""The definition of a study: one strict YAML file, its prompts, and the hash that freezes both.

Specification of listening studies, section 3.6. A mistake is answered with the dotted path of the
key. Paths in the file are relative to the file. The hash covers what the definition means, not how
it is written: comments, order of keys and spelled-out defaults do not change it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, StringConstraints, model_validator

from ttmpref.assets import assets_folder
from ttmpref.config import FrozenConfig, read_yaml, validated
from ttmpref.study.prompts import Prompt, read_prompts
from ttmpref.types import MAX_SEED, VOTES, ConfigError, Vote

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".aiff")
SOURCES = ("audio", "csv", "stage")
DEGRADED = "degraded"  # stands for a system in attention checks
REWARD = "reward"  # what the ranker's scores are called beside others
OTHER_SCORES = ("reward_without_prompt", "clap_score")  # what a ranker is held against
GRADES = (-3, 3)  # of a graded answer: -3 A is much better, 3 B is much better (CCR of P.800)

Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,39}$")]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{1,62}$")]
EnvironmentName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*$")]


def _with_locales(texts: dict[str, str]) -> dict[str, str]:
    """Refuse empty translations; the first locale is the one for everybody else."""
    if not texts or not all(text.strip() for text in texts.values()):
        raise ValueError("needs at least one locale, each with a text, such as {en: ...}")
    return texts


Locale = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}(-[A-Z]{2})?$")]
Text = Annotated[dict[Locale, str], AfterValidator(_with_locales)]


class Method(FrozenConfig):
    """What listeners answer.

    Attributes:
        type: "ab" asks which clip is better; "cmos" asks how much, -3 to 3.
        answers: offered answers of "ab".
        confidence: number of levels of confidence asked for with each answer; 0 asks none.
    """

    type: Literal["ab", "cmos"] = "ab"
    answers: tuple[Vote, ...] = VOTES
    confidence: int = Field(0, ge=0, le=7)

    @model_validator(mode="after")
    def _can_prefer(self) -> Method:
        if not {"A", "B"} <= set(self.answers) or len(set(self.answers)) != len(self.answers):
            raise ValueError(f"answers must hold A and B, each answer once, got {self.answers}")
        return self


class StageSource(FrozenConfig):
    """Clips made by a stage of a preset.

    Attributes:
        seed: of the first take of the first prompt; each clip has its own seed from there on.
        score: conditioning score; the preset's default where None.
    """

    preset: str = "demo"
    name: str
    seed: int = Field(42, ge=0, le=MAX_SEED)
    score: float | None = None


class System(FrozenConfig):
    """One thing under test; exactly one of `audio`, `csv` and `stage` says where its clips are.

    Attributes:
        audio: a folder holding `<prompt id>.wav` (or .flac, ...), or a path pattern with
            {prompt_id}, and {take} where there are several takes.
        csv: a table with columns prompt_id, path and, where there are several, take.
        takes: clips per prompt, numbered from 0.
    """

    label: Label
    role: Literal["candidate", "baseline", "anchor_low", "anchor_high"] = "candidate"
    audio: str | None = None
    csv: str | None = None
    stage: StageSource | None = None
    takes: int = Field(1, ge=1, le=64)

    @model_validator(mode="after")
    def _one_source(self) -> System:
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            accepted = ", ".join(SOURCES)
            raise ValueError(f"system {self.label!r} needs one of {accepted}; has {given}")
        if self.takes > 1 and self.audio is not None and "{take}" not in self.audio:
            raise ValueError(f"system {self.label!r} has {self.takes} takes: audio needs {{take}}")
        return self


class Prompts(FrozenConfig):
    """The prompt list: .jsonl, .json, .csv (id, text) or .txt (one a line, ids from 1)."""

    file: str
    show: bool = True


class WithinPairs(FrozenConfig):
    """Pairs of takes of one system and prompt, spread over how far apart their rewards are.

    Attributes:
        systems: whose takes are compared.
        margins: edges of the bins of |reward difference|, rising; the last bin is open.
        pairs_per_bin: drawn from each bin, spread over prompts; fewer where a bin holds fewer.
    """

    systems: tuple[Label, ...] = Field(min_length=1)
    margins: tuple[float, ...] = Field(min_length=1)
    pairs_per_bin: int = Field(gt=0)

    @model_validator(mode="after")
    def _edges_rise(self) -> WithinPairs:
        if self.margins[0] < 0 or list(self.margins) != sorted(set(self.margins)):
            raise ValueError(f"margins must rise from 0 or more, got {self.margins}")
        return self


class Pairs(FrozenConfig):
    """Which clips meet: systems on every prompt, takes of one system, or both."""

    main: tuple[tuple[Label, Label], ...] = ()
    within: WithinPairs | None = None
    votes_per_pair: int = Field(gt=0)

    @model_validator(mode="after")
    def _something_meets(self) -> Pairs:
        if not self.main and self.within is None:
            raise ValueError("names neither main nor within; one is needed")
        if any(first == second for first, second in self.main):
            raise ValueError("a system cannot meet itself in main; `within` compares its takes")
        if len({frozenset(pair) for pair in self.main}) != len(self.main):
            raise ValueError("main names a pair of systems twice")
        return self


class Ranker(FrozenConfig):
    """Rewards of the clips, for margins and for comparing the ranker with people.

    Attributes:
        name: what the rewards are called in exports.
        file: table with columns system, prompt_id, score and, where there are several, take; where
            it has them, `OTHER_SCORES` are taken along.
        preset: scores by this preset's ranker, and its metric CLAP, instead.
    """

    name: Label = "ranker"
    file: str | None = None
    preset: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Ranker:
        if (self.file is None) == (self.preset is None):
            raise ValueError("needs either file or preset")
        if self.name in OTHER_SCORES:
            raise ValueError(f"name is {self.name!r}, which is a column of its own")
        return self


class Audio(FrozenConfig):
    """The one form in which all clips are delivered.

    Attributes:
        seconds: length of every clip; what is longer is cut, what is shorter ends in silence.
        min_seconds: least music a clip must hold.
        pad_ms: silence before and after.
        max_loudness_error_lu: largest |LUFS - target|, and difference within a prompt.
        max_target_drop_lu: how far a prompt's target may be lowered so that no peak is cut.
    """

    loudness_lufs: float = Field(-16.5, ge=-40, le=-8)
    true_peak_dbtp: float = Field(-1.0, ge=-9, le=0)
    sample_rate: int = Field(44_100, ge=8_000, le=96_000)
    channels: Literal[1, 2] = 1
    seconds: float = Field(10.0, gt=0.4, le=120)
    min_seconds: float = Field(5.0, gt=0.4)
    pad_ms: int = Field(0, ge=0, le=2_000)
    max_loudness_error_lu: float = Field(0.3, gt=0)
    max_target_drop_lu: float = Field(12.0, ge=0)

    @model_validator(mode="after")
    def _lengths_fit(self) -> Audio:
        if self.min_seconds > self.seconds:
            raise ValueError(f"min_seconds {self.min_seconds:g} exceeds seconds {self.seconds:g}")
        return self

    @property
    def duration_ms(self) -> float:
        """Length of every delivered clip, silence included."""
        return 1000 * self.seconds + 2 * self.pad_ms


class Session(FrozenConfig):
    """What one person does.

    Attributes:
        trials: main trials; attention, repeats and practice come on top.
        max_minutes: told to people before they begin.
        min_coverage: share of each clip that must be heard before an answer counts.
        lease_minutes: how long a trial waits for its answer before others may have it.
        resume_days: how long a started session can be gone on with.
    """

    trials: int = Field(20, ge=1, le=200)
    attention: int = Field(2, ge=0, le=20)
    repeats: int = Field(2, ge=0, le=20)
    practice: int = Field(2, ge=0, le=10)
    max_minutes: int = Field(30, gt=0)
    min_coverage: float = Field(0.7, ge=0, le=1)
    lease_minutes: int = Field(15, gt=0, le=24 * 60)
    resume_days: int = Field(7, gt=0, le=90)

    @property
    def length(self) -> int:
        """Trials of all kinds."""
        return self.practice + self.trials + self.attention + self.repeats

    def within(self, pairs: Mapping[str, int]) -> Session:
        """What is left of it where there are only so many pairs of a kind ("main", "attention",
        "practice"), each of which a person hears once.
        """
        main = min(self.trials, pairs["main"])
        shorter = {
            "trials": main,
            "attention": min(self.attention, pairs["attention"]),
            "repeats": min(self.repeats, main),
            "practice": min(self.practice, pairs["practice"]),
        }
        return self.model_copy(update=shorter)


class Screening(FrozenConfig):
    """Headphone check: Huggins pitch ("hp") or antiphase loudness ("ap")."""

    headphones: Literal["none", "hp", "ap"] = "none"
    required: bool = False


class Recruitment(FrozenConfig):
    """Where people come from, and the variables that hold the codes they take home."""

    source: Literal["open", "invite", "prolific", "sona", "mturk", "lab", "sim"] = "open"
    complete_code_env: EnvironmentName | None = None
    screenout_code_env: EnvironmentName | None = None
    no_consent_code_env: EnvironmentName | None = None

    @property
    def needs_id(self) -> bool:
        """Whether a person brings an id from elsewhere, which may take part once."""
        return self.source in ("invite", "prolific", "sona", "mturk")


class Consent(FrozenConfig):
    """What people agree to; a new version asks again."""

    version: str = Field("1", min_length=1, max_length=40)
    text: Text = {
        "en": "You will compare short pieces of music. Your answers are stored under a random "
        "number and may be published. You can stop and withdraw at any time. Start at a low "
        "volume."
    }
    minimum_age: int = Field(18, ge=0, le=99)
    contact: str = ""
    ethics: str = ""


class Exclusion(FrozenConfig):
    """Rules fixed beforehand; excluded votes stay in the export, flagged."""

    attention_failed_ge: int | None = Field(None, ge=1)
    median_rt_ms_lt: int | None = Field(None, gt=0)
    one_side_share_gt: float | None = Field(None, ge=0.5, le=1)


class Equivalence(FrozenConfig):
    """Pairs `x~y` held to be equal, within P(prefer) = 0.5 +- margin."""

    pairs: tuple[str, ...] = ()
    margin: float = Field(0.1, gt=0, lt=0.5)


class Analysis(FrozenConfig):
    """The planned analysis. `primary` is `x<y`: people prefer y to x."""

    primary: str | None = None
    ci: Literal["crossed_bootstrap"] = "crossed_bootstrap"
    alpha: float = Field(0.05, gt=0, lt=1)
    holm: bool = True
    equivalence: Equivalence = Equivalence()


class FixedStopping(FrozenConfig):
    """The study is full when so many people have finished."""

    rule: Literal["fixed"]
    participants: int = Field(gt=0)


class EvalueStopping(FrozenConfig):
    """The study is full at the e-value 1/alpha of the primary contrast, or at `max_votes`."""

    rule: Literal["evalue"]
    alpha: float = Field(0.05, gt=0, lt=1)
    max_votes: int = Field(gt=0)


class Publish(FrozenConfig):
    """What may leave the database besides answers."""

    comments: bool = False


class Privacy(FrozenConfig):
    """Retention of the keyed network hash, which is never exported."""

    retain_net_hash_days: int = Field(14, ge=0, le=365)
    publish: Publish = Publish()


class Definition(FrozenConfig):
    """A whole study.

    Attributes:
        schema_version: written `schema` in the file.
        reveal: when people may learn which system was which: never, after their own session, or
            after the study has closed.
    """

    schema_version: Literal[1] = Field(alias="schema")
    slug: Slug
    version: int = Field(1, ge=1)
    title: str = Field(min_length=1, max_length=200)
    question: Text
    seed: int = Field(0, ge=0, le=MAX_SEED)
    method: Method = Method()
    systems: tuple[System, ...] = Field(min_length=1)
    prompts: Prompts
    pairs: Pairs
    ranker: Ranker | None = None
    audio: Audio = Audio()
    session: Session = Session()
    screening: Screening = Screening()
    recruitment: Recruitment = Recruitment()
    consent: Consent = Consent()
    exclusion: Exclusion = Exclusion()
    analysis: Analysis = Analysis()
    stopping: Annotated[FixedStopping | EvalueStopping, Field(discriminator="rule")]
    reveal: Literal["never", "session", "close"] = "never"
    privacy: Privacy = Privacy()

    @model_validator(mode="after")
    def _names_exist(self) -> Definition:
        labels = [system.label for system in self.systems]
        if len(set(labels)) != len(labels):
            raise ValueError(f"system labels must differ, got {labels}")
        if DEGRADED in labels:
            raise ValueError(f"the label {DEGRADED!r} is taken by attention checks")
        for label in self._named():
            if label not in labels:
                raise ValueError(f"{label!r} is not a system; systems: {', '.join(labels)}")
        if self.pairs.within is not None:
            self._takes_can_meet(self.pairs.within)
        return self

    def _named(self) -> Iterator[str]:
        """Every label that pairs and analysis speak of."""
        for pair in self.pairs.main:
            yield from pair
        if self.pairs.within is not None:
            yield from self.pairs.within.systems
        if self.analysis.primary is not None:
            yield from sides(self.analysis.primary, "<")
        for pair in self.analysis.equivalence.pairs:
            yield from sides(pair, "~")

    def _takes_can_meet(self, within: WithinPairs) -> None:
        if self.ranker is None:
            raise ValueError("pairs.within needs the key ranker, which says the rewards")
        for label in within.systems:
            if self.system(label).takes < 2:
                raise ValueError(f"pairs.within needs 2 or more takes of {label!r}")

    def system(self, label: str) -> System:
        """The system called `label`."""
        return next(system for system in self.systems if system.label == label)

    @property
    def name(self) -> str:
        """`<slug>-v<version>`, the name of folders."""
        return f"{self.slug}-v{self.version}"

    @property
    def sha256(self) -> str:
        """Hash of the canonical form: JSON of all values that are not defaults, keys sorted."""
        return sha256_json(self.model_dump(mode="json", by_alias=True, exclude_defaults=True))


def sides(contrast: str, sign: str) -> tuple[str, str]:
    """The two labels of `x<y` or `x~y`."""
    first, found, second = (part.strip() for part in contrast.partition(sign))
    if not (first and found and second):
        raise ValueError(f"{contrast!r} is not of the form x{sign}y")
    return first, second


def canonical_json(value: Any) -> str:
    """The one spelling of plain values that hashes are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256_json(value: Any) -> str:
    """SHA-256 of the canonical JSON of plain values."""
    return hashlib.sha256(canonical_json(value).encode("utf-8")).hexdigest()


@dataclass(frozen=True)
class Study:
    """A definition as read from its file.

    Attributes:
        definition: the checked values.
        folder: what its relative paths start from.
        text: exact contents of the file.
        prompts: in the order of the list.
    """

    definition: Definition
    folder: Path
    text: str
    prompts: tuple[Prompt, ...]

    def path(self, relative: str) -> Path:
        """A path of the file; absolute ones stay."""
        return self.folder / Path(relative).expanduser()


def shipped_studies() -> tuple[str, ...]:
    """Names of the studies in `assets/studies`."""
    return tuple(sorted(path.stem for path in (assets_folder() / "studies").glob("*.yaml")))


def load_study(name_or_path: str | Path) -> Study:
    """A shipped study by name, or any study by the path of its YAML file.

    Raises:
        ConfigError: unknown name, or a mistake in the file or its prompt list.
    """
    given = str(name_or_path)
    if given.endswith((".yaml", ".yml")):
        path = Path(given)
    elif given in shipped_studies():
        path = assets_folder() / "studies" / f"{given}.yaml"
    else:
        raise ConfigError(
            f"study {given!r} is unknown; accepted: {', '.join(shipped_studies())}, "
            "or the path of a .yaml file"
        )
    data = read_yaml(path)
    definition = validated(Definition, data, str(path))
    text = path.read_text(encoding="utf-8")
    prompts = read_prompts(path.parent / Path(definition.prompts.file).expanduser())
    return Study(definition, path.parent, text, prompts)


def parse_definition(text: str, source: str) -> Definition:
    """The definition in the text of a YAML file, as it was stored.

    Raises:
        ConfigError: with the dotted path of what is wrong.
    """
    try:
        return validated(Definition, yaml.safe_load(text), source)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML ({' '.join(str(error).split())})") from None
