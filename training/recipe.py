"""Recipe schema: every number of a training, read from `recipes/<name>.yaml`.

The sizes of the networks are not here: a recipe names the preset whose networks it trains.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from training.corpus import CorpusRecipe
from ttmpref.config import (
    FrozenConfig,
    HeadKind,
    Preset,
    load_named,
    load_preset,
)
from ttmpref.reward.ranker import DROPOUT, HIDDEN

Decay = Annotated[float, Field(ge=0, lt=1)]
# Of post-hoc averages, relative to the run; the plain mean of a run is the longest.
Lengths = Annotated[tuple[Annotated[float, Field(gt=0, le=0.288)], ...], Field(min_length=1)]
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
    ema_decay: Decay = 0.999
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


class MusicEncoderRecipe(StepRecipe):
    """A small Wav2Vec2-BERT that names tags and degradations.

    Attributes:
        seconds: length of a training window.
        degradation_counts: probabilities of none, one and two degradations in a window.
        layers, heads, hidden: of the conformer.
        kernel: tokens that its convolutions span.
        precision: of products in training.
        repeats: updates that learn from a window, on average.
        kept_batches: newest batches of windows that an update draws from.
        tag_weight: of the tags' losses beside that of the degradations. There are few pieces to
            learn tags from: a large weight has the features know the pieces by heart.
    """

    seconds: float = Field(4.0, gt=0)
    degradation_counts: tuple[float, float, float] = (0.3, 0.4, 0.3)
    layers: int = Field(3, gt=0)
    heads: int = Field(6, gt=0)
    hidden: int = Field(384, gt=0)
    kernel: int = Field(15, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    repeats: int = Field(1, gt=0)
    kept_batches: int = Field(1, gt=0)
    tag_weight: float = Field(1.0, ge=0)


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
        audio_from: update from which audio is made and compared, not magnitudes alone.
        adversarial_from: update from which the discriminators take part, too.
        adversarial_weight, feature_weight: weights of their two terms.
        spectral_weight, mel_weight: weights of the distances between audio.
        magnitude_weight: weight of the distance of the head's magnitudes, before any phase.
    """

    latents: int = Field(8, gt=0)
    audio_from: int = Field(0, ge=0)
    adversarial_from: int = Field(0, ge=0)
    adversarial_weight: float = Field(0.1, ge=0)
    feature_weight: float = Field(0.5, ge=0)
    spectral_weight: float = Field(1.0, ge=0)
    mel_weight: float = Field(1.0, ge=0)
    magnitude_weight: float = Field(1.0, ge=0)


class PulseRecipe(StepRecipe):
    """The pulse of a backbone.

    Attributes:
        captions: made-up ones that metres are read from.
        metre_weight: of the metre's cross-entropy beside the squared error of the course.
    """

    captions: int = Field(gt=0)
    metre_weight: float = Field(0.1, gt=0)


class BackboneRecipe(StepRecipe):
    """Flow matching (paper, sections III-A and III-D; specification 4.1).

    Attributes:
        ema_decay: as in every step; or the relative lengths sigma_rel of post-hoc averages
            (`training.ema`), the first of which is shipped, with a snapshot at every checkpoint.
        null_text: probability that a sample's text is replaced by the empty text.
        null_score: probability that a sample's score is replaced by the null score.
        grad_clip: largest norm of the gradient.
        time_mean: mean of the logit of the training times from update `time_mean_from` on, 0 before
            it: texture is learnt at low noise, rhythm and form are decided at high noise.
        precision: of the network's products in training; weights and losses stay in fp32.
    """

    ema_decay: Decay | Lengths = 0.999
    null_text: float = Field(0.1, ge=0, le=1)
    null_score: float = Field(0.1, ge=0, le=1)
    grad_clip: float = Field(1.0, gt=0)
    time_mean: float = Field(0.0, ge=-3, le=3)
    time_mean_from: int = Field(0, ge=0)
    precision: Literal["fp32", "bf16"] = "fp32"


class SFTRecipe(BackboneRecipe):
    """Score-conditioned fine-tune (paper, section III-B).

    Attributes:
        head: where the score enters.
        scores: "raw" rewards, as in the paper, or "normal": by rank on a normal distribution of the
            paper's mean and spread, for a reward on another scale.
        score_column: which reward of prepared clips is the score.
    """

    head: HeadKind = "global_adaln"
    scores: Literal["raw", "normal"] = "raw"
    score_column: str = "instrumental_reward_score"


