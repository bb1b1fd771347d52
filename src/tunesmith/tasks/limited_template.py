"""The one place that renders templates made by others: a sandbox with limits of time, size and depth.

A chat template comes with a model, and a sandbox alone stops code but neither an endless loop nor a text of 10^9
characters. A thread that runs a template cannot be stopped from outside, so nothing here is watched from outside:

    before parsing      length, and the depth of brackets
    after parsing       only known parts of the language, known filters and known methods; depth of the tree
    while it writes     loops and macros count at each round, operations before they are carried out: the time of this
                        thread's processor, the characters made, the size of each value counted as often as it is
                        referred to (a list of lists of one list is small in memory and endless as text)

What is left is Jinja as transformers sets it up for chat templates, and writes the same text.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache
from itertools import chain
from typing import NoReturn

from jinja2 import Template, TemplateError, nodes, pass_context, pass_eval_context
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from tunesmith.core.errors import TunesmithError
from tunesmith.messages import say

SECONDS = 0.1
"""Processor time of one rendering, and as much again for each 100,000 characters that it was given."""

CHARACTERS = 1_000_000
"""Characters that a template may write beyond eight times what it was given."""

_GIVEN = 8
_MADE = 16
"""So many times the longest text may pass through all operations of one rendering together."""

_ITEM = 8
"""Characters that an item of a list counts for."""

_LONGEST_TEMPLATE = 65_536
_DEEPEST_BRACKETS = 64
_DEEPEST_TREE = 120
_MOST_BITS = 1024
_WIDEST_INDENT = 64


class _CutError(Exception):
    """A limit is reached; the text says which, in the user's language."""


class _Budget:
    """What one rendering has used, and what it may."""

    def __init__(self, given: Mapping[str, object]) -> None:
        self._sizes: dict[int, tuple[object, int]] = {}
        self.longest = CHARACTERS
        self._left = self.longest
        characters = self.size(given, limited=False)
        self.longest = CHARACTERS + _GIVEN * characters
        self._left = _MADE * self.longest
        self._until = time.thread_time() + SECONDS * (1 + characters / 100_000)
        self._operations = 0

    def spend(self, characters: int) -> None:
        """Count an operation that makes so many characters or items, before it is carried out."""
        self._left -= characters
        if self._left < 0 or characters > self.longest:
            raise _CutError(say("tasks.reason_size", characters=self.longest))
        self._operations += 1
        if (self._operations % 16 == 0 or characters > 10_000) and time.thread_time() > self._until:
            raise _CutError(say("tasks.reason_time", milliseconds=round(SECONDS * 1000)))

    def size(self, value: object, *, limited: bool = True) -> int:
        """Characters and items of a value, each counted as often as it would be written."""
        if isinstance(value, str):
            return len(value)
        if value is None or isinstance(value, int | float | range | Undefined):
            return 1
        if isinstance(value, Mapping):
            return self._size_of_all(value, chain(value.keys(), value.values()), limited)
        if isinstance(value, list | tuple | KeysView | ValuesView | ItemsView):
            return self._size_of_all(value, value, limited)
        raise _CutError(say("tasks.reason_no_text", kind=type(value).__name__))

    def _size_of_all(self, value: object, parts: Iterable[object], limited: bool) -> int:
        known = self._sizes.get(id(value))
        if known is not None:
            return known[1]
        total = 1
        for part in parts:
            total += 1 + self.size(part, limited=limited)
            if limited and total > 2 * self.longest:
                raise _CutError(say("tasks.reason_size", characters=self.longest))
        self._sizes[id(value)] = (value, total)  # the value is kept too, so that its number is not given out again
        return total

    def made(self, value: object) -> object:
        """Count what an operation has made, and give it back."""
        if isinstance(value, str):
            self.spend(len(value))
        elif isinstance(value, list | tuple | dict):
            self.spend(_ITEM * len(value))
            self.size(value)
        return value


_BUDGET: ContextVar[_Budget] = ContextVar("budget")

