"""From the name of a base model to a folder on this machine, and from a folder to a model in memory.

This is the only file that calls transformers' `from_pretrained`, and what it is given is a clean room: code that comes
with a model is never run, nothing pickled is opened, and a model whose weights do not fit its configuration to the last
tensor is refused. There is no switch for any of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, cast

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.auto_factory import _BaseAutoModelClass
from transformers.utils import logging as transformers_logging

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import MANIFEST, sha256_file, user_path, verify_folder
from tunesmith.core.memory import give_back
from tunesmith.models.allowed import TOKENIZER_KEYS, read_allowed
from tunesmith.models.catalog import KNOWN, KnownModel, bundled_file, find, nearest_names
from tunesmith.models.clean_room import clean_room, contents, read_template
from tunesmith.models.dropout import set_dropout
from tunesmith.models.e5_import import import_e5
from tunesmith.models.gguf_import import import_gguf, read_origin
from tunesmith.models.head_kind import refuse_head
from tunesmith.models.heads import Head, head_names, refuse_other_labels
from tunesmith.models.hub import download, download_modelscope
from tunesmith.models.quantized import quantize_blocks
from tunesmith.models.side_by_side import add_task_embeddings
from tunesmith.models.texts import TOKENIZER
from tunesmith.models.weights import read_tensor, weight_files
from tunesmith.recipe.specs.model import Dropout, Quantize

Source = Literal["bundled", "folder", "gguf", "hub", "modelscope"]

_SETTINGS = frozenset(TOKENIZER_KEYS) - {
    "added_tokens_decoder", "additional_special_tokens", "extra_special_tokens", "tokenizer_class",
}  # fmt: skip
"""Settings of a tokenizer that name no tokens to add."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


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

    `end_token_ids` end an answer, the tokenizer's own first. With a task head it answers with classes instead; `new`
    are parameters of the head that the folder has no weights for.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast = field(repr=False)
    template: str
    end_token_ids: tuple[int, ...]
    pad_token_id: int
    head: Head | None = None
    new: tuple[str, ...] = ()


def resolve_base(base: str, *, revision: str | None = None, offline: bool | None = None) -> BaseFolder:
    """Find a base model, convert or download it if need be, check it, and say what it is.

    Args:
        base: bundled or known name, folder, .gguf file, `org/name` of the hub, or `modelscope:org/name`.
        revision: commit, tag or branch on the hub; the newest commit when None.
        offline: never ask a hub; None reads HF_HUB_OFFLINE.

    Errors: models.unknown_base, models.bundle_missing, models.bundle_differs, models.not_a_model_folder,
        models.pickle_only, models.remote_code, models.broken_config, models.architecture_refused,
        models.broken_weights, models.offline, models.download_failed, models.modelscope_missing, core.missing_file,
        core.hash_differs, and those of `import_gguf`.
    """
    if offline is None:
        offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    path = user_path(base, Path())
    if os.path.isdir(path):
        return describe_folder(path, name=path.resolve().name)
    if os.path.isfile(path) and path.suffix == ".gguf":
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
    folder = path.parent
    if path.suffix == ".gguf":
        folder = import_gguf(path, name=known.name, licence=known.licence)
    elif path.suffix == ".bin":
        folder = import_e5(path, name=known.name, licence=known.licence)
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

    A folder that carries a manifest of ours is checked byte by byte, before anything in it is read. Errors: see
    `resolve_base`.
    """
    proven = weights_sha256(folder) if (folder / MANIFEST).is_file() else ""
    contents(folder)
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
        sha256=proven or weights_sha256(folder),
        licence=licence or str(stated.get("licence", "")),
        origin=origin,
    )


def weights_sha256(folder: Path) -> str:
    """SHA-256 of the weights in a folder. Errors: core.hash_differs and others when a manifest there disagrees."""
    stated: Mapping[str, object] = {}
    if (folder / MANIFEST).is_file():
        listed = verify_folder(folder).get("files")
        stated = listed if isinstance(listed, dict) else {}
    files = weight_files(folder)
    hashes = [str(stated.get(path.name) or sha256_file(path)) for path in files]
    if len(hashes) == 1:
        return hashes[0]
    lines = "".join(f"{path.name}:{digest}\n" for path, digest in zip(files, hashes, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def load_tokenizer(folder: Path, model: Path | None = None) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder, as its tokenizer.json has it, less control tokens that the model cannot read.

    Args:
        model: folder of the model, where that is another one.

    Errors: models.load_failed, models.broken_config, models.remote_code, models.architecture_refused.
    """
    tokenizer: PreTrainedTokenizerFast
    rows = read_allowed(model or folder, "config.json").values.get("vocab_size")
    with clean_room(folder, weights=False) as room:
        try:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(str(room), local_files_only=True)
            if isinstance(rows, int) and len(tokenizer) > rows:
                tokenizer = _within_rows(tokenizer, rows)
        except Exception as error:  # tokenizers raises plain Exception for a damaged file
            raise TunesmithError("models.load_failed", path=str(folder / TOKENIZER), reason=_reason(error)) from error
    tokenizer.name_or_path = str(folder)
    return tokenizer


