"""The chat task: conversations, plain text and everything that is answered in words.

The loss falls only on what the assistant says and on the end token of its turn. A row may say otherwise a turn:
`weight: 0` masks it, `weight: 1` trains it, in whatever role it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example, Message
from tunesmith.models.packed import Features, Packed, pack
from tunesmith.tasks.chat_template import ChatTemplate


@dataclass(frozen=True)
class Span:
    """Characters `first` to `last` of the rendered text, trained with `weight`."""

    first: int
    last: int
    weight: float


@dataclass(frozen=True)
class Encoded:
    """A row as it will be trained on, and what happened on the way.

    `cut_tokens` fell off behind the length limit; `masked_turns` are turns that the template rewrites once another
    turn follows (thinking parts, for example), so that nothing the model would ever say could be learned from them.
    """

    features: Features
    cut_tokens: int
    masked_turns: int

    @property
    def trained_tokens(self) -> int:
        """Tokens that carry loss."""
        return sum(1 for weight in self.features.weights if weight)


class ChatTask:
    """Encodes, asks and reads answers with one tokenizer and its template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_token_ids: Sequence[int], max_length: int) -> None:
        self.tokenizer = tokenizer
        self.template = ChatTemplate(tokenizer)
        self.end_token_id = end_token_ids[0]
        self.end_token_ids = frozenset(end_token_ids)
        self.max_length = max_length
        self._end_texts = tuple(str(tokenizer.convert_ids_to_tokens(token)) for token in sorted(self.end_token_ids))

    def encode(self, example: Example) -> Encoded:
        """Token ids and loss weights of a row. Errors: tasks.template_failed."""
        text, spans, masked_turns = self._spans(example)
        token_ids, weights = self._tokens(text, spans)
        if example.kind == "text":
            token_ids.append(self.end_token_id)
            weights.append(1.0)
        cut = max(0, len(token_ids) - self.max_length)
        features = Features(example.row, tuple(token_ids[: self.max_length]), tuple(weights[: self.max_length]))
        return Encoded(features, cut, masked_turns)

    def encode_all(self, examples: Sequence[Example], ledger: Ledger) -> list[Encoded]:
        """Encode rows and enter their fates: cut tokens are counted, rows with nothing to learn are dropped."""
        encoded: list[Encoded] = []
        for example in examples:
            try:
                item = self.encode(example)
            except TunesmithError as error:
                ledger.decide([example.row], "dropped", f"the template refused it ({error.code})")
                continue
            if item.trained_tokens == 0:
                reason = "nothing to learn after the length limit" if item.cut_tokens else "no trained turn"
                ledger.decide([example.row], "dropped", reason)
                continue
            if item.cut_tokens:
                ledger.decide([example.row], "truncated", "tokens behind max_length", [item.cut_tokens])
            elif item.masked_turns:
                ledger.decide([example.row], "masked", "turns the template rewrites", [item.masked_turns])
            encoded.append(item)
        return encoded

    def pack(self, items: Sequence[Features]) -> Packed:
        """The batch of these rows."""
        return pack(items)

    def prompt(self, messages: Sequence[Message], tools: str = "") -> list[int]:
        """Token ids after which the assistant speaks: the ids that the server uses for the same messages."""
        return self._ids(self.template.render(messages, tools, ask=True))

    def decode(self, token_ids: Sequence[int]) -> str:
        """The answer in words, without its end token."""
        kept = [token for token in token_ids if token not in self.end_token_ids]
        return str(self.tokenizer.decode(kept, skip_special_tokens=False))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _spans(self, example: Example) -> tuple[str, list[Span], int]:
        """Rendered text, its trained spans and the number of turns that could not be found in it."""
        if example.kind == "text":
            return example.text, [Span(0, len(example.text), 1.0)], 0
        messages = example.messages
        text = self.template.render(messages, example.tools)
        spans: list[Span] = []
        lost = 0
        for place, message in enumerate(messages):
            weight = message.weight if message.weight is not None else float(message.role == "assistant")
            if weight == 0:
                continue
            is_answer = message.role == "assistant"
            before = self.template.render(messages[:place], example.tools, ask=is_answer) if place or is_answer else ""
            through = self.template.render(messages[: place + 1], example.tools)
            last = self._end_of_turn(through, len(before))
            if through.startswith(before) and text.startswith(through[:last]):
                spans.append(Span(len(before), last, weight))
            else:
                lost += 1
        return text, spans, lost

    def _end_of_turn(self, through: str, first: int) -> int:
        """Where the turn's last end token ends; the whole turn if it has none, which the gate will report."""
        ends = [
            through.rfind(end_text, first) + len(end_text)
            for end_text in self._end_texts
            if end_text in through[first:]
        ]
        return max(ends, default=len(through))

    def _tokens(self, text: str, spans: Sequence[Span]) -> tuple[list[int], list[float]]:
        """Token ids and weights. Where a token would straddle the start of an answer, the text is cut there first:
        at serving time the prompt is tokenized on its own."""
        token_ids, offsets = self._with_offsets(text)
        starts = {first for first, _ in offsets}
        cuts = [span.first for span in spans if span.first not in starts and span.first < len(text)]
        if cuts:
            token_ids, offsets = [], []
            for first, last in zip([0, *cuts], [*cuts, len(text)], strict=True):
                piece_ids, piece_offsets = self._with_offsets(text[first:last])
                token_ids += piece_ids
                offsets += [(first + start, first + end) for start, end in piece_offsets]
        return token_ids, _weights(offsets, spans)

    def _with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(encoding["input_ids"]), list(encoding["offset_mapping"])


def _weights(offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> list[float]:
    """A token gets the weight of the span in which it starts; both are in the order of the text."""
    weights: list[float] = []
    place = 0
    for first, _ in offsets:
        while place < len(spans) and first >= spans[place].last:
            place += 1
        inside = place < len(spans) and spans[place].first <= first
        weights.append(spans[place].weight if inside else 0.0)
    return weights


def question_and_answer(example: Example) -> tuple[tuple[Message, ...], str]:
    """The turns before the last assistant turn, and what it says: what an evaluation asks and expects."""
    for place in range(len(example.messages) - 1, -1, -1):
        if example.messages[place].role == "assistant":
            return example.messages[:place], example.messages[place].content
    raise TunesmithError("tasks.no_answer", row=example.row)


def with_examples(messages: Sequence[Message], shown: Sequence[Example]) -> tuple[Message, ...]:
    """The question with solved examples before it, as turns of the conversation."""
    system = tuple(message for message in messages[:1] if message.role == "system")
    turns = [replace(turn, weight=None) for example in shown for turn in example.messages if turn.role != "system"]
    return (*system, *turns, *messages[len(system) :])
