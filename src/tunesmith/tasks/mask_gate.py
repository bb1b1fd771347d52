"""The hard gate before the first step: what is about to be trained is what was meant, or nothing is trained."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunesmith.core.errors import TunesmithError
from tunesmith.core.types import Example
from tunesmith.tasks.base import Encoded, Task
from tunesmith.tasks.chat import ChatTask


@dataclass(frozen=True)
class SourceShare:
    """Of one source: rows, tokens, trained tokens, and tokens cut by the length limit."""

    rows: int
    tokens: int
    trained: int
    cut: int

    @property
    def share(self) -> float:
        """Trained tokens per token."""
        return self.trained / self.tokens if self.tokens else 0.0


@dataclass(frozen=True)
class GateReport:
    """What the gate saw."""

    sources: Mapping[str, SourceShare]
    rows_with_end: int
    template_sha256: str


def shares_by_source(examples: Sequence[Example], encoded: Sequence[Encoded]) -> dict[str, SourceShare]:
    """Sum up the encoded rows by source."""
    sources = {example.row: example.origin.source for example in examples}
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for item in encoded:
        counts = sums[sources[item.features.row]]
        for place, amount in enumerate((1, len(item.features.token_ids), item.trained_tokens, item.cut_tokens)):
            counts[place] += amount
    return {source: SourceShare(*counts) for source, counts in sums.items()}


def check_rows(
    task: Task, examples: Sequence[Example], encoded: Sequence[Encoded], artefact_template: str
) -> GateReport:
    """The gate of any task. Errors: those of `check_masks`; of classes tasks.all_rows_cut, tasks.empty_mask."""
    if isinstance(task, ChatTask):
        return check_masks(task, examples, encoded, artefact_template)
    _refuse_all_cut(task, encoded)
    return GateReport(_sources(examples, encoded), 0, "")


def _refuse_all_cut(task: Task, encoded: Sequence[Encoded]) -> None:
    if encoded and all(item.cut_tokens for item in encoded):
        raise TunesmithError("tasks.all_rows_cut", rows=len(encoded), max_length=task.max_length)


def _sources(examples: Sequence[Example], encoded: Sequence[Encoded]) -> dict[str, SourceShare]:
    """The shares by source. Errors: tasks.empty_mask where nothing of a source is learned."""
    sources = shares_by_source(examples, encoded)
    for example in examples:
        if example.origin.source not in sources:
            raise TunesmithError("tasks.empty_mask", source=example.origin.source)
    if not encoded:
        raise TunesmithError("tasks.empty_mask", source="-")
    return sources


def check_masks(
    task: ChatTask, examples: Sequence[Example], encoded: Sequence[Encoded], artefact_template: str
) -> GateReport:
    """Refuse to train on what could not be learned from or would not be what is served.

    Errors: tasks.template_differs, tasks.all_rows_cut, tasks.empty_mask, tasks.end_token_untrained.
    """
    if task.template.text != artefact_template:
        raise TunesmithError("tasks.template_differs")
    _refuse_all_cut(task, encoded)
    sources = _sources(examples, encoded)
    rows_with_end = sum(_trains_end(item, task.end_token_ids) for item in encoded)
    lacking = sum(not item.cut_tokens and not _trains_end(item, task.end_token_ids) for item in encoded)
    if lacking:
        ends = ", ".join(str(task.tokenizer.convert_ids_to_tokens(token)) for token in sorted(task.end_token_ids))
        raise TunesmithError("tasks.end_token_untrained", rows=lacking, ends=ends)
    return GateReport(sources, rows_with_end, task.template.sha256)


def _trains_end(item: Encoded, end_token_ids: frozenset[int]) -> bool:
    pairs = zip(item.features.token_ids, item.features.weights, strict=True)
    return any(weight and token in end_token_ids for token, weight in pairs)
