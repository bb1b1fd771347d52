"""Names of the files in which a change is saved, by its kind. Nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path

from tunesmith.models.texts import MODEL_FILES

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""PEFT's names, of whatever PEFT has."""
SUBSET_CONFIG, SUBSET_WEIGHTS = "subset_config.json", "subset_model.safetensors"
BOTTLENECK_CONFIG, BOTTLENECK_WEIGHTS = "bottleneck_config.json", "bottleneck_model.safetensors"
EXPERTS_CONFIG, EXPERTS_WEIGHTS = "experts_config.json", "experts_model.safetensors"
LORA_EXPERTS_CONFIG, LORA_EXPERTS_WEIGHTS = "lora_experts_config.json", "lora_experts_model.safetensors"
FULL_WEIGHTS = "model.safetensors"

CONFIGS = (ADAPTER_CONFIG, SUBSET_CONFIG, BOTTLENECK_CONFIG, EXPERTS_CONFIG, LORA_EXPERTS_CONFIG)
"""What tells the kind of a change that stands beside a base."""
WEIGHTS = (ADAPTER_WEIGHTS, SUBSET_WEIGHTS, BOTTLENECK_WEIGHTS, EXPERTS_WEIGHTS, LORA_EXPERTS_WEIGHTS, FULL_WEIGHTS)
TASK_TYPES = {
    "CausalLM": "CAUSAL_LM",
    "SequenceClassification": "SEQ_CLS",
    "TokenClassification": "TOKEN_CLS",
}
"""PEFT's word for what a class of transformers does, by the end of the class's name."""
CHANGE_FILES = frozenset({*CONFIGS, *WEIGHTS, *MODEL_FILES})
"""What is opened in the folder of a change."""


def stands_beside_a_base(folder: Path) -> bool:
    """Whether a folder holds a change that needs its base to compute anything."""
    return any((folder / name).is_file() for name in CONFIGS)
