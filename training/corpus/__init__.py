"""A synthetic corpus of captioned instrumental music, composed and rendered by this package."""

from .build import CorpusRecipe, PieceRecord, build_corpus, compose_index, load_index
from .captions import describe, describe_many, endless_captions
from .composer import compose
from .render import Renderer
from .sampler import MissingSoundFont, find_sound_font
from .score import Note, Piece, Room, Tags, Track, lead_coverage
from .tags import sample_tags

__all__ = [
    "CorpusRecipe",
    "MissingSoundFont",
    "Note",
    "Piece",
    "PieceRecord",
    "Renderer",
    "Room",
    "Tags",
    "Track",
    "build_corpus",
    "compose",
    "compose_index",
    "describe",
    "describe_many",
    "endless_captions",
    "find_sound_font",
    "lead_coverage",
    "load_index",
    "sample_tags",
]
