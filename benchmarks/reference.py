"""Captions and reference audio of `python -m ttmpref evaluate`, from the held-out split.

    python -m benchmarks.reference

Captions come from the prompt pieces (`benchmarks.held_out`), reference embeddings from all others,
so no piece is in both. What the encoders hear of the prompt pieces' own audio goes along: it is
what a perfect model would reach. To be run again whenever the corpus or an encoder has changed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.common import DATA, default_corpus
from benchmarks.held_out import divide, prompts, windows
from training.data import Corpus
from ttmpref.audio import write_files
from ttmpref.evaluation.reference import (
    CAPTIONS_FILE,
    FILE,
    Reference,
    blocks_of,
    clap_of,
    encoders_of,
    reference_folder,
)
from ttmpref.studio import Studio

CAPTIONS = 100
LICENCE = "MIT"


def captions(corpus: Corpus, count: int) -> list[dict[str, str]]:
    """Records of a prompt list, in the order of the seeds."""
    return [
        {
            "id": f"piece{corpus.pieces[prompt.row].id:05d}",
            "text": prompt.text,
            "source": "synthetic corpus of this repository, evaluation split",
            "licence": LICENCE,
        }
        for prompt in prompts(corpus, count)
    ]


def reference(corpus: Corpus, studio: Studio, records: list[dict[str, str]]) -> Reference:
    """Embeddings of pieces that lend no caption, and of the clips that the captions describe."""
    own, others = divide(len(corpus.pieces), len(records))
    seconds, features = studio.preset.output.seconds, studio.hearing()
    said = {
        "source": "one window of each evaluation piece that lends no caption",
        "corpus": json.loads((corpus.folder / "corpus.json").read_text())["hash"],
        "encoders": encoders_of(studio.preset),
        "captions": [record["id"] for record in records],
    }
    real = blocks_of(windows(corpus, own, seconds), features)
    return Reference(clap_of(windows(corpus, others, seconds), features), said, real)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", default="demo", help="name of a preset or path of its .yaml")
    parser.add_argument("--corpus", type=Path, help="corpus folder (default: the demo recipe's)")
    parser.add_argument("--captions", type=int, default=CAPTIONS, help="how many")
    given = parser.parse_args()
    corpus = Corpus(given.corpus or default_corpus(DATA), "evaluation")
    studio = Studio.open(given.preset, "cpu")
    records = captions(corpus, given.captions)
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    packed = reference(corpus, studio, records).pack()
    folder = reference_folder(studio.preset)
    files = {folder / CAPTIONS_FILE: lines.encode("utf-8"), folder / FILE: packed}
    write_files(files)
    print(*files, sep="\n")


if __name__ == "__main__":
    main()