def _within_rows(tokenizer: PreTrainedTokenizerFast, rows: int) -> PreTrainedTokenizerFast:
    """The tokenizer without control tokens of another use that the model has no row for (Gemma 3 has one for images).

    Where one stands in a text it is then read as the letters that it is. Those that this model's chats are written
    with stay, for `load_model` to refuse.
    """
    written = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token)
    template = template_of(tokenizer)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    left_out = {
        each["content"]
        for each in state["added_tokens"]
        if each["id"] >= rows and each["special"] and each["content"] not in written and each["content"] not in template
    }
    if not left_out:
        return tokenizer
    state["added_tokens"] = [each for each in state["added_tokens"] if each["content"] not in left_out]
    if isinstance(state["model"]["vocab"], dict):
        for token in left_out:
            state["model"]["vocab"].pop(token, None)
    settings = {key: value for key, value in tokenizer.init_kwargs.items() if key in _SETTINGS}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), **settings)


def load_model(
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    attention: str = "sdpa",
    tokenizer_folder: Path | None = None,
    quantize: Quantize = "none",
) -> Loaded:
    """Load a causal language model and its tokenizer from a folder.

    Args:
        folder: model folder that `resolve_base` returned, or one of a published artefact.
        dtype: number format of the weights in memory.
        device: where they go.
        attention: a form of attention that transformers knows by this name.
        tokenizer_folder: whose tokenizer and template are taken, where not the model's own.
        quantize: how the linear layers of the blocks are held, for a model whose weights stay as they are.

    Errors: models.broken_weights, models.weights_do_not_fit, models.load_failed, models.no_end_token,
        models.tokens_without_rows, models.gives_classes, and those of `contents` and `quantize_blocks`.
    """
    refuse_head(folder)
    model, info = _from_pretrained(AutoModelForCausalLM, folder, dtype=dtype, attn_implementation=attention)
    _check_fit(folder, info)
    model.config.name_or_path = model.name_or_path = str(folder)
    _quantize(model, quantize)
    torch.nn.Module.to(model, device)  # in place; transformers' own `to` is a wrapper that hides its signature
    tokenizer = load_tokenizer(tokenizer_folder or folder, folder)
    ends = end_token_ids(folder, tokenizer)
    _check_rows(folder, model, tokenizer, ends)
    pad = tokenizer.pad_token_id
    return Loaded(
        model=model.eval(),
        tokenizer=tokenizer,
        template=template_of(tokenizer),
        end_token_ids=ends,
        pad_token_id=pad if isinstance(pad, int) else ends[0],
    )


def load_with_head(
    folder: Path,
    head: Head,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    dropout: Dropout | None = None,
    quantize: Quantize = "none",
) -> Loaded:
    """Load a body with a task head and its tokenizer. Head weights that the folder has are taken, others are new.

    Args:
        folder: model folder that `resolve_base` returned, or one of a published artefact.
        head: what the head answers; labels of a head that the folder has must be the same, by name and number.
        dropout: share of what the model's own dropout layers drop in training.
        quantize: how the linear layers of the blocks are held; the head stays as it is.

    Errors: those of `load_model` but for models.no_end_token, models.other_labels,
    models.labels_in_other_order, models.no_dropout.
    """
    _check_labels(folder, head)
    kind = {"text_class": AutoModelForSequenceClassification, "token_class": AutoModelForTokenClassification}[head.task]
    model, info = _from_pretrained(kind, folder, dtype=dtype, attn_implementation="sdpa", **head.config())
    new = tuple(sorted(str(each) for each in info.get("missing_keys") or () if str(each) in _may_be_new(model)))
    unexpected = [each for each in info.get("unexpected_keys") or () if not _OF_PRETRAINING.match(str(each))]
    missing = [each for each in info.get("missing_keys") or () if str(each) not in new]
    if head.embeddings:
        vectors = add_task_embeddings(model, head)
        if vectors in unexpected:  # of no class of transformers, and learned by a stage before
            unexpected.remove(vectors)
            model.get_parameter(vectors).data.copy_(read_tensor(folder, vectors))
        else:
            new = (*new, vectors)
    _check_fit(folder, {**info, "missing_keys": missing, "unexpected_keys": unexpected})
    set_dropout(model, dropout)
    model.config.name_or_path = model.name_or_path = str(folder)
    _quantize(model, quantize)
    torch.nn.Module.to(model, device)
    tokenizer = load_tokenizer(folder)
    _check_rows(folder, model, tokenizer, ())
    pad = tokenizer.pad_token_id
    return Loaded(model.eval(), tokenizer, "", (), pad if isinstance(pad, int) else 0, head, new)


