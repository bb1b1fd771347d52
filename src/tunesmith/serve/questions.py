"""From a chat request to what the engine needs: token ids, settings, constraint; and what must be refused before."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from tunesmith.core.errors import TunesmithError
from tunesmith.core.seed import derive_seed
from tunesmith.models.load import Loaded
from tunesmith.models.sampling import GenerateSettings
from tunesmith.serve.api_errors import RequestError
from tunesmith.serve.constrain import ConstraintMaker, JsonConstraint
from tunesmith.serve.requests import ChatRequest, NamedTool, ObjectFormat, SchemaFormat, Tool
from tunesmith.tasks.chat_template import ChatTemplate


@dataclass(frozen=True)
class Question:
    """A request, ready for the engine: one prompt, and settings and constraint of each choice."""

    prompt: tuple[int, ...]
    settings: tuple[GenerateSettings, ...]
    constraints: tuple[JsonConstraint | None, ...]
    tool_names: frozenset[str]


class QuestionReader:
    """Turns requests into questions for one served model. Safe under threads.

    Args:
        name: what the model is called in requests.
        context: longest prompt and answer together, in tokens.
        max_new_tokens: longest answer that may be asked for.
    """

    def __init__(self, loaded: Loaded, name: str, *, context: int, max_new_tokens: int) -> None:
        self._tokenizer: PreTrainedTokenizerFast = loaded.tokenizer
        self._template = ChatTemplate(loaded.tokenizer)
        self._name = name
        self._context = context
        self._max_new_tokens = max_new_tokens
        self._end_token_ids = loaded.end_token_ids
        self._longest_token = max(len(token) for token in loaded.tokenizer.get_vocab())
        vocabulary = int(loaded.model.get_output_embeddings().weight.shape[0])
        self._constraints = ConstraintMaker(loaded.tokenizer, vocabulary, self._end_token_ids)

    def read(self, request: ChatRequest) -> Question:
        """Render, count and check.

        Errors: serve.unknown_model, serve.template_refused, serve.empty_prompt, serve.context_too_long,
            serve.answer_too_long, serve.bad_schema, serve.schema_too_large, serve.bad_request.
        """
        if request.model != self._name:
            raise RequestError("serve.unknown_model", "model", model=request.model[:200], served=self._name)
        tools = self._offered_tools(request)
        prompt = self._prompt(request, tools)
        room = self._room(request, len(prompt))
        make = self._constraint(request, tools)
        seed = request.seed if request.seed is not None else secrets.randbits(62)
        choices = range(request.n or 1)
        settings = tuple(
            GenerateSettings(
                max_new_tokens=room,
                temperature=request.temperature or 0.0,
                top_p=1.0 if request.top_p is None else request.top_p,
                seed=derive_seed(seed, "choice", choice),
                stop=request.stops(),
                end_token_ids=self._end_token_ids,
                logprobs=(request.top_logprobs or 0) if request.logprobs else None,
            )
            for choice in choices
        )
        names = frozenset(tool.function.name for tool in tools)
        return Question(prompt, settings, tuple(make() for _ in choices), names)

    def _offered_tools(self, request: ChatRequest) -> list[Tool]:
        tools = list(request.tools or ()) if request.tool_choice != "none" else []
        if isinstance(request.tool_choice, NamedTool):
            wanted = request.tool_choice.function.name
            if wanted not in {tool.function.name for tool in tools}:
                raise RequestError(
                    "serve.bad_request", "tool_choice", place="tool_choice", reason=f"no tool is named {wanted[:64]!r}"
                )
        return tools

    def _prompt(self, request: ChatRequest, tools: Sequence[Tool]) -> tuple[int, ...]:
        described = json.dumps(
            [
                {"type": "function", "function": tool.function.model_dump(exclude={"strict"}, exclude_defaults=True)}
                for tool in tools
            ],
            ensure_ascii=False,
        )
        messages = [turn.message() for turn in request.messages]
        try:
            text = self._template.render(messages, described if tools else "", ask=True)
        except TunesmithError as error:
            reason = str(error.facts.get("reason", error.code))[:300]
            raise RequestError("serve.template_refused", "messages", reason=reason) from error
        self._room(request, len(text) // self._longest_token)  # megabytes are refused before they are cut into tokens
        encoded = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        prompt = tuple(int(token_id) for token_id in encoded)
        if not prompt or not any(message.content.strip() or message.tool_calls for message in messages):
            raise RequestError("serve.empty_prompt", "messages")
        return prompt

    def _room(self, request: ChatRequest, prompt_tokens: int) -> int:
        """Tokens that the answer may have beside so many of the prompt, or more."""
        stated = request.max_completion_tokens or request.max_tokens
        if stated is not None and stated > self._max_new_tokens:
            raise RequestError("serve.answer_too_long", "max_tokens", asked=stated, most=self._max_new_tokens)
        room = self._context - prompt_tokens
        if room < (stated or 1):
            raise RequestError(
                "serve.context_too_long", "messages", prompt=prompt_tokens, answer=stated or 1, context=self._context
            )
        return stated or min(room, self._max_new_tokens)

    def _constraint(self, request: ChatRequest, tools: Sequence[Tool]) -> Callable[[], JsonConstraint | None]:
        choice = request.tool_choice
        if isinstance(choice, NamedTool) or choice == "required":
            wanted = {tool.function.name: tool.function.parameters for tool in tools}
            if isinstance(choice, NamedTool):
                wanted = {choice.function.name: wanted[choice.function.name]}
            return lambda: self._constraints.tool_call(wanted)
        if isinstance(request.response_format, ObjectFormat):
            return self._constraints.any_object
        if isinstance(request.response_format, SchemaFormat):
            schema = request.response_format.json_schema.schema_
            return lambda: self._constraints.schema(schema)
        return lambda: None
