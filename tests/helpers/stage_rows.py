"""Recipes of several stages over tiny rows, for tests of chains."""

from __future__ import annotations

import json
from pathlib import Path

from tunesmith.data.samples.tickets import write_tickets
from tunesmith.models.tiny import tiny_chat_model

RECIPE = """
name: chain
model: {{base: {base}, dtype: {dtype}}}
data:
  sources: [{{path: train.jsonl}}]
  validation_sources: [{{path: validation.jsonl}}]
  test_sources: [{{path: test.jsonl}}]
stages:
{stages}
evaluate: {{metrics: [exact_match], max_new_tokens: 4, examples: 0}}
ship: {{formats: {formats}, parity: {{chats: 4}}}}
runtime: {{threads: 1, device: cpu}}
"""
TRAIN = "{epochs: 1, learning_rate: 1e-2, batch_size: 8, max_length: 2048, save_steps: 2}"
RELATED = "data: {sources: [{path: sums.jsonl, name: sums}, {path: colours.jsonl, name: colours}]}"


def stage(name: str, *settings: str) -> str:
    """One stage as YAML."""
    return "\n".join((f"  - name: {name}", *(f"    {line}" for line in (*settings, f"train: {TRAIN}"))))


def write_chain(folder: Path, *stages: str, formats: str = "[safetensors]", dtype: str = "float32") -> Path:
    """A recipe with these stages, its tickets, two small related tasks and a base."""
    write_tickets(folder, train=32, validation=8, test=10, seed=1)
    tables = {
        "sums": [{"prompt": f"{place} + 1?", "completion": str(place + 1)} for place in range(24)],
        "colours": [{"prompt": f"colour {place}?", "completion": ("red", "blue")[place % 2]} for place in range(16)],
    }
    for name, rows in tables.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    base = tiny_chat_model(folder / "base", spread=0.1, context=2048)
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(base=base, dtype=dtype, stages="\n".join(stages), formats=formats), "utf-8")
    return path
