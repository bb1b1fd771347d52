"""How the model answers over HTTP."""

from __future__ import annotations

from pydantic import Field

from tunesmith.recipe.specs.base import Spec


class ServeSpec(Spec):
    """Address and limits of the server."""

    host: str = Field("127.0.0.1", description="Address to listen on; any other than loopback needs a stated key.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    max_batch: int = Field(16, ge=1, le=512, description="Requests answered together.")
    max_queue: int = Field(64, ge=1, le=65_536, description="Requests that may wait; more get 429 with a retry time.")
    max_new_tokens: int = Field(512, ge=1, le=2**24, description="Longest answer a request may ask for, in tokens.")
    max_body_mb: int = Field(4, ge=1, le=64, description="Largest request body in MiB; a larger one gets 413.")
    request_seconds: int = Field(
        30,
        ge=1,
        le=3600,
        description="Seconds for a request's head to arrive, and again for its body; a slower one gets 408.",
    )
