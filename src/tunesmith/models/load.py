"""From the name of a base model to a folder on this machine, and from a folder to a model in memory.

This is the only file that calls `from_pretrained`. Code that comes with a model is never run, pickled weights are
never opened, and a model whose weights do not fit its configuration to the last tensor is refused.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, cast

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import MANIFEST, read_json, sha256_file, verify_folder
from tunesmith.models.catalog import KNOWN, KnownModel, bundled_file, find, nearest_names
from tunesmith.models.gguf_import import import_gguf, read_origin
from tunesmith.models.hub import download, download_modelscope

Source = Literal["bundled", "folder", "gguf", "hub", "modelscope"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_PRIVATE_KEYS = frozenset({"_name_or_path", "_attn_implementation_autoset", "_sliding_window_pattern", "_commit_hash"})
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


@dataclass(frozen=True)
class ModelOrigin:
    """Where weights come from. `quantization` is the format they were stored in; `lossy` says that it lost bits."""

    source: Source
    file: str = ""
    file_sha256: str = ""
    quantization: str = "none"
    lossy: bool = False


@dataclass(frozen=True)
class BaseFolder:
    """A base model on this machine, in the Hugging Face layout.

    `sha256` is of the weights: of the one safetensors file, or of the list of shards with their hashes. `revision`
    is the commit on the hub, or empty. `licence` is empty when nothing states it.
    """

    path: Path
    name: str
    revision: str
    sha256: str
    licence: str
    origin: ModelOrigin


@dataclass(frozen=True)
class Loaded:
    """A model in memory, in evaluation mode. `template` is its chat template, empty when it has none.

    `end_token_ids` end an answer, the tokenizer's own first.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast = field(repr=False)
    template: str
    end_token_ids: tuple[int, ...]
    pad_token_id: int


def resolve_base(base: str, *, revision: str | None = None, offline: bool | None = None) -> BaseFolder:
    """Find a base model, convert or download it if need be, check it, and say what it is.

    Args:
        base: bundled or known name, folder, .gguf file, `org/name` of the hub, or `modelscope:org/name`.
        revision: commit, tag or branch on the hub; the newest commit when None.
        offline: never ask a hub; None reads HF_HUB_OFFLINE.

    Errors: models.unknown_base, models.bundle_missing, models.bundle_differs, models.not_a_model_folder,
        models.pickle_only, models.remote_code, models.broken_config, models.offline, models.download_failed,
        models.modelscope_missing, core.missing_file, core.hash_differs, and those of `import_gguf`.
    """
    if offline is None:
        offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    path = Path(base).expanduser()
    if path.is_dir():
        return describe_folder(path, name=path.resolve().name)
    if path.is_file() and path.suffix == ".gguf":
        return describe_folder(import_gguf(path), name=path.stem)
    if path.suffix == ".gguf" or base.startswith((".", "/", "~")):
        raise TunesmithError("core.missing_file", path=str(path))
    if base.startswith("modelscope:"):
        return _from_modelscope(base, revision, offline)
    known = find(base)
    if known is not None and known.bundle is not None and base.lower() == known.name:
        return _from_bundle(known)
    hub_id = known.hub_id if known is not None else base
    if not _HUB_ID.fullmatch(hub_id):
        nearest = nearest_names(base) or [model.name for model in KNOWN[:3]]
        raise TunesmithError("models.unknown_base", base=base, nearest=", ".join(nearest))
    folder, commit = download(hub_id, revision, offline=offline)
    return describe_folder(folder, name=hub_id, revision=commit, licence=known.licence if known else "", source="hub")


def _from_bundle(known: KnownModel) -> BaseFolder:
    path = bundled_file(known)
    bundle = known.bundle
    if bundle is None:  # bundled_file has refused that already
        raise TunesmithError("models.not_bundled", name=known.name, hub_id=known.hub_id)
    found = sha256_file(path)
    if found != bundle.sha256:
        raise TunesmithError(
            "models.bundle_differs",
            name=known.name,
            path=str(path),
            found=found,
            expected=bundle.sha256,
            command=bundle.install,
        )
    folder = import_gguf(path, name=known.name, licence=known.licence)
    return describe_folder(folder, name=known.name, licence=known.licence, source="bundled")


