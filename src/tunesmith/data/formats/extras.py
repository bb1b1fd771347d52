"""Libraries that only some formats need: imported when such a file comes, and named where they are missing."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from tunesmith.core.errors import TunesmithError


def needed(module: str, extra: str, what: str) -> ModuleType:
    """The module of an extra of ours. Errors: data.extra_missing."""
    try:
        return import_module(module)
    except ImportError as error:
        raise TunesmithError("data.extra_missing", what=what, module=module, extra=extra) from error
