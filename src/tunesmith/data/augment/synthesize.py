"""New rows written by a model after training rows, about documents, or by a schema (Self-Instruct: 2212.10560).

Every request shows some training rows and asks for one more as a JSON object; the answer passes a gate or is refused
with a reason in the ledger. The first of the rows shown is its parent.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jsonschema
import polars as pl

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import user_path
from tunesmith.core.seed import derive_seed
from tunesmith.core.types import Message
from tunesmith.data.augment.children import Child, Row, asked_text
from tunesmith.data.augment.generator import Generator
from tunesmith.data.defects import Reason
from tunesmith.data.table import TURN_COLUMNS, turn_value
from tunesmith.recipe.specs.augment import SynthesizeSpec

_PASSAGE = 3_000
"""Characters of a document in one request."""
_LONGEST = 4
"""Times the longest row shown, beyond which an answer has run away."""
_SHINGLE = 3
_Shingles = frozenset[str]


def synthesized(
    frame: pl.DataFrame,
    others: Iterable[pl.DataFrame],
    spec: SynthesizeSpec,
    folder: Path,
    seed: int,
    generator: Generator,
) -> list[Child]:
    """So many rows as the spec asks for, those refused among them.

    Args:
        others: rows of validation and test, which no new row may resemble either.

    Errors: augment.rows_to_write for rows that are neither conversations nor texts with labels; core.missing_file,
    augment.broken_schema, augment.unreadable_document.
    """
    rows = [row for row in frame.iter_rows(named=True) if asked_text(row)]
    kind = str(frame["kind"][0])
    if kind not in ("chat", "text_class"):
        raise TunesmithError("augment.rows_to_write", kind=kind)
    schema, passages = _schema(spec, folder), _passages(spec, folder)
    requests: list[tuple[Sequence[Row], str]] = []
    for number in range(spec.rows):
        chance = random.Random(derive_seed(seed, "synthesize", number))
        shown = chance.sample(rows, min(spec.examples, len(rows)))
        passage = chance.choice(passages) if passages else ""
        requests.append((shown, _request(spec, kind, shown, passage, schema, number)))
    answers = generator.generate([text for _, text in requests])
    labels = {label for row in rows for label in _list(row["labels"])}
    apart = [asked_text(row) for other in others for row in other.iter_rows(named=True)]
    gate = _Gate(kind, labels, schema, spec.similarity, [asked_text(row) for row in rows], apart)
    return [gate.child(shown, answer) for (shown, _), answer in zip(requests, answers, strict=True)]


class _Gate:
    """What an answer must be to become a row; it grows with each row that passed."""

    def __init__(
        self,
        kind: str,
        labels: set[str],
        schema: Mapping[str, object] | None,
        similarity: float,
        texts: Sequence[str],
        apart: Sequence[str],
    ) -> None:
        self._kind = kind
        self._labels = labels
        self._schema = schema
        self._similarity = similarity
        self._longest = _LONGEST * max(map(len, texts))
        self._seen: list[_Shingles] = []
        self._with: dict[str, list[int]] = {}
        for text in (*texts, *apart):
            self._remember(_shingles(text))

    def child(self, shown: Sequence[Row], answer: str | None) -> Child:
        """The row of an answer, after the first of the rows shown."""
        parent = shown[0]
        number = int(str(parent["row"]))
        if not answer:
            return Child(number, parent, "made_without_answer")
        said = _object_in(answer)
        asked, reply = (said.get(name) for name in self._names())
        if not isinstance(asked, str) or not isinstance(reply, str) or not asked.strip() or not reply.strip():
            return Child(number, parent, "made_unreadable")
        refused = self._refused(asked, reply)
        return Child(number, _row(parent, self._kind, asked.strip(), reply.strip()), refused)

    def _names(self) -> tuple[str, str]:
        return ("prompt", "answer") if self._kind == "chat" else ("text", "label")

    def _refused(self, asked: str, reply: str) -> Reason | None:
        if len(asked) > self._longest:
            return "made_of_odd_length"
        if self._kind == "text_class" and reply.strip() not in self._labels:
            return "made_with_unknown_label"
        if self._schema is not None and not _fulfils(reply, self._schema):
            return "made_against_schema"
        found = _shingles(asked)
        if self._is_alike(found):
            return "made_too_similar"
        self._remember(found)
        return None

    def _remember(self, found: _Shingles) -> None:
        for each in found:
            self._with.setdefault(each, []).append(len(self._seen))
        self._seen.append(found)

    def _is_alike(self, found: _Shingles) -> bool:
        """Whether the Jaccard similarity with a known text reaches the limit; texts without a common part have none."""
        common: dict[int, int] = {}
        for each in found:
            for place in self._with.get(each, ()):
                common[place] = common.get(place, 0) + 1
        return any(
            shared >= self._similarity * (len(found) + len(self._seen[place]) - shared)
            for place, shared in common.items()
        )


def _shingles(text: str) -> _Shingles:
    """Runs of three characters of a text without case and blanks at its ends."""
    plain = " ".join(text.lower().split())
    return frozenset(plain[place : place + _SHINGLE] for place in range(max(1, len(plain) - _SHINGLE + 1)))


def _request(
    spec: SynthesizeSpec,
    kind: str,
    shown: Sequence[Row],
    passage: str,
    schema: Mapping[str, object] | None,
    number: int,
) -> str:
    names = '"prompt" and "answer"' if kind == "chat" else '"text" and "label"'
    parts = [f"Write one new example like those below, as a JSON object with {names}, and nothing else."]
    parts += [spec.instruction] if spec.instruction else []
    parts += [json.dumps(_example(row, kind), ensure_ascii=False) for row in shown]
    parts += [f"The example is about this text:\n<<<\n{passage}\n>>>"] if passage else []
    parts += [f"The answer is JSON that fulfils this schema: {json.dumps(schema)}"] if schema is not None else []
    return "\n\n".join([*parts, f"(Example {number + 1}: different from all others.)"])


def _example(row: Row, kind: str) -> dict[str, str]:
    if kind == "text_class":
        return {"text": str(row["text"]), "label": ", ".join(_list(row["labels"]))}
    turns = row["messages"]
    answer = next((turn["content"] for turn in reversed(turns) if turn["role"] == "assistant"), "")  # type: ignore[call-overload]
    return {"prompt": asked_text(row), "answer": str(answer)}


def _row(parent: Row, kind: str, asked: str, reply: str) -> Row:
    """A new row in the parent's group. A conversation keeps the system prompt, which is no part of the example."""
    empty: dict[str, object] = {name: [] for name in TURN_COLUMNS}
    if kind == "text_class":
        return {**parent, **empty, "text": asked, "labels": [reply]}
    turns = [turn for turn in _list(parent["messages"]) if turn["role"] == "system"]
    said = [turn_value(Message("user", asked)), turn_value(Message("assistant", reply))]
    return {**parent, **empty, "messages": [*turns, *said]}


