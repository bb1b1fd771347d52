"""The one place that renders templates made by others: a sandbox with limits of time, size and depth.

A chat template comes with a model, and a sandbox alone stops code but neither an endless loop nor a text of 10^9
characters. A thread that runs a template cannot be stopped from outside, so nothing here is watched from outside:

    before parsing      length, and the depth of brackets
    after parsing       only known parts of the language, known filters and known methods; depth of the tree
    while it writes     loops and macros count at each round, filters, tests, comparisons, methods and sums count what
                        they read and what they make: the time of this thread's processor, the characters made, the
                        size of each value counted as often as it is referred to (a list of lists of one list is small
                        in memory and endless as text)

The clock is looked at between operations, so none may take long by itself: texts that are searched for from behind,
stripped off or taken for names are short, and every other operation takes about as long as what it reads.

What is left is Jinja as transformers sets it up for chat templates, and writes the same text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence
from datetime import datetime
from functools import lru_cache, wraps
from typing import NoReturn, cast

from jinja2 import Template, TemplateError, TemplateRuntimeError, nodes, pass_context, pass_eval_context
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.tests import TESTS
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from tunesmith.core.errors import TunesmithError
from tunesmith.messages import say
from tunesmith.tasks.template_budget import BUDGET, MOST_BITS, Budget, CutError, SlowError, read, refuse_long, take

_LONGEST_TEMPLATE = 65_536
_DEEPEST_BRACKETS = 64
_DEEPEST_TREE = 120
_WIDEST_INDENT = 64

# -------------------------------------------------------------------------- what a template may call, and how

_TICK, _MAKE, _TAKE, _READ, _JOIN = "\0tick", "\0make", "\0take", "\0read", "\0join"
"""Filters that the tree is given after parsing; a template cannot write such names, and `map` refuses them."""


def _tick(characters: int) -> str:
    BUDGET.get().spend(characters)
    return ""


def _make(value: object) -> object:
    return BUDGET.get().made(value)


def _join_texts(values: list[object]) -> str:
    budget = BUDGET.get()
    budget.spend(sum(map(budget.size, values)))
    return "".join(map(str, values))


@pass_context
def _finalize(context: Context, value: object) -> object:
    budget = BUDGET.get()
    budget.spend(budget.size(value))
    return value


@pass_eval_context
def _join(eval_context: EvalContext, value: Iterable[object], d: object = "", attribute: str | None = None) -> object:
    refuse_long((attribute,))
    budget, items = BUDGET.get(), list(value)
    budget.spend(budget.size(items) + len(items) * budget.size(d))
    return FILTERS["join"](eval_context, items, d, attribute)


@pass_eval_context
def _replace(eval_context: EvalContext, s: object, old: object, new: object, count: int | None = None) -> object:
    _before_replace(str(s), str(take(old)), str(take(new)))
    return FILTERS["replace"](eval_context, s, old, new, count)


def _before_replace(text: str, old: str, new: str) -> None:
    times = text.count(old) if old else len(text) + 1
    BUDGET.get().spend(len(text) + times * len(new))


def _indent(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> object:
    wide = len(width) if isinstance(width, str) else width
    if wide > _WIDEST_INDENT:
        raise CutError(say("tasks.reason_size", characters=_WIDEST_INDENT))
    BUDGET.get().spend(len(s) + (s.count("\n") + 1) * wide)
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
        raise CutError(say("tasks.reason_size", characters=_WIDEST_INDENT))
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=bool(sort_keys)
    )
    if indent is None:
        return encoder.encode(x)
    pieces = []
    for piece in encoder.iterencode(x):
        BUDGET.get().spend(len(piece))
        pieces.append(piece)
    return "".join(pieces)


def _raise_exception(message: object) -> NoReturn:
    take(message)
    raise TemplateError(str(message))


def _strftime_now(format: str) -> str:
    if len(format) > 100 or re.search(r"%[^%A-Za-z]", format):
        raise CutError(say("tasks.reason_part", part="strftime_now"))
    return datetime.now().strftime(format)


def _dict(*args: Mapping[str, object], **kwargs: object) -> dict[str, object]:
    return dict(*args, **kwargs)


def _namespace(*args: Mapping[str, object], **kwargs: object) -> Namespace:
    return Namespace(*args, **kwargs)


def _with_short_words(name: str, most: int) -> Callable[..., object]:
    """Jinja's filter, with short texts alone in its first arguments and as an attribute."""
    plain = FILTERS[name]
    first = 2 if hasattr(plain, "jinja_pass_arg") else 1  # behind the environment or the context, and the value

    @wraps(plain)
    def limited(*args: object, **kwargs: object) -> object:
        refuse_long((*args[first : first + most], kwargs.get("attribute"), kwargs.get("chars")))
        return plain(*args, **kwargs)

    return limited


