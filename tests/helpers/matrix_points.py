"""Which points of the matrix are tried: few that meet every pair of values, the same ones at every call.

pair-tested    two values stand together in a point that keeps the promises of `matrix_check.py`
whole-tested   in one that goes the whole way besides, from rows to a published artefact and its proof
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import cache
from itertools import product

from matrix_axes import AXES, TASKS, Pair, Point, all_pairs, codes, is_refused

SEED = 5
SLICE = 60
"""Points of the default suite."""


@cache
def covering_points() -> list[Point]:
    """Points that together meet every two values; what is refused stands in a point of its own.

    Greedy: for each pair that is not met yet the point that meets the most others of them, of equals one in a single
    process, which takes a third of the time, then the seed decides: a value that joins the axes moves few points.
    """
    waiting = dict.fromkeys(all_pairs())
    points: list[Point] = []
    while waiting:
        pair = next(iter(waiting))
        best = max(
            _around(pair),
            key=lambda point: (sum(each in waiting for each in point.pairs), point.runtime == "local", _chance(point)),
        )
        points.append(best)
        met = best.pairs if not codes(best) else [pair]
        for each in met:
            waiting.pop(each, None)
    return sorted(set(points))


def _chance(point: Point) -> int:
    """A number drawn for a point, the same whatever else there is."""
    return zlib.crc32(f"{SEED} {point}".encode())


def _around(pair: Pair) -> list[Point]:
    """Points with these two values and no refusal but their own, so that the code is theirs.

    Where every third value refuses one of the two, those with the fewest refusals.
    """
    points = list(_completed(pair))
    refusals = {point: sum(is_refused(each) for each in point.pairs) for point in points}
    fewest = min(refusals.values())
    return [point for point in points if refusals[point] == fewest]


def _completed(pair: Pair) -> Iterator[Point]:
    stated = dict(pair)
    for values in product(*([stated[axis]] if axis in stated else list(AXES[axis]) for axis in AXES)):
        yield Point(*values)


def whole_points() -> list[Point]:
    """Points that go the whole way: every kind of adaptation on chats, every task, old rows and a teacher."""
    adaptations = (
        "full", "subset: last block", "lora", "lora: DoRA", "qlora: nf4", "qlora: int8", "bottleneck: Pfeiffer",
        "prompt", "p-tuning", "prefix", "experts: most used, router", "lora-experts",
    )  # fmt: skip
    return sorted(
        {
            *(Point(adapt, "supervised", "chat", "local") for adapt in adaptations),
            *(Point("lora", aim, "chat", "local") for aim in ("distill: kept", "ewc", "replay", "groups: LoRA+")),
            *(Point("lora", _plain_aim(task), task, "local") for task in TASKS),
            *(Point("prefix", "multitask", task, "local") for task in TASKS if task.startswith("several heads")),
            Point("prefix", "supervised", "text_class: encoder", "local"),
            Point("subset: BitFit", "supervised", "text_class: encoder", "local"),
            Point("full", "ewc", "token_class: encoder", "local"),
        }
    )


def _plain_aim(task: str) -> str:
    """The plainest aim of a task."""
    return "multitask" if "tasks" in TASKS[task].data else "supervised"


def all_points() -> list[Point]:
    """Every point of the file."""
    return sorted({*covering_points(), *whole_points()})


def sliced(points: list[Point], size: int = SLICE) -> list[Point]:
    """Some of the points, drawn by the seed: every value of every axis in one that trains, then others, refused ones
    among them."""
    order = sorted(points, key=_chance)
    chosen: list[Point] = []
    seen: set[tuple[str, str]] = set()
    for point in order:
        if not codes(point) and not seen.issuperset(point.values):
            chosen.append(point)
            seen.update(point.values)
    more = [point for point in order if point not in chosen]
    return sorted(chosen + more[: max(0, size - len(chosen))])
