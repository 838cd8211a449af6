"""The preset's frozen networks as a preparation uses them, each loaded when it is first needed.

Sound comes as clips of one length, whatever their rate, and goes through a network together.

Shapes: see the legend in `ttmpref.types`; B clips of one track.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.autoencoder import load_vae
from training.prepare.recipe import PrepareRecipe
from ttmpref import assets
from ttmpref.audio import cut_or_pad, resample
from ttmpref.config import Preset
from ttmpref.models.mel import LogMel
from ttmpref.protocols import AudioTextEncoder, Separator, TextEncoder
from ttmpref.reward.scorer import ScorerParts
from ttmpref.studio import Studio
from ttmpref.types import Clip, ConfigError

CAPTIONS_PER_BATCH = 64
LATENTS = torch.float16  # finer than bf16, and nothing in a posterior comes near its ends
TEXT = torch.bfloat16  # T5's states may be large; training multiplies in bf16 anyway


class Encoders:
    """See the module.

    Attributes:
        preset: whose networks they are.
        recipe: decides passes of separation and whether rewards read captions.
    """

    def __init__(self, preset: Preset, recipe: PrepareRecipe, device: str = "auto") -> None:
        self.preset, self.recipe = preset, recipe
        self._studio = Studio(preset, device)

    @property
    def device(self) -> str:
        return self._studio.device

    @cached_property
    def separator(self) -> Separator | None:
        """Takes out what the preset removes; None leaves every track as it is."""
        config = self.preset.separator
        if config is None:
            return None
        from ttmpref.separation import load_separator

        passes = {"passes": self.recipe.separation_passes}
        return load_separator(config.model_copy(update=passes), self.device)

    @cached_property
    def scorer(self) -> ScorerParts | None:
        """What the ranker reads with, and its heads; None where the preset has no ranker."""
        return None if self.preset.ranker is None else self._studio.scorer().parts

    @cached_property
    def _vae(self) -> nn.Module:
        config = self.preset.autoencoder
        assets.verify(config.vae_weights)
        return load_vae(config, assets.locate(config.vae_weights)).to(self.device)

    @cached_property
    def _log_mel(self) -> nn.Module:
        return LogMel(self.preset.autoencoder.mel).to(self.device)

    @cached_property
    def _text(self) -> tuple[TextEncoder, AudioTextEncoder]:
        from ttmpref.encoders.clap import ClapEncoder
        from ttmpref.encoders.t5 import T5TextEncoder

        configs = self.preset.text_encoder, self.preset.conditioning_clap
        for config in configs:
            assets.verify(config.folder)
        text, clap = configs
        return (
            T5TextEncoder(text, assets.locate(text.folder), self.device),
            ClapEncoder(clap, assets.locate(clap.folder), self.device),
        )

    @torch.inference_mode()
    def latents(self, clips: Sequence[Clip]) -> Tensor:
        """(B, 2, N, C) posterior mean and standard deviation of mono mixes, clamped to [-1, 1].

        Raises:
            ConfigError: the preset's clips are shorter than its backbone's latents.
        """
        mel, frames = self.preset.autoencoder.mel, self.preset.backbone.latent_frames
        samples = round(self.preset.output.seconds * mel.sample_rate)
        cut = [cut_or_pad(resample(clip, mel.sample_rate), samples).mono for clip in clips]
        waveforms = torch.from_numpy(np.stack(cut)).clamp(-1.0, 1.0).to(self.device)
        posterior = self._vae.encode(self._log_mel(waveforms))
        latents = torch.stack(posterior, dim=1).transpose(2, 3)[:, :, :frames]  # (B, 2, N, C)
        if latents.shape[2] < frames:
            raise ConfigError(
                f"output.seconds {self.preset.output.seconds:g} gives {latents.shape[2]} latents, "
                f"backbone.latent_frames is {frames}"
            )
        return latents.to(LATENTS).cpu()

    @torch.no_grad()
    def heard(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """The ranker's audio blocks (B, width) of clips; none without a ranker."""
        if self.scorer is None:
            return {}
        waveforms = [torch.from_numpy(clip.mono) for clip in clips]
        return self.scorer.features.of_sound(waveforms, [clip.sample_rate for clip in clips])

    @torch.no_grad()
    def rewards(self, blocks: Mapping[str, Tensor], caption: str) -> Tensor:
        """(B,) rewards, by the preset's first head, of clips whose blocks are known."""
        head = self.scorer.heads[0]
        count = len(next(iter(blocks.values())))
        words = self.scorer.features.of_prompts([caption if self.recipe.prompted else ""])
        told = {name: block.expand(count, -1).to(self.device) for name, block in words.items()}
        return head(head.layout.join({**blocks, **told})).cpu()

    @torch.no_grad()
    def words(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """text (B, T, D) and pooled (B, E) of captions."""
        encoder, clap = self._text
        made: dict[str, list[Tensor]] = {"text": [], "pooled": []}
        for first in range(0, len(captions), CAPTIONS_PER_BATCH):
            some = captions[first : first + CAPTIONS_PER_BATCH]
            made["text"].append(encoder.encode(some).to(TEXT).cpu())
            made["pooled"].append(clap.encode_text(some).to(TEXT).cpu())
        return {name: torch.cat(parts) for name, parts in made.items()}


def protocol(preset: Preset, recipe: PrepareRecipe) -> dict[str, Any]:
    """Everything that decides the numbers: sizes, hashes of the networks, the recipe.

    Raises:
        MissingWeights: something that is needed is not there.
    """
    sound, words = preset.autoencoder, (preset.text_encoder, preset.conditioning_clap)
    numbers = recipe.model_dump(mode="json", exclude={"name", "captions"})
    said: dict[str, Any] = {
        "preset": preset.name,
        "recipe": numbers,
        "seconds": preset.output.seconds,
        "mel": sound.mel.model_dump(mode="json"),
        "vae": assets.digest(sound.vae_weights),
        "text": [assets.digest(config.folder) for config in words],
        "ranker": None,
        "separator": None,
    }
    if preset.ranker is not None:
        Studio(preset).check_scoring()
        listening = vars(preset.ranker.listening)
        uris = (*preset.reward_encoders, preset.ranker.weights)
        said["ranker"] = {"weights": [assets.digest(uri) for uri in uris], **listening}
    if preset.separator is not None:
        numbers = preset.separator.model_dump(mode="json", exclude={"passes", "folder"})
        said["separator"] = {"weights": assets.digest(preset.separator.folder), **numbers}
    return said