def _counted_test(name: str) -> Callable[..., object]:
    """Jinja's test, which goes through all that it is given."""
    plain = cast(Callable[..., object], TESTS[name])

    def counted(*args: object, **kwargs: object) -> object:
        return plain(*map(read, args), **{key: read(value) for key, value in kwargs.items()})

    return counted


def _is_divisible(value: int, num: int) -> bool:
    _before_operation(BUDGET.get(), "%", value, num)  # which writes a text where the value is one
    return value % num == 0


_PLAIN_FILTERS = (
    "abs capitalize count d default dictsort e escape first float int items last length list lower reject reverse safe"
    " select string title upper"
).split()
"""Jinja's filters whose result is at most a few times as long as what goes in."""

_WORDS = {
    "map": 0,
    "max": 2,
    "min": 2,
    "rejectattr": 1,
    "selectattr": 1,
    "sort": 3,
    "trim": 1,
    "unique": 2,
}
"""Such filters as take the names of attributes or letters, by the number of arguments that are so."""

_AT_A_GLANCE = frozenset({"count", "d", "default", "first", "last", "length"})
"""Filters that take as long for much as for little, or have any value at all."""

_COMPARING = frozenset({"dictsort", "max", "min", "sort", "unique"})

_FILTERS = {
    **{name: FILTERS[name] for name in _PLAIN_FILTERS},
    **{name: _with_short_words(name, most) for name, most in _WORDS.items()},
    **{"join": _join, "replace": _replace, "indent": _indent, "tojson": _to_json},
    **{_TICK: _tick, _MAKE: _make, _TAKE: take, _READ: read, _JOIN: _join_texts},
}
_READING_TESTS = "in == eq equalto != ne > gt greaterthan >= ge < lt lessthan <= le lower upper".split()
_TESTS = {
    **TESTS,
    **{name: _counted_test(name) for name in _READING_TESTS},
    "divisibleby": _is_divisible,
    "even": lambda value: _is_divisible(value, 2),
    "odd": lambda value: not _is_divisible(value, 2),
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
        self._turning(node)
        if node.test is not None:
            node.test = nodes.Or(_tick_of(1, node), node.test, lineno=node.lineno)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._turning(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._turning(node)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return self._made(node, node.items)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self._made(node, node.items) if node.ctx == "load" else self.generic_visit(node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return self._made(node, [part for pair in node.items for part in (pair.key, pair.value)])

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        node.key = _unless_constant(node.key)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        with_constant = any(isinstance(each, nodes.Const) for each in (node.expr, node.ops[0].expr))
        if with_constant and len(node.ops) == 1 and node.ops[0].op not in ("in", "notin"):
            return node  # it takes no longer than the constant is long
        node.expr = _unless_constant(node.expr)
        for each in node.ops:
            each.expr = _unless_constant(each.expr)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), _JOIN)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, _MAKE) if isinstance(node.arg, nodes.Slice) else node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        self.generic_visit(node)
        if node.node is not None and node.name not in _AT_A_GLANCE:
            node.node = _filter(node.node, _READ if node.name in _COMPARING else _TAKE)
        return _filter(node, _MAKE)

    def _turning(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        characters = 1 + sum(len(each.data) for each in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_tick_of(characters, node), lineno=node.lineno))
        return node

    def _made(self, node: nodes.Expr, parts: Iterable[nodes.Expr]) -> nodes.Node:
        constant = all(isinstance(each, nodes.Const) for each in parts)
        self.generic_visit(node)
        return node if constant else _filter(node, _MAKE)


