"""How fast clips are scored, and that being fast changes no reward.

Two measurements on two processor cores. At full encoder size (HTSAT-base CLAP, MERT 330 M, seeded
weights, four heads) the batched scorer and the plain way take turns on the same files: the plain
way, as the reference does it, takes one head and one file at a time, decodes the file for each
encoder, encodes the text for every call and keeps all hidden states. With the demo's own weights:
files per second, and how the largest memory grows with the number of files.
"""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.common import Figure, Report, Setting, cores, run
from ttmpref import assets
from ttmpref.audio import read_clip, resample, write_clip
from ttmpref.config import ClapConfig, MusicEncoderConfig
from ttmpref.encoders.clap import ClapEncoder
from ttmpref.encoders.mert import MertEncoder
from ttmpref.reward.entries import ScoreEntry
from ttmpref.reward.features import RewardFeatures
from ttmpref.reward.files import score_files
from ttmpref.reward.ranker import RankerHead, clap_mert
from ttmpref.reward.scorer import GROUP_CLIPS, Scorer, ScorerParts
from ttmpref.types import Clip

CORES = 2
FULL_CLIPS = 32
SECONDS, RATE = 10.0, 44_100
SEED = 7
RATIO_TARGET, AGREEMENT, SPEED_TARGET = 2.0, 1e-4, 20.0
FEW, MANY = 64, 256
MEMORY_TARGET = 50.0  # MB
MB = 1e6


@dataclass(frozen=True)
class Size:
    """Sizes of the encoders and heads; the defaults are the released ones.

    Attributes:
        window_seconds: what CLAP hears at once.
        clap_audio, clap_text, music: settings of transformers' configurations.
    """

    heads: int = 4
    clap_dim: int = 512
    clap_rate: int = 48_000
    music_dim: int = 1024
    music_rate: int = 24_000
    window_seconds: int = 10
    clap_audio: dict[str, Any] = field(
        default_factory=lambda: {
            "patch_embeds_hidden_size": 128, "hidden_size": 1024, "depths": [2, 2, 12, 2],
        }
    )  # fmt: skip
    clap_text: dict[str, Any] = field(default_factory=lambda: {"layer_norm_eps": 1e-5})
    music: dict[str, Any] = field(
        default_factory=lambda: {
            "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
            "feat_extract_norm": "layer", "do_stable_layer_norm": True,
        }
    )  # fmt: skip


def measure(setting: Setting) -> Report:
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, allowed[:CORES])
    torch.set_num_threads(min(CORES, len(allowed)))
    prompts = setting.studio.settings.examples
    with tempfile.TemporaryDirectory() as folder:
        demo = _demo(setting, _entries(Path(folder) / "demo", MANY, prompts))
        files = _entries(Path(folder) / "full", FULL_CLIPS, prompts)
        tokenizer = assets.locate(setting.studio.preset.metric_clap.folder)
        full = against_the_plain_way(Size(), Path(folder) / "parts", tokenizer, files)
    return Report(
        title="Scoring",
        question=f"{SECONDS:g} s stereo files, {cores()} cores; full size with seeded weights.",
        figures=(*full, *demo),
        recipe={
            "full_clips": FULL_CLIPS, "heads": Size().heads, "demo_files": [FEW, MANY],
            "clips": f"coloured noise, seed {SEED} + index", "prompts": len(prompts),
        },
        parts=("ranker",),
    )  # fmt: skip


def _entries(folder: Path, count: int, prompts: Sequence[str]) -> list[ScoreEntry]:
    """Files of coloured noise, one after the other with the preset's examples as prompts."""
    entries = []
    for i in range(count):
        rng = np.random.default_rng(SEED + i)
        walk = rng.standard_normal((2, round(SECONDS * RATE))).astype(np.float32)
        walk[:, 1:] += 0.9 * walk[:, :-1]
        path = write_clip(Clip(0.1 * walk, RATE), folder / f"{i}.wav")
        entries.append(ScoreEntry(str(i), path, prompts[i % len(prompts)]))
    return entries


def _demo(setting: Setting, entries: Sequence[ScoreEntry]) -> list[Figure]:
    studio = setting.studio
    list(studio.score_files(entries[:GROUP_CLIPS]))  # loads the weights
    times, peaks = [], []
    for count in (FEW, MANY):
        started = time.perf_counter()
        failed = sum(bool(result.error) for result in studio.score_files(entries[:count]))
        times.append(time.perf_counter() - started)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB)
        if failed:
            raise RuntimeError(f"{failed} of {count} files could not be scored")
    return [
        Figure(
            "files per second, demo", MANY / times[1], "1/s", at_least=SPEED_TARGET,
            note=f"{MANY} files, reading included; {FEW} files: {FEW / times[0]:.1f} 1/s",
        ),
        Figure(
            "memory added by four times as many files, demo", peaks[1] - peaks[0], "MB",
            at_most=MEMORY_TARGET, note=f"largest resident size {peaks[1]:.0f} MB",
        ),
    ]  # fmt: skip


