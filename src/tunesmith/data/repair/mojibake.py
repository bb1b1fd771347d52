"""Text that was decoded by the wrong encoding, put right where its bytes are still all there.

Two ways: ftfy for UTF-8 read as a Western code page (once or several times), and for Chinese a search over the pairs of
encodings that get mixed up, judged by how common the characters are that come out. Korean and Japanese come before it:
every syllable of Korean is a common Chinese character in GB 18030.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec

import polars as pl

from tunesmith.core.errors import TunesmithError
from tunesmith.data.jumps import characters, led_by

_WESTERN = "€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
"""Characters of Windows-1252 that stand where Latin-1 has control characters."""
_AS_WESTERN = (
    led_by(characters(0xC2, 0xF4), f"[\u0080-\u00bf{_WESTERN}]"),
    # Of three pairs one begins so, and two more letters follow, or two pairs in a row begin below.
    led_by(characters(0xC0, 0xFE), "[\u0080-\u00fe]{2}"),
    led_by(characters(0xA1, 0xBF), "[\u0080-\u00fe][\u00a1-\u00bf][\u0080-\u00fe][\u00a1-\u00fe]"),
)
"""UTF-8 read as a Western code page: a first byte and the next. And Chinese read so: pairs of bytes, three in a row."""
_UTF8_AS_CHINESE = "[銆鐨鈥锛囩殑浜].{0,3}[\u4e00-\u9fff\ue000-\uf8ff]"
_OF_USERS = b"\xee"
"""First byte in UTF-8 of U+E000 to U+EFFF: pairs of GB 18030 that no character has stand there, up to U+E864."""
_WESTERN_RUN = re.compile(f"[\u00a0-\u00ff][\u0080-\u00ff\x21-\x7e{_WESTERN}]*[\u0080-\u00ff{_WESTERN}]")
_CODE_PAGES = ("latin-1", "sloppy-windows-1252")
"""The second is ftfy's, with the control characters of Latin-1 where Windows has none, as browsers read it."""
_FROM_WESTERN = tuple((wrong, right) for wrong in _CODE_PAGES for right in ("gb18030", "big5"))
_PAIRS = (("gb18030", "utf-8"), ("big5", "utf-8"), ("gb18030", "big5"), ("big5", "gb18030"), *_FROM_WESTERN)
"""(wrong, right): how a text was read, and how it should have been."""
_RIGHT, _WRONG = 0.9, 0.7
"""Shares of common characters. Chinese text has 0.97 and more of them, text read by a wrong encoding 0.2 to 0.5; a text
is read again only where it has fewer than the lower figure and would have more than the higher one."""
_FEWEST = 12
"""Chinese characters that it takes to tell; in a few, rare ones may all be common by chance."""
_FEWEST_OF_ALL, _SURE_ENOUGH = 4, 0.8
"""The same of a text nearly all of whose characters stand beyond ASCII, in a Western code page, which no language
writes. Chemistry and minerals have 0.87 of common characters."""
_BEYOND_ASCII = 0.6
_KOREAN = re.compile(
    "[이다는에을가의를은하고도지한로사기서자어대아리시나스해인그전부정일수들있장과것여제라보니게만으주원마소상구면년"
    "오적안우성용동습까세요신내경국문무거미비조방공위화영진연중생히했없않할된되러던실물간때]"
)
"""Syllables that make up three fifths of Korean."""
_KANA = re.compile("[\u3041-\u30fc]")
_TELLING = (("cp949", _KOREAN, 0.35), ("euc_jp", _KANA, 0.3), ("cp932", _KANA, 0.3))
"""(encoding, what its language writes again and again, the least share of the letters beyond ASCII). Of 20,000 Chinese
texts of four characters and more 8 reach one; of programs' messages of twelve letters and more, 97 in a hundred Korean
ones and every Japanese one."""
_FEWEST_LETTERS = 5
_ONLY_CHINESE = re.compile("[\x00-\x7f\u3400-\u9fff\u3000-\u301f\uff01-\uff5e·—‘’“”…]+")
_HAN = re.compile("[\u3400-\u9fff\ue000-\uf8ff]")


