"""The end of the pass: shards, ledger, report and pages become one folder, whole or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import new_folder, write_atomic, write_json
from tunesmith.core.ledger import STILL_USED
from tunesmith.core.types import SPLITS
from tunesmith.data.compliance import REPORT as COMPLIANCE
from tunesmith.data.compliance import SourceRows, compliance_report
from tunesmith.data.corpus.card import write_card
from tunesmith.data.corpus.decide import Decision, PartDecision
from tunesmith.data.corpus.part import read_cleaned, read_fates
from tunesmith.data.corpus.plan import Plan
from tunesmith.data.corpus.report import CorpusReport, changes, listed_of, personal_of
from tunesmith.data.corpus.shards import LEDGER, PartCounts, PartPlace, write_shards
from tunesmith.data.corpus.stated import state_version
from tunesmith.data.corpus.work import Build
from tunesmith.data.pii.mask import Masker
from tunesmith.data.pii.sealed import FILE, seal, user_key
from tunesmith.data.version import settings_of

REPORT = "report.json"


def write_corpus(
    build: Build, plan: Plan, decision: Decision, masker: Masker, hashes: Mapping[str, str]
) -> CorpusReport:
    """The folder of the corpus. Errors: data.corpus_unbalanced, those of `write_shards`, `new_folder` and `user_key`.

    Args:
        hashes: of the sources as they were read.
    """
    files: dict[str, str] = {}
    with new_folder(build.out, 0, build.folder, files, plan=plan) as aside:
        for name in (*SPLITS, LEDGER):
            (aside / name).mkdir()
        counts = build.executor.map(partial(write_shards, aside, build.spec.split), _decided(build, decision))
        for part in counts:
            files.update(part.files)
        report = _gathered(build, counts)
        if sum(report.splits.values()) != sum(
            rows for fate, rows in report.fates.items() if fate.split(":")[0] in STILL_USED
        ):
            raise TunesmithError("data.corpus_unbalanced", path=str(build.folder))
        stated = state_version(aside, settings_of(build.spec, ()), hashes)
        report = replace(report, version=stated.version.id)
        write_card(aside, report, stated, build.spec.sources)
        write_json(aside / REPORT, {**asdict(report), "seconds": {}})
        _write_asked(build, aside, masker)
    return report


def _gathered(build: Build, counts: Sequence[PartCounts]) -> CorpusReport:
    def total(each: Iterable[Counter[str]]) -> Counter[str]:
        return sum(each, Counter())

    fates, splits = total(part.fates for part in counts), total(part.splits for part in counts)
    changed = changes(total(part.changed for part in counts), total(part.places for part in counts))
    personal = personal_of(build.parts, build.spec.clean.pii)
    return CorpusReport(
        fates=dict(sorted(fates.items())),
        splits={name: splits[name] for name in SPLITS},
        bytes=sum(piece.bytes for piece in build.pieces),
        changed=changed,
        personal=[asdict(each) for each in personal.findings()] if personal else [],
        listed=[asdict(each) for each in listed_of(build.parts)],
    )


def _write_asked(build: Build, folder: Path, masker: Masker) -> None:
    """The page for the compliance officer and the values behind the masks, where the recipe asks for them."""
    personal, listed = personal_of(build.parts, build.spec.clean.pii), listed_of(build.parts)
    if personal is not None or listed or build.compliance is not None:
        rows = Counter[int]()
        for part, piece in zip(build.parts, build.pieces, strict=True):
            rows[piece.source] += len(read_fates(part))
        sources = [
            SourceRows(each.title, "train", each.licence, rows[place]) for place, each in enumerate(build.spec.sources)
        ]
        page = compliance_report(sources, [personal] if personal else [], listed, build.compliance)
        write_atomic(folder / COMPLIANCE, page)
    if personal is not None and personal.spec.key is not None:
        seal(masker.values, user_key(personal.spec.key), folder / FILE)


def _decided(build: Build, decision: Decision) -> Iterator[tuple[Path, PartPlace, PartDecision]]:
    """Each part with where it stands among all, and what was decided of its rows."""
    left = [read_cleaned(part)["row"].to_numpy() for part in build.parts]
    read = [len(read_fates(part)) for part in build.parts]
    before = np.cumsum([0, *read]).tolist()
    numbers = np.concatenate(
        [np.empty(0, np.int64), *(rows + first for rows, first in zip(left, before, strict=False))]
    )
    of_source: Counter[int] = Counter()
    kept = 0
    for number, (part, piece) in enumerate(zip(build.parts, build.pieces, strict=True)):
        title = build.spec.sources[piece.source].title
        place = PartPlace(number, title, before[number], of_source[piece.source])
        yield part, place, decision.of_part(kept, len(left[number]), numbers)
        of_source[piece.source] += read[number]
        kept += len(left[number])
