"""The model that a command names: a run's artefact, a model folder, or a base."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.adapt.files import stands_beside_a_base
from tunesmith.cli.manner import tell
from tunesmith.cli.terminal import Terminal
from tunesmith.cli.work import find_run, ready
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Events
from tunesmith.core.files import MANIFEST, verify_folder
from tunesmith.core.run import LOCK
from tunesmith.core.types import Message
from tunesmith.messages import say
from tunesmith.models.head_kind import head_kind, refuse_head
from tunesmith.recipe.load import load_recipe

if TYPE_CHECKING:
    from tunesmith.models.load import Loaded
    from tunesmith.tasks.chat import ChatTask


def published_folder(path: Path, task: str = "") -> Path:
    """The model folder behind a path: the folder itself, or of a run the merged artefact, else the adapter.

    Args:
        task: of a run with several tasks the one that is asked.

    Errors: cli.not_shipped, cli.which_task, cli.no_tasks, core.not_a_run.
    """
    is_model = (path / "config.json").is_file() or stands_beside_a_base(path)
    run = path if is_model else find_run(path)
    tasks = () if is_model else _tasks_of(run)
    if task and not tasks:
        raise TunesmithError("cli.no_tasks", path=str(run), task=task)
    if is_model:
        return path
    if tasks and task not in tasks:
        known = ", ".join(tasks)
        raise TunesmithError("cli.which_task", path=str(run), task=task or "-", known=known, first=tasks[0])
    for kind in ("safetensors", "adapter"):
        folder = run / "ship" / "-".join(each for each in (kind, task) if each)
        if (folder / MANIFEST).is_file():
            return folder
    raise TunesmithError("cli.not_shipped", path=str(run))


def _tasks_of(run: Path) -> tuple[str, ...]:
    """The tasks of a run that have models of their own."""
    lock = run / LOCK
    return tuple(load_recipe(lock).data.tasks or ()) if lock.is_file() else ()


def folder_with_head(named: str, task: str = "") -> Path | None:
    """The model folder behind a name, if its model gives classes: of a run, or as it lies; None for one that writes.
    `task` is the one that is asked of a run with several.

    Errors: those of `published_folder`.
    """
    path = Path(named)
    if not path.is_dir():
        if task:
            raise TunesmithError("cli.no_tasks", path=named, task=task)
        return None
    folder = published_folder(path, task)
    return folder if head_kind(folder) is not None else None


def base_of(folder: Path, stated: str | None) -> str | None:
    """Where the base of a published adapter is found: as stated, else as its run says; None leaves it to the folder."""
    folder = folder.resolve()
    lock = folder.parent.parent / LOCK
    if stated is not None or folder.parent.name != "ship" or not lock.is_file():
        return stated
    return load_recipe(lock).model.base


@dataclass(frozen=True)
class Asked:
    """A model to ask, and the system message that its training rows began with (empty when there was none)."""

    loaded: Loaded
    task: ChatTask
    system: str


def open_model(named: str, base: str | None = None, max_length: int = 1 << 30) -> Asked:
    """A run's published model, an adapter's folder, or a base by name, folder or hub id.

    Args:
        base: where the base of an adapter is found.

    Errors: models.gives_classes, those of `published_folder`, `resolve_base`, `load_model` and `load_published`.
    """
    path = Path(named)
    is_run = path.is_dir() and not (path / "config.json").is_file()
    folder = published_folder(path) if is_run else None
    if folder is not None:
        refuse_head(folder)
    system = _system_message(folder.resolve().parents[1]) if folder is not None else ""
    ready()
    tell(say("cli.loading"), "dim")
    import torch

    from tunesmith.adapt.published import load_published
    from tunesmith.models.clean_room import tell_unused
    from tunesmith.models.load import load_model, resolve_base
    from tunesmith.tasks.chat import ChatTask

    if folder is not None:
        if (folder / MANIFEST).is_file():
            verify_folder(folder)
    else:
        folder = resolve_base(named).path
        with Terminal() as listener:
            tell_unused(folder, Events(None, (listener,)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    if stands_beside_a_base(folder):
        loaded, _ = load_published(folder, base=base_of(folder, base), dtype=dtype, device=device)
    else:
        loaded = load_model(folder, dtype=dtype, device=device)
    return Asked(loaded, ChatTask(loaded.tokenizer, loaded.end_token_ids, max_length), system)


def _system_message(run: Path) -> str:
    """What every training row of the run told the model first: asked without it, the model would be out of place.

    Errors: those of `verify_folder`.
    """
    import polars

    path = run / "data" / "train.parquet"
    if not path.is_file() or not (run / LOCK).is_file():
        return ""
    verify_folder(path.parent)
    first = polars.read_parquet(path, columns=["messages"], n_rows=200)["messages"].to_list()
    starts = {turns[0]["content"] for turns in first if turns and turns[0]["role"] == "system"}
    return starts.pop() if len(starts) == 1 else ""


def question(text: str, system: str) -> list[Message]:
    """A user's text as a conversation, behind the system message if there is one."""
    turns = [Message("system", system)] if system else []
    return [*turns, Message("user", text)]
