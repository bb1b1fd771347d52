"""Saved weights of a model's own: all of a full fine-tune, or those that a subset let move."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from transformers import PreTrainedModel

from tunesmith.adapt.adapter_file import other_keys
from tunesmith.adapt.files import FULL_WEIGHTS, SUBSET_CONFIG, SUBSET_WEIGHTS
from tunesmith.models.expert_files import to_model
from tunesmith.models.weights import read_tensors


def weights_file(change: Path) -> str:
    """The file that holds whole weights: some of them, or all of a full fine-tune."""
    return SUBSET_WEIGHTS if (change / SUBSET_CONFIG).is_file() else FULL_WEIGHTS


def put_on_weights(model: PreTrainedModel, change: Path, new: Collection[str] = ()) -> None:
    """Put saved weights in the place of a model's own; `new` are names of its head, which must be among them.

    Errors: ship.adapter_keys, models.broken_weights.
    """
    file = weights_file(change)
    try:
        result = model.load_state_dict(
            to_model(str(model.config.model_type), read_tensors(change / file)), strict=False
        )
    except RuntimeError as error:  # a tensor of another shape
        raise other_keys(change, [], [str(error).strip().splitlines()[-1].strip()[:200]]) from error
    needed = {name for name in result.missing_keys if name != "lm_head.weight" and file == FULL_WEIGHTS}
    missing = sorted(needed | (set(new) & set(result.missing_keys)))
    if missing or result.unexpected_keys:
        raise other_keys(change, missing, result.unexpected_keys)
    model.tie_weights()
