"""Tokenizer and T5 text encoder of the demo.

The tokenizer is a byte-level BPE: any text in any language has tokens, none is unknown. The encoder
learns from captions alone, by filling masked tokens and by naming the tags a caption states; the
second makes synonyms ("Rhodes", "electric piano") land close to each other, which masked tokens
alone would need far more text for. Captions are drawn endlessly from the corpus grammar.

Shapes: tokens (B, T), hidden (B, T, D).
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from training.corpus import describe, sample_tags
from training.corpus.vocabulary import GENRES, LEADS, MOODS, TEMPO_CLASSES
from training.loop import Average, draws, numpy_draws
from training.recipe import TextEncoderRecipe, TokenizerRecipe
from ttmpref.config import TextEncoderConfig

PAD, EOS, UNKNOWN, MASK = "<pad>", "</s>", "<unk>", "<mask>"
TARGETS = {
    "genre": tuple(GENRES),
    "lead": tuple(LEADS),
    "mood": tuple(MOODS),
    "tempo_class": TEMPO_CLASSES,
}


def train_tokenizer(
    recipe: TokenizerRecipe, vocabulary: int, folder: Path
) -> PreTrainedTokenizerFast:
    """Byte-level BPE with exactly `vocabulary` tokens, saved to `folder`."""
    rng = numpy_draws(recipe.seed, "tokenizer", 0)
    made_up = (describe(sample_tags(rng), rng) for _ in range(recipe.captions))
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, EOS, UNKNOWN, MASK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(made_up, trainer)
    _fill(tokenizer, vocabulary)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, tokenizer.token_to_id(EOS))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN, mask_token=MASK
    )
    fast.save_pretrained(folder)
    return fast


def _fill(tokenizer: Tokenizer, vocabulary: int) -> None:
    """Pad the vocabulary with reserved tokens when the captions hold fewer distinct pieces."""
    missing = vocabulary - tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([f"<reserved_{index}>" for index in range(missing)])


def tokenize(
    tokenizer: PreTrainedTokenizerFast, texts: list[str], length: int
) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask`, each (B, T), T the longest text's up to `length`.

    Training pads no further: both encoders mask pads, so the states of real tokens are the same.
    """
    batch = tokenizer(texts, max_length=length, padding=True, truncation=True, return_tensors="pt")
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}


class TextEncoderJob:
    """Masked tokens and tag naming over a T5 encoder."""

    name = "text_encoder"

    def __init__(
        self,
        recipe: TextEncoderRecipe,
        config: TextEncoderConfig,
        tokenizer: PreTrainedTokenizerFast,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.config, self.tokenizer = recipe, config, tokenizer
        self.encoder = T5EncoderModel(
            T5Config(
                d_model=config.dim,
                d_kv=config.dim // recipe.heads,
                d_ff=recipe.hidden,
                num_layers=recipe.layers,
                num_heads=recipe.heads,
                feed_forward_proj="gated-gelu",
                vocab_size=config.vocabulary,
                dropout_rate=0.0,
            )
        )
        self.heads = nn.ModuleDict(
            {name: nn.Linear(config.dim, len(values)) for name, values in TARGETS.items()}
        )
        self.to_tokens = nn.Linear(config.dim, config.vocabulary)
        self.average = Average(self.encoder, recipe.ema_decay)
        parameters = [p for module in self._trained() for p in module.parameters()]
        self.optimizer = AdamW(parameters, betas=(0.9, 0.98), weight_decay=recipe.weight_decay)

    def _trained(self) -> list[nn.Module]:
        return [self.encoder, self.heads, self.to_tokens]

    def modules(self) -> dict[str, nn.Module]:
        names = ("encoder", "heads", "to_tokens", "average")
        return {name: getattr(self, name) for name in names}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"all": self.optimizer}

    def _losses(self, seed: int, purpose: str, step: int) -> dict[str, Tensor]:
        rng = numpy_draws(seed, purpose, step)
        tags = [sample_tags(rng) for _ in range(self.recipe.batch)]
        texts = [describe(tag, rng) for tag in tags]
        batch = tokenize(self.tokenizer, texts, self.config.max_tokens)
        ids, present = batch["input_ids"], batch["attention_mask"].bool()
        generator = draws(seed, purpose, step)
        hidden_mask = (torch.rand(ids.shape, generator=generator) < self.recipe.mask_rate) & present
        masked = torch.where(hidden_mask, self.tokenizer.mask_token_id, ids)
        states = self.encoder(input_ids=masked, attention_mask=batch["attention_mask"])[0]
        guesses, truth = self.to_tokens(states[hidden_mask]), ids[hidden_mask]
        # A mean over no masked token would not be a number.
        token = F.cross_entropy(guesses, truth, reduction="sum") / max(1, len(truth))
        losses = {"token": token}
        weights = present[..., None].float()
        pooled = (states * weights).sum(1) / weights.sum(1)  # (B, D)
        for name, values in TARGETS.items():
            labels = torch.tensor([values.index(getattr(tag, name)) for tag in tags])
            losses[name] = F.cross_entropy(self.heads[name](pooled), labels)
        return losses

    def train_step(self, step: int) -> dict[str, float]:
        losses = self._losses(self.recipe.seed, "text_encoder", step)
        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        self.optimizer.step()
        self.average.update(self.encoder)
        return {name: loss.item() for name, loss in losses.items()}

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        losses = self._losses(self.recipe.seed + 1, "text_encoder validation", 0)
        return {name: loss.item() for name, loss in losses.items()}

    def export(self, folder: Path) -> None:
        """Averaged encoder and tokenizer as a transformers folder, half precision."""
        self.encoder.load_state_dict(self.average.weights())
        self.encoder.half().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