def hint(text: pl.Expr) -> pl.Expr:
    """Whether a text holds sequences that wrong decoding leaves, and right text hardly ever."""
    patterns = (text.str.contains(pattern) for pattern in (*_AS_WESTERN, _UTF8_AS_CHINESE))
    return pl.any_horizontal(*patterns, text.cast(pl.Binary).bin.contains(_OF_USERS))


def need_ftfy() -> None:
    """Errors: data.rule_needs_package."""
    if find_spec("ftfy") is None:
        raise TunesmithError("data.rule_needs_package", setting="data.clean.repair: mojibake", package="ftfy")


def mend_all(texts: Sequence[str]) -> list[str]:
    """The texts as they were meant; those that cannot be told stay as they are."""
    import ftfy

    config = ftfy.TextFixerConfig(
        unescape_html=False,
        remove_terminal_escapes=False,
        replace_lossy_sequences=False,  # what is lost is not made up
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        fix_surrogates=False,
        remove_control_chars=False,
        normalization=None,
    )
    # East Asian first: ftfy takes pairs of GB 18030 that happen to be UTF-8 as well for UTF-8.
    return [ftfy.fix_text(_korean_or_japanese(text) or _chinese(text), config) for text in texts]


def _korean_or_japanese(text: str) -> str | None:
    for wrong in _CODE_PAGES:
        for right, telling, share in _TELLING:
            reading = _read_again(text, wrong, right) or ""
            letters = sum(character > "\x7f" and character.isalpha() for character in reading)
            if letters >= _FEWEST_LETTERS and len(telling.findall(reading)) >= share * letters:
                return reading
    return None


def _chinese(text: str) -> str:
    whole = _best(text, _PAIRS)
    if whole == text:
        whole = _all_western(text)
    if whole != text:
        return whole
    return _WESTERN_RUN.sub(lambda run: _best(run[0], _FROM_WESTERN), text)


def _best(text: str, pairs: Sequence[tuple[str, str]]) -> str:
    """The reading with the most common characters, where it is right by them and the text is not."""
    if commonness(text) > _WRONG:
        return text
    readings = [reading for pair in pairs if (reading := _read_again(text, *pair)) is not None]
    best = max(readings, key=commonness, default=text)
    return best if commonness(best) >= _RIGHT else text


def _all_western(text: str) -> str:
    """A short text, or one of rare words, that is Chinese from end to end; UTF-8, which ftfy mends, stays."""
    written = [character for character in text if not character.isspace()]
    if sum(character > "\x7f" for character in written) < _BEYOND_ASCII * len(written):
        return text
    if any(_read_again(text, wrong, "utf-8") is not None for wrong in _CODE_PAGES):
        return text
    read = (_read_again(text, *pair) for pair in _FROM_WESTERN)
    readings = [each for each in read if each is not None and _ONLY_CHINESE.fullmatch(each)]
    best = max(readings, key=_common_of_few, default=text)
    enough = _SURE_ENOUGH if len(_HAN.findall(best)) >= _FEWEST else _RIGHT
    return best if _common_of_few(best) >= enough else text


def _common_of_few(text: str) -> float:
    return commonness(text, _FEWEST_OF_ALL)


def _read_again(text: str, wrong: str, right: str) -> str | None:
    try:
        return text.encode(wrong).decode(right)
    except (UnicodeEncodeError, UnicodeDecodeError):
        return None


def commonness(text: str, fewest: int = _FEWEST) -> float:
    """Share of Chinese characters that are of the first level of GB 2312 or Big5; 0 where hardly any is Chinese."""
    written = _HAN.findall(text)
    if len(written) < fewest:
        return 0.0
    return sum(map(_is_common, written)) / len(written)


def _is_common(character: str) -> bool:
    for encoding, first, last in (("gb2312", 0xB0, 0xD7), ("big5", 0xA4, 0xC6)):
        try:
            if first <= character.encode(encoding)[0] <= last:
                return True
        except UnicodeEncodeError:
            continue
    return False
