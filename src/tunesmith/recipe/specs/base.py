"""What every spec has in common: frozen, strict, and an unknown key is an error."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

MOST = 1_000_000_000
"""More rows, steps or tokens than anybody counts: every number of a recipe has an upper end, so that a slip of the
finger is refused with its place and does not end in an overflow somewhere below."""
LARGEST_SEED = 2**63 - 1


class Spec(BaseModel):
    """A room's settings. Fields carry one sentence with their unit; defaults are written into the lock file."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    unstated: ClassVar[frozenset[str]] = frozenset()
    """Settings of few recipes, which the lock file leaves out while they are none."""