class SampledRecipe(BackboneRecipe):
    """A stage that learns from clips of the stage before it.

    Attributes:
        sample_score, sample_guidance: s and w that the clips are made with.
        sample_seed: of the first clip; clip i has seed `sample_seed` + i.
    """

    sample_score: float = 2.0
    sample_guidance: float = Field(4.0, ge=0)
    sample_seed: int = Field(0, ge=0)


class ExpertRecipe(SampledRecipe):
    """Expert iteration (paper, section III-D).

    Attributes:
        candidates: clips sampled, one for each of as many captions of the training split.
        keep: clips kept, best first by the sum of the standard scores of reward and CLAP score.
        oversample: how often a kept clip stands in the mixture with the training windows.
        polish_steps, polish_learning_rate: of the last updates, on the kept clips alone.
    """

    candidates: int = Field(630, gt=1)
    keep: int = Field(64, gt=0)
    oversample: int = Field(5, gt=0)
    polish_steps: int = Field(gt=0)
    polish_learning_rate: float = Field(gt=0)


class PairsRecipe(SampledRecipe):
    """Training on a better and a worse clip of each prompt, ranked by CLAP under it.

    Attributes:
        prompts: captions of the training split.
        clips_per_prompt: of which the best and the worst make the pair.
        held_out: share of the pairs kept for validation.
    """

    prompts: int = Field(gt=1)
    clips_per_prompt: int = Field(5, gt=1)
    held_out: float = Field(0.1, gt=0, lt=1)


class CRPORecipe(PairsRecipe):
    """CRPO (paper, section III-D).

    Attributes:
        beta: strength of the preference term.
        flow_weight: lambda of the winner's flow-matching loss.
    """

    beta: float = Field(2000.0, gt=0)
    flow_weight: float = Field(1.0, ge=0)


class NFTRecipe(PairsRecipe):
    """Offline negative-aware fine-tune, the alternative last stage.

    Attributes:
        nft_beta: share of the new velocity in the mixture with the old one.
    """

    nft_beta: float = Field(0.2, gt=0, le=1)


class VoicesRecipe(FrozenConfig):
    """Synthetic voices (`training.voices`).

    Attributes:
        counts: voices of each split.
        seconds: length of a voice.
        shares: probabilities of a sung line, a choir and speech.
    """

    seed: int = Field(0, ge=0)
    counts: dict[str, int] = {"train": 240, "validation": 48, "evaluation": 48}
    seconds: float = Field(10.0, gt=0)
    shares: tuple[float, float, float] = (0.5, 0.25, 0.25)


class SeparatorRecipe(StepRecipe):
    """A small HDemucs that hears voices in music (`training.separator`).

    Attributes:
        folder: below the preset's assets, where the bag is written.
        seconds: length of a training window.
        segment: seconds that the finished model works on at once.
        sample_rate: Hz that the network hears; above half of it a clip stays as it is.
        channels, depth, n_fft: size of the network.
        level_db: lowest and highest level of a voice, relative to the music.
        voiceless: share of windows without any voice, which must come through untouched.
        mono: share of windows with the same sound in both channels.
        precision: of the network's products in training; weights and losses stay in fp32.
    """

    voices: VoicesRecipe = VoicesRecipe()
    folder: str = "separator"
    seconds: float = Field(3.0, gt=0)
    segment: float = Field(12.0, gt=0)
    sample_rate: int = Field(11_025, gt=0)
    channels: int = Field(8, gt=0)
    depth: int = Field(5, gt=0)
    n_fft: int = Field(1024, gt=0)
    level_db: tuple[float, float] = (-8.0, 6.0)
    voiceless: float = Field(0.2, ge=0, le=1)
    mono: float = Field(0.5, ge=0, le=1)
    precision: Literal["fp32", "bf16"] = "fp32"


