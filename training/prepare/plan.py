"""What a preparation will take, said before it: bytes from the preset's sizes, seconds measured.

Unit costs come from a few of the tracks at hand, prepared for real into a folder that is thrown
away. They hold for this machine and for tracks as long as these.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from training.prepare.catalogue import Catalogue
from training.prepare.encoders import protocol
from training.prepare.store import REWARDS
from training.prepare.work import Done, Order, TextJob, TrackJob, whole
from ttmpref.config import Preset
from ttmpref.types import InvalidRequest, MissingWeights

PAPER_CLIPS, PAPER_TRACKS = 535_000, 55_000  # paper, section III-C; one caption per track
SAMPLE_TRACKS = 3
HALF, FULL = 2, 4  # bytes of a number
PER_CLIP_NUMBERS = 2  # `track` and `start`
GIGABYTE = 1e9


@dataclass(frozen=True)
class Sizes:
    """Bytes of one clip and of one caption.

    Attributes:
        clip: latents, features and rewards.
        text: sequence and pooled vector, kept once per caption.
        reference: of the authors' file of one clip, in fp32 with its text.
    """

    clip: int
    text: int
    reference: int


def sizes_of(preset: Preset) -> Sizes:
    """From the preset's shapes (specification of the backbone, section 4.3)."""
    backbone = preset.backbone
    latents = 2 * backbone.latent_frames * backbone.latent_channels
    words = backbone.text_tokens * backbone.text_dim + backbone.pooled_dim
    heard, rewards = 0, 0
    if preset.ranker is not None:
        rewards = len(REWARDS)
        heard = preset.metric_clap.dim
        if preset.ranker.layout == "clap_mert":
            heard += preset.music_encoder.dim
    clip = HALF * (latents + heard) + FULL * (rewards + PER_CLIP_NUMBERS)
    return Sizes(clip, HALF * words, FULL * (latents + words))


@dataclass(frozen=True)
class Costs:
    """Seconds measured on one process.

    Attributes:
        track: of decoding, per track.
        clip: by kind of work, per clip.
        text: per caption.
        clips_per_track: of the tracks that were measured.
    """

    track: float
    clip: dict[str, float]
    text: float
    clips_per_track: float

    def seconds(self, tracks: int, clips: int, captions: int) -> float:
        return tracks * self.track + clips * sum(self.clip.values()) + captions * self.text


def measure(order: Order, found: Catalogue) -> Costs:
    """Prepare the first usable tracks and their captions, once to warm up and once in earnest.

    Raises:
        InvalidRequest: none of the first tracks can be used.
        MissingWeights: something that the preset needs is not there.
    """
    protocol(order.preset, order.recipe)
    tracks = found.tracks[:SAMPLE_TRACKS]
    words = TextJob(0, tuple(track.caption for track in tracks))
    with tempfile.TemporaryDirectory() as folder:
        trial = replace(order, out=Path(folder))
        whole(trial, TextJob(0, words.captions[:1]))
        whole(trial, TrackJob(0, tracks[0]))
        text = whole(trial, words)
        done = [whole(trial, TrackJob(row, track)) for row, track in enumerate(tracks)]
    clips = sum(one.clips for one in done)
    if not clips:
        raise InvalidRequest(f"nothing can be measured; {done[0].faults[0]}")
    per_clip = {kind: _sum(done, kind) / clips for kind in _kinds(done) if kind != "decode"}
    return Costs(
        track=_sum(done, "decode") / len(done),
        clip=per_clip,
        text=text.seconds["text"] / len(tracks),
        clips_per_track=clips / sum(one.clips > 0 for one in done),
    )


def _kinds(done: list[Done]) -> list[str]:
    return list(dict.fromkeys(kind for one in done for kind in one.seconds))


def _sum(done: list[Done], kind: str) -> float:
    return sum(one.seconds.get(kind, 0.0) for one in done)


def plan(order: Order, found: Catalogue) -> str:
    """The plan as a page of text, for the tracks at hand and for the paper's data set."""
    sizes = sizes_of(order.preset)
    lines = [
        f"preset {order.preset.name}, recipe {order.recipe.name}",
        f"a clip     {sizes.clip / 1e3:8.1f} kB  latents and audio features fp16, rewards fp32",
        f"a caption  {sizes.text / 1e3:8.1f} kB  bf16, once per caption",
    ]
    try:
        costs = measure(order, found)
    except MissingWeights as error:
        costs = None
        lines.append(f"time cannot be measured: {error}")
    if costs is not None:
        lines.append(f"decoding   {1e3 * costs.track:8.1f} ms per track")
        lines += [f"{kind:10} {1e3 * s:8.1f} ms per clip" for kind, s in costs.clip.items()]
        lines.append(f"text       {1e3 * costs.text:8.1f} ms per caption")
        at_hand = round(len(found.tracks) * costs.clips_per_track)
        lines += _scaled(
            "this table", sizes, costs, len(found.tracks), at_hand, len(found.captions)
        )
    lines += _scaled("the paper's", sizes, costs, PAPER_TRACKS, PAPER_CLIPS, PAPER_TRACKS)
    return "\n".join(lines)


def _scaled(
    name: str, sizes: Sizes, costs: Costs | None, tracks: int, clips: int, captions: int
) -> list[str]:
    total = (clips * sizes.clip + captions * sizes.text) / GIGABYTE
    reference = clips * sizes.reference / GIGABYTE
    lines = [
        f"{name}: {tracks} tracks, {clips} clips, {captions} captions",
        f"  {total:.3g} GB here; {reference:.3g} GB as one fp32 file per clip",
    ]
    if costs is not None:
        hours = costs.seconds(tracks, clips, captions) / 3600
        lines.append(f"  {hours:.3g} h on one process of this machine")
    return lines
