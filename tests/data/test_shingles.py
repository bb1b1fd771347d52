from __future__ import annotations

import random
import re
import unicodedata
from itertools import combinations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.minhash import BINS, NO_SHINGLES, RECALL, Bands, band_keys, signatures
from tunesmith.data.near import NOTHING_NEAR, Pairs, candidates, jaccard, leaders, likely, near_pairs
from tunesmith.data.shingles import SIZE, Shingled, shingle

_HAN = re.compile("[\u4e00-\u9fff]")
TEXT = st.lists(
    st.sampled_from(["Apple", "pie", "ＡＢＣ", "x+y", "é", "…", " ", "\n", "今天", "天气", "123", "-"]), max_size=12
).map(" ".join)


def plain_tokens(text: str) -> list[str]:
    """The same tokens by a loop over characters: Python's own Unicode, no arrays."""
    found: list[str] = []
    joins = False
    for each in unicodedata.normalize("NFKC", text).lower():
        kind = unicodedata.category(each)
        if _HAN.match(each) or kind == "Sm":
            found.append(each)
            joins = False
        elif kind[0] in "LMN":
            found[-1:] = [found[-1] + each] if joins else [*found[-1:], each]
            joins = True
        else:
            joins = False
    return found


def plain_shingles(text: str, size: int = SIZE) -> set[tuple[str, ...]]:
    tokens = plain_tokens(text)
    return {tuple(tokens[i : i + size]) for i in range(max(len(tokens) - size + 1, min(1, len(tokens))))}


def plain_jaccard(one: str, other: str) -> float:
    left, right = plain_shingles(one), plain_shingles(other)
    return len(left & right) / max(len(left | right), 1)


@given(st.lists(TEXT, max_size=6), st.sampled_from([1, 2, 3, 8]))
@settings(max_examples=60, deadline=None)
def test_shingles_are_those_of_a_plain_loop(texts: list[str], size: int) -> None:
    found = shingle(pl.Series(texts, dtype=pl.String), size)
    sets = [set(found.hashes[a:b].tolist()) for a, b in zip(found.offsets[:-1], found.offsets[1:], strict=True)]
    wanted = [plain_shingles(text, size) for text in texts]
    assert [len(each) for each in sets] == [len(each) for each in wanted]
    for one, other in combinations(range(len(texts)), 2):
        assert len(sets[one] & sets[other]) == len(wanted[one] & wanted[other])
        assert (found.row_keys[one] == found.row_keys[other]) == (
            plain_tokens(texts[one]) == plain_tokens(texts[other])
        )


def test_form_makes_no_difference_and_order_does() -> None:
    same = ["The fair, at NINE: today!", "the  fair at nine today", "ｔｈｅ fair — at “nine” today…"]
    found = shingle(pl.Series([*same, "today the fair at nine", "", None, "...", "５＋５", "5-5"]))
    assert len(set(found.row_keys[:3].tolist())) == 1
    assert found.row_keys[3] != found.row_keys[0]
    assert found.counts.tolist() == [3, 3, 3, 3, 0, 0, 0, 1, 1]
    assert found.row_keys[7] != found.row_keys[8], "a sum is no difference"


def test_parts_of_a_large_batch_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = pl.Series([f"row {i} " + "word " * (i % 7) + "今天天气" * (i % 3) for i in range(200)])
    whole = shingle(texts)
    monkeypatch.setattr("tunesmith.data.shingles._CODE_POINTS_AT_ONCE", 64)
    parts = shingle(texts)
    for name in ("hashes", "offsets", "row_keys"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name))


def rows_of(similarity: float, shingles: int, pairs: int) -> Shingled:
    """Pairs of rows of random shingles with a given Jaccard similarity."""
    draw = np.random.default_rng(7)
    common = round(2 * shingles * similarity / (1 + similarity))
    rows = []
    for _ in range(pairs):
        shared = draw.integers(0, 2**64, common, dtype=np.uint64)
        rows += [np.append(shared, draw.integers(0, 2**64, shingles - common, dtype=np.uint64)) for _ in range(2)]
    return Shingled(np.concatenate(rows), np.arange(2 * pairs + 1) * shingles, np.zeros(2 * pairs, np.uint64))


