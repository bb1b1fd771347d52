"""What the data room needs of models, which it does not know itself: a count of tokens, and names of people."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from tunesmith.adapt.files import stands_beside_a_base
from tunesmith.adapt.published import load_published
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import SILENT, Emitter
from tunesmith.core.files import MANIFEST, user_path, verify_folder
from tunesmith.core.types import Example
from tunesmith.data.pii.find import Tagger
from tunesmith.data.tidy import Needs
from tunesmith.evaluate.name_tagger import NameTagger, names_head
from tunesmith.models.heads import ClassPolicy
from tunesmith.models.load import load_with_head
from tunesmith.models.texts import TOKENIZER
from tunesmith.tasks.registry import class_task_of
from tunesmith.work import Work

_LONGEST = 512
"""Tokens of a window: what encoders are made for, and more than a name needs around it."""


def needs_of(work: Work) -> Needs:
    """What the rows of a run may need. A tagger is loaded when it is first asked for, and once."""

    @cache
    def tagger(name: str) -> Tagger:
        return load_name_tagger(user_path(name, work.recipe_folder), work.events)

    def count_tokens(examples: Sequence[Example]) -> list[int]:
        counted = []
        for example in examples:
            try:
                encoded = work.task.encode(example)
            except TunesmithError:  # a row that the template refuses goes by that reason
                counted.append(0)
            else:
                counted.append(len(encoded.features.token_ids) + encoded.cut_tokens)
        return counted

    return Needs(tagger=tagger, count_tokens=count_tokens if work.recipe.data.task == "chat" else None)


def load_name_tagger(folder: Path, emitter: Emitter = SILENT) -> NameTagger:
    """The tagger in a folder: a published model or one in transformers' form, or a change published beside its base.

    Errors: those of `names_head`, `verify_folder`, `load_with_head` and `load_published`.
    """
    head = names_head(folder)
    if (folder / MANIFEST).is_file():
        verify_folder(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if stands_beside_a_base(folder):
        loaded, base = load_published(folder, base=None, dtype=torch.float32, device=device, head=head)
        positions = base.path
    else:
        loaded, positions = load_with_head(folder, head, dtype=torch.float32, device=device), folder
    texts = folder if (folder / TOKENIZER).is_file() else positions
    task = class_task_of(texts, head, _LONGEST, positions)
    return NameTagger(ClassPolicy(loaded.model, head.several), task, emitter)
