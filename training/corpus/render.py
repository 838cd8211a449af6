"""Turning a piece into sound: every track is played apart, then a small mixer adds the rest.

Levels are set on the sound of each track itself (`level_db` is what it really has against the
lead), so instruments of any loudness sit well, and stems cost nothing extra. The mixer is linear
up to one gain for the whole piece, so stems add up to the mix. Shapes: a stem or mix is
(2, samples) float32.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

import numpy as np
import scipy.fft
import scipy.signal

from .sampler import Sampler
from .score import Piece, Room, Track

_PEAK = 0.92
_FADE_S = 0.4
_SEND = {"bass": 0.15, "drums": 0.4}
_VIBRATO_FROM_S = 0.45
# How long drums ring, by percussion key, seconds; the rest half a second.
_DRUM_RING_S = {36: 0.7, 38: 0.6, 42: 0.25, 44: 0.3, 46: 0.45, 48: 0.8, 45: 0.8, 41: 0.9, 49: 2.0,
                51: 1.1, 56: 0.4}  # fmt: skip
# Fade-out after a note by instrument or, failing that, by role, seconds.
_RELEASE_S = {"lead": 0.25, "counter": 0.3, "chords": 0.15, "pad": 0.9, "colour": 0.4, "bass": 0.1,
              "drums": 0.15, "vibraphone": 0.7, "marimba": 0.4, "flute": 0.15, "trumpet": 0.15,
              "organ": 0.08, "accordion": 0.1, "synth lead": 0.12, "clavinet": 0.05,
              "tremolo strings": 0.2, "harp": 0.9, "crystal": 0.9, "timpani": 1.0}  # fmt: skip


class Renderer:
    """Renders pieces with one sound font, loaded once.

    Not for sharing between threads; every process makes its own.
    """

    def __init__(self, sound_font: Path | None = None, sample_rate: int = 44100) -> None:
        """Loads the sound font.

        Args:
            sound_font: path of a General MIDI .sf2 file; None searches (`find_sound_font`).
            sample_rate: hertz, 8000..96000.

        Raises:
            MissingSoundFont: if the font or FluidSynth is missing or unreadable.
            ValueError: if the sample rate is out of range.
        """
        if not 8000 <= sample_rate <= 96000:
            raise ValueError(f"sample_rate is {sample_rate}; use 8000..96000")
        self.sample_rate = sample_rate
        self._sampler = Sampler(sound_font, sample_rate)

    def close(self) -> None:
        """Frees the synthesiser."""
        self._sampler.close()

    def render(self, piece: Piece, tracks: Collection[str] | None = None) -> np.ndarray:
        """Renders a piece, or some of its tracks as they sound in the whole mix.

        Args:
            piece: what to play.
            tracks: names or roles to keep; None keeps all.

        Returns:
            (2, samples) float32 with `round(seconds * sample_rate)` samples, peak below 1.

        Raises:
            ValueError: if `tracks` names nothing in the piece.
        """
        keep = [tracks is None or t.name in tracks or t.role in tracks for t in piece.tracks]
        if not any(keep):
            have = [t.name for t in piece.tracks]
            raise ValueError(f"no track of {sorted(tracks or ())} in this piece; it has {have}")
        stems = self.stems(piece)
        mix = _space(stems, piece, piece.room, self.sample_rate)
        gain = _master_gain(mix, piece.room)
        if not all(keep):
            chosen = [s if k else None for s, k in zip(stems, keep, strict=True)]
            mix = _space(chosen, piece, piece.room, self.sample_rate)
        mix *= gain
        fade = round(_FADE_S * self.sample_rate)
        mix[:, -fade:] *= np.linspace(1.0, 0.0, fade, dtype=np.float32) ** 2
        return mix

    def stems(self, piece: Piece) -> list[np.ndarray]:
        """Plays every track apart and sets its level, pan, echo and pumping.

        Args:
            piece: what to play.

        Returns:
            One (2, samples) float32 array per track, before room and mastering.
        """
        rate = self.sample_rate
        return [_treat(_mix_notes(self._sampler, piece, track, rate), track, piece, rate)
                for track in piece.tracks]  # fmt: skip


def _mix_notes(sampler: Sampler, piece: Piece, track: Track, rate: int) -> np.ndarray:
    """Plays a track's notes into (samples,) float32."""
    out = np.zeros(round(piece.seconds * rate), dtype=np.float32)
    tail = _release_curve(track, rate)
    vibrato = round(track.vibrato, 1)
    for note in track.notes:
        first = round(piece.seconds_at(note.start) * rate)
        length = max(1, round((piece.seconds_at(note.end) - piece.seconds_at(note.start)) * rate))
        if track.is_drum:
            length = round(_DRUM_RING_S.get(note.pitch, 0.5) * rate)
        whole = length + tail.shape[0]
        deep = vibrato if length > _VIBRATO_FROM_S * rate else 0.0
        sound, gain = sampler.held(
            track.program, note.pitch, note.velocity, whole / rate, track.is_drum, deep
        )
        last = min(first + length, out.shape[0])
        out[first:last] += np.float32(gain) * sound[: last - first]
        end = min(last + tail.shape[0], out.shape[0])
        if end > last:
            ringing = sound[length : length + end - last]
            out[last : last + ringing.shape[0]] += gain * tail[: ringing.shape[0]] * ringing
    return out


