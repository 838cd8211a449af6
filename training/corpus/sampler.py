"""Single notes of the sound font, played by FluidSynth once and kept.

Every note of the corpus is a held note with a release of our own, so the same few thousand held
notes serve all pieces. That is many times faster than letting the synthesiser play whole pieces,
and a note's sound cannot depend on what was played before it.
"""

from __future__ import annotations

import ctypes
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np

SOUND_FONT_VARIABLE = "TTMPREF_SOUNDFONT"
_USUAL_SOUND_FONTS = (
    Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"),
    Path("/usr/share/soundfonts/FluidR3_GM.sf2"),
)
_HINT = "apt-get install fluid-soundfont-gm libfluidsynth3 && pip install pyfluidsynth"
_PERCUSSION_BANK = 128
_BLOCK = 64  # FluidSynth's own buffer; whole blocks leave nothing over for the next note
_LENGTHS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
_VELOCITIES = (36, 56, 76, 96, 118)
_CACHE_BYTES = 1_500_000_000
_VIBRATO_AFTER_S = 0.22


class MissingSoundFont(RuntimeError):
    """The sound font or the FluidSynth library is not installed."""


def find_sound_font(path: Path | None = None) -> Path:
    """Finds the General MIDI sound font.

    Args:
        path: a sound font to use; None looks at the variable TTMPREF_SOUNDFONT, then in the
            usual places.

    Returns:
        Path of an existing file.

    Raises:
        MissingSoundFont: if there is none; the message says how to install it.
    """
    named = path or os.environ.get(SOUND_FONT_VARIABLE)
    places = (Path(named),) if named else _USUAL_SOUND_FONTS
    for place in places:
        if place.is_file():
            return place
    looked = ", ".join(str(place) for place in places)
    raise MissingSoundFont(f"no sound font at {looked}; install it with: {_HINT}")


class Sampler:
    """Held notes of one sound font. Not for sharing between threads."""

    def __init__(self, sound_font: Path | None, sample_rate: int) -> None:
        """Loads the sound font.

        Args:
            sound_font: path of a General MIDI .sf2 file; None searches (`find_sound_font`).
            sample_rate: hertz.

        Raises:
            MissingSoundFont: if the font or FluidSynth is missing or unreadable.
        """
        path = find_sound_font(sound_font)
        library = _load_library()
        self._rate = sample_rate
        self._write = _bind_write(library)
        self._synth = library.Synth(
            gain=0.5, samplerate=sample_rate, channels=16,
            **{"synth.reverb.active": 0, "synth.chorus.active": 0, "synth.threadsafe-api": 0},
        )  # fmt: skip
        self._font = self._synth.sfload(str(path))
        if self._font < 0:
            raise MissingSoundFont(f"{path} is not a readable sound font; reinstall: {_HINT}")
        self._notes: OrderedDict[tuple[int, ...], np.ndarray] = OrderedDict()
        self._bytes = 0

    def close(self) -> None:
        """Frees the synthesiser and the notes."""
        self._notes.clear()
        self._synth.delete()

    def held(
        self, program: int, pitch: int, velocity: int, seconds: float, drum: bool, vibrato: float
    ) -> tuple[np.ndarray, float]:
        """Returns a held note.

        Args:
            program: General MIDI program, or kit number for drums.
            pitch: MIDI pitch or percussion key.
            velocity: 1..127.
            seconds: how long it must at least last.
            drum: True for percussion.
            vibrato: 0..1 depth, setting in shortly after the start.

        Returns:
            (samples,) float32, mono, and the gain that makes up for the velocity steps.
        """
        step = min(_VELOCITIES, key=lambda v: abs(v - velocity))
        length = next((s for s in _LENGTHS_S if s >= seconds), _LENGTHS_S[-1])
        depth = round(vibrato * 80)
        key = (program, pitch, step, drum, depth)
        sound = self._notes.get(key)
        wanted = round(length * self._rate)
        if sound is None or sound.shape[0] < wanted:
            sound = self._play(key, wanted)
            self._keep(key, sound)
        else:
            self._notes.move_to_end(key)
        return sound, (velocity / step) ** 2

    def _keep(self, key: tuple[int, ...], sound: np.ndarray) -> None:
        old = self._notes.pop(key, None)
        self._bytes += sound.nbytes - (old.nbytes if old is not None else 0)
        self._notes[key] = sound
        while self._bytes > _CACHE_BYTES and len(self._notes) > 1:
            _, dropped = self._notes.popitem(last=False)
            self._bytes -= dropped.nbytes

    def _play(self, key: tuple[int, ...], samples: int) -> np.ndarray:
        program, pitch, velocity, drum, vibrato = key
        self._settle()
        synth = self._synth
        synth.program_select(0, self._font, _PERCUSSION_BANK if drum else 0, program)
        synth.cc(0, 1, 0)
        synth.noteon(0, pitch, velocity)
        parts = [self._pull(round(_VIBRATO_AFTER_S * self._rate))]
        synth.cc(0, 1, vibrato)
        parts.append(self._pull(samples - parts[0].shape[0]))
        synth.all_sounds_off(0)
        self._pull(4 * _BLOCK)  # the killed voices leave the mix here, unheard
        return np.concatenate(parts)[:samples]

    def _settle(self) -> None:
        """Puts the voices into one known state: their filters keep traces of the last note."""
        synth = self._synth
        synth.cc(0, 1, 0)
        synth.program_select(0, self._font, 0, 0)
        for pitch in range(40, 52):
            synth.noteon(0, pitch, 100)
        self._pull(4 * _BLOCK)
        synth.all_sounds_off(0)
        self._pull(4 * _BLOCK)

    def _pull(self, samples: int) -> np.ndarray:
        count = -(-samples // _BLOCK) * _BLOCK
        out = np.zeros((2, count), dtype=np.float32)
        left, right = out[0].ctypes.data, out[1].ctypes.data
        self._write(self._synth.synth, count, left, 0, 1, right, 0, 1)
        return out.mean(axis=0)


def _load_library() -> ModuleType:
    try:
        import fluidsynth
    except (ImportError, OSError) as error:
        raise MissingSoundFont(
            f"FluidSynth cannot be loaded ({error}); install: {_HINT}"
        ) from error
    return fluidsynth


def _bind_write(library: ModuleType) -> Callable[..., int]:
    pointer, number = ctypes.c_void_p, ctypes.c_int
    return library.cfunc(
        "fluid_synth_write_float", number, ("synth", pointer, 1), ("len", number, 1),
        ("left", pointer, 1), ("left_offset", number, 1), ("left_step", number, 1),
        ("right", pointer, 1), ("right_offset", number, 1), ("right_step", number, 1),
    )  # fmt: skip