# -------------------------------------------------------------------------- what a template may call, and how

_TICK, _MAKE, _TAKE, _JOIN = "\0tick", "\0make", "\0take", "\0join"
"""Filters that the tree is given after parsing; a template cannot name them."""


def _tick(characters: int) -> str:
    _BUDGET.get().spend(characters)
    return ""


def _make(value: object) -> object:
    return _BUDGET.get().made(value)


def _take(value: object) -> object:
    """Let a filter have a value: one that it could not turn into text within bounds is refused."""
    if not isinstance(value, Iterator):
        _BUDGET.get().size(value)
    return value


def _join_texts(values: list[object]) -> str:
    budget = _BUDGET.get()
    budget.spend(sum(map(budget.size, values)))
    return "".join(map(str, values))


@pass_context
def _finalize(context: Context, value: object) -> object:
    budget = _BUDGET.get()
    budget.spend(budget.size(value))
    return value


@pass_eval_context
def _join(eval_context: EvalContext, value: Iterable[object], d: object = "", attribute: str | None = None) -> object:
    budget, items = _BUDGET.get(), list(value)
    budget.spend(budget.size(items) + len(items) * budget.size(d))
    return FILTERS["join"](eval_context, items, d, attribute)


@pass_eval_context
def _replace(eval_context: EvalContext, s: object, old: object, new: object, count: int | None = None) -> object:
    _before_replace(str(s), str(_take(old)), str(_take(new)))
    return FILTERS["replace"](eval_context, s, old, new, count)


def _before_replace(text: str, old: str, new: str) -> None:
    times = text.count(old) if old else len(text) + 1
    _BUDGET.get().spend(len(text) + times * len(new))