class ListenersRecipe(FrozenConfig):
    """Simulated listeners and what they hear (`training.listeners`).

    Attributes:
        seconds: length of a take.
        listeners: how many there are, each with tastes of their own.
        sounds: probabilities that a take is the piece itself, its round trip through the
            autoencoder, or noise of its spectrum.
        other_piece: probability that a take plays another piece than the prompt describes.
        fault_counts: probabilities of none, one and two faults.
        fault_cost: utility lost per unit of strength of each fault.
        tag_costs: utility lost where this tag is not the prompt's piece's.
        sound_costs: utility lost by a round trip and by noise.
        taste: deviation of a listener's liking of a lead and of a genre.
        ties: weight of a tie between equals, in units of the weight of either answer.
    """

    seed: int = Field(0, ge=0)
    seconds: float = Field(10.0, gt=0)
    listeners: int = Field(200, gt=0)
    sounds: tuple[float, float, float] = (0.87, 0.1, 0.03)
    other_piece: float = Field(0.4, ge=0, le=1)
    fault_counts: tuple[float, float, float] = (0.35, 0.4, 0.25)
    fault_cost: float = Field(5.0, ge=0)
    tag_costs: dict[str, float] = {"lead": 1.5, "genre": 1.0, "tempo_class": 0.5}
    sound_costs: dict[str, float] = {"codec": 1.0, "noise": 8.0}
    taste: float = Field(0.4, ge=0)
    ties: float = Field(0.35, ge=0)


class RankerRecipe(FrozenConfig):
    """Preference ranker; the defaults are those of the released head (specification, section 2.3).

    Attributes:
        seed: of the first head; head k of an ensemble has seed + k.
        heads: heads that are trained, alike but for their seeds.
        epochs: passes over the training pairs at most.
        batch: pairs of an update.
        initial_scale: factor of the fresh head's rewards. The reference's 1 starts with margins of
            about ten, sure of everything; 0.05 learns in a few epochs what 1 never reaches.
        patience: epochs without improvement after which training ends.
        min_improvement: of the validation loss, to count as one.
        decay_from: part of the epochs after which the learning rate falls; the reference's never.
        hidden: widths of the head's hidden layers.
        joined: both clips of the batch in one forward pass, so that they share the statistics of
            its normalisation; the reference makes two passes, A first.
        balanced: every source as often as every other, by drawing pairs with replacement.
        fit_scale: scale the finished head so that its margins fit the validation decisions best;
            then validation losses, too, are those of margins so scaled.
        zero_text_for: sources whose prompts are hidden, as MusicPrefs' listeners never saw them.
    """

    seed: int = Field(42, ge=0)
    heads: int = Field(1, gt=0)
    epochs: int = Field(1000, gt=0)
    batch: int = Field(32, gt=1)
    learning_rate: float = Field(1e-4, gt=0)
    initial_scale: float = Field(1.0, gt=0)
    weight_decay: float = Field(1e-3, ge=0)
    patience: int = Field(30, gt=0)
    min_improvement: float = Field(1e-4, ge=0)
    decay_from: float = Field(1.0, ge=0, le=1)
    hidden: tuple[int, ...] = HIDDEN
    dropout: float = Field(DROPOUT, ge=0, lt=1)
    joined: bool = False
    balanced: bool = False
    fit_scale: bool = False
    zero_text_for: tuple[str, ...] = ()


class Recipe(FrozenConfig):
    """A whole chain; `preset` says whose networks are trained. Steps without numbers are left out.

    Without a corpus, backbones learn from prepared clips (`python -m training prepare`).
    """

    name: str
    preset: str
    corpus: CorpusRecipe | None = None
    tokenizer: TokenizerRecipe | None = None
    text_encoder: TextEncoderRecipe | None = None
    clap: ClapRecipe | None = None
    music_encoder: MusicEncoderRecipe | None = None
    vae: VAERecipe | None = None
    vocoder: VocoderRecipe | None = None
    pulse: PulseRecipe | None = None
    pretraining: BackboneRecipe | None = None
    baseline: BackboneRecipe | None = None
    separator: SeparatorRecipe | None = None
    listeners: ListenersRecipe = ListenersRecipe()
    ranker: RankerRecipe | None = None
    sft: SFTRecipe | None = None
    expert: ExpertRecipe | None = None
    crpo: CRPORecipe | None = None
    nft: NFTRecipe | None = None

    @property
    def target(self) -> Preset:
        return load_preset(self.preset)


def recipe_hash(part: FrozenConfig) -> str:
    """Short hash of a record's values, kept with what was made from it."""
    text = json.dumps(part.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_recipe(name_or_path: str) -> Recipe:
    """A shipped recipe by name or any by path; raises `ConfigError` naming the wrong key."""
    return load_named(Recipe, "recipe", RECIPE_FOLDER, name_or_path)
