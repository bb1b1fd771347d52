"""What the points of the matrix stand on: tiny models of every architecture they need, rows, recipes and fits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from class_rows import as_examples, several_rows, text_rows, token_rows
from fits import examples
from matrix_axes import ADAPTS, AIMS, RUNTIMES, TASKS, Point
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from tunesmith.core.conditions import Conditions
from tunesmith.core.events import Emitter
from tunesmith.core.types import Example, Origin
from tunesmith.models.heads import Head
from tunesmith.models.load import BaseFolder, Loaded, load_model, load_with_head, resolve_base, weights_sha256
from tunesmith.models.packed import Features
from tunesmith.models.texts import TOKENIZER_FILES
from tunesmith.models.tiny import tiny_chat_model, tiny_encoder, tiny_moe_model
from tunesmith.recipe.load import parse_recipe
from tunesmith.recipe.recipe import Recipe
from tunesmith.runtime.base import Runtime
from tunesmith.ship.merge_base import weights_beside
from tunesmith.tasks.base import Task
from tunesmith.tasks.label_sets import found_labels, head_from
from tunesmith.tasks.registry import task_of
from tunesmith.tasks.unlabelled import with_stand_ins
from tunesmith.train.build import StageInputs, build
from tunesmith.train.loop import Job
from tunesmith.train.teacher import TeacherModel
from tunesmith.train.validation import no_task_metric

ROWS, OLD_ROWS, STEP = 8, 4, 4
"""New rows, old rows, and rows of a step on all ranks together."""
SOURCES = ("one", "other")
"""Rows come from these in turn; where several tasks are learned at once, each is one."""
_LONGEST = 96
_MAKERS = {"text_class": text_rows, "multi_label": several_rows, "token_class": token_rows}


def _biased(folder: Path) -> Path:
    """A random Qwen2, whose attention has biases, with the files of the tiny chat model."""
    plain = tiny_chat_model(folder.with_name("plain"), spread=0.1)
    stated = json.loads((plain / "config.json").read_text("utf-8"))
    kept = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size")
    config = AutoConfig.for_model(
        "qwen2", **{name: stated[name] for name in kept}, num_hidden_layers=2, max_position_embeddings=2048,
        initializer_range=0.1, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    transformers_logging.disable_progress_bar()
    model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (plain / name).is_file():
            shutil.copyfile(plain / name, folder / name)
    return folder


BASES = {
    "llama": partial(tiny_chat_model, spread=0.1, context=2048),
    "qwen2": _biased,
    "qwen3_moe": tiny_moe_model,
    "bert": partial(tiny_encoder, spread=0.1),
    "teacher": partial(tiny_chat_model, spread=0.2, seed=9, context=2048),
}


def make_bases(folder: Path) -> Path:
    """Every model that a point can ask for, by its name below a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in BASES.items():
        make(folder / name)
    return folder


