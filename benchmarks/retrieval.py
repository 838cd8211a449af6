"""Does the embedded CLAP bring text and music together? Retrieval on held-out pairs.

500 pieces of the evaluation split, one caption (the first) and one 10 s window each. Every caption
ranks all 500 windows by cosine, and every window all captions; recall at k is the share of right
answers among the first k. Several pieces can fit a short caption equally well, so perfect recall is
not to be had. Chance of R@10 is 2 %.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.common import Figure, Report, Setting, run
from benchmarks.held_out import windows
from ttmpref.metrics import bootstrap_interval, clap_score, recall_at, retrieval_ranks

PAIRS = 500
TARGET_R10 = 0.5


@torch.no_grad()
def measure(setting: Setting) -> Report:
    corpus = setting.evaluation
    count = min(PAIRS, len(corpus.pieces))
    rows = np.linspace(0, len(corpus.pieces) - 1, count).round().astype(int)
    captions = [corpus.captions[row][0] for row in rows]
    text = np.concatenate([setting.clap.encode_text([caption]).numpy() for caption in captions])
    audio = setting.embed(windows(corpus, rows, setting.studio.preset.metric_clap.window_seconds))
    similarities = text @ audio.T  # (n, n)
    shuffled = np.roll(audio, 1, axis=0)
    figures = (
        *_figures("text to audio", retrieval_ranks(similarities)),
        *_figures("audio to text", retrieval_ranks(similarities.T)),
        Figure("CLAP score of matching pairs", clap_score(text, audio)),
        Figure("CLAP score of wrong pairs", clap_score(text, shuffled)),
    )
    return Report(
        title="Text-audio retrieval",
        question=f"Captions of held-out pieces against their audio, {count} candidates.",
        figures=figures,
        recipe={"n": count, "split": "evaluation", "chance_of_r10": 10 / count},
        parts=("clap",),
    )


def _figures(direction: str, ranks: np.ndarray) -> list[Figure]:
    """Recall at 1, 5 and 10 and the median rank of one direction."""
    figures = []
    for k, target in ((1, None), (5, None), (10, TARGET_R10)):
        interval = bootstrap_interval(lambda rows, k=k: recall_at(ranks[rows], k), len(ranks))
        figures.append(
            Figure(
                f"R@{k}, {direction}", recall_at(ranks, k), "%", at_least=target, interval=interval
            )
        )
    return [*figures, Figure(f"median rank, {direction}", float(np.median(ranks)))]


if __name__ == "__main__":
    run("retrieval", measure, __doc__)
