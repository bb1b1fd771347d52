"""TensorBoard's view of the training stage: a listener that writes `tensorboard/` in the run directory.

The figures are those of `metrics.jsonl`, which stays the record; this folder is a convenience and may be deleted.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from tunesmith.core.events import Event

_GROUPS = {"step": "train", "validation": "validation"}
_NO_FIGURES = frozenset({"step", "total_steps", "applied", "best"})


class TensorBoard:
    """Takes events; writes from the first training step on. Use it as `with TensorBoard(folder) as listener`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, event: Event) -> None:
        """Write the figures of a step or a validation; anything else is not for a chart."""
        group = _GROUPS.get(event.kind)
        if group is None:
            if event.kind == "fit_end":
                self.close()
            return
        step = int(event.values.get("step") or 0)
        if self._writer is None:
            # stages in a row count their steps anew: each is a run of its own to look at
            folder = self._folder / str(event.values.get("stage") or "")
            # what an interrupted run wrote beyond its last checkpoint is hidden, not shown twice
            self._writer = SummaryWriter(str(folder), purge_step=step)
        for name, value in event.values.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and name not in _NO_FIGURES:
                self._writer.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        """Flush and close; safe to call twice."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None
