"""README.md of an artefact: what it is, how it was proven, how to run it, in both languages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from tunesmith.adapt.files import ADAPTER_CONFIG
from tunesmith.adapt.saved import kind_of
from tunesmith.core.files import MANIFEST, write_atomic
from tunesmith.messages import LANGUAGES, Language, both
from tunesmith.models.heads import Head
from tunesmith.models.load import BaseFolder
from tunesmith.ship.lineage import Lineage
from tunesmith.ship.merge_base import MergeBase
from tunesmith.ship.parity import Parity
from tunesmith.tasks.chat_template import ChatTemplate


def write_model_card(
    folder: Path,
    name: str,
    base: BaseFolder,
    parity: Parity,
    tokenizer: PreTrainedTokenizerFast,
    merge_base: MergeBase | None = None,
    lineage: Lineage | None = None,
) -> None:
    """Write the card, English first, then Chinese; its head is the YAML that model hubs read.

    `merge_base` says what an adapter was merged with that was trained beside a quantised base, `lineage` what several
    stages did one after the other.
    """
    template = ChatTemplate(tokenizer)
    form = _form(folder, parity)
    facts = _facts(name, base, parity) | {
        "template_sha256": template.sha256,
        "format": parity.format,
        "chats": parity.chats,
        "answers": parity.answers,
    }
    sections = {
        "summary": both("ship.card_summary", **facts),
        **_weights(base, merge_base),
        **_stages(lineage),
        "parity": both("ship.card_parity", **facts),
        "table": dict.fromkeys(LANGUAGES, _table(parity)),
        "run": both(f"ship.card_run_{form}", **facts),
        "request": both("ship.card_request", **facts),
        "licence": both("ship.card_licence", **facts),
    }
    bodies = ["\n\n".join(section[language] for section in sections.values()) for language in LANGUAGES]
    write_atomic(folder / "README.md", _head(base, form) + "\n\n---\n\n".join(bodies) + "\n")


def write_class_card(
    folder: Path, name: str, base: BaseFolder, parity: Parity, head: Head, lineage: Lineage | None = None
) -> None:
    """The card of a model with a task head."""
    is_whole = parity.format != "adapter"
    facts = _facts(name, base, parity) | {
        "rows": parity.chats,
        "labels": len(head.labels),
        "pipeline": _PIPELINES[head.task],
        "model_class": _CLASSES[head.task],
        "key": "id2label" if is_whole else "labels",
        "file": "config.json" if is_whole else MANIFEST,
    }
    sections = {
        "summary": both("ship.card_class_summary", **facts),
        **_weights(base, None),
        **_stages(lineage),
        "parity": both("ship.card_class_parity", **facts),
        "table": dict.fromkeys(LANGUAGES, _table(parity)),
        "run": both(_class_run(folder, is_whole), **facts),
        "licence": both("ship.card_licence", **facts),
    }
    bodies = ["\n\n".join(section[language] for section in sections.values()) for language in LANGUAGES]
    form = parity.format if is_whole else _form(folder, parity)
    page = _head(base, form, _PIPELINES[head.task]) + "\n\n---\n\n".join(bodies) + "\n"
    write_atomic(folder / "README.md", page)


def _facts(name: str, base: BaseFolder, parity: Parity) -> dict[str, str | int | float]:
    """What every card says."""
    return {
        "name": name,
        "base": base.name,
        "revision": base.revision or "-",
        "base_sha256": base.sha256,
        "licence": base.licence or "?",
        "positions": parity.positions,
        "judge": parity.judge,
    }


def _class_run(folder: Path, is_whole: bool) -> str:
    if is_whole:
        return "ship.card_class_run"
    return "ship.card_class_run_bottleneck" if kind_of(folder).name == "bottleneck" else "ship.card_class_run_beside"


_PIPELINES = {"text_class": "text-classification", "token_class": "token-classification"}
_CLASSES = {"text_class": "AutoModelForSequenceClassification", "token_class": "AutoModelForTokenClassification"}


def _weights(base: BaseFolder, merge_base: MergeBase | None) -> dict[str, Mapping[Language, str]]:
    """What had been rounded before the adapter came to them, and why."""
    found: dict[str, Mapping[Language, str]] = {}
    if base.origin.lossy:
        found["origin"] = both("ship.card_lossy", **_origin(base))
    elif merge_base is None:
        found["origin"] = both("ship.card_exact")
    if merge_base is not None:
        found["merge"] = _merged(merge_base)
    return found


def _stages(lineage: Lineage | None) -> dict[str, Mapping[Language, str]]:
    return {} if lineage is None else {"stages": both("ship.card_stages", stages="; ".join(lineage.stages))}


def _merged(merge_base: MergeBase) -> Mapping[Language, str]:
    losses = {"original": f"{merge_base.loss_original:.4f}", "dequantized": f"{merge_base.loss_dequantized:.4f}"}
    return both(f"ship.card_merged_{merge_base.chosen}", quantize=merge_base.quantize, **losses)


def _origin(base: BaseFolder) -> dict[str, str]:
    origin = base.origin
    return {"quantization": origin.quantization, "file": origin.file, "file_sha256": origin.file_sha256}


def _form(folder: Path, parity: Parity) -> str:
    """In which form the artefact is, of those that have their own way to be run."""
    if parity.format == "adapter":
        kind = kind_of(folder)
        return "peft" if kind.config == ADAPTER_CONFIG else kind.name.replace("-", "_")
    return parity.format.partition("-")[0]


def _head(base: BaseFolder, form: str, pipeline: str = "text-generation") -> str:
    library = {"gguf": "gguf", "peft": "peft"}.get(form, "transformers")
    lines = [
        "---",
        # a licence and a folder's name are texts of others, which may mean something to YAML
        f"license: {json.dumps(base.licence.lower() or 'unknown', ensure_ascii=False)}",
        f"base_model: {json.dumps(base.name, ensure_ascii=False)}",
        f"library_name: {library}",
        f"pipeline_tag: {pipeline}",
        "tags: [tunesmith, fine-tuned]",
        "---",
    ]
    return "\n".join(lines) + "\n\n"


def _table(parity: Parity) -> str:
    rows = ["| check | value | limit | |", "| --- | ---: | ---: | --- |"]
    for check in parity.checks:
        sign = ">=" if check.kind == "at_least" else "<="
        limit = "-" if check.limit is None else f"{sign} {check.limit:.4g}"
        mark = "-" if check.limit is None else ("OK" if check.ok else "X")
        rows.append(f"| {check.name} | {check.value:.6g} | {limit} | {mark} |")
    return "\n".join(rows)
