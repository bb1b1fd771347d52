"""The chat task: conversations, plain text and everything that is answered in words.

The loss falls only on what the assistant says and on the end token of its turn. A row may say otherwise a turn:
`weight: 0` masks it, `weight: 1` trains it, in whatever role it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example, Message
from tunesmith.models.load import end_token_ids, load_tokenizer
from tunesmith.models.packed import Features, Packed, pack
from tunesmith.tasks.base import Encoded
from tunesmith.tasks.chat_template import ChatTemplate


@dataclass(frozen=True)
class Span:
    """Characters `first` to `last` of the rendered text, trained with `weight`."""

    first: int
    last: int
    weight: float


class ChatTask:
    """Encodes, asks and reads answers with one tokenizer and its template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_token_ids: Sequence[int], max_length: int) -> None:
        self.tokenizer = tokenizer
        self.template = ChatTemplate(tokenizer)
        self.end_token_id = end_token_ids[0]
        self.end_token_ids = frozenset(end_token_ids)
        self.max_length = max_length
        self._end_texts = tuple(str(tokenizer.convert_ids_to_tokens(token)) for token in sorted(self.end_token_ids))

    @classmethod
    def of_folder(cls, folder: Path, max_length: int) -> ChatTask:
        """The task of a model folder. Errors: those of `load_tokenizer` and `end_token_ids`."""
        tokenizer = load_tokenizer(folder)
        return cls(tokenizer, end_token_ids(folder, tokenizer), max_length)

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
        """Encode rows and enter their fates: cut tokens are counted, rows with nothing to learn are dropped.

        Errors: tasks.template_failed when the template refuses every row.
        """
        encoded: list[Encoded] = []
        refused: list[TunesmithError] = []
        for example in examples:
            try:
                item = self.encode(example)
            except TunesmithError as error:
                refused.append(error)
                ledger.decide([example.row], "dropped", "refused_by_template")
                continue
            reason = self._nothing_learned(item)
            if reason:
                ledger.decide([example.row], "dropped", reason)
                continue
            if item.cut_tokens:
                ledger.decide([example.row], "truncated", "tokens_behind_max_length", [item.cut_tokens])
            elif item.masked_turns:
                ledger.decide([example.row], "masked", "turns_never_said", [item.masked_turns])
            encoded.append(item)
        if refused and len(refused) == len(examples):
            raise refused[0]
        return encoded

    def _nothing_learned(self, item: Encoded) -> str:
        """Why the row teaches nothing; empty when it does."""
        if item.trained_tokens == 0:
            return "answer_behind_max_length" if item.cut_tokens else "no_trained_turn"
        pairs = zip(item.features.token_ids, item.features.weights, strict=True)
        if not any(weight and token not in self.end_token_ids for token, weight in pairs):
            return "answer_empty_in_template"
        return ""

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
            if is_answer and not place:
                lost += 1  # nobody asked, and no server could: an empty conversation has no prompt
                continue
            before = self.template.render(messages[:place], example.tools, ask=is_answer) if place else ""
            through = self.template.render(messages[: place + 1], example.tools)
            last = self._end_of_turn(through, text, len(before))
            if through.startswith(before) and last > len(before):
                spans.append(Span(len(before), last, weight))
            else:
                lost += 1
        return text, spans, lost

    def _end_of_turn(self, through: str, text: str, first: int) -> int:
        """Where the turn's last end token ends that is also in the whole text; 0 where the text goes another way.

        A turn without any is taken whole, which the gate will report.
        """
        pairs = enumerate(zip(through, text, strict=False))
        common = next((place for place, (one, other) in pairs if one != other), min(len(through), len(text)))
        found = [(through.rfind(end_text, first, common), end_text) for end_text in self._end_texts]
        ends = [place + len(end_text) for place, end_text in found if place >= 0]
        return max(ends, default=len(through) if common == len(through) else 0)

    def _tokens(self, text: str, spans: Sequence[Span]) -> tuple[list[int], list[float]]:
        """Token ids and weights: the text is read up to each edge of a span, and the tokens that came with it weigh
        what lies before the edge.

        At serving time the prompt is tokenized on its own. Where the text up to an edge begins with other tokens than
        those of the edge before it (a token would straddle that edge, or the tokenizer looks ahead), the text is cut at
        that edge; so the ids before the first answer are always the prompt's.
        """
        token_ids: list[int] = []
        weights: list[float] = []
        before = 0
        for edge, weight in _edges(spans, len(text)):
            through = self._ids(text[:edge])
            if through[: len(token_ids)] != token_ids:
                through = token_ids + self._ids(text[before:edge])
            weights += [weight] * (len(through) - len(token_ids))
            token_ids, before = through, edge
        return token_ids, weights


def _edges(spans: Sequence[Span], length: int) -> list[tuple[int, float]]:
    """Where spans begin and end, in order, each with the weight of the characters between it and the edge before."""
    edges: list[tuple[int, float]] = []
    for span in spans:
        edges += [(span.first, 0.0), (span.last, span.weight)]
    return [*edges, (length, 0.0)]


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
