"""Recipe schema: every number of a training, read from `recipes/<name>.yaml`.

The sizes of the networks are not here: a recipe names the preset whose networks it trains.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import Field

from training.corpus import CorpusRecipe
from ttmpref.config import ConfigError, FrozenConfig, Preset, load_preset, read_yaml, validated

RECIPE_FOLDER = Path(__file__).parent / "recipes"


class StepRecipe(FrozenConfig):
    """Numbers common to every optimisation.

    Attributes:
        seed: all random draws of the step follow from it.
        steps: optimiser updates.
        ema_decay: decay of the moving average that is shipped.
    """

    seed: int = 0
    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    warm_up: int = Field(100, ge=0)
    decay_from: float = Field(0.7, ge=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    checkpoint_every: int = Field(250, gt=0)
    validate_every: int = Field(500, gt=0)


class TokenizerRecipe(FrozenConfig):
    """Byte-level BPE trained on `captions` captions drawn from the corpus grammar."""

    seed: int = 0
    captions: int = Field(60_000, gt=0)


class TextEncoderRecipe(StepRecipe):
    """T5 encoder, trained to fill masked tokens and to name what a caption says.

    Attributes:
        mask_rate: share of tokens hidden from the encoder.
    """

    layers: int = Field(4, gt=0)
    heads: int = Field(6, gt=0)
    hidden: int = Field(512, gt=0)
    mask_rate: float = Field(0.15, gt=0, lt=1)


class ClapRecipe(StepRecipe):
    """Contrastive text-audio training of a small HTSAT and a small RoBERTa."""

    patch_width: int = Field(32, gt=0)
    depths: tuple[int, ...] = (1, 1, 2, 1)
    hop_length: int = Field(1764, gt=0)
    n_fft: int = Field(2048, gt=0)
    text_layers: int = Field(3, gt=0)
    text_width: int = Field(192, gt=0)


class VAERecipe(StepRecipe):
    """Mel VAE: L1 on standardised mel and a small KL term.

    Attributes:
        frames: mel frames of a training crop.
        kl_weight: weight of the KL divergence per latent value.
    """

    frames: int = Field(172, gt=0)
    kl_weight: float = Field(2e-3, ge=0)


class VocoderRecipe(StepRecipe):
    """Vocoder: spectral losses, then an adversary, on mels as the autoencoder decodes them.

    Attributes:
        latents: latent frames of a training crop.
        adversarial_from: update after which the discriminators take part.
        adversarial_weight, feature_weight: weights of their two terms.
    """

    latents: int = Field(8, gt=0)
    adversarial_from: int = Field(0, ge=0)
    adversarial_weight: float = Field(0.1, ge=0)
    feature_weight: float = Field(0.5, ge=0)
    spectral_weight: float = Field(1.0, ge=0)
    mel_weight: float = Field(1.0, ge=0)


class BackboneRecipe(StepRecipe):
    """Flow matching (paper, sections III-A and III-D; specification 4.1).

    Attributes:
        null_text: probability that a sample's text is replaced by the empty text.
        grad_clip: largest norm of the gradient.
    """

    null_text: float = Field(0.1, ge=0, le=1)
    grad_clip: float = Field(1.0, gt=0)


class Recipe(FrozenConfig):
    """A whole chain; `preset` says whose networks are trained."""

    name: str
    preset: str
    corpus: CorpusRecipe
    tokenizer: TokenizerRecipe = TokenizerRecipe()
    text_encoder: TextEncoderRecipe
    clap: ClapRecipe
    vae: VAERecipe
    vocoder: VocoderRecipe
    baseline: BackboneRecipe

    @property
    def target(self) -> Preset:
        return load_preset(self.preset)


def recipe_hash(part: FrozenConfig) -> str:
    """Short hash of a record's values, kept with what was made from it."""
    text = json.dumps(part.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_recipe(name_or_path: str) -> Recipe:
    """A shipped recipe by name or any by path; raises `ConfigError` naming the wrong key."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPE_FOLDER / f"{name_or_path}.yaml"
        if not path.exists():
            known = ", ".join(sorted(p.stem for p in RECIPE_FOLDER.glob("*.yaml")))
            raise ConfigError(f"recipe {name_or_path!r} is unknown; accepted: {known}")
    return validated(Recipe, read_yaml(path), str(path))
