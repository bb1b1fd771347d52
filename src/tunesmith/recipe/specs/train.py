"""How one stage is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tunesmith.recipe.specs.base import LARGEST_SEED, MOST, Spec

AUTO_ROWS = 8
"""Rows that `batch_size: auto` stands for in the mathematics of a step; memory decides only how they are run."""


ADAPTED_LOSS = "adapted_loss"
"""Validation figure of two domains: the loss of the validation rows, and how far the target lies from them."""
LOSSES = ("loss", ADAPTED_LOSS)
"""Validation figures of which less is better; of a task's metrics more is."""


class EarlyStoppingSpec(Spec):
    """When to stop before the last epoch, and what the best checkpoint is."""

    patience: int | None = Field(
        None, ge=1, le=MOST, description="Validations without gain before stopping; none never stops early."
    )
    metric: str = Field(
        "loss",
        description="Validation figure that decides: loss, adapted_loss (of two domains: loss, KL and MMD), or a "
        "metric of the task such as json_exact.",
    )
    rows: int = Field(
        64,
        ge=1,
        le=MOST,
        description="Validation rows used for a task metric, and of either domain for KL and MMD; the loss uses all.",
    )


class TrainSpec(Spec):
    """Settings of the one training loop."""

    epochs: float = Field(3.0, gt=0, le=100_000, description="Passes over the training rows.")
    max_steps: int | None = Field(None, ge=1, le=MOST, description="Optimizer steps at most; none leaves it to epochs.")
    batch_size: Annotated[int, Field(ge=1, le=65_536)] | Literal["auto"] = Field(
        8,
        description="Rows of one forward pass on one process; auto trains as 8 does and lets the memory at hand decide "
        "how many tokens are computed at once.",
    )
    gradient_accumulation_steps: int = Field(
        1, ge=1, le=65_536, description="An optimizer step takes batch_size times so many rows on each process."
    )
    max_length: int = Field(1024, ge=8, le=2**24, description="Longest row in tokens; longer rows are cut and counted.")
    packing: bool = Field(True, description="Rows stand end to end without padding; off runs one row at a time.")
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="Peak step size; none takes the method's: lora 2e-4, biases and norms 4e-4, else 2e-5.",
    )
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="Shape of the step size after warm-up."
    )
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="Share of steps over which the step size rises from 0.")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="Rule of the update.")
    weight_decay: float = Field(
        0.01, ge=0, le=100, description="Decoupled decay of matrices, per step and unit of step size."
    )
    max_grad_norm: float = Field(1.0, gt=0, le=1e30, description="Gradients longer than this are scaled down.")
    gradient_checkpointing: bool = Field(
        False, description="Compute activations again in the backward pass to save memory."
    )
    blocks: Literal["auto", "fast", "plain"] = Field(
        "auto",
        description="auto computes the model's blocks in a faster exact form where there is one, and says so; fast "
        "insists on it; plain never does.",
    )
    seed: int = Field(42, ge=0, le=LARGEST_SEED, description="Seed of row order, initial adapters and dropout.")
    eval_steps: int | None = Field(
        None, ge=1, le=MOST, description="Steps between validations; none validates after every epoch."
    )
    save_steps: int | None = Field(
        None, ge=1, le=MOST, description="Steps between checkpoints; none saves at every validation."
    )
    save_total_limit: int = Field(
        2, ge=1, le=MOST, description="Newest checkpoints kept; the best is always kept besides."
    )
    logging_steps: int = Field(1, ge=1, le=MOST, description="Steps between lines of metrics.jsonl.")
    early_stopping: EarlyStoppingSpec = Field(
        EarlyStoppingSpec(), description="Choice of the best checkpoint, and patience."
    )

    @property
    def rows_per_step(self) -> int:
        """Rows of one optimizer step on one process: they decide the update, and do not depend on the memory."""
        return (AUTO_ROWS if self.batch_size == "auto" else self.batch_size) * self.gradient_accumulation_steps