def _indent(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> object:
    wide = len(width) if isinstance(width, str) else width
    if wide > _WIDEST_INDENT:
        raise _CutError(say("tasks.reason_size", characters=_WIDEST_INDENT))
    _BUDGET.get().spend(len(s) + (s.count("\n") + 1) * wide)
    return FILTERS["indent"](s, width, first, blank)


def _to_json(
    x: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers has it: no escapes for HTML."""
    wide = len(indent) if isinstance(indent, str) else indent or 0
    if max(wide, *(len(each) for each in separators or ("", ""))) > _WIDEST_INDENT:
        raise _CutError(say("tasks.reason_size", characters=_WIDEST_INDENT))
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=bool(sort_keys)
    )
    if indent is None:
        return encoder.encode(x)
    pieces = []
    for piece in encoder.iterencode(x):
        _BUDGET.get().spend(len(piece))
        pieces.append(piece)
    return "".join(pieces)


def _raise_exception(message: object) -> NoReturn:
    _take(message)
    raise TemplateError(str(message))


def _strftime_now(format: str) -> str:
    if len(format) > 100 or re.search(r"%[^%A-Za-z]", format):
        raise _CutError(say("tasks.reason_part", part="strftime_now"))
    return datetime.now().strftime(format)


def _dict(*args: Mapping[str, object], **kwargs: object) -> dict[str, object]:
    return dict(*args, **kwargs)


def _namespace(*args: Mapping[str, object], **kwargs: object) -> Namespace:
    return Namespace(*args, **kwargs)


_PLAIN_FILTERS = (
    "abs capitalize count d default dictsort e escape first float int items last length list lower map max min reject"
    " rejectattr reverse safe select selectattr sort string title trim unique upper"
).split()
"""Jinja's filters whose result is no longer than what goes in."""

_FILTERS = {
    **{name: FILTERS[name] for name in _PLAIN_FILTERS},
    **{"join": _join, "replace": _replace, "indent": _indent, "tojson": _to_json},
    **{_TICK: _tick, _MAKE: _make, _TAKE: _take, _JOIN: _join_texts},
}
_GLOBALS = {
    "range": safe_range,
    "dict": _dict,
    "namespace": _namespace,
    "raise_exception": _raise_exception,
    "strftime_now": _strftime_now,
}
_TEXT_METHODS = frozenset(
    "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit islower isnumeric isspace"
    " istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition rsplit"
    " rstrip split splitlines startswith strip swapcase title upper".split()
)
_LOOP = frozenset(
    "changed cycle depth depth0 first index index0 last length nextitem previtem revindex revindex0".split()
)
_ATTRIBUTES: tuple[tuple[type | tuple[type, ...], frozenset[str]], ...] = (
    (str, _TEXT_METHODS),
    (dict, frozenset({"get", "items", "keys", "values"})),
    ((list, tuple), frozenset({"count", "index"})),
    (LoopContext, _LOOP),
    (Macro, frozenset({"name"})),
)

# ---------------------------------------------------------------------------------------- the tree of a template

_PARTS = frozenset(
    "Template Output TemplateData Const Name NSRef For If Macro CallBlock FilterBlock With Scope Assign AssignBlock"
    " ExprStmt Break Continue Call Filter Test Getattr Getitem Slice Compare Operand And Or Not Neg Pos Add Sub Mul Div"
    " FloorDiv Mod Pow Concat List Tuple Dict Pair Keyword CondExpr".split()
)


class _Generation(Extension):
    """`{% generation %}` marks what the assistant says; the text is the same with and without."""

    tags = {"generation"}  # noqa: RUF012 - the form that Jinja expects

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Counting(NodeTransformer):
    """Puts the counting filters where loops turn and values are made."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        return self._turning(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._turning(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._turning(node)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return self._made(node, node.items)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self._made(node, node.items) if node.ctx == "load" else self.generic_visit(node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return self._made(node, [pair.value for pair in node.items])

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), _JOIN)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, _MAKE) if isinstance(node.arg, nodes.Slice) else node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        self.generic_visit(node)
        if node.node is not None and node.name not in ("d", "default"):
            node.node = _filter(node.node, _TAKE)
        return _filter(node, _MAKE)

    def _turning(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        characters = 1 + sum(len(each.data) for each in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        tick = _filter(nodes.Const(characters, lineno=node.lineno), _TICK)
        node.body.insert(0, nodes.ExprStmt(tick, lineno=node.lineno))
        return node

    def _made(self, node: nodes.Expr, parts: Iterable[nodes.Expr]) -> nodes.Node:
        constant = all(isinstance(each, nodes.Const) for each in parts)
        self.generic_visit(node)
        return node if constant else _filter(node, _MAKE)


def _filter(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with lists of what is allowed, and operations that count."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            optimized=False,  # nothing is computed before it can be counted
            finalize=_finalize,
        )
        self.filters = dict(_FILTERS)
        self.globals = dict(_GLOBALS)

    def is_safe_attribute(self, obj: object, attr: str, value: object) -> bool:
        if attr.startswith("_"):
            return False
        if isinstance(obj, Namespace):
            return True
        return any(isinstance(obj, kind) and attr in names for kind, names in _ATTRIBUTES)

    def wrap_str_format(self, value: object) -> None:
        """`format` is no method that a template may call."""

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
        _before_operation(_BUDGET.get(), operator, left, right)
        return _BUDGET.get().made(super().call_binop(context, operator, left, right))

    def call(self, context: Context, obj: object, /, *args: object, **kwargs: object) -> object:
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str):
            args = _before_method(owner, name, args)
        return _BUDGET.get().made(super().call(context, obj, *args, **kwargs))


def _before_operation(budget: _Budget, operator: str, left: object, right: object) -> None:
    for one, other in ((left, right), (right, left)):
        if isinstance(one, str | list | tuple):
            if operator == "*" and isinstance(other, int):
                budget.spend(max(0, other) * max(1, budget.size(one)))
            elif operator == "%":
                raise _CutError(say("tasks.reason_part", part="%"))
            else:
                budget.size(one)
        elif isinstance(one, int) and one.bit_length() > _MOST_BITS:
            raise _CutError(say("tasks.reason_size", characters=_MOST_BITS))
    if operator == "**" and isinstance(left, int) and isinstance(right, int):
        if left.bit_length() * max(1, right) > _MOST_BITS:
            raise _CutError(say("tasks.reason_size", characters=_MOST_BITS))


def _before_method(owner: str, name: str, args: tuple[object, ...]) -> tuple[object, ...]:
    budget = _BUDGET.get()
    if name == "replace" and len(args) > 1:
        _before_replace(owner, str(_take(args[0])), str(_take(args[1])))
    elif name == "join" and args and isinstance(args[0], Iterable):
        items = list(args[0])
        budget.spend(budget.size(items) + len(items) * len(owner))
        return (items, *args[1:])
    else:
        budget.spend(len(owner))
    return args


# --------------------------------------------------------------------------------------------------- in and out


_SANDBOX = _Sandbox()


class LimitedTemplate:
    """A template that has been looked at, ready to render. Errors: tasks.template_refused."""

    def __init__(self, text: str) -> None:
        self._template = _compiled(text)

    def render(self, values: Mapping[str, object]) -> str:
        """The text for these values: text, numbers, lists and tables of them.

        Errors: tasks.template_failed with the template's own complaint, tasks.template_cut at a limit.
        """
        try:
            budget = _Budget(values)
        except (_CutError, RecursionError) as error:
            raise TunesmithError("tasks.template_cut", reason=_reason(error)) from error
        token = _BUDGET.set(budget)
        try:
            return "".join(_within(self._template.generate(values), budget.longest))
        except (_CutError, RecursionError, MemoryError, OverflowError) as error:
            raise TunesmithError("tasks.template_cut", reason=_reason(error)) from error
        except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise TunesmithError("tasks.template_failed", reason=_reason(error)) from error
        finally:
            _BUDGET.reset(token)


def _within(pieces: Iterator[str], most: int) -> Iterator[str]:
    written = 0
    for piece in pieces:
        written += len(piece)
        if written > most:
            raise _CutError(say("tasks.reason_size", characters=most))
        yield piece


@lru_cache(maxsize=16)
def _compiled(text: str) -> Template:
    if len(text) > _LONGEST_TEMPLATE:
        raise _refused(say("tasks.reason_long", characters=len(text), most=_LONGEST_TEMPLATE))
    try:
        _check_brackets(text)
        tree = _SANDBOX.parse(text)
        _check_tree(tree)
        _Counting().visit(tree)
        tree.set_environment(_SANDBOX)
        return _SANDBOX.from_string(tree)
    except (_CutError, TemplateError, SyntaxError, RecursionError, MemoryError, OverflowError, ValueError) as error:
        raise _refused(_reason(error)) from error


def _check_brackets(text: str) -> None:
    """Count open brackets before the parser goes down into them."""
    depth = 0
    for _, kind, token in _SANDBOX.lex(text):
        if kind == "operator":
            depth += token in ("(", "[", "{")
            depth -= token in (")", "]", "}")
        if depth > _DEEPEST_BRACKETS:
            raise _CutError(say("tasks.reason_deep", depth=_DEEPEST_BRACKETS))


def _check_tree(tree: nodes.Node) -> None:
    """Refuse parts of the language that a chat template has no use for, and a tree too deep for the compiler."""
    level: list[nodes.Node] = [tree]
    for _ in range(_DEEPEST_TREE):
        for node in level:
            if type(node).__name__ not in _PARTS:
                raise _CutError(say("tasks.reason_part", part=type(node).__name__.lower()))
        level = [child for node in level for child in node.iter_child_nodes()]
        if not level:
            return
    raise _CutError(say("tasks.reason_deep", depth=_DEEPEST_TREE))


def _refused(reason: str) -> TunesmithError:
    return TunesmithError("tasks.template_refused", reason=reason)


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return say("tasks.reason_deep", depth=_DEEPEST_TREE)
    return " ".join(str(error).split())[:300] or type(error).__name__
