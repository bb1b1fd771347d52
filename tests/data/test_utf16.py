"""UTF-16 without a byte order mark: real texts are found in either order, and no other encoding is taken for it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.data.formats.encoding import decode
from tunesmith.data.formats.utf16 import utf16_without_mark

TEXTS = (".jsonl", ".json", ".csv", ".tsv", ".md", ".xml")
LOOKED_AT = 40_000


@pytest.fixture(scope="module")
def texts(shared_data: Path) -> dict[str, str]:
    """The beginnings of all files of text of all data sets."""
    found = {}
    for path in sorted(shared_data.rglob("*")):
        if path.suffix in TEXTS and path.is_file():
            read = decode(path.read_bytes(), path).text[:LOOKED_AT]
            if len(found) < 500 and read.strip():
                found[str(path.relative_to(shared_data))] = read
    assert len(found) > 60
    return found


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_real_files_are_found(texts: dict[str, str], encoding: str) -> None:
    for name, text in texts.items():
        read = decode(text.encode(encoding), Path(name))
        assert (read.text, read.encoding, read.guessed) == (text, encoding, True), name


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_prose_of_one_line_without_blanks_is_found(texts: dict[str, str], encoding: str) -> None:
    """Documents without a single sign of ASCII, so that no byte is zero."""
    chinese = "".join(each for each in texts["medical-zh-qa/dialogue_train.jsonl"] if ord(each) > 0x2FFF)
    assert len(chinese) > 5000
    for start in range(0, 5000, 500):
        text = chinese[start : start + 500]
        read = decode(text.encode(encoding), Path("a.txt"))
        assert (read.text, read.encoding) == (text, encoding)


def test_no_other_encoding_is_taken_for_it(texts: dict[str, str]) -> None:
    tried = 0
    for name, text in texts.items():
        for encoding in ("utf-8", "gb18030", "big5hkscs"):
            content = text.encode(encoding, "ignore")
            for cut in (content, content[1:], content[: len(content) // 2 * 2], content[:200]):
                tried += 1
                assert utf16_without_mark(cut) is None, (name, encoding)
    assert tried > 700


@pytest.mark.parametrize(
    "text",
    [
        "Мой заказ ещё не пришёл, а деньги списали",
        "注文した商品 がまだ届いていません。 配送状況を 確認 して",
        "주문한 상품이 아직 도착하지 않았 습 니 다",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_what_is_not_plain_is_refused_with_a_way_out(text: str, encoding: str) -> None:
    with pytest.raises(TunesmithError, match=r"data\.maybe_utf16"):
        decode(text.encode(encoding), Path("a.txt"))
    assert decode(text.encode(encoding), Path("a.txt"), encoding).text == text


def test_a_cut_file_and_noise(texts: dict[str, str]) -> None:
    with pytest.raises(TunesmithError, match=r"data\.maybe_utf16"):
        decode(texts["instruct-en/train.json"].encode("utf-16-le")[:-1], Path("a.txt"))
    noise = random.Random(1)
    for size in (2, 9, 100, 5000):
        for _ in range(50):
            assert utf16_without_mark(noise.randbytes(size)) is None
