"""YAML as a recipe uses it: tables with text keys, lists, text, numbers, true, false and null, and nothing else.

YAML 1.1 guesses more than a recipe can bear: it takes 2e-4 for text, 1:30 for 90, 010 for 8 and 2024-01-02 for a date.
Here numbers are decimal, everything else without quotes is text, and a key that stands twice is an error. What
`write_yaml` writes is read back as the same values. References (`*name`) count as what they repeat, and so a few lines
that would unfold to millions of values are refused before they do.
"""

from __future__ import annotations

import re
from collections.abc import Hashable

import yaml

from tunesmith.core.errors import TunesmithError
from tunesmith.messages import say

_WHOLE = re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$")
_DECIMAL = re.compile(
    r"^[-+]?(?:(?:\.[0-9]+|[0-9][0-9_]*\.[0-9_]*)(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.inf)$|^\.nan$"
)
_PREFIX = "tag:yaml.org,2002:"
_MERGE = f"{_PREFIX}merge"
_NUMBERS = ((f"{_PREFIX}int", _WHOLE), (f"{_PREFIX}float", _DECIMAL))
_NUMBER_STARTS = list("-+.0123456789")
_FULL_WIDTH_COLON = "\uff1a"
_MOST_VALUES = 20_000
"""Values of a text with all its references unfolded; a recipe has about a hundred."""
_NOT_FOR_RECIPES = {f"{_PREFIX}{name}" for name in ("binary", "timestamp", "omap", "pairs", "set")}
_GUESSED_OTHERWISE = {f"{_PREFIX}{name}" for name in ("int", "float", "timestamp")}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own way of saying what a plain word is
        first: [(tag, pattern) for tag, pattern in guesses if tag not in _GUESSED_OTHERWISE]
        for first, guesses in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors = {  # noqa: RUF012
        tag: made for tag, made in yaml.SafeLoader.yaml_constructors.items() if tag not in _NOT_FOR_RECIPES
    }

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._unfolded: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        is_reference = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if node is not None and not is_reference:
            self._count(node)
        return node

    def _count(self, node: yaml.Node) -> None:
        """How many values a node stands for. Errors: recipe.broken_yaml.

        A setting with a full-width colon (seed：1) would go on the value of the line above without a word.
        """
        if isinstance(node, yaml.ScalarNode) and node.style is None and _FULL_WIDTH_COLON in node.value:
            if node.end_mark.line > node.start_mark.line:
                line = node.start_mark.line + 2
                reason = say("recipe.reason_full_width", line=line)
                raise TunesmithError("recipe.broken_yaml", path=self.name, reason=reason)
        entries = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = [part for entry in entries for part in (entry if isinstance(entry, tuple) else (entry,))]
        self._unfolded[node] = 1 + sum(self._unfolded.get(part, 1) for part in parts)
        if self._unfolded[node] > _MOST_VALUES:
            raise TunesmithError(
                "recipe.broken_yaml", path=self.name, reason=say("recipe.reason_too_many", most=_MOST_VALUES)
            )

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            line = key_node.start_mark.line + 1
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise TunesmithError("recipe.broken_yaml", path=self.name, reason=say("recipe.reason_key", line=line))
            if key in seen:
                raise TunesmithError("recipe.duplicate_key", key=key, path=self.name, line=line)
            seen.add(key)
        return dict(super().construct_mapping(node, deep))


class _Dumper(yaml.SafeDumper):
    """Puts quotes around text that either our loader or another reader of YAML would take for a number."""


for _tag, _pattern in _NUMBERS:
    _Loader.add_implicit_resolver(_tag, _pattern, _NUMBER_STARTS)
    _Dumper.add_implicit_resolver(_tag, _pattern, _NUMBER_STARTS)


def read_yaml(text: str, name: str) -> object:
    """The value of a text. `name` is what errors call it. Errors: recipe.broken_yaml, recipe.duplicate_key."""
    try:
        loader = _Loader(text)
    except yaml.YAMLError as error:
        raise _broken(name, str(error)) from error
    loader.name = name
    try:
        return loader.get_single_data()
    except RecursionError as error:
        raise _broken(name, say("recipe.reason_too_deep")) from error
    except (yaml.YAMLError, ValueError) as error:  # a number of thousands of digits is a ValueError
        raise _broken(name, str(error)) from error
    finally:
        loader.dispose()


def write_yaml(value: object) -> str:
    """The value as YAML, tables in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _broken(name: str, reason: str) -> TunesmithError:
    return TunesmithError("recipe.broken_yaml", path=name, reason=" ".join(reason.split()))
