"""The generated clips that several benchmarks judge: made once, kept, resumed where interrupted.

Clip i has the caption of prompt piece i (see `benchmarks.held_out`) and seed BASE_SEED + i, with
the preset's default settings. They lie in `data/benchmarks/<hash>/`, where the hash covers the
weights; a clip whose sidecar holds another request is made again.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

from benchmarks.common import ALL_PARTS, Setting, parse_setting, weights_of
from benchmarks.held_out import Prompt, prompts
from ttmpref.audio import read_clip
from ttmpref.studio import read_sidecar, sidecar_path
from ttmpref.types import Clip, GenerationRequest, InvalidRequest

BASE_SEED = 10_000
REPORT_EVERY = 20


def clip_folder(setting: Setting) -> Path:
    """Where the clips of the present weights lie."""
    hashes = json.dumps(weights_of(setting.studio.preset, ALL_PARTS))
    return setting.data / "benchmarks" / hashlib.sha256(hashes.encode()).hexdigest()[:16]


def generated(setting: Setting) -> tuple[list[Prompt], list[Clip]]:
    """Prompts and their clips; what is missing is made now."""
    asked = prompts(setting.evaluation, setting.clips)
    folder = clip_folder(setting)
    requests = [
        setting.studio.request(prompt.text, seed=BASE_SEED + i) for i, prompt in enumerate(asked)
    ]
    paths = [folder / f"{i:04d}.flac" for i in range(len(asked))]
    missing = [i for i, path in enumerate(paths) if not _is_made(path, requests[i])]
    started = time.perf_counter()
    for done, i in enumerate(missing, start=1):
        setting.studio.save(setting.studio.generate(requests[i])[0], paths[i])
        if done % REPORT_EVERY == 0 or done == len(missing):
            taken = time.perf_counter() - started
            print(f"generated {done} of {len(missing)} clips in {taken:.0f} s", flush=True)
    return asked, [read_clip(path) for path in paths]


def _is_made(path: Path, request: GenerationRequest) -> bool:
    """Whether a finished clip of this very request lies there (the sidecar is written last)."""
    try:
        return path.exists() and read_sidecar(sidecar_path(path))[0] == request
    except InvalidRequest:
        return False


def main() -> None:
    setting = parse_setting(__doc__)
    _, clips = generated(setting)
    print(f"{len(clips)} clips in {clip_folder(setting)}")


if __name__ == "__main__":
    main()
