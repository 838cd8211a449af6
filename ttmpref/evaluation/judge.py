"""Concept coverage: an audio-language model is asked which concepts of a caption a clip holds.

The challenge's third metric (concept coverage score) as a seam: off unless a judge is given, any
object with `identity` and `coverage` will do. `HttpJudge` asks a server that speaks the widespread
chat-completions protocol with audio input. What the model says is an opinion; share and number of
usable answers are reported together.
"""

from __future__ import annotations

import base64
import http.client
import json
import logging
import math
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any, Protocol

from ttmpref.audio import encode_clip
from ttmpref.types import Clip, InvalidRequest, TtmprefError

logger = logging.getLogger(__name__)

KEY_VARIABLE = "TTMPREF_JUDGE_KEY"
QUESTION = """\
Listen to the music. Here is what was asked for:
{caption}
List the musical concepts that the text names (instruments, genre, mood, tempo, texture) and say
of each whether it is audible. Answer with JSON alone:
{{"concepts": {{"<concept>": true or false}}}}"""


class Judge(Protocol):
    """Says how much of a caption is in a clip.

    Attributes:
        identity: JSON-ready; judges with the same one give the same answers.
    """

    identity: dict[str, Any]

    def coverage(self, clip: Clip, caption: str) -> float:
        """Share of the caption's concepts heard, 0 to 1; NaN where there is no usable answer."""
        ...


@dataclass(frozen=True)
class HttpJudge:
    """A model behind `<url>/chat/completions`; TTMPREF_JUDGE_KEY holds the key, where it needs one.

    Attributes:
        url: beginning with http:// or https://, up to the version: `http://localhost:8000/v1`.
        model: name of the model there.
        seconds: an answer that takes longer is an error.
    """

    url: str
    model: str
    seconds: float = 120.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise InvalidRequest(f"judge is {self.url!r}; it must begin with http:// or https://")

    @property
    def identity(self) -> dict[str, Any]:
        return {"url": self.url, "model": self.model, "question": QUESTION}

    def coverage(self, clip: Clip, caption: str) -> float:
        """See `Judge`.

        Raises:
            TtmprefError: the server cannot be reached or refuses.
        """
        audio = base64.b64encode(encode_clip(clip, ".wav")).decode()
        content = [
            {"type": "text", "text": QUESTION.format(caption=caption)},
            {"type": "input_audio", "input_audio": {"data": audio, "format": "wav"}},
        ]
        asked = {
            "model": self.model,
            "temperature": 0,
            "messages": [{"role": "user", "content": content}],
        }
        return share_heard(self._ask(asked))

    def _ask(self, asked: dict[str, Any]) -> str:
        """The model's words."""
        headers = {"Content-Type": "application/json"}
        if os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {os.environ[KEY_VARIABLE]}"
        address = f"{self.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, json.dumps(asked).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=self.seconds) as answer:
                said = json.load(answer)
            return str(said["choices"][0]["message"]["content"])
        except urllib.error.HTTPError as error:
            raise TtmprefError(f"judge {address}: HTTP {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise TtmprefError(f"judge {address} cannot be asked ({reason})") from None
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise TtmprefError(f"judge {address}: not a chat completion ({error!r})") from None


def share_heard(words: str) -> float:
    """The share of true concepts in a model's answer; NaN, and a warning, for anything else."""
    inside = words[words.find("{") : words.rfind("}") + 1]
    try:
        verdicts = list(json.loads(inside)["concepts"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        verdicts = []
    if not verdicts or not all(isinstance(verdict, bool) for verdict in verdicts):
        logger.warning("no usable answer of the judge: %.200r", words)
        return math.nan
    return sum(verdicts) / len(verdicts)
