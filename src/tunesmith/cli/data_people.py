"""`tunesmith data agreement FILE` and `data export ROWS --to TOOL`: what people said of rows, and rows for people."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.manner import answer, tell
from tunesmith.cli.rows import side_of
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import write_atomic
from tunesmith.messages import say

if TYPE_CHECKING:
    from tunesmith.data.annotations.agree import Agreement
    from tunesmith.data.annotations.items import Item

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="cli.arg_annotations", show_default=False)]
WhatArgument = Annotated[Path, typer.Argument(metavar="ROWS", help="cli.arg_rows_or_annotations", show_default=False)]
ToolOption = Annotated[str, typer.Option("--to", metavar="TOOL", help="cli.opt_export_to", show_default=False)]
OutOption = Annotated[Path, typer.Option("--out", metavar="FILE", help="cli.opt_export_out")]
SplitOption = Annotated[str, typer.Option("--split", metavar="NAME", help="cli.opt_split", show_default=False)]
FOR_PEOPLE = Path("for-people.json")
_PAIRS_SHOWN = 10


def agreement(file: FileArgument) -> None:
    """Say how far the people who labelled rows agree."""
    from tunesmith.data.annotations.agree import agreements
    from tunesmith.data.annotations.load import load_items

    items, unread = load_items(file)
    found = [each for each in agreements(items) if each.items]
    if not found:
        raise TunesmithError("data.nothing_answered_twice", path=str(file), items=len(items))
    if unread:
        tell(say("data.unread_annotations", rows=unread))
    for each in found:
        _tell_agreement(each)
    answer({"file": str(file), "items": len(items), "unread": unread, "questions": [_facts(each) for each in found]})


def _tell_agreement(found: Agreement) -> None:
    counts = {"items": f"{found.items:,}", "annotators": str(found.annotators), "units": f"{found.units:,}"}
    tell(say("data.agreement_of", question=found.question, **counts), "bold")
    if found.kind == "spans":
        tell(f"    {say('data.agreement_by_word')}")
    tell(f"    {say('data.agreement_share', share=f'{found.agreed:.1%}')}")
    if not math.isnan(found.f1):
        tell(f"    {say('data.agreement_f1', value=f'{found.f1:.3f}')}")
    for pair in found.pairs[:_PAIRS_SHOWN]:
        figures = {"share": f"{pair.agreed:.1%}", "value": _figure(pair.kappa), "units": f"{pair.units:,}"}
        tell(f"    {say('data.agreement_cohen', one=pair.one, other=pair.other, **figures)}")
    if len(found.pairs) > _PAIRS_SHOWN:
        tell(f"    {say('data.agreement_more_pairs', pairs=len(found.pairs) - _PAIRS_SHOWN)}")
    fleiss = say("data.agreement_no_fleiss") if math.isnan(found.fleiss) else f"{found.fleiss:.3f}"
    tell(f"    {say('data.agreement_fleiss', value=fleiss)}")
    tell(f"    {say('data.agreement_alpha', value=_figure(found.alpha), scale=say(f'data.scale_{found.scale}'))}")
    tell(f"    {say(f'data.agreement_{found.verdict}')}")


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _facts(found: Agreement) -> dict[str, object]:
    pairs = [
        {"one": each.one, "other": each.other, "units": each.units, "agreed": each.agreed, "kappa": _known(each.kappa)}
        for each in found.pairs
    ]
    figures = {name: _known(getattr(found, name)) for name in ("agreed", "fleiss", "alpha", "f1")}
    counts = {name: getattr(found, name) for name in ("kind", "annotators", "items", "units", "scale", "verdict")}
    return {"question": found.question, **counts, **figures, "pairs": pairs}


def export(rows: WhatArgument, to: ToolOption, out: OutOption = FOR_PEOPLE, split: SplitOption = "") -> None:
    """Write rows, or what people said of them, as Label Studio or Argilla imports them."""
    from tunesmith.data.annotations.give import written
    from tunesmith.data.annotations.rows import TOOLS

    tool = next((each for each in TOOLS if each == to.replace("-", "_")), None)
    if tool is None:
        raise TunesmithError("data.unknown_tool", given=to, tools=", ".join(TOOLS))
    interface = out.with_suffix(".xml")
    for path in (out, *((interface,) if tool == "label_studio" else ())):
        if path.exists():
            raise TunesmithError("recipe.exists", path=str(path))
    items, unread = _items(rows, split)
    given = written(items, tool)
    if not given.items:
        raise TunesmithError("data.nothing_for_people", path=str(rows))
    write_atomic(out, given.content)
    tell(say("data.exported", items=given.items, path=str(out), tool=to))
    if given.interface:
        write_atomic(interface, given.interface)
        tell(say("data.exported_interface", path=str(interface)))
    left_out = given.left_out + unread
    if left_out:
        tell(say("data.left_out_of_export", rows=left_out))
    answer({"rows": str(rows), "to": tool, "items": given.items, "left_out": left_out, "out": str(out)})


def _items(rows: Path, split: str) -> tuple[list[Item], int]:
    """Items of a file of annotations, else of the rows of a run, a recipe or a file; and rows that gave none."""
    from tunesmith.data.annotations.give import item_of
    from tunesmith.data.annotations.load import load_items
    from tunesmith.data.defects import RowDefect
    from tunesmith.data.table import to_examples

    if rows.is_file() and rows.suffix.lower() not in (".yaml", ".yml"):
        try:
            items, unread = load_items(rows)
        except TunesmithError as error:
            if error.code != "data.no_annotations":
                raise
        else:
            if split:
                raise TunesmithError("versions.no_table", name=split, path=str(rows), known="-")
            return items, unread
    side = side_of(rows)
    if split and split not in side.tables:
        known = ", ".join(name for name in side.tables if name) or "-"
        raise TunesmithError("versions.no_table", name=split, path=side.name, known=known)
    made: list[Item] = []
    left_out = 0
    for name, frame in side.tables.items():
        for example in to_examples(frame) if split in ("", name) else ():
            try:
                made.append(item_of(example))
            except RowDefect:
                left_out += 1
    return made, left_out
