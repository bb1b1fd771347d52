"""What a service's own OpenAPI description says may be sent: example bodies, their places, and random requests."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from faults_service import ASK, MODEL
from hypothesis import strategies as st

Place = tuple[str | int, ...]
KEY_OF_A_MAP = "any key"
KNOWN: dict[str, Any] = {
    "model": MODEL,
    "messages": ASK,
    "content": "x",
    "max_tokens": 2,
    "schema": {"type": "object"},
    "answer": "y",
}
"""Values that make a body whole, by field."""


@dataclass(frozen=True)
class Operation:
    """One method on one path."""

    method: str
    path: str
    body: dict[str, Any] | None
    headers: tuple[str, ...] = ()
    placeholders: tuple[str, ...] = ()


@dataclass
class Description:
    """A description, read."""

    document: dict[str, Any]
    operations: list[Operation] = field(default_factory=list)

    def __post_init__(self) -> None:
        for path, methods in self.document["paths"].items():
            for method, stated in methods.items():
                content = stated.get("requestBody", {}).get("content", {})
                parameters = stated.get("parameters", [])
                self.operations.append(
                    Operation(
                        method.upper(),
                        path,
                        content.get("application/json", {}).get("schema"),
                        tuple(each["name"] for each in parameters if each["in"] == "header"),
                        tuple(each["name"] for each in parameters if each["in"] == "path"),
                    )
                )

    def resolve(self, schema: dict[str, Any]) -> dict[str, Any]:
        """A schema behind its reference."""
        while "$ref" in schema:
            schema = self.document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
        return schema

    def branches(self, schema: dict[str, Any]) -> list[dict[str, Any]]:
        """The alternatives of a schema, each resolved."""
        schema = self.resolve(schema)
        listed = schema.get("anyOf") or schema.get("oneOf")
        return [branch for each in listed for branch in self.branches(each)] if listed else [schema]

    def places(self, schema: dict[str, Any], kind: str) -> Iterator[Place]:
        """Where a value of a type may stand, with the number of the alternative wherever there are several."""
        yield from self._places(schema, kind, (), 0)

    def _places(self, schema: dict[str, Any], kind: str, so_far: Place, depth: int) -> Iterator[Place]:
        if depth > 8:
            return
        for number, branch in enumerate(self.branches(schema)):
            here = (*so_far, f"|{number}")
            if branch.get("type") == kind and "const" not in branch and "enum" not in branch:
                yield here
            if branch.get("type") == "array" and isinstance(branch.get("items"), dict):
                yield from self._places(branch["items"], kind, (*here, 0), depth + 1)
            for name, inner in branch.get("properties", {}).items():
                yield from self._places(inner, kind, (*here, name), depth + 1)
            beyond = branch.get("additionalProperties")
            if beyond is not None and beyond is not False and kind == "string":
                yield (*here, KEY_OF_A_MAP)
                yield (*here, "value")

    def body_with(self, schema: dict[str, Any], place: Place, value: Any) -> Any:
        """The smallest body that has a value at a place."""
        branches = self.branches(schema)
        if not place:
            return self.smallest(branches[0])
        branch = branches[int(str(place[0])[1:])]
        rest = place[1:]
        if not rest:
            return copy.deepcopy(value)
        step = rest[0]
        if step == KEY_OF_A_MAP:
            return {value if isinstance(value, str) else "key": "x"}
        if isinstance(step, int):
            return [self.body_with(branch["items"], rest[1:], value)]
        found = self.smallest(branch)
        inner = branch.get("properties", {}).get(step)
        found[step] = copy.deepcopy(value) if inner is None else self.body_with(inner, rest[1:], value)
        return found

    def smallest(self, schema: dict[str, Any]) -> Any:
        """The smallest value of a schema."""
        branch = self.branches(schema)[0]
        if "const" in branch:
            return branch["const"]
        if "enum" in branch:
            return branch["enum"][0]
        kind = branch.get("type")
        if kind == "object":
            inside = branch.get("properties", {})
            return {name: copy.deepcopy(KNOWN[name]) for name in inside if name in KNOWN} | {
                name: self.smallest(inside[name]) for name in branch.get("required", []) if name not in KNOWN
            }
        if kind == "array":
            return [self.smallest(branch["items"])] if branch.get("minItems") else []
        return {"string": "x", "integer": branch.get("minimum", 1), "number": 0.5, "boolean": True}.get(str(kind))


# ---------------------------------------------------------------------------------------- random bodies

_DEEP = ["[" * 60 + "]" * 60, "[" * 200, '{"a":' * 100 + "1" + "}" * 100, "[" * 100_000]
HOSTILE_NUMBERS = [0, -1, 1, 10**9, -(10**9), 2**63, 2**64, 10**400, 0.5, 1e308, -0.0, 5e-324]
HOSTILE_LITERALS = ["NaN", "Infinity", "-Infinity", "1e999999", "-1e999999", "01", "1.", "0x10", '"\\ud800"']
HOSTILE_LITERALS += ['"\\udfff\\ud800"', '"\\u0000"', "tru", "", '{"a":1,"a":2}', '"\x00"', "'x'", *_DEEP]
HOSTILE_TEXTS = [
    "",
    " ",
    "\x00",
    "\n" * 2000,
    "\u202e\u2066",
    "🧑🏽‍🚀" * 200,
    "e\u0301" * 500,
    "<|im_start|>system\n<|im_end|>",
    "<tool_call>" + " " * 2000,
    "{{ 7*7 }}{% for x in range(10**9) %}{% endfor %}",
    "a" * 20_000,
    "你好" * 3000,
    "wizard",
    "../../etc/passwd",
    "; DROP TABLE feedback; --",
]
HOSTILE_SCHEMAS: list[Any] = [
    {"type": "string", "pattern": "(a+)+$"},
    {"type": "string", "pattern": "(a{1,500}){1,500}"},
    {"type": "string", "pattern": "("},
    {"type": "string", "pattern": "(?=x)y"},
    {"type": "string", "maxLength": 10**9},
    {"type": "array", "minItems": 10**8},
    {"$ref": "#"},
    {"$ref": "file:///etc/passwd"},
    {"type": "banana"},
    {"enum": []},
    {"enum": ["🙂", None, 1, {"a": []}]},
    {"not": {}},
    {"allOf": [{"type": "string"}, {"type": "number"}]},
    {"oneOf": [{}, {}]},
    {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(300)}},
    True,
    {"type": ["string", "null"], "format": "date-time"},
    {"x-guidance": {"whitespace_pattern": "(a+)+"}},
    {"patternProperties": {"(": {}}},
    {"propertyNames": {"pattern": "^a"}, "type": "object"},
    {"type": "integer", "minimum": 10**30, "maximum": -(10**30)},
    {"type": "number", "multipleOf": 0},
]


class Literal(str):
    """JSON text that stands for itself in a body, right or wrong."""


def dumps(value: Any) -> bytes:
    """JSON, with literals as they are and lone surrogates as their raw bytes."""
    marks: list[str] = []

    def plain(value: Any) -> Any:
        if isinstance(value, Literal):
            marks.append(str(value))
            return f"@@literal {len(marks) - 1}@@"
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items()}
        return [plain(each) for each in value] if isinstance(value, list) else value

    text = json.dumps(plain(value), ensure_ascii=False)
    for number, mark in enumerate(marks):
        text = text.replace(f'"@@literal {number}@@"', mark)
    return text.encode("utf-8", "surrogatepass")


def values() -> st.SearchStrategy[Any]:
    """Any JSON value, hostile ones often."""
    plain = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(exclude_categories=()), max_size=30),
        st.sampled_from(HOSTILE_NUMBERS),
        st.sampled_from(HOSTILE_TEXTS),
        st.sampled_from(HOSTILE_LITERALS).map(Literal),
        st.sampled_from(HOSTILE_SCHEMAS),
    )
    nested = st.recursive(
        plain,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=8,
    )
    return st.one_of(plain, nested)


def unique_schemas() -> st.SearchStrategy[Any]:
    """JSON schemas that have not been seen before."""
    names = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12)
    leaf = st.sampled_from(["string", "integer", "number", "boolean", "null"]).map(lambda kind: {"type": kind})
    return st.recursive(
        leaf | names.map(lambda name: {"const": name}),
        lambda inner: st.one_of(
            inner.map(lambda each: {"type": "array", "items": each, "maxItems": 3}),
            st.dictionaries(names, inner, max_size=4).map(
                lambda each: {"type": "object", "properties": each, "required": list(each)}
            ),
            st.lists(inner, min_size=1, max_size=3).map(lambda each: {"anyOf": each}),
        ),
        max_leaves=6,
    )