@dataclass(frozen=True)
class Ground:
    """One point with the models that were made for it."""

    point: Point
    bases: Path

    @property
    def stated(self) -> dict[str, object]:
        """The point as a user would state it."""
        adapt, aim, task = ADAPTS[self.point.adapt], AIMS[self.point.objective], TASKS[self.point.task]
        ranks = 2 if RUNTIMES[self.point.runtime]["kind"] == "distributed" else 1
        more = dict(aim.stage)
        objective = more.get("objective")
        if isinstance(objective, dict) and "teacher" in objective:
            more["objective"] = {**objective, "teacher": str(self.bases / objective["teacher"])}
        stage: dict[str, object] = {
            "name": "instruct",
            "adapt": adapt.spec,
            **more,
            "train": {
                "epochs": aim.epochs, "batch_size": STEP // ranks, "eval_steps": 3, "max_length": _LONGEST,
                "learning_rate": adapt.learning_rate,
            },
        }  # fmt: skip
        return {
            "name": "matrix",
            "model": {"base": str(self.base_path), "dtype": "float32", "quantize": adapt.quantize},
            "data": {"sources": [{"path": f"{name}.jsonl", "name": name} for name in SOURCES], **task.data},
            "stages": [stage],
            "runtime": {"device": "cpu", "threads": 1, **RUNTIMES[self.point.runtime]},
        }

    @cached_property
    def recipe(self) -> Recipe:
        """The same, read as every recipe is. Errors: those of a recipe."""
        return parse_recipe(json.dumps(self.stated))

    @property
    def base_path(self) -> Path:
        """The folder of the model that the point starts from."""
        return self.bases / ("bert" if TASKS[self.point.task].encoder else ADAPTS[self.point.adapt].decoder)

    @cached_property
    def base(self) -> BaseFolder:
        """The same, described."""
        return resolve_base(str(self.base_path))

    @cached_property
    def examples(self) -> list[Example]:
        """The rows of the point's task."""
        return self._examples(ROWS)

    def _examples(self, count: int, first: int = 0) -> list[Example]:
        rows, tasks = self.recipe.data.rows, self.recipe.data.tasks
        if rows == "chat":
            return examples(count, first)
        if tasks is not None:
            return [self._of_task(place, count, first) for place in range(count)]
        return as_examples(_MAKERS[rows](count, seed=first + 1), first)

    def _of_task(self, place: int, count: int, first: int) -> Example:
        """A row of the task whose turn it is."""
        name = SOURCES[place % len(SOURCES)]
        rows = (self.recipe.data.tasks or {})[name]
        found = as_examples(_MAKERS[rows](count, seed=first + 1), first)[place]
        return replace(found, origin=Origin(name, place))

    @cached_property
    def head(self) -> Head | None:
        """The head that the task needs, or the heads of all tasks."""
        data = self.recipe.data
        if data.task == "chat":
            return None
        labels = found_labels(data, [*self.examples, *self._examples(OLD_ROWS, first=500)])
        return head_from(data, labels, embeddings=self.recipe.task_embeddings)

    @cached_property
    def task(self) -> Task:
        """How rows become tokens."""
        return task_of(self.base.path, self.head, _LONGEST)

    @cached_property
    def rows(self) -> list[Features]:
        """The rows as they are trained."""
        return [self.task.encode(each).features for each in self.examples]

    def load(self, *, quantized: bool = False) -> Loaded:
        """The base anew, in codes where that is asked for and the point trains beside codes."""
        quantize = self.recipe.model.quantize if quantized else "none"
        if self.head is not None:
            return load_with_head(self.base.path, self.head, dtype=torch.float32, quantize=quantize)
        return load_model(self.base.path, dtype=torch.float32, quantize=quantize)

    @cached_property
    def weights_beside(self) -> Mapping[str, Tensor]:
        """The dense weights that a change trained beside, where they were held in codes."""
        return weights_beside(self.base, self.recipe.model.quantize, torch.float32, self.head)

    def job(self, folder: Path, runtime: Runtime, emitter: Emitter) -> Job:
        """The point's fit in a folder. What it validates with are the rows that it trains on."""
        old = [self.task.encode(each).features for each in self._examples(OLD_ROWS, first=500)]
        inputs = StageInputs(
            loaded=self.load(quantized=True),
            base=self.base,
            task=self.task,
            train_rows=self.rows,
            validation_rows=[*self.rows, *(old if self.recipe.stages[0].replay else ())],
            folder=folder,
            conditions=Conditions({"point": str(self.point)}),
            task_metric=no_task_metric,
            old_rows={"ewc": old, "replay": old, "target": self._targets()},
            teacher=self._teacher(),
            tasks={each.row: SOURCES[each.row % len(SOURCES)] for each in self.examples},
        )
        return build(self.recipe.stages[0], inputs, runtime, emitter)

    def _targets(self) -> list[Features]:
        if self.recipe.stages[0].objective.kind != "adversarial" or self.head is None:
            return []
        tables = with_stand_ins({"target": self._examples(OLD_ROWS, first=700)}, {"target"}, self.head.labels)
        return [self.task.encode(each).features for each in tables["target"]]

    def _teacher(self) -> TeacherModel | None:
        if self.recipe.stages[0].objective.kind != "distill":
            return None
        folder = self.bases / "teacher"
        return TeacherModel("teacher", weights_sha256(folder), folder, partial(load_model, folder, dtype=torch.float32))
