"""Time inside trainers that are built on transformers' Trainer."""

from __future__ import annotations

import time

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class StepClock(TrainerCallback):
    """Seconds from the beginning of the first step to the end of the last one, of the latest training."""

    def __init__(self) -> None:
        self._began = self._ended = 0.0

    @property
    def seconds(self) -> float:
        """What the latest training took."""
        return self._ended - self._began

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if state.global_step == 0:
            self._began = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self._ended = time.perf_counter()