def _release_curve(track: Track, rate: int) -> np.ndarray:
    """Fade-out (samples,) after the end of a note."""
    seconds = _RELEASE_S.get(track.name, _RELEASE_S[track.role])
    time = np.arange(round(seconds * rate), dtype=np.float32) / (seconds * rate)
    return np.exp(-5.0 * time) * (1.0 - time)


def _treat(raw: np.ndarray, track: Track, piece: Piece, rate: int) -> np.ndarray:
    """Sets level, pan, echo and pumping of one track: (samples,) in, (2, samples) out."""
    loud = gated_rms(raw, rate)
    level = 10.0 ** (track.level_db / 20.0) / loud if loud > 1e-6 else 0.0
    angle = (track.pan + 1.0) * np.pi / 4
    sides = np.array([[np.cos(angle)], [np.sin(angle)]]) * np.sqrt(2.0) * level
    out = raw[None] * sides.astype(np.float32)
    if track.pump:
        out *= _pump_curve(track.pump, piece, out.shape[1], rate)
    if track.echo:
        out = _echo(out, track.echo, round(0.75 * 60.0 / piece.tags.tempo_bpm * rate))
    return out


def gated_rms(audio: np.ndarray, rate: int) -> float:
    """Root mean square of (samples,), leaving out tenths of a second 30 dB below the loudest."""
    size = rate // 10
    mono = audio[: audio.shape[0] // size * size]
    power = np.square(mono).reshape(-1, size).mean(axis=1)
    top = float(power.max(initial=0.0))
    return float(np.sqrt(power[power > top * 1e-3].mean())) if top > 0 else 0.0


def _pump_curve(depth: float, piece: Piece, samples: int, rate: int) -> np.ndarray:
    beat = 60.0 / piece.tags.tempo_bpm
    since = np.arange(samples, dtype=np.float32) / rate % beat
    return (1.0 - depth * np.exp(-since / (0.22 * beat))).astype(np.float32)


def _echo(audio: np.ndarray, level: float, delay: int) -> np.ndarray:
    out = audio.copy()
    for tap in (1, 2, 3):
        shifted = audio[:: -1 if tap % 2 else 1, : -delay * tap]  # repeats change sides
        out[:, delay * tap :] += level**tap * shifted
    return out


def _space(
    stems: list[np.ndarray] | list[np.ndarray | None], piece: Piece, room: Room, rate: int
) -> np.ndarray:
    """Sums stems (None: silent), adds the room and the roll-off."""
    first = next(stem for stem in stems if stem is not None)
    dry, send = np.zeros_like(first), np.zeros(first.shape[1], dtype=np.float32)
    for stem, track in zip(stems, piece.tracks, strict=True):
        if stem is not None:
            dry += stem
            send += _SEND.get(track.role, 1.0) * 0.5 * (stem[0] + stem[1])
    if room.wet > 0:
        dry += room.wet * _reverb(send, room.reverb_s, rate)
    if room.lowpass_hz:
        pole = float(np.exp(-2 * np.pi * room.lowpass_hz / rate))
        taps = np.array([1.0 - pole], np.float32), np.array([1.0, -pole], np.float32)
        dry = scipy.signal.lfilter(*taps, dry, axis=1).astype(np.float32)
    return dry


def _reverb(send: np.ndarray, seconds: float, rate: int) -> np.ndarray:
    """Convolves a mono send (samples,) with a stereo room, giving (2, samples)."""
    spectrum, size = _room_spectrum(seconds, rate, send.shape[0])
    wet = scipy.fft.irfft(scipy.fft.rfft(send, size)[None] * spectrum, size, axis=1)
    return wet[:, : send.shape[0]].astype(np.float32, copy=False)


@lru_cache(maxsize=16)
def _room_spectrum(seconds: float, rate: int, samples: int) -> tuple[np.ndarray, int]:
    """Spectrum (2, bins) of a decaying-noise room of unit energy, and the transform's length."""
    length = round(seconds * rate)
    noise = np.random.default_rng(7).standard_normal((2, length)).astype(np.float32)
    time = np.arange(length, dtype=np.float32) / rate
    tail = noise * np.exp(-6.9 * time / seconds)
    bright = scipy.signal.lfilter([0.35], [1.0, -0.65], tail, axis=1)
    delay = np.zeros((2, round(0.012 * rate)))
    response = np.concatenate([delay, bright], axis=1)
    response /= np.sqrt(np.square(response).sum(axis=1, keepdims=True))
    size = scipy.fft.next_fast_len(samples + response.shape[1], real=True)
    return scipy.fft.rfft(response.astype(np.float32), size, axis=1), size


def _master_gain(mix: np.ndarray, room: Room) -> float:
    rms = float(np.sqrt(np.mean(np.square(mix))))
    peak = float(np.abs(mix).max())
    if rms <= 0:
        return 0.0
    return min(10.0 ** (room.rms_db / 20.0) / rms, _PEAK / peak)