def against_the_plain_way(
    size: Size, folder: Path, tokenizer: Path, entries: Sequence[ScoreEntry]
) -> list[Figure]:
    """Both ways in turns on groups of the same files, so that a busy moment hits both."""
    plain = PlainScorer(size, folder, tokenizer)
    blocks = clap_mert(size.clap_dim, size.music_dim).names
    features = RewardFeatures(blocks, plain.clap, plain.mert)
    scorer = Scorer(ScorerParts(features, plain.heads))
    ours, theirs = 0.0, np.zeros(size.heads)
    largest = 0.0
    plain(entries[0], 0), list(score_files(scorer.score_clips, entries[:1]))  # warms both up
    for first in range(0, len(entries), GROUP_CLIPS):
        group = entries[first : first + GROUP_CLIPS]
        started = time.perf_counter()
        scores = [result.score for result in score_files(scorer.score_clips, group)]
        ours += time.perf_counter() - started
        for head in range(size.heads):
            started = time.perf_counter()
            rewards = [plain(entry, head) for entry in group]
            theirs[head] += time.perf_counter() - started
            pairs = zip(scores, rewards, strict=True)
            largest = max(largest, *(abs(s.rewards[head] - reward) for s, reward in pairs))
    count = len(entries)
    return [
        Figure(
            f"the plain way / ours, {count} clips x {size.heads} heads", theirs.sum() / ours, "x",
            at_least=RATIO_TARGET,
            note=f"{ours / count:.2f} s a clip against {theirs.sum() / count:.2f} s",
        ),
        Figure(
            f"the plain way / ours, {count} clips x 1 head", theirs.mean() / ours, "x",
            note="the same run; ours scores all heads in that time",
        ),
        Figure("largest difference of a reward", largest, at_most=AGREEMENT),
    ]  # fmt: skip


class PlainScorer:
    """One file and one head at a time, nothing remembered and nothing left out."""

    def __init__(self, size: Size, folder: Path, tokenizer: Path) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            _save_clap(size, folder / "clap", tokenizer)
            _save_music_encoder(size, folder / "music")
            layout = clap_mert(size.clap_dim, size.music_dim)
            heads = [RankerHead(layout) for _ in range(size.heads)]
        self.heads = [head.eval().requires_grad_(False) for head in heads]
        self.clap = ClapEncoder(_clap_config(size, folder / "clap"), folder / "clap")
        music = MusicEncoderConfig(
            folder=str(folder / "music"), sample_rate=size.music_rate, dim=size.music_dim
        )
        self.mert = MertEncoder(music, folder / "music")

    @torch.no_grad()
    def __call__(self, entry: ScoreEntry, head: int) -> float:
        clip = resample(read_clip(entry.path), self.clap.sample_rate)
        start = max(0, clip.samples - self.clap.window_samples) // 2
        window = torch.from_numpy(clip.mono)[start : start + self.clap.window_samples]
        sound, text = self.clap.embed_audio([window]), self.clap.encode_text([entry.prompt])
        music = torch.from_numpy(resample(read_clip(entry.path), self.mert.sample_rate).mono)[None]
        music = F.layer_norm(music, music.shape[1:], eps=1e-7)
        output = self.mert._model(input_values=music, output_hidden_states=True)
        blocks = (sound, output.last_hidden_state.mean(1), text)
        return self.heads[head](torch.cat(blocks, dim=1)).item()


def _clap_config(size: Size, folder: Path) -> ClapConfig:
    from transformers import AutoTokenizer

    return ClapConfig(
        folder=str(folder), sample_rate=size.clap_rate, window_seconds=size.window_seconds,
        vocabulary=len(AutoTokenizer.from_pretrained(folder)), dim=size.clap_dim,
    )  # fmt: skip


def _save_clap(size: Size, folder: Path, tokenizer: Path) -> None:
    """A CLAP folder with fresh weights and the tokenizer of another.

    Its vocabulary may be smaller than the released one: a row of a table costs no time.
    """
    import transformers

    folder.mkdir(parents=True)
    for path in tokenizer.glob("tokenizer*"):
        shutil.copy(path, folder)
    words = transformers.AutoTokenizer.from_pretrained(folder)
    text = {"vocab_size": len(words), "pad_token_id": words.pad_token_id} | size.clap_text
    config = transformers.ClapConfig(
        text_config={"projection_dim": size.clap_dim} | text,
        audio_config={"projection_dim": size.clap_dim} | size.clap_audio,
        projection_dim=size.clap_dim,
    )
    transformers.ClapModel(config).save_pretrained(folder)
    transformers.ClapFeatureExtractor(
        sampling_rate=size.clap_rate, max_length_s=size.window_seconds, frequency_min=50,
        truncation="rand_trunc",
    ).save_pretrained(folder)  # fmt: skip


def _save_music_encoder(size: Size, folder: Path) -> None:
    import transformers

    config = transformers.HubertConfig(hidden_size=size.music_dim, **size.music)
    transformers.HubertModel(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(
        sampling_rate=size.music_rate, do_normalize=True
    ).save_pretrained(folder)


if __name__ == "__main__":
    run("scoring", measure, __doc__)
