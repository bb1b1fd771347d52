"""A folder for the libraries that load models: of a model folder only what is allowed, and nothing else.

A loader that is pointed at a folder looks for more than one asks of it: an adapter's configuration that names another
base, an index that names files elsewhere, the pickled `.metadata` of a distributed checkpoint, code. So no library
ever sees the folder itself. It sees a temporary one with the allowed keys of the JSON files, links to the tokenizer
and to weights whose headers are in order, and an index that was written here.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path

from transformers import CONFIG_MAPPING

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Emitter
from tunesmith.core.files import MANIFEST, disk_errors
from tunesmith.models.allowed import FILES, Read, read_allowed, read_bounded
from tunesmith.models.safetensors_header import Stored
from tunesmith.models.texts import ADDED_TOKENS, MODEL_FILES, ORIGIN, TEMPLATE, TOKENIZER
from tunesmith.models.weights import WEIGHTS, read_headers, weight_files

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".mdl", ".joblib", ".npz", ".npy", ".h5", ".msgpack")
_TOLD_ELSEWHERE = (MANIFEST, ORIGIN, "parity.json", ".gitattributes", ".gitignore")
_FOR_TOKENIZERS = ("tokenizer_config.json", "special_tokens_map.json")
_LARGEST_TOKENIZER = 256 << 20
_LARGEST_TEXT = 1 << 20
_MOST_FILES = 10_000
_ROOM_TO_DIFFER = 4
_SHOWN = 20


@dataclass(frozen=True)
class Contents:
    """What is used of the JSON files of a model folder, by file, and what is not.

    `dropped` are keys as "file: key", `unopened` are files below the folder that nothing here ever opens.
    """

    files: Mapping[str, Mapping[str, object]]
    dropped: tuple[str, ...]
    unopened: tuple[str, ...]


def contents(folder: Path) -> Contents:
    """Check a whole model folder. Errors: models.pickle_only, models.not_a_model_folder, models.broken_weights, and
    those of `read_allowed`."""
    weights = weight_files(folder)
    used = {*MODEL_FILES, *_TOLD_ELSEWHERE, *(path.name for path in weights)}
    unopened = tuple(_unopened(folder, used))
    pickles = [name for name in unopened if _is_pickle(name)]
    if not weights and pickles:
        raise TunesmithError("models.pickle_only", base=str(folder), files=", ".join(pickles[:3]))
    for missing in ("config.json", TOKENIZER):
        if not (folder / missing).is_file():
            raise TunesmithError("models.not_a_model_folder", path=str(folder), missing=missing)
    if not weights:
        raise TunesmithError("models.not_a_model_folder", path=str(folder), missing=WEIGHTS)
    read = {name: read_allowed(folder, name) for name in FILES if (folder / name).is_file()}
    _check_size(folder, read["config.json"].values, read_headers(folder))
    return Contents({name: each.values for name, each in read.items()}, tuple(_dropped(read)), unopened)


def tell_unused(folder: Path, emitter: Emitter) -> None:
    """Say which files of a model folder are never opened and which of its settings are not used.

    Emits the notes models.not_opened and models.keys_dropped. Errors: those of `contents`.
    """
    found = contents(folder)
    _tell_unopened(folder, found.unopened, emitter)
    if found.dropped:
        emitter.emit("note", code="models.keys_dropped", path=str(folder), keys=_listed(found.dropped))


def tell_unopened(folder: Path, used: Collection[str], emitter: Emitter) -> None:
    """The same for a folder of which the files `used` are opened. Emits the note models.not_opened."""
    _tell_unopened(folder, tuple(_unopened(folder, used)), emitter)


def _tell_unopened(folder: Path, names: Sequence[str], emitter: Emitter) -> None:
    if names:
        emitter.emit("note", code="models.not_opened", path=str(folder), files=_listed(names))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} (+{len(names) - _SHOWN})" if len(names) > _SHOWN else shown


def _dropped(read: Mapping[str, Read]) -> Iterator[str]:
    for name, each in read.items():
        for key in each.dropped:
            yield f"{name}: {key[:100]}"


def _unopened(folder: Path, used: Collection[str]) -> Iterator[str]:
    """Files below a folder that are not opened, pickles first; what people read (README, licence) is left out."""
    for path in sorted(islice(folder.rglob("*"), _MOST_FILES), key=lambda each: (not _is_pickle(each.name), each)):
        name = path.relative_to(folder).as_posix()
        for_people = path.suffix == ".md" or path.name.upper().startswith(("LICENSE", "NOTICE", "USE_POLICY"))
        if not path.is_dir() and name not in used and not for_people:
            yield name


def _is_pickle(name: str) -> bool:
    return name.lower().endswith(_PICKLES)


def _check_size(folder: Path, config: Mapping[str, object], headers: Mapping[str, tuple[Path, Stored]]) -> None:
    """Refuse a configuration that describes a far larger model than the files hold, before memory is taken for it.

    Sizes that it leaves out are those that transformers takes in their place.
    """
    path = folder / "config.json"
    try:
        whole = CONFIG_MAPPING[str(config["model_type"])].from_dict(deepcopy(dict(config)))
    except Exception as error:  # transformers and the hub's library raise classes of their own for values and types
        raise TunesmithError("models.broken_config", path=str(path), reason=str(error)[:300]) from error

    def size(key: str, default: int | None = None) -> int:
        value = getattr(whole, key, None)
        if value is None and default is not None:
            return default
        if type(value) is not int:
            raise TunesmithError("models.broken_config", path=str(path), reason=f"{key} = {value}")
        return value

    heads, hidden = size("num_attention_heads"), size("hidden_size")
    width = size("head_dim", hidden // max(1, heads)) * (2 * heads + 2 * size("num_key_value_heads", heads))
    described = size("num_hidden_layers") * hidden * (width + 3 * size("intermediate_size"))
    described += size("vocab_size") * hidden
    stored = sum(prod(each.shape) for _, each in headers.values())
    if described > _ROOM_TO_DIFFER * stored + 2**22:
        reason = f"it describes {described:.3g} weights, and the files hold {stored:.3g}"
        raise TunesmithError("models.broken_config", path=str(path), reason=reason)


@contextmanager
def clean_room(folder: Path, *, weights: bool) -> Iterator[Path]:
    """Yield a temporary folder that holds what is allowed of a model folder, with or without its weights.

    Errors: those of `contents`, without weights those of `read_allowed`; core.disk_full and others where the temporary
    folder cannot be written.
    """
    files = contents(folder).files if weights else {name: read_allowed(folder, name).values for name in _FOR_TOKENIZERS}
    with disk_errors(Path(os.environ.get("TMPDIR", "/tmp"))):
        temporary = tempfile.TemporaryDirectory(prefix="tunesmith-model-")
    with temporary as made:
        room = Path(made)
        with disk_errors(room):
            for name, values in files.items():
                _write(room / name, values)
            _link_tokenizer(folder, room)
            if (folder / ADDED_TOKENS).is_file():
                _write(room / ADDED_TOKENS, _added_tokens(folder / ADDED_TOKENS))
            template = read_template(folder)
            if template is not None:
                (room / TEMPLATE).write_text(template, "utf-8", newline="")
            if weights:
                _link_weights(folder, room)
        yield room


def read_template(folder: Path) -> str | None:
    """The text of a folder's chat_template.jinja; None where there is none. Errors: models.broken_config."""
    path = folder / TEMPLATE
    if not path.is_file():
        return None
    _refuse_larger(path, _LARGEST_TEXT)
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TunesmithError("models.broken_config", path=str(path), reason=str(error)) from error


def _added_tokens(path: Path) -> dict[str, object]:
    tokens = read_bounded(path)
    for token, index in tokens.items():
        if type(index) is not int or not 0 <= index < 2**31:
            reason = f"{token[:80]} = {repr(index)[:80]}"
            raise TunesmithError("models.broken_config", path=str(path), reason=reason)
    return tokens


def _link_tokenizer(folder: Path, room: Path) -> None:
    path = folder / TOKENIZER
    if path.is_file():
        _refuse_larger(path, _LARGEST_TOKENIZER)
        (room / TOKENIZER).symlink_to(path.resolve())


def _refuse_larger(path: Path, largest: int) -> None:
    if path.stat().st_size > largest:
        raise TunesmithError("models.broken_config", path=str(path), reason=f"{path.stat().st_size} bytes")


def _link_weights(folder: Path, room: Path) -> None:
    files = weight_files(folder)
    for path in files:
        (room / path.name).symlink_to(path.resolve())
    if [path.name for path in files] != [WEIGHTS]:
        places = {name: path.name for name, (path, _) in read_headers(folder).items()}
        _write(room / f"{WEIGHTS}.index.json", {"metadata": {}, "weight_map": places})


def _write(path: Path, values: Mapping[str, object]) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False), "utf-8")
