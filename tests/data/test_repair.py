"""Repairs: what is broken is mended, what is right, code above all, keeps every character."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example, Message, Origin, ToolCall
from tunesmith.data.repair import emoji, mojibake
from tunesmith.data.repair.apply import repair_encoding, repair_texts
from tunesmith.data.table import from_examples, to_examples
from tunesmith.data.tidy import Cleaner, Needs
from tunesmith.recipe.specs.clean import RepairRule, RepairSpec
from tunesmith.recipe.specs.data import CleanSpec

SAFE: list[RepairRule] = ["mojibake", "html", "full_width", "boilerplate"]
EVERY: list[RepairRule] = [*SAFE, "whitespace"]
CHINESE = "这里虽然房间不大，但是充满温馨；虽然设施不很豪华，但是比较干净。价格 25 元。"
TRADITIONAL = "這裡雖然房間不大，但是充滿溫馨；雖然設施不很豪華，但是比較乾淨。價格 25 元。"
KEPT = [
    "Use `<div>` and:\n```html\n<p>Hi &amp; bye</p>\n    <b>１</b>\n```\nas shown.",
    '{"html": "<p>x</p>", "n":  1}',
    "if a <b and c> d then 3 &lt 4\n    return  x\n",
    "| a  | b |\n|---|---|\n| 1  | 2 |",
    "$\\alpha_{i} < \\beta$ 且 x＞0，价格：５元？不，“中文标点，全角！”",
    "😀👩‍💻 café naïve Ärger “quotes” — Ελληνικά русский עברית 日本語テスト",
    "<think>\nHm.\n</think>\n<image>\nWhat is it? <|im_end|> <s> </s> <tool_call>",
    "#include <map>\nList<String> x; Vec<u>; a<b>c",
]


def mended(text: str, *rules: RepairRule) -> str:
    ledger = Ledger()
    ledger.read("s", 1)
    spec = RepairSpec(rules=list(rules))
    frame = from_examples([Example(0, "text", Origin("s", 0), text=text)])
    frame = repair_texts(repair_encoding(frame, spec, ledger), spec, ledger)
    result = to_examples(frame)[0].text
    assert bool(ledger.changed()) == (result != text)
    return result


@pytest.mark.parametrize(
    ("right", "wrong", "text"),
    [
        ("utf-8", "latin-1", CHINESE),
        ("utf-8", "latin-1", "It’s a café — naïve"),
        ("gb18030", "latin-1", CHINESE),
        ("big5", "latin-1", TRADITIONAL),
        ("big5", "gb18030", TRADITIONAL),
        ("utf-8", "gb18030", "会议定于明天上午九点在三楼会议室召开"),
    ],
)
def test_texts_read_by_a_wrong_encoding_are_read_again(right: str, wrong: str, text: str) -> None:
    misread = text.encode(right).decode(wrong)
    assert misread != text
    assert mended(misread, "mojibake") == text


@pytest.mark.parametrize(
    "text",
    [
        "好的，谢谢您。",
        "多孔硅传感器的研究进展",
        "晚明清初江南“打行”研究",
        "钼、铋、铜、钨多金属矿石选矿试验研究",
        "富钙钛锆石型人造岩石固化体的制备现状",
    ],
)
def test_short_chinese_and_rare_words_come_back_too(text: str) -> None:
    """Few characters, or many that are rare, where nearly all that is written stands beyond ASCII."""
    assert mended(text.encode("gb18030").decode("latin-1"), "mojibake") == text


@pytest.mark.parametrize("wrong", ["latin-1", "sloppy-windows-1252"])
@pytest.mark.parametrize(
    ("right", "text"),
    [
        ("cp949", "오늘 주문한 상품이 아직 도착하지 않았습니다. 언제쯤 받을 수 있을까요?"),
        ("cp949", "안녕하세요"),
        ("euc_jp", "注文した商品がまだ届きません。いつ届きますか?"),
        ("cp932", "パスワードを忘れてログインできません。"),
    ],
)
def test_korean_and_japanese_are_not_taken_for_chinese(right: str, wrong: str, text: str) -> None:
    """Every pair of their bytes is a character of GB 18030, and those of Korean are all common ones."""
    import ftfy.bad_codecs  # noqa: F401 - what browsers take Windows-1252 for

    assert mended(text.encode(right).decode(wrong), "mojibake") == text


@pytest.mark.parametrize(
    "text",
    [
        "ÀÂÄÉÈÊËÎÏÔÙÛÜ",
        "àâäéèêëîïôùûüÿ",
        "ÁÉÍÓÚÝÞÆÖ",
        "VOIX AMBIGUË D'UN CŒUR QUI PRÉFÈRE LES JATTES DE KIWIS",
        "½ ¼ ¾ × ÷ ± µ ¶ § © ® ° ² ³ ¹",
        "KÆMI NÝ ÖXI HÉR, YKIST ÞJÓFUM NÚ BÆÐI VÍL OG ÁDREPA",
    ],
)
def test_western_letters_stay_western(text: str) -> None:
    assert mended(text, "mojibake") == text


def test_twice_is_mended_twice_and_what_is_lost_is_not_made_up() -> None:
    twice = "naïve café — déjà vu"
    for _ in range(2):
        twice = twice.encode().decode("latin-1")
    assert mended(twice, "mojibake") == "naïve café — déjà vu"
    lost = CHINESE.encode("gb18030").decode("utf-8", "replace")
    assert mended(lost, "mojibake") == lost


@settings(max_examples=300, deadline=None)
@given(
    st.text(
        st.characters(min_codepoint=0x7E, max_codepoint=0x101) | st.sampled_from("a€‚„“”锛銆中文\ue123"), max_size=12
    )
)
def test_the_hint_is_true_of_all_that_wrong_decoding_leaves(text: str) -> None:
    lead = "[\u00c2-\u00f4][\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
    pairs, read_as_chinese = (
        "(?:[\u00a1-\u00fe][\u0080-\u00fe]){3}",
        "[銆鐨鈥锛囩殑浜].{0,3}[\u4e00-\u9fff\ue000-\uf8ff]",
    )
    if re.search(f"{lead}|{pairs}|{read_as_chinese}|[\ue000-\ue864]", text):
        assert pl.select(mojibake.hint(pl.lit(text))).item()


@pytest.mark.parametrize("text", KEPT)
def test_what_is_right_is_left_alone(text: str) -> None:
    for rule in EVERY:
        if rule == "full_width" and "５" in text:
            continue
        if rule == "html" and "<b>c" in text:
            continue
        assert mended(text, rule) == text, rule


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>a</p><p>b<br/>c</p>", "a\nb\nc"),
        ('<div class="x"><span>一</span><b>二</b></div>\n<ul><li>三</li></ul>', "一二\n三"),
        ("It&#x27;s &lt;p&gt; &amp;amp; &copy;", "It's <p> &amp; ©"),
        ("<!DOCTYPE "
            "html><html><head><title>t</title><style>p{}</style></head><body><nav>menu</nav><main><p>Text</p></main>"
         "<footer>foot</footer><script>var a='<b>'</script></body></html>", "Text"),
        ("<table><tr><td>a</td><td>b</td></tr></table>", "a b"),
        ('See <a href="http://example.org?a=1&amp;b=2" target=_blank>this</a>.', "See this."),
    ],
)  # fmt: skip
def test_html_becomes_text(html: str, text: str) -> None:
    assert mended(html, "html") == text


@pytest.mark.parametrize(
    ("rule", "before", "after"),
    [
        ("full_width", "Ｐｙｔｈｏｎ ３．１１ 版，很好！", "Python 3.11 版，很好！"),
        ("full_width", "Ｆｏｒｍｓ， ａｎｄ （ｔｈｅｓｅ）", "Forms, and (these)"),
        ("whitespace", "a \u3000\u3000b\t c  \n\n\n\nd", "a b c\n\nd"),
        ("whitespace", "酒店装修，   档次太低", "酒店装修，档次太低"),
        ("whitespace", "酒　店\t装  修，   档 次太低。 早餐好", "酒店装修，档 次太低。 早餐好"),
        ("boilerplate", "正文。本文来自网络，侵删。", "正文。"),
        ("boilerplate", "正文（转载请注明出处）", "正文"),
        ("boilerplate", "The end. Share this post with your friends.", "The end."),
        ("boilerplate", "转载请注明出处", "转载请注明出处"),
        ("simplified", TRADITIONAL, "这里虽然房间不大，但是充满温馨；虽然设施不很豪华，但是比较干净。价格 25 元。"),
        ("traditional", "汉语", "漢語"),
    ],
)
def test_rules_by_example(rule: RepairRule, before: str, after: str) -> None:
    assert mended(before, rule) == after


def test_only_contents_of_turns_are_texts() -> None:
    call = ToolCall("f", '{"html":  "<p>１</p>"}')
    turns = (Message("user", "<p>Ａ</p>"), Message("assistant", "", tool_calls=(call,)), Message("tool", "<b>２</b>"))
    pair = Example(1, "preference", Origin("s", 1), (Message("user", "q"),), chosen=(Message("assistant", "Ｂ"),),
                   rejected=(Message("assistant", "<i>c</i>"),))  # fmt: skip
    ledger = Ledger()
    ledger.read("s", 3)
    rows = [
        Example(0, "chat", Origin("s", 0), (*turns, Message("assistant", "ok")), "[]"),
        pair,
        Example(2, "text", Origin("s", 2), text="x"),
    ]
    first, second, third = to_examples(repair_texts(from_examples(rows), RepairSpec(rules=EVERY), ledger))
    assert [turn.content for turn in first.messages] == ["A", "", "2", "ok"]
    assert first.messages[1].tool_calls == (call,)
    assert (second.chosen[0].content, second.rejected[0].content, third) == ("B", "c", rows[2])
    assert ledger.changed() == {"full_width": (2, 2), "html": (2, 2)}


def dirty(folder: Path) -> tuple[list[dict[str, str]], list[dict[str, object]]]:
    read = [(folder / name).read_text("utf-8").strip().split("\n") for name in ("corpus.jsonl", "corpus_truth.jsonl")]
    return [json.loads(line) for line in read[0]], [json.loads(line) for line in read[1]]


def test_bars_on_dirty_text(shared_data: Path) -> None:
    """HTML and mojibake: at least 0.95 of what can be recovered; clean rows untouched: at least 0.99 by every rule."""
    rows, truth = dirty(shared_data / "dirty-text")
    texts = {row["id"]: row["text"] for row in rows}
    examples = [Example(place, "text", Origin("s", place), text=row["text"]) for place, row in enumerate(rows)]
    ledger = Ledger()
    ledger.read("s", len(rows))
    spec = CleanSpec.model_validate({"repair": {"rules": SAFE}})
    frame, _ = Cleaner(spec, Path(), ledger, Needs()).apply("train", from_examples(examples))
    result = dict(zip(frame["row"], frame["text"], strict=True))
    whole, right, touched = Counter[str](), Counter[str](), Counter[str]()
    for place, stated in enumerate(truth):
        fault = str(stated["op"])
        if fault == "clean":
            whole["clean"] += 1
            touched.update(ledger.entries()[place].changes.keys())
        if fault in ("html", "mojibake", "control_chars") and stated.get("recoverable", True):
            wanted = str(stated.get("clean") or texts[str(stated["dup_of"])])
            whole[fault] += 1
            right[fault] += "".join(result[place].split()) == "".join(wanted.split())
    assert {fault: right[fault] / whole[fault] for fault in right if right[fault] < 0.95 * whole[fault]} == {}
    assert right.keys() == {"html", "mojibake", "control_chars"}
    assert {rule: rows for rule, rows in touched.items() if rows > 0.01 * whole["clean"]} == {}


# -------------------------------------------------------------------------------------------------- emoji

GRIN, FAMILY, THUMB, POINT = "😀", "👨\u200d👩\u200d👧\u200d👦", "👍🏽", "\u261d🏽"
GERMANY, SCOTLAND = "🇩🇪", "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"
ONE, HASH, PICTURED = "1\ufe0f\u20e3", "#\u20e3", "\u00a9\ufe0f"
HEART, BURNING, RUNNER = "\u2764\ufe0f", "\u2764\u200d🔥", "🏃🏽\u200d♂\ufe0f"
RAINBOW, KISS = "🏳\ufe0f\u200d🌈", "👩🏻\u200d\u2764\ufe0f\u200d💋\u200d👨🏿"
EMOJI = [GRIN, FAMILY, THUMB, POINT, GERMANY, SCOTLAND, ONE, HASH, PICTURED, HEART, BURNING, RUNNER, RAINBOW, KISS]
SIGNS = ["1", "#", "*", "©", "™", "☎", "✔", "☺", "→", "★", "⌚\ufe0e", "\u2764", "e\u0301", "你好", "a\u200db"]


@pytest.mark.parametrize("one", EMOJI)
def test_an_emoji_goes_as_a_whole_and_leaves_nothing(one: str) -> None:
    assert emoji.remove_all([one, f"so {one} it is", f"so {one}{one}", f"{one} so", f"好{one}的"]) == [
        "",
        "so it is",
        "so",
        "so",
        "好的",
    ]
    assert emoji.shorten_all([one * 5, f"a {one} {one} {one} b"], 2) == [one * 2, f"a {one} {one} b"]
    assert pl.select(emoji.hint(pl.lit(f"a{one}b"))).item()


@pytest.mark.parametrize("sign", SIGNS)
def test_what_is_shown_as_a_sign_stays(sign: str) -> None:
    texts = [sign, f"so {sign} it is", sign * 5]
    assert emoji.remove_all(texts) == texts == emoji.shorten_all(texts, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"yes{GRIN}no", "yes no"),
        (f"是{GRIN}否", "是否"),
        (f"yes{GRIN}, no", "yes, no"),
        (f"    {GRIN} item\nnext {GRIN}\n{GRIN}end", "    item\nnext\nend"),
        (f"a {GRIN} {GRIN}  {GRIN} b", "a b"),
    ],
)
def test_words_neither_join_nor_part_where_an_emoji_stood(text: str, expected: str) -> None:
    assert emoji.remove_all([text]) == [expected]


def test_emoji_go_from_every_text_of_a_row_and_the_ledger_counts_the_rows() -> None:
    said = ((f"hi {GRIN}", f"fine {HEART}"), ("plain 1", "no 2"))
    turns = [(Message("user", asked), Message("assistant", answered)) for asked, answered in said]
    rows = [Example(number, "chat", Origin("s", number), each) for number, each in enumerate(turns)]
    rows += [Example(2, "text", Origin("s", 2), text=GRIN * 9 + " so"), Example(3, "text", Origin("s", 3), text=GRIN)]
    ledger = Ledger()
    ledger.read("s", 4)
    frame = from_examples(rows)
    spec = RepairSpec(rules=["emoji"])
    mended = repair_texts(frame, spec, ledger)
    assert mended["text"].to_list() == ["", "", "so", ""] and mended["messages"][0][0]["content"] == "hi"
    assert ledger.changed() == {"emoji": (3, 3)}
    shorter = repair_texts(frame, RepairSpec(rules=["emoji_runs"], max_emoji=2), ledger)
    assert shorter["text"].to_list() == ["", "", GRIN * 2 + " so", GRIN]
    assert repair_texts(frame, RepairSpec(rules=["emoji_runs"]), ledger)["text"][2] == GRIN * emoji.LONGEST_RUN + " so"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"rules": ["emoji", "emoji_runs"]}, "emoji_twice"),
        ({"rules": ["html"], "max_emoji": 2}, "emoji_without_rule"),
        ({"rules": ["emoji_runs"], "max_emoji": 0}, "greater than"),
    ],
)
def test_settings_of_emoji_that_cannot_take_effect_are_refused(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        RepairSpec.model_validate(settings)
