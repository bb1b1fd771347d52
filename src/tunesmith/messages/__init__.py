"""Every sentence a user sees, in English and 简体中文, by its code.

One TOML file a room and language: `en/data.toml`, `zh/data.toml`. `[errors.name]` holds `cause` and `next`;
`[say]` holds plain sentences. A code is `<file>.<name>`. A test keeps both languages complete.
"""

from __future__ import annotations

import locale
import os
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from tunesmith.core.errors import Fact, TunesmithError

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
_FOLDER = Path(__file__).parent
_chosen: list[Language] = []


@dataclass(frozen=True)
class Explanation:
    """An error in words: what happened and what to do next."""

    code: str
    cause: str
    next_step: str


@lru_cache
def _room(room: str, language: Language) -> dict[str, dict[str, object]]:
    path = _FOLDER / language / f"{room}.toml"
    return tomllib.loads(path.read_text("utf-8")) if path.is_file() else {}


def detect_language() -> Language:
    """TUNESMITH_LANG, else the language of the system's locale: Chinese for zh, English for every other."""
    stated = os.environ.get("TUNESMITH_LANG") or os.environ.get("LC_ALL") or os.environ.get("LANG") or ""
    if not stated:
        stated = locale.getlocale()[0] or ""
    return "zh" if stated.lower().startswith(("zh", "chinese")) else "en"


def set_language(language: Language | None) -> None:
    """Fix the language of this process; None goes back to what the system says."""
    _chosen[:] = [] if language is None else [language]


def language() -> Language:
    """The language in force."""
    return _chosen[0] if _chosen else detect_language()


def say(code: str, /, **facts: Fact) -> str:
    """The plain sentence of a code in the language in force. A missing code is our mistake: KeyError."""
    return _sentence(code, language()).format(**facts)


def both(code: str, /, **facts: Fact) -> dict[Language, str]:
    """The plain sentence of a code in every language, for pages that show both."""
    return {each: _sentence(code, each).format(**facts) for each in LANGUAGES}


def _sentence(code: str, in_language: Language) -> str:
    room, _, name = code.partition(".")
    return str(_room(room, in_language)["say"][name])


def error_codes() -> list[str]:
    """Every error code, sorted."""
    rooms = sorted(path.stem for path in (_FOLDER / "en").glob("*.toml"))
    return [f"{room}.{name}" for room in rooms for name in _room(room, "en").get("errors", {})]


def explain(code: str, in_language: Language | None = None) -> Explanation:
    """An error code's cause and next step with its placeholders left open. Errors: messages.unknown_code."""
    room, _, name = code.partition(".")
    entry = _room(room, in_language or language()).get("errors", {}).get(name)
    if not isinstance(entry, dict):
        raise TunesmithError("messages.unknown_code", code=code)
    return Explanation(code, str(entry["cause"]), str(entry["next"]))


def render(error: TunesmithError, in_language: Language | None = None) -> Explanation:
    """The error in words, with its facts filled in."""
    open_form = explain(error.code, in_language)
    return Explanation(error.code, open_form.cause.format(**error.facts), open_form.next_step.format(**error.facts))
