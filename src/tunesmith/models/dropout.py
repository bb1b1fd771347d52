"""A model's own dropout layers: behind the embedding, on shares of attention, before each sum of a block, at a head.

They are off unless a recipe asks for them. What is drawn comes from torch's generator, which the loop seeds for every
pass of a step, so a resume draws the same.
"""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from tunesmith.core.errors import TunesmithError
from tunesmith.models.sites import layer_of
from tunesmith.recipe.specs.model import Dropout


def set_dropout(model: PreTrainedModel, share: Dropout | None) -> None:
    """Set what every dropout layer of a freshly loaded model drops in training; `own` leaves what the model states.

    Errors: models.no_dropout where a share is wanted and nothing would be dropped.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    if share != "own":
        for layer in layers:
            layer.p = share or 0.0
    if share is not None and not (layers and (share == 0 or any(layer.p for layer in layers))):
        raise TunesmithError("models.no_dropout", architecture=str(model.config.model_type), share=str(share))


def drops_below(model: PreTrainedModel, blocks: int) -> bool:
    """Whether the embedding or one of the first `blocks` blocks drops anything in training, LoRA's inputs apart."""
    body = model.base_model
    for name, module in body.named_modules():
        layer = layer_of(f"{name}.")
        below = layer < blocks if layer is not None else name.startswith("embeddings.")
        if below and isinstance(module, nn.Dropout) and module.p and ".lora_dropout." not in name:
            return True
    return False
