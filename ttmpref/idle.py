"""Parts of which one is in memory at a time, for machines that cannot hold a whole preset.

A `Guest` stands for a part: it is built when something is asked of it, and let go of when another
guest of the same room is asked. What is small (score heads, encoded texts) is no guest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Room:
    """Where guests take turns."""

    def __init__(self) -> None:
        self._inside: Guest | None = None
        self._part: Any = None

    def admit(self, guest: Guest, build: Callable[[], Any]) -> Any:
        """The guest's part; whoever was inside has left before it is built."""
        if self._inside is not guest:
            self._inside = self._part = None
            self._part = build()
            self._inside = guest
        return self._part


class Guest:
    """Has every attribute of the part that `build` makes."""

    def __init__(self, room: Room, build: Callable[[], Any]) -> None:
        self._room, self._build = room, build

    def __getattr__(self, name: str) -> Any:
        return getattr(self._room.admit(self, self._build), name)
