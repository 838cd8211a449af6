"""Clips made of captions, and what is measured of them; what was heard is remembered on disk.

Clips are made in groups of consecutive captions that share every pass through the network. What the
encoders hear of a group is one file, named by a hash of all that decides it: weights, score head,
request, seeds, captions, encoders. So a run that was killed goes on where it was, tables share
clips, and new weights never meet old numbers. Clips themselves are not kept, and rewards are taken
from the remembered features, so that a new ranker needs no new clips.

Shapes: n clips or captions, d width of CLAP.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ttmpref import assets
from ttmpref.audio import READABLE_SUFFIXES, read_clip, write_files
from ttmpref.config import HeadKind
from ttmpref.reward.features import PromptFeatures
from ttmpref.reward.ranker import CLAP_AUDIO
from ttmpref.types import Clip, DamagedWeights, GenerationRequest, InvalidRequest

if TYPE_CHECKING:
    from ttmpref.evaluation.judge import Judge
    from ttmpref.studio import Studio
    from ttmpref.study.prompts import Prompt

GROUP = 8  # clips made together; what a kill can lose
FORMAT = 1
SEED = 42  # the paper's first submission
COVERAGE = "coverage"
SOUND = ("text_encoder", "conditioning_clap", "autoencoder", "backbone", "separator", "output")


@dataclass(frozen=True)
class Condition:
    """What all clips of a row have in common.

    Attributes:
        stage: whose weights.
        head: another score head over them; None for the stage's own.
        score: s; None for the preset's.
        guidance, num_steps: None for the preset's.
        seed: of the first caption; caption i has seed + i, as in the released script.
    """

    stage: str
    head: HeadKind | None = None
    score: float | None = None
    guidance: float | None = None
    num_steps: int | None = None
    seed: int = SEED


@dataclass(frozen=True, eq=False)
class Heard:
    """What is measured of n clips, clip i of caption i.

    Attributes:
        clap: (n, d) audio embeddings, unit long.
        clap_scores: (n,) cosines of caption and clip.
        rewards: (n,); None without a usable ranker.
        coverage: (n,) shares of the caption's concepts that a judge heard, NaN where it gave no
            usable answer; None without a judge.
    """

    clap: np.ndarray
    clap_scores: np.ndarray
    rewards: np.ndarray | None
    coverage: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Group:
    """Consecutive captions, what decides their clips, and how to get these."""

    captions: Sequence[str]
    identity: dict[str, Any]
    clips: Callable[[], list[Clip]]


class Listener:
    """Makes, hears and remembers the clips of one list of captions."""

    def __init__(
        self,
        studio: Studio,
        prompts: Sequence[Prompt],
        folder: Path,
        judge: Judge | None = None,
        count: Callable[[int], object] = lambda clips: None,
    ) -> None:
        """
        Args:
            prompts: the captions with their ids, in the order of their seeds.
            folder: of what was heard; may be shared by everything.
            judge: of concept coverage.
            count: told of every group how many clips were heard or remembered.
        """
        self.studio, self.prompts = studio, tuple(prompts)
        self._folder, self._judge, self._count = folder, judge, count

    @property
    def captions(self) -> list[str]:
        return [prompt.text for prompt in self.prompts]

    def missing(self, stage: str) -> str | None:
        """Why a stage cannot be heard, or None."""
        stages = {one.name: one for one in self.studio.stages()}
        if stage not in stages:
            return f"not trained for the preset {self.studio.preset.name!r} (stage {stage!r})"
        return stages[stage].missing

    def hear(self, condition: Condition) -> Heard:
        """Clips of all captions under a condition.

        Raises:
            InvalidRequest: a value of the condition is not accepted.
            MissingWeights: the stage cannot be used.
        """
        requests = [
            self.studio.request(
                prompt.text,
                seed=condition.seed + i,
                stage=condition.stage,
                score=condition.score,
                guidance=condition.guidance,
                num_steps=condition.num_steps,
            )
            for i, prompt in enumerate(self.prompts)
        ]
        groups = [requests[first : first + GROUP] for first in range(0, len(requests), GROUP)]
        return self._gather([self._made(group, condition.head) for group in groups])

    def _made(self, requests: Sequence[GenerationRequest], head: HeadKind | None) -> Group:
        preset = self.studio.preset
        stage = preset.stage(requests[0].stage)
        identity = {
            "weights": {uri: assets.digest(uri) for uri in self.studio.weights_of(stage)},
            "preset": preset.model_dump(mode="json", include=set(SOUND)),
            "prompt_prefix": preset.sampling.prompt_prefix,
            "head": head or stage.head,
            # Weights under a head are what they are, whichever stage they are called by.
            "requests": [request.to_dict() | {"stage": None} for request in requests],
        }
        captions = [request.prompt for request in requests]
        return Group(captions, identity, lambda: self.studio.batch(requests, head))

    def hear_folder(self, folder: Path) -> Heard:
        """Clips that exist: `<id of the prompt>.wav` (or another readable suffix) in a folder.

        Raises:
            InvalidRequest: a prompt has no clip there.
            UnreadableAudio: a file cannot be decoded.
        """
        files = [_file_of(folder, prompt.id) for prompt in self.prompts]
        starts = range(0, len(files), GROUP)
        return self._gather([self._read(files[i : i + GROUP], i) for i in starts])

    def _read(self, files: Sequence[Path], first: int) -> Group:
        identity = {"files": [assets.sha256(file) for file in files]}
        captions = self.captions[first : first + len(files)]
        return Group(captions, identity, lambda: [read_clip(file) for file in files])

    def _gather(self, groups: Sequence[Group]) -> Heard:
        parts = []
        for group in groups:
            parts.append(self._remembered(group))
            self._count(len(group.captions))
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        coverage = joined.pop(COVERAGE, None)
        return self.judged(joined, coverage)

    def judged(self, blocks: dict[str, np.ndarray], coverage: np.ndarray | None = None) -> Heard:
        """CLAP scores and rewards of the audio blocks of all captions' clips."""
        clap, text = blocks[CLAP_AUDIO], self._text.numpy()
        rewards = self._rewards(blocks) if self._can_reward else None
        return Heard(clap, (clap * text).sum(1), rewards, coverage)

    @cached_property
    def _can_reward(self) -> bool:
        return self.studio.scoring_missing() is None

    @cached_property
    def _text(self) -> torch.Tensor:
        """(n, d) CLAP vectors of the captions."""
        return PromptFeatures(self.studio.hearing().clap)(self.captions)

    @torch.no_grad()
    def _rewards(self, blocks: dict[str, np.ndarray]) -> np.ndarray:
        head = self.studio.scorer().parts.heads[0]
        sound = {name: torch.from_numpy(block) for name, block in blocks.items()}
        words = self.studio.hearing().of_prompts(self.captions)
        return head(head.layout.join(sound | words).to(self.studio.device)).cpu().numpy()

    def _remembered(self, group: Group) -> dict[str, np.ndarray]:
        """Audio blocks of a group, from disk or from its clips."""
        identity = {"format": FORMAT, "clips": group.identity, "hearing": self._hearing}
        if self._judge is not None:
            identity |= {"judge": self._judge.identity, "captions": list(group.captions)}
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        path = self._folder / key[:2] / f"{key}.npz"
        if not path.exists():
            buffer = io.BytesIO()
            np.savez(buffer, **self._listen(group))
            write_files({path: buffer.getvalue()})
        try:
            with np.load(path) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, EOFError) as error:
            raise DamagedWeights(f"{path}: cannot be read ({error}); remove it") from None

    @cached_property
    def _hearing(self) -> dict[str, Any]:
        """What decides the features of a clip."""
        preset, features = self.studio.preset, self.studio.hearing()
        encoders = dict.fromkeys((preset.metric_clap.folder, *preset.reward_encoders))
        return {
            "encoders": {uri: assets.digest(uri) for uri in encoders},
            "blocks": features.blocks,
            "listening": dataclasses.asdict(features.listening),
        }

    def _listen(self, group: Group) -> dict[str, np.ndarray]:
        clips, features = group.clips(), self.studio.hearing()
        waveforms = [torch.from_numpy(clip.mono) for clip in clips]
        with torch.no_grad():
            sound = features.of_sound(waveforms, [clip.sample_rate for clip in clips])
        blocks = {name: block.cpu().numpy() for name, block in sound.items()}
        if self._judge is not None:
            pairs = zip(clips, group.captions, strict=True)
            blocks[COVERAGE] = np.array([self._judge.coverage(*pair) for pair in pairs])
        return blocks


def _file_of(folder: Path, name: str) -> Path:
    """The clip called `name` in a folder."""
    if not folder.is_dir():
        raise InvalidRequest(f"{folder}: no such folder of clips")
    found = [path for path in sorted(folder.glob(f"{name}.*")) if _is_audio(path)]
    if not found:
        raise InvalidRequest(f"{folder}: no clip of prompt {name!r} ({name}.wav, .flac, ...)")
    return found[0]


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in READABLE_SUFFIXES
