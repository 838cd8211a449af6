"""Score conditioning: how the preference score s reaches the network (paper, section III-B).

`ScoreEmbedding` turns s into e_s, a vector of the network's width D; it belongs to the backbone. A
head only decides where e_s goes and owns no parameters, so weights move between heads unchanged
("cross-loading") and the key sets of v1 and v2 are identical by construction. A head is three
hooks: into the latent tokens, the text tokens, and the condition vectors of the two streams.

The last layer of the embedding starts at zero, so e_s = 0 at first: the additive heads then leave
the network's output unchanged, while a prepended token still takes part in the attention.

Shapes: B batch, N latent frames, T text tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ttmpref.config import HeadKind, ScoreEmbeddingConfig
from ttmpref.types import DamagedWeights

FREQUENCY_SEED = 0


class ScoreEmbedding(nn.Module):
    """e_s = MLP(Fourier(s)) with random Gaussian frequencies, drawn once and stored."""

    def __init__(self, config: ScoreEmbeddingConfig, width: int) -> None:
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(FREQUENCY_SEED)
        frequencies = torch.randn(config.num_features // 2, generator=generator)
        self.register_buffer("frequencies", frequencies * config.frequency_scale)
        self.mlp = nn.Sequential(
            nn.Linear(config.num_features, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, score: Tensor) -> Tensor:
        """(B,) scores to (B, D)."""
        angles = score[:, None] * self.frequencies  # (B, F/2)
        if self.config.two_pi:
            angles = angles * (2 * math.pi)
        waves = (angles.cos(), angles.sin())
        if not self.config.cos_first:
            waves = waves[::-1]
        return self.mlp(torch.cat(waves, dim=-1))  # (B, D)


def match_score_tensors(tensors: Mapping[str, Tensor], width: int) -> dict[str, str]:
    """Which of a file's tensors is which of `ScoreEmbedding`, told by shape.

    The released checkpoint holds five whose names nobody published (specification, section 1.12): a
    frequency tensor and two linear layers with biases. The layers differ in their inputs, F and D;
    biases belong to the weight of the same name. What shapes cannot tell, 2 pi and the order of
    cosine and sine, stays in `ScoreEmbeddingConfig`.

    Args:
        tensors: those that no other part of the network has.
        width: D.

    Returns:
        Our names and the file's.

    Raises:
        DamagedWeights: they are not such five, or F and D are equal, so that shapes do not tell.
    """
    shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
    weights = [n for n, t in tensors.items() if t.ndim == 2 and n.endswith("weight")]
    inner = [n for n in weights if tensors[n].shape[0] == width != tensors[n].shape[1]]
    outer = [n for n in weights if tensors[n].shape == (width, width)]
    if len(tensors) != 5 or len(inner) != 1 or len(outer) != 1:
        raise DamagedWeights(f"cannot tell the score tensors by shape among: {shapes}")
    matched = {"mlp.0.weight": inner[0], "mlp.2.weight": outer[0]}
    for name, weight in tuple(matched.items()):
        matched[name.replace("weight", "bias")] = weight.removesuffix("weight") + "bias"
    left = [name for name in tensors if name not in matched.values()]
    features = tensors[inner[0]].shape[1]
    if len(left) != 1 or 2 * tensors[left[0]].numel() != features:
        raise DamagedWeights(
            f"no {features // 2} frequencies for {features} features among the score tensors: "
            f"{shapes}"
        )
    return {"frequencies": left[0], **matched}


class ScoreHead:
    """The head "none" and the base of the others: every hook passes its input on.

    Attributes:
        latent_tokens: tokens the head puts before the latents; the network drops them at the end.
        text_tokens: tokens the head puts before the text.
    """

    latent_tokens = 0
    text_tokens = 0

    def into_latents(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        """(B, N, D) and e_s (B, D) to (B, latent_tokens + N, D)."""
        return tokens

    def into_text(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        """(B, T, D) and e_s (B, D) to (B, text_tokens + T, D)."""
        return tokens

    def into_conditions(self, condition: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """c and e_s, each (B, D), to the conditions of the latent stream and the text stream."""
        return condition, condition


class GlobalAdaLN(ScoreHead):
    """v1: e_s is added to the condition vector of every block and of the final layer."""

    def into_conditions(self, condition: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        condition = condition + embedding
        return condition, condition


class InputAdd(ScoreHead):
    """v2: e_s is added to every latent token after the input projection."""

    def into_latents(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        return tokens + embedding[:, None]


class AudioPrepend(ScoreHead):
    """v3: e_s is one more token in front of the latents."""

    latent_tokens = 1

    def into_latents(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        return torch.cat((embedding[:, None], tokens), dim=1)


class LatentAdaLN(ScoreHead):
    """e_s modulates the latent stream alone; our reading of v4, which the paper leaves out."""

    def into_conditions(self, condition: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        return condition + embedding, condition


class TextPrepend(ScoreHead):
    """v5: e_s is one more token in front of the text."""

    text_tokens = 1

    def into_text(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        return torch.cat((embedding[:, None], tokens), dim=1)


SCORE_HEADS: dict[HeadKind, ScoreHead] = {
    "none": ScoreHead(),
    "global_adaln": GlobalAdaLN(),
    "input_add": InputAdd(),
    "audio_prepend": AudioPrepend(),
    "latent_adaln": LatentAdaLN(),
    "text_prepend": TextPrepend(),
}
