"""Agreement of annotations: every figure against the library that is known for it."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from sklearn.metrics import cohen_kappa_score

from tunesmith.core.errors import TunesmithError
from tunesmith.data.annotations.agree import agreements
from tunesmith.data.annotations.items import Answer, Item, Span
from tunesmith.data.annotations.load import load_items
from tunesmith.data.labels.agreement import krippendorff_alpha

WHO = ("1", "2", "3")


def labelled(gaps: float = 0.0, seed: int = 3, names: str = "abc") -> list[Item]:
    """Items that three people label, equal in some two of three cases."""
    draw = random.Random(seed)
    items = []
    for number in range(120):
        true = draw.choice(names)
        said = {who: true if draw.random() < 0.6 else draw.choice(names) for who in WHO if draw.random() >= gaps}
        kind = "rating" if names.isdecimal() else "classes"
        votes = {"tone": {who: Answer(kind, (name,)) for who, name in said.items()}}  # type: ignore[arg-type]
        items.append(Item(str(number), {"text": "x"}, votes, annotators=tuple(said)))
    return items


def test_cohen_of_each_pair_is_that_of_scikit_learn() -> None:
    items = labelled(gaps=0.2)
    (found,) = agreements(items)
    assert (found.kind, found.annotators, len(found.pairs)) == ("classes", 3, 3)
    for pair in found.pairs:
        both = [
            (said[pair.one].names[0], said[pair.other].names[0])
            for said in (item.votes["tone"] for item in items)
            if pair.one in said and pair.other in said
        ]
        assert pair.units == len(both)
        assert pair.kappa == pytest.approx(cohen_kappa_score(*zip(*both, strict=True)), abs=1e-12)
        assert pair.agreed == pytest.approx(sum(one == other for one, other in both) / len(both))


def test_fleiss_is_that_of_statsmodels() -> None:
    """statsmodels 0.15.0, inter_rater.fleiss_kappa, on the same draw."""
    (found,) = agreements(labelled())
    assert found.fleiss == pytest.approx(FLEISS, abs=1e-12)
    (gaps,) = agreements(labelled(gaps=0.2))
    assert math.isnan(gaps.fleiss)  # not everybody answered everything


def test_alpha_is_that_of_krippendorff() -> None:
    """krippendorff 0.9.0, alpha, on the same draws: names and ranks, with gaps."""
    (names,) = agreements(labelled(gaps=0.2))
    assert names.alpha == pytest.approx(ALPHA_NAMES, abs=1e-12)
    (ranks,) = agreements(labelled(gaps=0.2, names="12345"))
    assert ranks.scale == "ordinal" and ranks.alpha == pytest.approx(ALPHA_RANKS, abs=1e-12)


def test_ordinal_alpha_by_the_authors_example() -> None:
    """Krippendorff 2011, part D of "Computing Krippendorff's Alpha-Reliability": ordinal alpha = 0.815."""
    gap = None
    coders = [
        (1, 2, 3, 3, 2, 1, 4, 1, 2, gap, gap, gap),
        (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, gap, 3),
        (gap, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, gap),
        (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, gap),
    ]
    items = [[None if label is None else str(label) for label in unit] for unit in zip(*coders, strict=True)]
    assert krippendorff_alpha(items, "ordinal") == pytest.approx(0.815, abs=5e-4)


def test_places_are_compared_word_by_word_and_as_wholes() -> None:
    text = "Ada met Bob in Turin"
    one = Answer("spans", spans=(Span(0, 3, "PER"), Span(8, 11, "PER"), Span(15, 20, "LOC")))
    other = Answer("spans", spans=(Span(0, 3, "PER"), Span(15, 20, "PER")))
    (found,) = agreements([Item("1", {"text": text}, {"ner": {"1": one, "2": other}}, annotators=("1", "2"))])
    assert found.units == 5 and found.agreed == pytest.approx(3 / 5)
    assert found.f1 == pytest.approx(2 * 1 / 5)
    words = [("PER", "O", "PER", "O", "LOC"), ("PER", "O", "O", "O", "PER")]
    assert found.pairs[0].kappa == pytest.approx(cohen_kappa_score(*words))


def test_a_table_of_answers(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    path.write_text("item,annotator,label\n1,ann,a\n1,bob,a\n2,ann,b\n2,bob,a\n3,ann,\n", "utf-8")
    items, unread = load_items(path)
    (found,) = agreements(items)
    assert (found.items, found.agreed, unread) == (2, 0.5, 0)
    assert found.verdict == "unreliable"
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n", "utf-8")
    with pytest.raises(TunesmithError, match=r"data\.no_annotations"):
        load_items(tmp_path / "odd.csv")


def test_what_alpha_allows() -> None:
    def said(*pairs: str) -> str:
        votes = [{"q": {"1": Answer("classes", (pair[0],)), "2": Answer("classes", (pair[1],))}} for pair in pairs]
        return agreements([Item("", {}, each, annotators=("1", "2")) for each in votes])[0].verdict

    assert said("aa", "bb") == "reliable"
    assert said("aa", "aa") == "unknown"
    assert said("ab", "ba", "aa") == "unreliable"
    assert said(*["aa", "bb"] * 4, "ab") == "tentative"


FLEISS, ALPHA_NAMES, ALPHA_RANKS = 0.40448731390228565, 0.3094499294781382, 0.34718203202476605
