"""The table of tasks: a recipe's word to the class that does it."""

from __future__ import annotations

from pathlib import Path

from tunesmith.models.heads import Head
from tunesmith.models.load import load_tokenizer
from tunesmith.tasks.base import Task
from tunesmith.tasks.chat import ChatTask
from tunesmith.tasks.classes import ClassTask, has_encoder, longest_row
from tunesmith.tasks.side_by_side import SideBySideTask
from tunesmith.tasks.text_class import TextClassTask
from tunesmith.tasks.token_class import TokenClassTask

CLASS_TASKS: dict[str, type[ClassTask]] = {"text_class": TextClassTask, "token_class": TokenClassTask}


def task_of(folder: Path, head: Head | None, max_length: int) -> Task:
    """The task of a model folder: with classes where there is a head, else the conversation.

    Errors: those of `load_tokenizer` and `end_token_ids`.
    """
    return ChatTask.of_folder(folder, max_length) if head is None else class_task_of(folder, head, max_length, folder)


def class_task_of(tokenizer: Path, head: Head, max_length: int, model: Path) -> ClassTask:
    """The task of a head, with the tokenizer of one folder over the model of another. Errors: see `load_tokenizer`."""
    texts, longest, is_encoder = load_tokenizer(tokenizer), longest_row(model, max_length), has_encoder(model)
    if not head.parts:
        return CLASS_TASKS[head.task](texts, head, longest, is_encoder)
    parts = {name: CLASS_TASKS[part.task](texts, part, longest, is_encoder) for name, part in head.parts}
    return SideBySideTask(texts, head, longest, is_encoder, parts)
