"""Whether the end of an audio file is missing, by what the file says of itself.

Decoders give what is there and say nothing of the rest, so that a download which broke off would
pass for a shorter clip. Nothing is decoded here. A cut FLAC file needs no help: its decoder fails.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

UNKNOWN_LENGTH = 0x7FFF0000  # and more is written by programs that do not know it beforehand
MAX_CHUNKS = 256  # before the samples; a file of empty chunks must not take long
XING_WITHIN = 256  # bytes of the first MP3 frame
XING_TOLERANCE = 0.99  # encoders count their own header or do not
SYNCSAFE = (21, 14, 7, 0)  # shifts of the four bytes of an ID3 size, seven bits each
LONGEST_OGG_PAGE = 65_307


def is_cut_off(path: Path) -> bool:
    """Whether a WAV, AIFF, MP3 or Ogg file is shorter than it says.

    False where it says nothing, as streams do, and for every other format.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(12)
        if start[:4] == b"RIFF":
            return _lacks_samples(file, "<I", b"data", size)
        if start[:4] == b"FORM":
            return _lacks_samples(file, ">I", b"SSND", size)
        if start[:4] == b"OggS":
            return _lacks_page_end(file, size)
        return _lacks_frames(file, start, size)


def _lacks_samples(file: BinaryIO, length: str, samples: bytes, size: int) -> bool:
    """Whether the chunk of samples ends beyond a file that was read up to its first chunk."""
    for _ in range(MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            break
        (claimed,) = struct.unpack(length, head[4:])
        if head[:4] == samples:
            return claimed < UNKNOWN_LENGTH and file.tell() + claimed > size
        file.seek(claimed + claimed % 2, 1)
    return False


def _lacks_page_end(file: BinaryIO, size: int) -> bool:
    """Whether the last page of an Ogg file ends beyond it."""
    file.seek(max(0, size - LONGEST_OGG_PAGE))
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return True
    return len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])


def _lacks_frames(file: BinaryIO, start: bytes, size: int) -> bool:
    """Whether an MP3 file is shorter than the Xing header of its first frame says."""
    first = 0
    if start[:3] == b"ID3":
        sizes = zip(start[6:10], SYNCSAFE, strict=False)
        first = 10 + sum((byte & 127) << shift for byte, shift in sizes)
    file.seek(first)
    frame = file.read(XING_WITHIN)
    tag = max(frame.find(b"Xing"), frame.find(b"Info"))
    fields = frame[tag + 4 : tag + 16]
    if tag < 0 or len(fields) < 12 or not fields[3] & 2:
        return False
    place = 8 if fields[3] & 1 else 4  # behind the number of frames, where that is there
    (claimed,) = struct.unpack(">I", fields[place : place + 4])
    return first + XING_TOLERANCE * claimed > size
