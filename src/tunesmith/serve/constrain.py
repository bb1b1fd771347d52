"""Answers that keep to a JSON schema, token by token.

llguidance (Rust) turns a schema into a parser and gives the tokens that may come next. Its own limits bound what a
schema may cost; compiled schemas are kept, the least recently used one goes first.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.hf import from_tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tunesmith.serve.api_errors import RequestError

_KEPT_SCHEMAS = 64
_MOST_SCHEMA_CHARACTERS = 32 * 1024  # the costliest that long takes a tenth of a second to compile
_NEVER = float("-inf")
# Unbounded white space lets a small model write blanks until its length is used up.
_WHITESPACE = r"[ \n\t]{0,12}"
# llguidance counts work, not seconds; with these a schema costs well under a second (about 50,000 units a ms).
_LIMITS = LLParserLimits(
    initial_lexer_fuel=2_000_000,
    step_lexer_fuel=500_000,
    step_max_items=50_000,
    max_lexer_states=50_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)


class JsonConstraint:
    """One answer's state within a grammar. `fault` is the reason when the parser gave up."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self.fault = ""

    def restrict(self, logits_V: Tensor) -> None:
        """Leave only the tokens that may come next."""
        allowed_V = np.frombuffer(self._matcher.compute_logit_bias(), dtype=np.uint8) if not self.fault else None
        if allowed_V is None or self._failed():
            return
        known = len(allowed_V)
        logits_V[:known].masked_fill_(torch.from_numpy(allowed_V == 0).to(logits_V.device), _NEVER)
        logits_V[known:] = _NEVER

    def accept(self, token_id: int) -> None:
        """Note the chosen token."""
        if not self.fault:
            self._matcher.consume_token(token_id)
            self._failed()

    @property
    def ended(self) -> bool:
        """Whether the answer is whole, or the parser gave up."""
        return bool(self.fault) or self._matcher.is_stopped()

    def _failed(self) -> bool:
        if self._matcher.is_error():
            self.fault = self._matcher.get_error().splitlines()[0][:200] or "parser error"
        return bool(self.fault)


class ConstraintMaker:
    """Makes constraints for one tokenizer. Safe under threads."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, vocabulary: int, end_token_ids: Sequence[int]) -> None:
        self._tokenizer: LLTokenizer = from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=list(end_token_ids))
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def any_object(self) -> JsonConstraint:
        """Some JSON object."""
        return self.schema({"type": "object"})

    def schema(self, schema: Mapping[str, object]) -> JsonConstraint:
        """JSON that keeps to a schema. Errors: serve.bad_schema, serve.schema_too_large."""
        text = _spelled(schema, "response_format")
        try:
            grammar = LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_pattern": _WHITESPACE})
        except ValueError as error:  # a number that it cannot hold
            raise _refused(str(error), "response_format") from error
        return self._matcher(grammar, "response_format")

    def tool_call(self, functions: Mapping[str, Mapping[str, object]]) -> JsonConstraint:
        """One call of one of these functions (name to schema of its arguments), in the Hermes form.

        Errors: serve.bad_schema, serve.schema_too_large.
        """
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": name}, "arguments": dict(parameters) or {"type": "object"}},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for name, parameters in functions.items()
        ]
        body = _spelled({"anyOf": calls, "x-guidance": {"whitespace_pattern": _WHITESPACE}}, "tools")
        lark = f'start: "<tool_call>\\n" call "\\n</tool_call>"\ncall: %json {body}\n'
        return self._matcher(LLMatcher.grammar_from_lark(lark), "tools")

    def _matcher(self, grammar: str, field: str) -> JsonConstraint:
        with self._lock:
            fresh = self._compiled.get(grammar)
            if fresh is None:
                fresh = LLMatcher(self._tokenizer, grammar, log_level=0, limits=_LIMITS)
                if fresh.is_error():
                    raise _refused(fresh.get_error(), field)
                self._compiled[grammar] = fresh
                if len(self._compiled) > _KEPT_SCHEMAS:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(grammar)
            return JsonConstraint(fresh.deep_copy())


def _spelled(schema: Mapping[str, object], field: str) -> str:
    """The schema as JSON. Errors: serve.bad_schema, serve.schema_too_large."""
    try:
        text = json.dumps(schema, allow_nan=False)
    except ValueError as error:
        raise _refused(str(error), field) from error
    if len(text) > _MOST_SCHEMA_CHARACTERS:
        raise RequestError("serve.schema_too_large", field, characters=len(text), most=_MOST_SCHEMA_CHARACTERS)
    return text


def _refused(reason: str, field: str) -> RequestError:
    return RequestError("serve.bad_schema", field, reason=reason.splitlines()[0][:300])
