"""The best checkpoint, and when to stop waiting for a better one."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from tunesmith.recipe.specs.train import LOSSES, EarlyStoppingSpec


@dataclass
class Stopper:
    """Remembers the best validation. A value that is no number is never the best.

    `patience` None never stops early.
    """

    metric: str
    patience: int | None
    best_value: float | None = None
    best_step: int = 0
    without_gain: int = 0

    @classmethod
    def of(cls, spec: EarlyStoppingSpec) -> Stopper:
        """A stopper that has seen nothing."""
        return cls(spec.metric, spec.patience)

    @property
    def lower_is_better(self) -> bool:
        """Losses fall, metrics rise."""
        return self.metric in LOSSES

    def see(self, value: float, step: int) -> bool:
        """Take a validation; True when it is the best so far."""
        better = math.isfinite(value) and (
            self.best_value is None or (value < self.best_value if self.lower_is_better else value > self.best_value)
        )
        if better:
            self.best_value, self.best_step, self.without_gain = value, step, 0
        else:
            self.without_gain += 1
        return better

    @property
    def stop(self) -> bool:
        """Patience is at its end."""
        return self.patience is not None and self.without_gain >= self.patience

    def state(self) -> dict[str, object]:
        """For the checkpoint."""
        return asdict(self)

    def restore(self, state: dict[str, object]) -> None:
        """From the checkpoint."""
        vars(self).update(state)
