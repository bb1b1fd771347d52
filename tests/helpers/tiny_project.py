"""A tiny project and a call of the program, for tests of the commands and of the documentation."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

RECIPE = """
name: tiny
model: {{base: {base}, dtype: float32}}
data:
  sources: [{{path: tickets/train.jsonl}}]
  validation_sources: [{{path: tickets/validation.jsonl}}]
  test_sources: [{{path: tickets/test.jsonl}}]
stages:
  - name: instruct
    train: {{epochs: 2, learning_rate: 1e-2, batch_size: 8, max_length: 2048, save_steps: 3}}
evaluate: {{metrics: [exact_match, rouge_l], max_new_tokens: 8, examples: 1}}
ship: {{formats: [safetensors], parity: {{chats: 8}}}}
runtime: {{threads: 1, device: cpu}}
"""


@dataclass(frozen=True)
class Call:
    """What a call of the program gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, object]:
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value

    @property
    def error(self) -> str:
        """The code of the error that was answered as JSON."""
        stated = self.json["error"]
        assert isinstance(stated, dict) and stated["cause"] and stated["next"]
        return str(stated["code"])


Program = Callable[..., Call]


def write_tiny_recipe(folder: Path, base: Path, rows: Sequence[int] = (40, 8, 12)) -> Path:
    from tunesmith.data.samples.tickets import write_tickets

    train, validation, test = rows
    write_tickets(folder / "tickets", train=train, validation=validation, test=test, seed=1)
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(base=base), "utf-8")
    return path
