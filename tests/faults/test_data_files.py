"""Rows in every encoding and in none, hostile JSON, damaged bytes: the right text, or a refusal with the place."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from children import HELPERS, python_path
from faults_tally import Tally

from tunesmith.core.errors import TunesmithError
from tunesmith.data.formats.files import LONGEST_ROW, Unread, read_file
from tunesmith.messages import LANGUAGES, render

CHINESE = [
    {"prompt": "请问我的订单什么时候到货？", "completion": "您好，预计三天内送达，请注意查收。"},
    {"prompt": "“退款”需要多久？", "completion": "一般在七个工作日之内，会按原来的支付方式退回给您。"},
]
EMOJI = [*CHINESE, {"prompt": "谢谢你们的帮助🎻", "completion": "不客气，祝您生活愉快😊，欢迎下次再来。"}]
KOREAN = [
    {"prompt": "주문한 상품이 아직 도착하지 않았습니다.", "completion": "배송 상태를 확인해 주시겠어요? 감사합니다."}
]
JAPANESE = [{"prompt": "注文した商品がまだ届いていません。", "completion": "配送状況を確認していただけますか。"}]
RUSSIAN = [{"prompt": "Мой заказ ещё не пришёл", "completion": "Проверьте статус доставки"}]
FRENCH = [{"prompt": "Où est passée ma commande ?", "completion": "Elle a été expédiée, désolé."}]
TRADITIONAL = [{"prompt": "訂單什麼時候到貨？", "completion": "預計三天內送達，請留意。"}]
ENGLISH = [{"prompt": "plain", "completion": "text"}]
Rows = list[dict[str, str]]


def lines(rows: Rows) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table(rows: Rows, end: str = "\r\n") -> str:
    return end.join(["prompt,completion", *(",".join(f'"{cell}"' for cell in row.values()) for row in rows)]) + end


def utf16(rows: Rows, end: str) -> bytes:
    return lines(rows).encode(f"utf-16-{end}")


CHINESE_UTF8 = lines(CHINESE).encode()
SPLIT = CHINESE_UTF8.index("订".encode())

READ: dict[str, tuple[str, bytes, Rows, str]] = {
    "UTF-8": (".jsonl", CHINESE_UTF8, CHINESE, "utf-8"),
    "UTF-8 with a mark": (".jsonl", lines(EMOJI).encode("utf-8-sig"), EMOJI, "utf-8-sig"),
    "UTF-16, little end first, with a mark": (".jsonl", b"\xff\xfe" + utf16(EMOJI, "le"), EMOJI, "utf-16"),
    "UTF-16, big end first, with a mark": (".jsonl", b"\xfe\xff" + utf16(EMOJI, "be"), EMOJI, "utf-16"),
    "UTF-32, little end first": (".jsonl", b"\xff\xfe\0\0" + lines(EMOJI).encode("utf-32-le"), EMOJI, "utf-32"),
    "UTF-32, big end first": (".jsonl", b"\0\0\xfe\xff" + lines(EMOJI).encode("utf-32-be"), EMOJI, "utf-32"),
    "GB2312": (".jsonl", lines(CHINESE).encode("gb2312"), CHINESE, "gb18030"),
    "GBK": (".csv", table(CHINESE).encode("gbk"), CHINESE, "gb18030"),
    "GB18030 with characters of four bytes": (".jsonl", lines(EMOJI).encode("gb18030"), EMOJI, "gb18030"),
    "Big5": (".jsonl", lines(TRADITIONAL).encode("big5"), TRADITIONAL, "big5"),
    "CSV in Big5": (".csv", table(TRADITIONAL).encode("big5"), TRADITIONAL, "big5"),
    "CSV as Excel writes it": (".csv", table(EMOJI).encode("utf-8-sig"), EMOJI, "utf-8-sig"),
    "English in UTF-16 without a mark": (".jsonl", lines(ENGLISH).encode("utf-16-le"), ENGLISH, "utf-16-le"),
    "Chinese in UTF-16 without a mark": (".jsonl", lines(CHINESE).encode("utf-16-le"), CHINESE, "utf-16-le"),
    "Chinese in UTF-16, big end first, without a mark": (
        ".csv", table(CHINESE).encode("utf-16-be"), CHINESE, "utf-16-be",
    ),
    "CSV in UTF-16": (".csv", table(EMOJI).encode("utf-16"), EMOJI, "utf-16"),
    "CSV with the line ends of an old Mac": (".csv", table(EMOJI, "\r").encode(), EMOJI, "utf-8"),
    "a JSON document in GB18030": (
        ".json", json.dumps(CHINESE, ensure_ascii=False).encode("gb18030"), CHINESE, "gb18030",
    ),
    "all escaped": (".jsonl", "".join(json.dumps(row) + "\n" for row in EMOJI).encode(), EMOJI, "utf-8"),
    "a replacement character of the file's own": (
        ".jsonl", lines([{"prompt": "lost \ufffd here", "completion": "x"}]).encode(),
        [{"prompt": "lost \ufffd here", "completion": "x"}], "utf-8",
    ),
    "line ends inside of texts": (
        ".jsonl", lines([{"prompt": "a\u2028b\u0085c", "completion": "x"}]).encode(),
        [{"prompt": "a\u2028b\u0085c", "completion": "x"}], "utf-8",
    ),
}  # fmt: skip

REFUSED: dict[str, tuple[bytes, str]] = {
    "Russian in UTF-16 without a mark": (lines(RUSSIAN).encode("utf-16-le"), "maybe_utf16"),
    "UTF-16 without a mark, cut within a character": (lines(CHINESE).encode("utf-16-le")[:-1], "maybe_utf16"),
    "UTF-16 cut within a character": (lines(EMOJI).encode("utf-16")[:-1], "wrong_encoding"),
    "UTF-16 with half of a pair": (b"\xff\xfe\x00\xd8\x20\x00", "wrong_encoding"),
    "Latin-1": (lines(FRENCH).encode("latin-1"), "wrong_encoding"),
    "Windows-1252 with its quotes": (lines([{"prompt": "“où”", "completion": "–"}]).encode("cp1252"), "wrong_encoding"),
    "Shift-JIS": (lines(JAPANESE).encode("shift_jis"), "wrong_encoding"),
    "EUC-JP": (lines(JAPANESE).encode("euc_jp"), "wrong_encoding"),
    "EUC-KR": (lines(KOREAN).encode("euc_kr"), "wrong_encoding"),
    "KOI8-R": (lines(RUSSIAN).encode("koi8_r"), "wrong_encoding"),
    "Windows-1251": (lines(RUSSIAN).encode("cp1251"), "wrong_encoding"),
    "one wrong byte": (CHINESE_UTF8[:SPLIT] + b"\xff" + CHINESE_UTF8[SPLIT:], "wrong_encoding"),
    "a character that lost a byte": (CHINESE_UTF8[:SPLIT] + CHINESE_UTF8[SPLIT + 1 :], "wrong_encoding"),
    "cut within a character": (CHINESE_UTF8[: SPLIT + 1], "wrong_encoding"),
    "a slash in two bytes": (b'{"prompt": "a\xc0\xafb", "completion": "x"}\n', "wrong_encoding"),
    "a pair written as two characters (CESU-8)": (b'{"prompt": "\xed\xa0\xbc\xed\xbe\xbb"}\n', "wrong_encoding"),
    "half UTF-8, half GB18030": (CHINESE_UTF8 + lines(CHINESE).encode("gb18030"), "wrong_encoding"),
    "a mark of UTF-8 before GB18030": (b"\xef\xbb\xbf" + lines(CHINESE).encode("gb18030"), "wrong_encoding"),
    "an archive": (b"PK\x03\x04" + bytes(30), "not_text"),
    "a compressed file": (gzip.compress(CHINESE_UTF8, mtime=0), "wrong_encoding"),
}


@pytest.mark.case("D3")
def test_encodings_are_read_right_or_refused_with_the_place(tmp_path: Path, tally: Tally) -> None:
    for name, (suffix, content, rows, encoding) in READ.items():
        path = tmp_path / f"rows{suffix}"
        path.write_bytes(content)
        file = read_file(path)
        assert file.rows == rows and file.encoding == encoding, name
        assert file.guessed == (encoding in ("gb18030", "big5", "utf-16-le", "utf-16-be")), (
            "what was only found by trying is said"
        )
        tally.count("files in an encoding")
    for name, (content, code) in REFUSED.items():
        for suffix in (".jsonl", ".csv", ".json"):
            path = tmp_path / f"rows{suffix}"
            path.write_bytes(content)
            with pytest.raises(TunesmithError) as caught:
                read_file(path)
            assert caught.value.code == f"data.{code}", name
            if code == "wrong_encoding":
                stated = str(caught.value.facts["encoding"])
                with pytest.raises(UnicodeDecodeError) as reference:
                    content.decode("utf-8" if stated == "utf-8-sig" else stated)
                assert caught.value.facts["offset"] == reference.value.start, name
                assert all(str(reference.value.start) in render(caught.value, each).cause for each in LANGUAGES)
        tally.count("files in an encoding")
    assert len(READ) + len(REFUSED) >= 30


# --------------------------------------------------------------------------------------------------- hostile JSON

GOOD = '{"prompt": "a question", "completion": "an answer"}'
DEEP = "[" * 10_000 + "]" * 10_000
ROWS: dict[str, tuple[str, str]] = {
    "a key twice": ('{"prompt": "a", "prompt": "b", "completion": "c"}', "duplicate_key"),
    "a key twice far inside": ('{"prompt": [{"role": "user", "content": "a", "content": "b"}]}', "duplicate_key"),
    "nested 10,000 times": ('{"prompt": ' + DEEP + "}", "too_deep"),
    "objects nested 10,000 times": ('{"a":' * 10_000 + "1" + "}" * 10_000, "too_deep"),
    "a number of 5,000 digits": ('{"prompt": "a", "n": ' + "9" * 5000 + "}", "broken_json"),
    "no object": ("[1, 2]", "not_an_object"),
    "a bare text": ('"text"', "not_an_object"),
    "null": ("null", "not_an_object"),
    "cut": ('{"prompt": "a', "broken_json"),
    "a comma at the end": ('{"prompt": "a",}', "broken_json"),
    "single quotes": ("{'prompt': 'a'}", "broken_json"),
    "a comment": ('{"prompt": "a"} // b', "broken_json"),
    "two on a line": (f"{GOOD} {GOOD}", "broken_json"),
    "a raw control character": ('{"prompt": "a\x01b"}', "broken_json"),
    "an escape of nothing": ('{"prompt": "\\x41"}', "broken_json"),
}
WEIGHED = '{"prompt": [{"role": "user", "content": "a", "weight": %s}], "completion": "b"}'
LISTS = "[" * 300 + "]" * 300
READ_LATER: dict[str, tuple[str, str]] = {
    "10^400 as a question": ('{"prompt": 1' + "0" * 400 + ', "completion": "b"}', "no_messages"),
    "10^400 as a weight": (WEIGHED % ("1" + "0" * 400), "bad_weight"),
    "infinity as a weight": (WEIGHED % "1e400", "bad_weight"),
    "NaN as a weight": (WEIGHED % "NaN", "bad_weight"),
    "half of a character": ('{"prompt": "a\\ud800b", "completion": "c"}', "lone_surrogate"),
    "the other half": ('{"prompt": "a", "completion": "\\udfff"}', "lone_surrogate"),
    "halves in the wrong order": ('{"prompt": "\\udfbb\\ud83c", "completion": "c"}', "lone_surrogate"),
    "an empty answer": ('{"prompt": "a", "completion": " "}', "empty_answer"),
    "a list for an answer": ('{"prompt": "a", "completion": [1]}', "no_messages"),
    "300 lists in the tools": (f'{{"prompt": "a", "completion": "b", "tools": {LISTS}}}', "bad_tools"),
}  # fmt: skip
HARMLESS = {
    "10^400 beside the text": '{"prompt": "a", "completion": "b", "n": 1' + "0" * 400 + "}",
    "1e400 beside the text": '{"prompt": "a", "completion": "b", "n": 1e400}',
    "half of a character beside the text": '{"prompt": "a", "completion": "b", "\\ud800": "\\ud800"}',
    "a whole pair": '{"prompt": "\\ud83c\\udfbb", "completion": "b"}',
    "100,000 keys": '{"prompt": "a", "completion": "b", ' + ", ".join(f'"k{n}": {n}' for n in range(100_000)) + "}",
}


@pytest.mark.case("D3")
def test_hostile_json_costs_its_row_alone(tmp_path: Path, tally: Tally) -> None:
    from tunesmith.core.ledger import Ledger
    from tunesmith.data.formats.read import Reading, read_source
    from tunesmith.recipe.specs.data import SourceSpec

    hostile = {**ROWS, **READ_LATER, **{name: (line, "") for name, line in HARMLESS.items()}}
    path = tmp_path / "rows.jsonl"
    filled = [line for text, _ in hostile.values() for line in (text, GOOD)]
    path.write_text("\n".join(filled), "utf-8")
    assert [row for row in read_file(path).rows if isinstance(row, Unread)] == [
        Unread(reason, line) for line, reason in ROWS.values()
    ]
    ledger = Ledger()
    spec = SourceSpec(path=path.name, layout="prompt_completion")
    frame, _ = read_source(spec, "train", tmp_path, Reading("chat", None, 1), ledger)
    for (name, (_, reason)), entry in zip(hostile.items(), ledger.entries()[::2], strict=True):
        assert (entry.fate, entry.reason) == (("dropped", reason) if reason else ("kept", "")), name
        tally.count("hostile rows")
    assert all(entry.fate == "kept" for entry in ledger.entries()[1::2])
    assert frame["messages"][frame["row"].to_list().index(len(filled) - 4)][0]["content"] == "🎻"


@pytest.mark.case("D3")
def test_a_hostile_document_is_refused_with_its_place(tmp_path: Path, tally: Tally) -> None:
    path = tmp_path / "rows.json"
    places = {
        f"[{GOOD},\n{GOOD[:-1]}": (2, None),
        f"[{GOOD}\n{GOOD}]": (2, None),
        f"[{GOOD}] trailing": (1, None),
        "[" + GOOD + ', {"n": ' + "9" * 5000 + "}]": (1, 0),
    }
    for content, (line, offset) in places.items():
        path.write_text(content, "utf-8")
        with pytest.raises(TunesmithError) as caught:
            read_file(path)
        assert (caught.value.code, caught.value.facts["line"]) == ("data.broken_json", line)
        assert offset is None or caught.value.facts["offset"] == offset
        tally.count("hostile documents")
    for content in (f"[{DEEP}]", DEEP[:9000]):
        path.write_text(content, "utf-8")
        with pytest.raises(TunesmithError) as caught:
            read_file(path)
        assert caught.value.code in ("data.too_deep", "data.broken_json", "data.empty_file")
        tally.count("hostile documents")


# --------------------------------------------------------------------------------------------------------- memory

READ_LARGE = """
import json, resource, sys
from pathlib import Path
import polars, pyarrow
from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.data.formats.read import Reading, read_source
from tunesmith.recipe.specs.data import SourceSpec
path, most = Path(sys.argv[1]), int(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if Path("/proc").exists() else 0
resource.setrlimit(resource.RLIMIT_AS, (used + most, used + most))
ledger, code = Ledger(), ""
try:
    spec = SourceSpec(path=path.name, layout="prompt_completion")
    read_source(spec, "train", path.parent, Reading("chat", None, 1), ledger)
except TunesmithError as error:
    code = error.code
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"code": code, "grown": after - before, "fates": dict(ledger.totals())}))
"""


def large_files(size: int) -> Iterator[tuple[str, str, Iterator[bytes], str, dict[str, int]]]:
    """Name, suffix, content in parts, and what must come of it: a code, or fates."""
    part = b"a word after another and one more " * 30_000
    text = [part] * (size // len(part))
    good = f"{GOOD}\n".encode()
    start, end = b'{"prompt": "', b'", "completion": "b"}\n'
    fates = {"kept": 9, "dropped: too_large": 1}
    yield "one line of text", ".jsonl", iter([good * 9, start, *text, end]), "", fates
    yield "a line that never ends", ".jsonl", iter([good * 9, start, *text]), "", fates
    yield "brackets without end", ".jsonl", iter([good * 9, b"[" * size]), "", fates
    yield (
        "a document of one long text",
        ".json",
        iter([b"[", (GOOD + ",").encode() * 9, start, *text, end[:-1], b"]"]),
        "",
        fates,
    )
    yield "a cell", ".csv", iter([b"prompt,completion\n", b"a,b\n" * 9, *text, b",b\n"]), "", fates
    yield (
        "a cell that never ends",
        ".csv",
        iter([b"prompt,completion\n", b"a,b\n" * 9, b'"', *text]),
        "data.broken_csv",
        {},
    )


@pytest.mark.case("D3")
@pytest.mark.timeout(600)
def test_a_row_without_end_is_dropped_in_bounded_memory(tmp_path: Path, tally: Tally) -> None:
    size = tally.amount(LONGEST_ROW + 4 * 2**20, 100 * 2**20)
    for name, suffix, parts, code, fates in list(large_files(size))[: tally.amount(1, 6)]:
        path = tmp_path / f"rows{suffix}"
        with path.open("wb") as stream:
            stream.writelines(parts)
        limit = 6 * path.stat().st_size + 200 * 2**20
        environment = os.environ | {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
        command = [sys.executable, "-c", READ_LARGE, str(path), str(2 * limit)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{name}: {done.stderr[-2000:]}"
        told = json.loads(done.stdout)
        assert (told["code"], told["fates"]) == (code, fates), name
        assert told["grown"] <= limit, (
            f"{name}: {told['grown'] / 2**20:.0f} MB for {path.stat().st_size / 2**20:.0f} MB"
        )
        tally.count("files of one endless row")
        path.unlink()


# --------------------------------------------------------------------------------------------------------- fuzzed files


def read_in_children(folder: Path, seeds: range, at_once: int = 250) -> Iterator[dict[str, object]]:
    """What came of the file of each seed. A child that dies is a fault of the file it had begun."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "PYTHONPATH": python_path()}
    for first in range(seeds.start, seeds.stop, at_once):
        last = min(first + at_once, seeds.stop)
        command = [sys.executable, str(HELPERS / "faults_data.py"), str(folder), str(first), str(last)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        told = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 0, f"the file of seed {told[-1:]} killed the reader: {done.stderr[-1500:]}"
        yield from (each for each in told if "begins" not in each)


@pytest.mark.case("D3")
@pytest.mark.timeout(900)
def test_fuzzed_files_are_read_right_or_refused(tmp_path: Path, tally: Tally) -> None:
    first = tally.seed * 10_000
    outcomes: Counter[str] = Counter()
    for told in read_in_children(tmp_path, range(first, first + tally.amount(150, 2000))):
        assert told["wrong"] == "", told
        outcomes[str(told["code"])] += 1
        tally.count("fuzzed data files")
        tally.count("fuzzed data files refused", int(bool(told["code"])))
    assert 0.2 < outcomes[""] / outcomes.total() < 0.9 and len(outcomes) > 5, outcomes


FOUND: list[int] = []
"""Seeds of files that were once read wrong."""