def load_base(base: BaseFolder, dtype: torch.dtype, head: Head | None, quantize: Quantize = "none") -> Loaded:
    """A base in memory on the CPU, with a task head where there is one. Errors: those of loading."""
    if head is None:
        return load_model(base.path, dtype=dtype, quantize=quantize)
    return load_with_head(base.path, head, dtype=dtype, quantize=quantize)


def _quantize(model: PreTrainedModel, quantize: Quantize) -> None:
    """Hold the blocks' weights in codes, if wanted: before they go to a device, which never need hold them whole."""
    if quantize != "none":
        quantize_blocks(model, quantize)
        give_back()  # the heap would hold the dense weights' room for loading threads that have ended


def load_body(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A model without any head, in float32, and its tokenizer. Errors: those of `load_with_head`."""
    model, info = _from_pretrained(AutoModel, folder, dtype=torch.float32, attn_implementation="sdpa")
    unexpected = [each for each in info.get("unexpected_keys") or () if not _OF_PRETRAINING.match(str(each))]
    missing = [each for each in info.get("missing_keys") or () if "pooler" not in str(each)]
    _check_fit(folder, {**info, "missing_keys": missing, "unexpected_keys": unexpected})
    return model.eval(), load_tokenizer(folder)


def _from_pretrained(
    kind: type[_BaseAutoModelClass],
    folder: Path,
    **settings: object,
) -> tuple[PreTrainedModel, Mapping[str, Iterable[object]]]:
    """The model, and which of its weights were missing, left over or of another shape. Nothing is warned of: what does
    not fit is refused by those who call."""
    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    with clean_room(folder, weights=True) as room:
        try:
            loaded: object = kind.from_pretrained(
                str(room),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                **settings,
            )
        except SafetensorError as error:
            raise TunesmithError("models.broken_weights", path=str(folder), reason=_reason(error)) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError) as error:
            raise TunesmithError("models.load_failed", path=str(folder), reason=_reason(error)) from error
        finally:
            transformers_logging.set_verbosity(verbosity)
    # with output_loading_info the call returns a pair, which its annotation does not say
    return cast(tuple[PreTrainedModel, Mapping[str, Iterable[object]]], loaded)


_OF_PRETRAINING = re.compile(r"(lm_head|cls|(bert\.|roberta\.)?pooler)\.|(bert\.|roberta\.)?embeddings\.position_ids$")
"""Weights that another head needed: they have no place beside a task head, and nobody misses them."""


def _may_be_new(model: PreTrainedModel) -> set[str]:
    """Names that a base without a head has no weights for: the head's, and of the pooler that only a head reads."""
    return {*head_names(model), *(name for name, _ in model.named_parameters() if ".pooler." in name)}


def _check_labels(folder: Path, head: Head) -> None:
    """Refuse a folder whose head answers other labels. transformers invents LABEL_0, LABEL_1 where there is no head."""
    stated = read_allowed(folder, "config.json").values.get("id2label")
    if isinstance(stated, dict) and not all(str(name).startswith("LABEL_") for name in stated.values()):
        found = tuple(str(stated[key]) for key in sorted(stated, key=int))
        refuse_other_labels(folder, found, head.labels)
        if found != head.labels:  # the same names by other numbers: one would be taken for another
            raise TunesmithError("models.labels_in_other_order", path=str(folder), labels=", ".join(found))


def end_token_ids(folder: Path, tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    """Tokens that end an answer: the tokenizer's own first, then those that the generation settings name.

    Some families (Gemma, Phi, Llama 3) end a turn with a token that only their generation settings know.
    Errors: models.no_end_token.
    """
    stated = read_allowed(folder, "generation_config.json").values.get("eos_token_id")
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
    template = read_template(folder)
    return template_of(load_tokenizer(folder)) if template is None else template


def _check_rows(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, ends: tuple[int, ...]
) -> None:
    """Refuse a tokenizer with tokens that the embedding has no row for, and ends of answers that it has none for."""
    embedding = model.get_input_embeddings().weight
    rows = int(embedding.shape[0]) if isinstance(embedding, torch.Tensor) else 0
    ids = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True)
    beyond = sorted((token for token, index in ids.items() if index >= rows), key=ids.__getitem__)
    beyond += [str(end) for end in ends if end >= max(rows, len(tokenizer))]
    if beyond:
        shown = ", ".join(beyond[:3])
        raise TunesmithError("models.tokens_without_rows", path=str(folder), count=len(beyond), tokens=shown, rows=rows)


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
