"""One task of a model with heads side by side as a model of its own: what any tool loads with transformers' class.

The rows of the task stay of the last layer, its vector becomes part of the embeddings that it was added to, and what
only other tasks need goes. A model for texts that tags tokens here becomes one of transformers' class for tokens, whose
last layer reads hidden states as they are; where that class has a bias and ours has none, it is 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tunesmith.adapt.files import ADAPTER_CONFIG, TASK_TYPES
from tunesmith.adapt.saved import kind_of
from tunesmith.core.files import read_json, write_json
from tunesmith.models.heads import TASK_EMBEDDINGS, Head
from tunesmith.models.side_by_side import spans
from tunesmith.models.weights import read_tensors

_LAST_LAYER = re.compile(r"(?:^|\.)(?:classifier|score)\.(?:weight|bias)$")
_OF_TEXTS = re.compile(r"(?:^|\.)(?:pooler|classifier\.dense)\.")
"""What lies between the body and the last layer of a model for texts."""
_INPUT_EMBEDDINGS = re.compile(r"(?:^|\.)(?:embed_tokens|word_embeddings)\.weight$")


def tensors_of_task(tensors: Mapping[str, Tensor], head: Head, name: str) -> dict[str, Tensor]:
    """The weights of one task's model.

    Args:
        tensors: those of the model with all heads, or of a change of it that brings them.
        head: all of them; `name` is the task.
    """
    place = [each for each, _ in head.parts].index(name)
    span, tags_in_text_model = spans(head)[place], head.parts[place][1].task != head.task
    vectors = [each for path, each in tensors.items() if f".{TASK_EMBEDDINGS}." in path]
    found: dict[str, Tensor] = {}
    for path, tensor in tensors.items():
        if f".{TASK_EMBEDDINGS}." in path or (tags_in_text_model and _OF_TEXTS.search(path)):
            continue
        if vectors and _INPUT_EMBEDDINGS.search(path):
            tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32)) + vectors[0][place]
        last = path.replace("classifier.out_proj.", "classifier.")
        if _LAST_LAYER.search(last):
            tensor = tensor[span].contiguous()
        found[last if tags_in_text_model else path] = tensor
    for path in [each for each in found if each.endswith("score.weight")] if tags_in_text_model else ():
        found[path.removesuffix("weight") + "bias"] = torch.zeros(len(found[path]), dtype=found[path].dtype)
    return found


def keep_task(folder: Path, head: Head, name: str) -> None:
    """Leave one task in the folder of a change that is published beside its base."""
    kind, part = kind_of(folder), dict(head.parts)[name]
    save_file(tensors_of_task(read_tensors(folder / kind.weights), head, name), folder / kind.weights, {"format": "pt"})
    if kind.config == ADAPTER_CONFIG and part.task != head.task:
        config = read_json(folder / kind.config)
        modules = config["modules_to_save"]
        kept = [each for each in modules if each != "pooler"] if isinstance(modules, list) else modules
        stated = {"modules_to_save": kept, "task_type": TASK_TYPES["TokenClassification"]}
        write_json(folder / kind.config, {**config, **stated})
