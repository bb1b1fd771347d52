"""A finished corpus under the verbs that look at rows: what it states is proved, told or shown, a file at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from tunesmith.cli.manner import answer, tell
from tunesmith.cli.rows import refuse_dropped, tell_fates, visible
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import read_json, verify_file
from tunesmith.core.types import SPLITS
from tunesmith.messages import say


def holds_corpus(path: Path) -> bool:
    """Whether a folder is what `tunesmith data corpus` has built."""
    if not path.is_dir():
        return False
    from tunesmith.data.corpus.stated import is_corpus

    return is_corpus(path)


def refuse_corpus(path: Path, verb: str) -> None:
    """Say that a verb is for runs alone. Errors: corpus.verb."""
    if holds_corpus(path):
        raise TunesmithError("corpus.verb", path=str(path), verb=verb)


def check_corpus(path: Path, strict: bool) -> None:
    """Hold a corpus against all that it states. Errors: those of `prove` and, where asked for, `refuse_dropped`."""
    from tunesmith.data.corpus.check import PROVED, prove
    from tunesmith.data.corpus.finish import REPORT

    version = prove(path).version
    report = read_json(path / REPORT)
    fates = cast(dict[str, int], report["fates"])
    tell(say("corpus.checked", path=str(path)), "bold")
    tell(f"    {say('versions.version', version=version.id)}")
    for name, rows in version.rows.items():
        tell(f"    {say('versions.table_rows', name=name, rows=f'{rows:,}')}")
    tell_corpus_fates(fates, cast(dict[str, dict[str, int]], report["changed"]))
    for name in PROVED:
        tell(f"    ✓ {say(f'corpus.proved_{name}')}")
    if strict:
        refuse_dropped(str(path), fates)
    facts = {**version.facts(), "rows": dict(version.rows), "fates": fates}
    answer({"checked": "corpus", "path": str(path), **facts, "notes": [], "proved": list(PROVED)})


def tell_corpus_fates(fates: Mapping[str, int], changed: Mapping[str, Mapping[str, int]]) -> None:
    """The same as `tell_fates`, of a corpus's report."""
    tell_fates(fates, {rule: (counts["rows"], counts["places"]) for rule, counts in changed.items()})


def sample_corpus(path: Path, count: int, split: str, seed: int) -> None:
    """Show rows drawn at random. Errors: versions.no_table, those of reading."""
    from tunesmith.data.corpus.sample import sample
    from tunesmith.data.corpus.side import said_in

    if split not in ("", *SPLITS):
        raise TunesmithError("versions.no_table", name=split, path=str(path), known=", ".join(SPLITS))
    shown: list[dict[str, object]] = []
    for name, row in sample(path, [split] if split else SPLITS, count, seed):
        shown.append({"row": row["row"], "split": name, **said_in(row)})
        tell()
        number, index = int(str(row["row"])), int(str(row["index"]))
        tell(say("versions.row_at", row=number, source=str(row["source"]), index=index, split=name), "bold")
        tell(f"  text: {visible(str(row['text']))}")
    answer({"path": str(path), "rows": shown})


def card_of_corpus(path: Path) -> None:
    """Name the data card of a corpus and its version. Errors: those of `verify_file`."""
    from tunesmith.data.corpus.card import CARDS
    from tunesmith.data.corpus.stated import VERSION, read_stated

    for name in (VERSION, *CARDS):
        verify_file(path, name)
    version = read_stated(path).version.id
    cards = {name.rpartition(".")[2]: str(path / name) for name in CARDS}
    tell(say("versions.version", version=version))
    for each in cards.values():
        tell(f"    {each}")
    answer({"corpus": str(path), "version": version, "card": cards})