def _from_modelscope(base: str, revision: str | None, offline: bool) -> BaseFolder:
    model_id = base.partition(":")[2]
    if not _HUB_ID.fullmatch(model_id):
        raise TunesmithError("models.unknown_base", base=base, nearest="modelscope:Qwen/Qwen2.5-0.5B-Instruct")
    if find_spec("modelscope") is None:
        raise TunesmithError("models.modelscope_missing", base=base)
    folder = download_modelscope(model_id, revision, offline=offline)
    return describe_folder(folder, name=base, revision=revision or "", source="modelscope")


def describe_folder(
    folder: Path, *, name: str, revision: str = "", licence: str = "", source: Source = "folder"
) -> BaseFolder:
    """Check that a folder is a whole, safe model folder, and describe it.

    A folder that carries a manifest of ours is checked byte by byte. Errors: see `resolve_base`.
    """
    check_folder(folder)
    stated = read_origin(folder)
    if stated:
        origin = ModelOrigin(
            source if source == "bundled" else "gguf",
            file=str(stated.get("file", "")),
            file_sha256=str(stated.get("sha256", "")),
            quantization=str(stated.get("quantization", "none")),
            lossy=bool(stated.get("lossy", False)),
        )
    else:
        origin = ModelOrigin(source)
    return BaseFolder(
        path=folder,
        name=name,
        revision=revision,
        sha256=weights_sha256(folder),
        licence=licence or str(stated.get("licence", "")),
        origin=origin,
    )


def check_folder(folder: Path) -> None:
    """Refuse a folder that is no whole model folder or asks to run its own code. Errors: see `resolve_base`."""
    weights = sorted(folder.glob("*.safetensors"))
    pickles = [path.name for pattern in _PICKLES for path in sorted(folder.glob(pattern))]
    if not weights and pickles:
        raise TunesmithError("models.pickle_only", base=str(folder), files=", ".join(pickles[:3]))
    for missing in ("config.json", "tokenizer.json"):
        if not (folder / missing).is_file():
            raise TunesmithError("models.not_a_model_folder", path=str(folder), missing=missing)
    if not weights:
        raise TunesmithError("models.not_a_model_folder", path=str(folder), missing="*.safetensors")
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        if (folder / name).is_file():
            _check_config(folder / name)


def _check_config(path: Path) -> None:
    """Refuse a configuration that names code: `auto_map`, or a private key, through which a kernel of the hub was
    once fetched and run although remote code was off."""
    try:
        config = read_json(path)
    except TunesmithError as error:
        raise TunesmithError("models.broken_config", path=str(path), reason=str(error)) from error
    if path.name == "config.json" and not isinstance(config.get("model_type"), str):
        raise TunesmithError("models.broken_config", path=str(path), reason="model_type")
    for key, value in _leaves(config):
        private = key.startswith("_") and key not in _PRIVATE_KEYS and path.name == "config.json"
        kernel = key.endswith("attn_implementation") and "/" in str(value)
        if key in ("auto_map", "custom_pipelines") or private or kernel:
            raise TunesmithError("models.remote_code", path=str(path), key=key)


def _leaves(value: Mapping[str, object]) -> Iterable[tuple[str, object]]:
    for key, inner in value.items():
        yield key, inner
        if isinstance(inner, dict):
            yield from _leaves(inner)


