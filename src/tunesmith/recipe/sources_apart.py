"""Sources that a recipe calls alike get names of their own: ledger, card, reports and manifest tell rows by them."""

from __future__ import annotations

from collections.abc import Iterator

_LISTS = ("sources", "validation_sources", "test_sources", "target_sources", "benchmarks")


def name_apart(values: dict[str, object]) -> None:
    """Give a name to every source of a recipe's values that shares one with a source before it, in place.

    The same source twice stays one. Where sources are named after tasks, several of one task share its name on purpose.
    """
    if _names_are_tasks(values):
        return
    known: dict[str, dict[str, object]] = {}
    for source in _sources(values):
        name = _name(source)
        if not name or known.setdefault(name, dict(source)) == source:
            continue
        told = [source.get(key) for key in ("path", "split", "database")]
        wishes = [f"{name} ({each})" for each in told if isinstance(each, str) and each != name]
        wishes += [f"{name} ({number})" for number in range(2, len(known) + 3)]
        stated = dict(source)
        source["name"] = next(each for each in wishes if known.setdefault(each, stated) == stated)


def _names_are_tasks(values: dict[str, object]) -> bool:
    data, stages = values.get("data"), values.get("stages")
    objectives = (
        [each.get("objective") for each in stages if isinstance(each, dict)] if isinstance(stages, list) else []
    )
    several = isinstance(data, dict) and bool(data.get("tasks"))
    return several or any(isinstance(each, dict) and each.get("kind") == "multitask" for each in objectives)


def _name(source: dict[str, object]) -> str:
    """As `SourceSpec.title` has it; "" for a query, which is told from others by its words."""
    return str(source.get("name") or source.get("path") or "")


def _sources(value: object) -> Iterator[dict[str, object]]:
    if isinstance(value, list):
        for each in value:
            yield from _sources(each)
    elif isinstance(value, dict):
        for key, within in value.items():
            if key in _LISTS and isinstance(within, list):
                yield from (each for each in within if isinstance(each, dict))
            else:
                yield from _sources(within)
