"""Tunesmith: fine-tune language models with every step proven, from raw rows to a running service."""

from __future__ import annotations

__version__ = "0.1.0"
