"""What a request may say. Types are strict, and a field that would be ignored is refused instead.

Names and meanings are those of OpenAI's chat completions API.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tunesmith.core.types import Message, ToolCall
from tunesmith.serve.api_errors import RequestError

_MOST_MESSAGES = 1000
_MOST_TOOLS = 128
MOST_CHOICES = 16
MOST_STOPS = 8
MOST_TOP_LOGPROBS = 20


class _Misfit(ValueError):
    """Fields that are right each for itself, but not together; `field` names the one to mend."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class TextPart(_Strict):
    """A piece of a message; only text is understood."""

    type: Literal["text"]
    text: str


class FunctionCall(_Strict):
    """Name and JSON arguments of a call."""

    name: str = Field(min_length=1)
    arguments: str


class CallTurn(_Strict):
    """A call that the assistant made earlier in the conversation."""

    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionCall


class Turn(_Strict):
    """One message. `developer` is read as `system`."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str = ""
    tool_calls: list[CallTurn] | None = None
    tool_call_id: str = ""
    refusal: None = None
    audio: None = None
    annotations: list[object] | None = None
    function_call: None = None

    @model_validator(mode="after")
    def _has_content(self) -> Self:
        if self.content is None and not self.tool_calls:
            raise _Misfit("content", "content is missing")
        if self.tool_calls and self.role != "assistant":
            raise _Misfit("tool_calls", "only the assistant calls tools")
        return self

    def message(self) -> Message:
        """The message in the form that the chat template takes."""
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        calls = tuple(ToolCall(call.function.name, call.function.arguments, call.id) for call in self.tool_calls or ())
        role = "system" if self.role == "developer" else self.role
        return Message(role, text, tool_calls=calls, name=self.name, tool_call_id=self.tool_call_id)


class Function(_Strict):
    """A function that may be called."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str = ""
    parameters: dict[str, object] = Field(default_factory=dict)
    strict: bool | None = None


class Tool(_Strict):
    """A tool; only functions are understood."""

    type: Literal["function"]
    function: Function


class NamedFunction(_Strict):
    """The name of the function that must be called."""

    name: str


class NamedTool(_Strict):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(_Strict):
    """A named JSON schema; the answer always keeps to it, whatever `strict` says."""

    name: str = "answer"
    description: str = ""
    schema_: dict[str, object] = Field(alias="schema")
    strict: bool | None = None


class TextFormat(_Strict):
    """Free text."""

    type: Literal["text"]


class ObjectFormat(_Strict):
    """Any JSON object."""

    type: Literal["json_object"]


class SchemaFormat(_Strict):
    """JSON that keeps to a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class StreamOptions(_Strict):
    """Whether the last piece of a stream counts the tokens."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(_Strict):
    """The body of POST /v1/chat/completions."""

    model: str
    messages: list[Turn] = Field(min_length=1, max_length=_MOST_MESSAGES)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_TOP_LOGPROBS)
    tools: list[Tool] | None = Field(None, max_length=_MOST_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    response_format: Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")] | None = None
    # What changes no answer is taken and left alone ...
    user: str | None = Field(None, max_length=1000)
    store: bool | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    parallel_tool_calls: bool | None = None
    # ... and what would change it, but is not built, is taken only where it asks for nothing.
    frequency_penalty: Literal[0] | Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Literal[0] | Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        stops = self.stops()
        if len(stops) > MOST_STOPS or not all(0 < len(stop) <= 200 for stop in stops):
            raise _Misfit("stop", f"stop takes at most {MOST_STOPS} texts of 1 to 200 characters")
        if self.top_logprobs is not None and not self.logprobs:
            raise _Misfit("top_logprobs", "top_logprobs needs logprobs to be true")
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise _Misfit("tool_choice", "tool_choice needs tools")
        return self

    def stops(self) -> tuple[str, ...]:
        """The stop texts."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class FeedbackRequest(_Strict):
    """The body of POST /v1/feedback."""

    model: str = Field(min_length=1, max_length=200)
    kind: Literal["like", "dislike", "correction", "choice", "comment"]
    messages: list[Turn] = Field(min_length=1, max_length=_MOST_MESSAGES)
    answer: str
    corrected: str = ""
    rejected: str = ""
    comment: str = Field("", max_length=20_000)
    consent: bool = False
    user: str = Field("", max_length=1000)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        needed = {"correction": self.corrected, "choice": self.rejected, "comment": self.comment}
        field = {"correction": "corrected", "choice": "rejected", "comment": "comment"}.get(self.kind)
        if field is not None and not needed[self.kind].strip():
            raise _Misfit(field, f"feedback of kind {self.kind} needs {field}")
        return self


def parse_chat(body: bytes) -> ChatRequest:
    """Read a chat request. Errors: serve.bad_request with the place and the reason."""
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise _bad_request(error) from error


def parse_feedback(body: bytes) -> FeedbackRequest:
    """Read feedback. Errors: serve.bad_request with the place and the reason."""
    try:
        return FeedbackRequest.model_validate_json(body)
    except ValidationError as error:
        raise _bad_request(error) from error


def _bad_request(error: ValidationError) -> RequestError:
    first = error.errors(include_url=False, include_input=False)[0]
    misfit = first.get("ctx", {}).get("error")
    parts = [*first["loc"], *([misfit.field] if isinstance(misfit, _Misfit) else [])]
    place = ".".join(str(part) or '""' for part in parts)[:200] or "body"
    return RequestError("serve.bad_request", param=place, place=place, reason=str(first["msg"])[:300])