def _object_in(answer: str) -> Mapping[str, object]:
    """The JSON object that an answer holds, perhaps among other words; an empty one where there is none."""
    start, end = answer.find("{"), answer.rfind("}")
    try:
        found = json.loads(answer[start : end + 1]) if start >= 0 else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _fulfils(reply: str, schema: Mapping[str, object]) -> bool:
    try:
        jsonschema.validate(json.loads(reply), schema)
    except (ValueError, RecursionError, jsonschema.ValidationError):
        return False
    return True


def _schema(spec: SynthesizeSpec, folder: Path) -> Mapping[str, object] | None:
    if not spec.schema_file:
        return None
    path = user_path(spec.schema_file, folder)
    try:
        schema = json.loads(_text_of(path))
        jsonschema.Draft202012Validator.check_schema(schema)
    except (ValueError, RecursionError, jsonschema.SchemaError) as error:
        raise TunesmithError("augment.broken_schema", path=str(path), reason=str(error).splitlines()[0]) from error
    if not isinstance(schema, dict):
        raise TunesmithError("augment.broken_schema", path=str(path), reason="not an object")
    return schema


def _passages(spec: SynthesizeSpec, folder: Path) -> list[str]:
    """The documents in parts of some length, cut where a line or a sentence ends if there is one."""
    found: list[str] = []
    for name in spec.documents:
        text = _text_of(user_path(name, folder))
        while text.strip():
            end = len(text) if len(text) <= _PASSAGE else _end_of(text[:_PASSAGE])
            found.append(text[:end].strip())
            text = text[end:]
    return [passage for passage in found if passage]


def _end_of(text: str) -> int:
    ends = [text.rfind(mark) + len(mark) for mark in ("\n\n", "\n", "。", ". ") if text.rfind(mark) > len(text) // 2]
    return ends[0] if ends else len(text)


def _text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise TunesmithError("core.missing_file", path=str(path)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise TunesmithError("augment.unreadable_document", path=str(path), reason=str(error)) from error


def _list(value: object) -> list:  # type: ignore[type-arg]
    return list(value) if isinstance(value, Sequence) else []