def weights_sha256(folder: Path) -> str:
    """SHA-256 of the weights in a folder. Errors: core.hash_differs and others when a manifest there disagrees."""
    files = sorted(folder.glob("*.safetensors"))
    stated: Mapping[str, object] = {}
    if (folder / MANIFEST).is_file():
        listed = verify_folder(folder).get("files")
        stated = listed if isinstance(listed, dict) else {}
    hashes = [str(stated.get(path.name) or sha256_file(path)) for path in files]
    if len(hashes) == 1:
        return hashes[0]
    lines = "".join(f"{path.name}:{digest}\n" for path, digest in zip(files, hashes, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a model folder, exactly as its tokenizer.json has it. Errors: models.load_failed."""
    try:
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # tokenizers raises plain Exception for a damaged file
        raise TunesmithError("models.load_failed", path=str(folder), reason=_reason(error)) from error
    return tokenizer


def load_model(
    folder: Path, *, dtype: torch.dtype, device: torch.device | str = "cpu", attention: str = "sdpa"
) -> Loaded:
    """Load a causal language model and its tokenizer from a folder.

    Args:
        folder: model folder that `resolve_base` returned, or one of a published artefact.
        dtype: number format of the weights in memory.
        device: where they go.
        attention: a form of attention that transformers knows by this name.

    Errors: models.broken_weights, models.weights_do_not_fit, models.load_failed, models.no_end_token, and those
        of `check_folder`.
    """
    check_folder(folder)
    transformers_logging.disable_progress_bar()
    try:
        loaded: object = AutoModelForCausalLM.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,
        )
    except SafetensorError as error:
        raise TunesmithError("models.broken_weights", path=str(folder), reason=_reason(error)) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError) as error:
        raise TunesmithError("models.load_failed", path=str(folder), reason=_reason(error)) from error
    # with output_loading_info the call returns a pair, which its annotation does not say
    model, info = cast(tuple[PreTrainedModel, Mapping[str, Iterable[object]]], loaded)
    _check_fit(folder, info)
    torch.nn.Module.to(model, device)  # in place; transformers' own `to` is a wrapper that hides its signature
    tokenizer = load_tokenizer(folder)
    ends = end_token_ids(folder, tokenizer)
    pad = tokenizer.pad_token_id
    return Loaded(
        model=model.eval(),
        tokenizer=tokenizer,
        template=template_of(tokenizer),
        end_token_ids=ends,
        pad_token_id=pad if isinstance(pad, int) else ends[0],
    )


def end_token_ids(folder: Path, tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    """Tokens that end an answer: the tokenizer's own first, then those that the generation settings name.

    Some families (Gemma, Phi, Llama 3) end a turn with a token that only their generation settings know.
    Errors: models.no_end_token.
    """
    path = folder / "generation_config.json"
    stated = read_json(path).get("eos_token_id") if path.is_file() else None
    listed = [tokenizer.eos_token_id, *(stated if isinstance(stated, list) else [stated])]
    found = tuple(dict.fromkeys(each for each in listed if isinstance(each, int)))
    if not found:
        raise TunesmithError("models.no_end_token", path=str(folder))
    return found


def template_of(tokenizer: PreTrainedTokenizerFast) -> str:
    """The chat template that a tokenizer carries; of several the one named default; empty when there is none."""
    stated = tokenizer.chat_template
    if isinstance(stated, dict):
        stated = stated.get("default", "")
    return stated if isinstance(stated, str) else ""


def folder_template(folder: Path) -> str:
    """The chat template as it lies in a model folder: the very file that ships. Errors: models.load_failed."""
    path = folder / "chat_template.jinja"
    return path.read_text("utf-8") if path.is_file() else template_of(load_tokenizer(folder))


def _check_fit(folder: Path, info: Mapping[str, Iterable[object]]) -> None:
    parts = {
        part: sorted(str(each) for each in info.get(f"{part}_keys") or ())
        for part in ("missing", "unexpected", "mismatched")
    }
    if any(parts.values()):
        shown = {part: ", ".join(names[:3]) or "-" for part, names in parts.items()}
        raise TunesmithError("models.weights_do_not_fit", path=str(folder), **shown)


def _reason(error: BaseException) -> str:
    lines = (str(error) or type(error).__name__).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
