"""Tunesmith: fine-tune language models with every step proven, from raw rows to a running service.

    from tunesmith import prepare
    prepare()                        # threads and memory, before anything heavy is imported
    from tunesmith import lifecycle  # the stages, in order

The public names below load when they are first used, so that `import tunesmith` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunesmith.core.errors import TunesmithError
    from tunesmith.core.process import prepare
    from tunesmith.core.run import Run
    from tunesmith.messages import set_language
    from tunesmith.recipe.load import load_recipe
    from tunesmith.recipe.recipe import Recipe

__version__ = "0.1.0"

_PUBLIC = {
    "Recipe": "tunesmith.recipe.recipe",
    "Run": "tunesmith.core.run",
    "TunesmithError": "tunesmith.core.errors",
    "load_recipe": "tunesmith.recipe.load",
    "prepare": "tunesmith.core.process",
    "set_language": "tunesmith.messages",
}

__all__ = ["Recipe", "Run", "TunesmithError", "__version__", "load_recipe", "prepare", "set_language"]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tunesmith' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
