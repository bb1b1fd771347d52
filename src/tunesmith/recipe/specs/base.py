"""What every spec has in common: frozen, strict, and an unknown key is an error."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """A room's settings. Fields carry one sentence with their unit; defaults are written into the lock file."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)
