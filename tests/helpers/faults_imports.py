"""A program for a child process: load everything, use a little of it, and tell who tried to reach the outside.

It is started with an environment that switches nothing off but what `tunesmith` itself does, and prints one JSON line.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from importlib.util import find_spec
from pathlib import Path

from faults_network import no_connections

BACK_ENDS = (
    "accelerate", "bitsandbytes", "datasets", "deepspeed", "flwr", "gguf", "gradio", "kernels", "llguidance", "mlflow",
    "modelscope", "nicegui", "onnx", "onnxruntime", "openai", "optuna", "peft", "ray", "safetensors", "sklearn",
    "swanlab", "tensorboard", "tokenizers", "torchao", "transformers", "trl", "vllm", "wandb", "xllamacpp",
)  # fmt: skip


def main(folder: str, back_ends: str) -> None:
    """Import every file of the package and the back-ends installed; make a tiny model, load it, let it speak."""
    with no_connections() as tried:
        import tunesmith

        tunesmith.prepare()
        modules = [each.name for each in pkgutil.walk_packages(tunesmith.__path__, "tunesmith.")]
        for name in modules:
            if name != "tunesmith.__main__":
                importlib.import_module(name)
        installed = [name for name in BACK_ENDS if back_ends == "all" and find_spec(name) is not None]
        for name in installed:
            importlib.import_module(name)
        _speak(Path(folder))
    sys.stdout.write(json.dumps({"tried": tried, "modules": len(modules), "back_ends": installed}) + "\n")


def _speak(folder: Path) -> None:
    import torch

    from tunesmith.core.types import Message
    from tunesmith.models.load import load_model, resolve_base
    from tunesmith.models.tiny import tiny_chat_model
    from tunesmith.tasks.chat import ChatTask

    base = resolve_base(str(tiny_chat_model(folder / "model", layers=1)))
    loaded = load_model(base.path, dtype=torch.float32)
    task = ChatTask(loaded.tokenizer, loaded.end_token_ids, 512)
    ids = torch.tensor([task.prompt([Message("user", "hello")])])
    loaded.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, do_sample=False, pad_token_id=0)


if __name__ == "__main__":
    main(*sys.argv[1:])