@pytest.mark.parametrize("shingles", [20, 100, 600])
def test_bins_agree_as_often_as_rows_are_alike(shingles: int) -> None:
    rows = rows_of(0.7, shingles, 400)
    found = signatures(rows)
    real = jaccard(rows, np.arange(0, 800, 2), np.arange(1, 800, 2))
    agreeing = (found[::2] == found[1::2]).mean(axis=1)
    assert abs(agreeing.mean() - real.mean()) < 0.01
    assert agreeing.std() < 1.5 * np.sqrt(0.7 * 0.3 / BINS), "about what as many hash functions would give"


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.85, 0.95])
def test_pairs_at_the_threshold_become_candidates(threshold: float) -> None:
    rows = rows_of(threshold, 400, 600)
    bands = Bands.for_threshold(threshold)
    keys = band_keys(signatures(rows), bands)
    assert (keys[::2] == keys[1::2]).any(axis=1).mean() > RECALL - 0.012
    assert bands.count * bands.rows <= BINS
    longer = bands.rows + 1
    assert 1 - (1 - threshold**longer) ** (BINS // longer) < RECALL


def test_near_pairs_are_those_of_a_plain_loop() -> None:
    draw = random.Random(3)
    words = [f"w{i}" for i in range(300)]
    texts = [" ".join(draw.choices(words, k=60)) for _ in range(40)]
    for text in list(texts):
        tokens = text.split()
        for place in draw.sample(range(60), draw.choice([1, 2, 3, 5])):
            tokens[place] = "另 一"
        texts.append(" ".join(tokens).upper())
    texts += ["", "...", "!!!", "one two", "one two."]
    found = near_pairs(pl.Series(texts), 0.6)
    wanted = {
        (i, j): plain_jaccard(texts[i], texts[j])
        for i, j in combinations(range(len(texts)), 2)
        if plain_jaccard(texts[i], texts[j]) >= 0.6
    }
    exact = dict(zip(zip(found.left.tolist(), found.right.tolist(), strict=True), found.similarity, strict=True))
    assert exact == pytest.approx({pair: wanted[pair] for pair in exact})
    assert len(exact) >= 0.95 * len(wanted) > 20
    assert (83, 84) in exact and not any(80 <= i < 83 for pair in exact for i in pair)


def test_large_buckets_give_few_candidates_and_lose_nobody() -> None:
    keys = np.zeros((1000, 1), np.uint64)
    left, right = candidates(keys, np.ones(1000, bool))
    assert len(left) < 2000
    assert set(right.tolist()) == set(range(1, 1000))
    left, right = candidates(keys[:5], np.ones(5, bool))
    assert sorted(zip(left.tolist(), right.tolist(), strict=True)) == list(combinations(range(5), 2))
    assert len(candidates(keys, np.zeros(1000, bool))[0]) == len(candidates(keys[:0], np.ones(0, bool))[0]) == 0


def test_signatures_rule_out_only_what_is_far_away() -> None:
    rows = rows_of(0.3, 300, 50)
    near = rows_of(0.72, 300, 50)
    left, right = np.arange(0, 100, 2), np.arange(1, 100, 2)
    assert len(likely(signatures(rows), left, right, 0.7)[0]) == 0
    assert len(likely(signatures(near), left, right, 0.7)[0]) == 50
    none = signatures(shingle(pl.Series(["", "..."])))
    assert (none == NO_SHINGLES).all()


ROW = st.integers(0, 11)
EDGES = st.lists(st.tuples(ROW, ROW).filter(lambda pair: pair[0] < pair[1]), max_size=20, unique=True)


@given(EDGES, st.permutations(range(12)))
@settings(max_examples=100, deadline=None)
def test_a_row_goes_only_for_a_better_near_one_that_stays(edges: list[tuple[int, int]], order: list[int]) -> None:
    rank = np.array(order) * 3 + 5
    left, right = (np.array([edge[end] for edge in edges], np.int64) for end in (0, 1))
    found = leaders(Pairs(left, right, np.ones(len(edges))), rank)
    near = set(edges) | {(b, a) for a, b in edges}
    stays: list[int] = []
    for row in np.argsort(rank).tolist():  # one after the other, best first
        better = [other for other in stays if (row, other) in near]
        assert found[row] == (min(better, key=lambda other: rank[other]) if better else row)
        if not better:
            stays.append(row)
    assert leaders(NOTHING_NEAR, rank[:3]).tolist() == [0, 1, 2]
