"""The app's programming interface: generate, compare and score, for programs and for assistants.

The same verbs as the tabs', as documented endpoints for `gradio_client` and as tools of the Model
Context Protocol. They wait in the same line for the model as visitors do. Nothing here touches a
listening study: taking part has an API of its own (`ttmpref.study.api`) and is for people.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import gradio as gr

from ttmpref.series import Made, Task
from ttmpref.studio import Studio
from ttmpref.types import Generation, InvalidRequest
from ttmpref.ui.clips import ClipFolder
from ttmpref.ui.errors import translated
from ttmpref.ui.run import Run
from ttmpref.ui.score import entries_of_uploads, without_paths

ONE_AT_A_TIME = {"concurrency_limit": 1, "concurrency_id": "model"}  # as the tabs' runs


def build_endpoints(studio: Studio, folder: ClipFolder) -> None:
    """Offer the endpoints inside the current `gr.Blocks`."""
    endpoints = Endpoints(studio, folder)
    for verb in (endpoints.generate, endpoints.compare, endpoints.score):
        gr.api(verb, api_name=verb.__name__, **ONE_AT_A_TIME)


@dataclass(frozen=True)
class Endpoints:
    """What programs may ask for; docstrings of the verbs are what callers are told."""

    studio: Studio
    folder: ClipFolder

    def generate(
        self,
        prompt: str,
        seed: int | None = None,
        stage: str | None = None,
        score: float | None = None,
        guidance: float | None = None,
        num_steps: int | None = None,
        negative_prompt: str | None = None,
        separation_passes: int | None = None,
        normalise_loudness: bool = True,
        target_lufs: float | None = None,
    ) -> tuple[gr.FileData, dict[str, Any]]:
        """Make one clip of music from a description, as a WAV file and what is known about it.

        Args:
            prompt: what the music should be: style, mood, instruments, tempo.
            seed: decides the random start; drawn at random if not given.
            stage: which stage of the training chain makes the clip; the preset's default if not
                given.
            score: how well liked the clip should be; 0 asks for nothing special.
            guidance: how closely to follow the words; 1 switches it off.
            num_steps: solver steps; more are slower and a little cleaner.
            negative_prompt: what the music should move away from.
            separation_passes: how often voices are taken out of the finished clip; the preset's
                number if not given, and 0 is all that a preset without a separator accepts.
            normalise_loudness: bring the clip to the loudness target.
            target_lufs: loudness target in LUFS; the preset's if not given.
        """
        with translated():
            request = self.studio.request(
                prompt, seed=seed, stage=stage, score=score, guidance=guidance,
                num_steps=num_steps, negative_prompt=negative_prompt,
                separation_passes=separation_passes, normalise_loudness=normalise_loudness,
                target_lufs=target_lufs,
            )  # fmt: skip
            (made,) = self._made([Task(request)])
            return self._file(made.generation), facts(made.generation)

    def compare(
        self,
        prompt: str,
        seed: int | None = None,
        score: float | None = None,
        guidance: float | None = None,
        num_steps: int | None = None,
    ) -> tuple[list[gr.FileData], list[dict[str, Any]]]:
        """Make one clip with every available stage of the training chain, from the same start.

        Args:
            prompt: what the music should be: style, mood, instruments, tempo.
            seed: decides the random start; drawn at random if not given, the same for all stages.
            score: how well liked the clips should be, for stages that take a score.
            guidance: how closely to follow the words; 1 switches it off.
            num_steps: solver steps; more are slower and a little cleaner.
        """
        with translated():
            settings = {"score": score, "guidance": guidance, "num_steps": num_steps}
            stages = [stage.name for stage in self.studio.stages() if stage.available]
            tasks: list[Task] = []
            for stage in stages:
                request = self.studio.request(prompt, seed=seed, stage=stage, **settings)
                seed = request.seed
                tasks.append(Task(request))
            made = [one.generation for one in self._made(tasks)]
            return [self._file(one) for one in made], [facts(one) for one in made]

    def score(self, files: list[gr.FileData], text: str = "") -> list[dict[str, Any]]:
        """Say how much listeners would like music files: a learned reward, higher is better.

        Only differences between rewards mean something. The files are deleted when they are scored.

        Args:
            files: audio or videos.
            text: what the music was asked to be; empty if there was no such text.
        """
        with translated():
            self.studio.check_scoring()
            paths = [self._upload(file) for file in files]
            try:
                entries = entries_of_uploads(paths, text)
                results = self.studio.score_files(entries, untrusted=True)
                return [without_paths(result).to_dict() for result in results]
            finally:
                self.folder.forget(map(Path, paths))

    def _made(self, tasks: list[Task]) -> list[Made]:
        """What became of the tasks, all of which must succeed."""
        events = takewhile(Run(tasks).goes_on, self.studio.series(tasks))
        made = [event for event in events if isinstance(event, Made)]
        for one in made:
            if one.error:
                raise InvalidRequest(one.error)
        return made

    def _file(self, generation: Generation) -> gr.FileData:
        path = self.folder.keep(self.studio, generation).files["wav"]
        return gr.FileData(path=str(path), orig_name=path.name)

    def _upload(self, file: Any) -> str:
        """Path of a file that came as an upload, and of no other."""
        path = Path(file["path"] if isinstance(file, dict) else file.path).resolve()
        if path.parent.parent != self.folder.path:
            raise InvalidRequest("files must be uploaded first; a path on the server is none")
        return str(path)


def facts(generation: Generation) -> dict[str, Any]:
    """Settings, measurements and provenance of a clip, as in its sidecar."""
    return {
        "request": generation.request.to_dict(),
        "measurements": asdict(generation.scores),
        "provenance": generation.provenance,
        "seconds_taken": round(generation.seconds_taken, 2),
    }
