"""Labels of a table: names that mean the same become one, and labels that are probably wrong are named or dropped."""

from __future__ import annotations

import json
from collections.abc import Mapping

import polars as pl

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.data.defects import Reason
from tunesmith.data.formats.read import Note
from tunesmith.data.labels.suspect import Suspicion, suspicions
from tunesmith.recipe.specs.labels import LabelsSpec

SUSPECTED = "suspected_labels.jsonl"


def rename_labels(frame: pl.DataFrame, names: Mapping[str, str], ledger: Ledger) -> pl.DataFrame:
    """The table with labels by the names that are meant; token labels keep their B- and I-."""
    if not names:
        return frame
    stated = {prefix + old: prefix + new for old, new in names.items() for prefix in ("", "B-", "I-", "E-", "S-")}
    renamed = frame.with_columns(pl.col("labels").list.eval(pl.element().replace(stated)))
    ledger.change(frame["row"].filter(frame["labels"] != renamed["labels"]), "label_renamed")
    return renamed


def check_names(frame: pl.DataFrame, names: Mapping[str, str]) -> None:
    """Every name that is to be changed stands in some row. Errors: data.unknown_label."""
    present = set(frame["labels"].explode().drop_nulls().str.replace("^[BIES]-", "").unique())
    unknown = [name for name in names if name not in present]
    if unknown:
        raise TunesmithError("data.unknown_label", label=unknown[0], labels=", ".join(sorted(present)) or "-")


def alike_names(frame: pl.DataFrame) -> list[Note]:
    """Labels that differ in case, blanks or underscores alone: said, never merged by themselves."""
    groups: dict[str, list[str]] = {}
    for label in frame["labels"].explode().drop_nulls().unique().sort():
        groups.setdefault("".join(label.casefold().replace("_", " ").replace("-", " ").split()), []).append(label)
    return [Note("data.alike_labels", {"labels": ", ".join(each)}) for each in groups.values() if len(each) > 1]


def suspected(
    frame: pl.DataFrame, spec: LabelsSpec, seed: int, ledger: Ledger
) -> tuple[pl.DataFrame, list[tuple[int, Suspicion]]]:
    """The table after the recipe's wish, and (row, suspicion) of what is suspected, most probable first.

    Errors: data.labels_not_single where rows have several labels or one a token.
    """
    if spec.suspected == "ignore" or frame.is_empty():
        return frame, []
    if not (frame["kind"] == "text_class").all() or not (frame["labels"].list.len() == 1).all():
        raise TunesmithError("data.labels_not_single")
    found = suspicions(frame["text"].to_list(), frame["labels"].list.first().to_list(), spec.folds, seed)
    rows = frame["row"].to_list()
    against = sorted(
        ((rows[each.row], each) for each in found if each.other_probability >= spec.at_least),
        key=lambda pair: -pair[1].other_probability,
    )
    if spec.suspected == "drop":
        numbers = [row for row, _ in against]
        reason: Reason = "suspected_label"
        ledger.decide(numbers, "dropped", reason)
        frame = frame.filter(~frame["row"].is_in(numbers))
    return frame, against


def suspected_lines(against: list[tuple[int, Suspicion]], ledger: Ledger) -> str:
    """JSON lines of what is suspected: the place of the row, both labels, their probabilities; nothing of the text."""
    entries = ledger.entries()
    return "".join(
        json.dumps(
            {
                "row": row,
                "source": entries[row].source,
                "index": entries[row].index,
                "label": each.label,
                "probability": round(each.probability, 4),
                "other": each.other,
                "other_probability": round(each.other_probability, 4),
            },
            ensure_ascii=False,
        )
        + "\n"
        for row, each in against
    )