def _filter(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _tick_of(characters: int, place: nodes.Node) -> nodes.Filter:
    return _filter(nodes.Const(characters, lineno=place.lineno), _TICK)


def _unless_constant(node: nodes.Expr) -> nodes.Expr:
    return node if isinstance(node, nodes.Const) else _filter(node, _READ)


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
        self.tests = dict(_TESTS)
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
        _before_operation(BUDGET.get(), operator, left, right)
        return BUDGET.get().made(super().call_binop(context, operator, left, right))

    def call_filter(
        self,
        name: str,
        value: object,
        args: Sequence[object] | None = None,
        kwargs: Mapping[str, object] | None = None,
        context: Context | None = None,
        eval_ctx: EvalContext | None = None,
    ) -> object:
        """What `map` does with every item: counted as a filter in the tree is."""
        if name in (_TICK, _MAKE, _TAKE, _READ, _JOIN):
            raise TemplateRuntimeError(f"No filter named {name!r}.")
        if name not in _AT_A_GLANCE:
            value = read(value) if name in _COMPARING else take(value)
        return _make(super().call_filter(name, value, args, kwargs, context, eval_ctx))

    def call_test(
        self,
        name: str,
        value: object,
        args: Sequence[object] | None = None,
        kwargs: Mapping[str, object] | None = None,
        context: Context | None = None,
        eval_ctx: EvalContext | None = None,
    ) -> object:
        """What `select` and its like do with every item."""
        BUDGET.get().spend(1)
        return super().call_test(name, value, args, kwargs, context, eval_ctx)

    def getitem(self, obj: object, argument: object) -> object:
        """An item, or an attribute of a path that a filter goes; a pair as a key is gone through."""
        budget = BUDGET.get()
        budget.spend(budget.reading(argument) if isinstance(argument, tuple) else 1)
        return super().getitem(obj, argument)

    def call(self, context: Context, obj: object, /, *args: object, **kwargs: object) -> object:
        budget = BUDGET.get()
        if not isinstance(obj, Macro | LoopContext):  # which only hand on what they are given
            owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
            read = (*args, *kwargs.values()) if isinstance(owner, dict) else (owner, *args, *kwargs.values())
            budget.spend(sum(map(budget.reading, read)))
            if isinstance(owner, str):
                args = _before_method(owner, name, args, kwargs)
        return budget.made(super().call(context, obj, *args, **kwargs))


def _before_operation(budget: Budget, operator: str, left: object, right: object) -> None:
    for one, other in ((left, right), (right, left)):
        if isinstance(one, str | list | tuple):
            if operator == "*" and isinstance(other, int):
                budget.spend(max(0, other) * max(1, budget.size(one)))
            elif operator == "%":
                raise CutError(say("tasks.reason_part", part="%"))
            else:
                budget.size(one)
        elif isinstance(one, KeysView | ItemsView):
            raise CutError(say("tasks.reason_part", part=operator))
        elif isinstance(one, int) and one.bit_length() > MOST_BITS:
            raise CutError(say("tasks.reason_size", characters=MOST_BITS))
    if operator == "**" and isinstance(left, int) and isinstance(right, int):
        if left.bit_length() * max(1, right) > MOST_BITS:
            raise CutError(say("tasks.reason_size", characters=MOST_BITS))


_SLOW_METHODS = frozenset("lstrip rfind rindex rpartition rsplit rstrip strip".split())
"""Methods that may look at every letter of what they are given at every place of the text."""


def _before_method(owner: str, name: str, args: tuple[object, ...], kwargs: Mapping[str, object]) -> tuple[object, ...]:
    budget = BUDGET.get()
    if name == "replace" and len(args) > 1:
        _before_replace(owner, str(take(args[0])), str(take(args[1])))
    elif name == "join" and args and isinstance(args[0], Iterable):
        items = list(args[0])
        budget.spend(budget.size(items) + len(items) * len(owner))
        return (items, *args[1:])
    elif name in _SLOW_METHODS:
        refuse_long((*args, *kwargs.values()))
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
            try:
                return self._once(values)
            except SlowError:  # so may be a collection of garbage, or a machine that stood still; hardly twice in a row
                return self._once(values)
        except (CutError, RecursionError, MemoryError, OverflowError) as error:
            raise TunesmithError("tasks.template_cut", reason=_reason(error)) from error
        except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise TunesmithError("tasks.template_failed", reason=_reason(error)) from error

    def _once(self, values: Mapping[str, object]) -> str:
        budget = Budget(values)
        token = BUDGET.set(budget)
        try:
            return "".join(_within(self._template.generate(values), budget.longest))
        finally:
            BUDGET.reset(token)


def _within(pieces: Iterator[str], most: int) -> Iterator[str]:
    written = 0
    for piece in pieces:
        written += len(piece)
        if written > most:
            raise CutError(say("tasks.reason_size", characters=most))
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
    except (CutError, TemplateError, SyntaxError, RecursionError, MemoryError, OverflowError, ValueError) as error:
        raise _refused(_reason(error)) from error


def _check_brackets(text: str) -> None:
    """Count open brackets before the parser goes down into them."""
    depth = 0
    for _, kind, token in _SANDBOX.lex(text):
        if kind == "operator":
            depth += token in ("(", "[", "{")
            depth -= token in (")", "]", "}")
        if depth > _DEEPEST_BRACKETS:
            raise CutError(say("tasks.reason_deep", depth=_DEEPEST_BRACKETS))


def _check_tree(tree: nodes.Node) -> None:
    """Refuse parts of the language that a chat template has no use for, and a tree too deep for the compiler."""
    level: list[nodes.Node] = [tree]
    for _ in range(_DEEPEST_TREE):
        for node in level:
            if type(node).__name__ not in _PARTS:
                raise CutError(say("tasks.reason_part", part=type(node).__name__.lower()))
        level = [child for node in level for child in node.iter_child_nodes()]
        if not level:
            return
    raise CutError(say("tasks.reason_deep", depth=_DEEPEST_TREE))


def _refused(reason: str) -> TunesmithError:
    return TunesmithError("tasks.template_refused", reason=reason)


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return say("tasks.reason_deep", depth=_DEEPEST_TREE)
    return " ".join(str(error).split())[:300] or type(error).__name__
