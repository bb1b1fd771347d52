"""A model that answers elsewhere: a teacher of a stage, or one that writes rows."""

from __future__ import annotations

from pydantic import Field

from tunesmith.recipe.specs.base import Spec


class HostedSpec(Spec):
    """A teacher behind an address that speaks OpenAI's chat completions."""

    base_url: str = Field(
        pattern=r"^https?://\S+$", description="Address up to and with /v1; never followed elsewhere."
    )
    key_variable: str = Field(
        "", pattern=r"^[A-Za-z0-9_]*$", description="Environment variable that holds the key; none sends no key."
    )
    timeout_seconds: float = Field(60.0, gt=0, le=86_400, description="Longest wait for one answer.")
    tries: int = Field(3, ge=1, le=100, description="Attempts at one answer before its row is dropped.")
    concurrency: int = Field(4, ge=1, le=256, description="Prompts asked at the same time.")
