"""Which files are pictures and sounds, and which layouts tell of them."""

from __future__ import annotations

from typing import get_args

from tunesmith.core.types import MediaKind

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
SOUNDS = frozenset({".wav", ".flac", ".ogg", ".mp3"})
MEDIA_KINDS: tuple[MediaKind, ...] = get_args(MediaKind)
MEDIA_LAYOUTS = ("image_folder", "audio_folder", "coco", "voc")
TABLES = ("metadata.csv", "metadata.jsonl", "labels.csv")
"""What a table in a folder is called that says more of its files than the names of their folders do."""
FILES = ("file_name", "file", "path", "image", "audio")
"""Columns of such a table that name a file."""
BOXES = ("objects", "boxes", "bboxes", "bbox")
"""Columns of a table with the boxes in a picture."""
TRANSCRIPTS = ("transcription", "transcript", "sentence", "text")
"""Columns of such a table with what is said in a sound."""


def suffixes_of(kind: str) -> frozenset[str]:
    """What names of the files of a kind of rows end in."""
    return SOUNDS if kind.startswith("audio") else IMAGES
