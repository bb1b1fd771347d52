"""The one place that keeps passwords, keys and signatures out of words: errors, events, notes, cards and manifests.

A secret is known by its form (a password in an address, a signature behind ?, a key of a known provider) or by its
value: what variables of the environment hold whose names say so, and the passwords in addresses that they hold.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from urllib.parse import unquote

HIDDEN = "***"
KEY_STARTS = (
    r"(?:AKIA|ASIA)[0-9A-Z]{16}",  # Amazon
    r"gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}|glpat-[A-Za-z0-9_\-]{20,}",
    r"xox[abprs]-[A-Za-z0-9\-]{10,}",  # Slack
    r"AIza[0-9A-Za-z_\-]{35}",  # Google
    r"hf_[A-Za-z0-9]{30,}",  # Hugging Face
    r"LTAI[A-Za-z0-9]{12,24}|AKID[A-Za-z0-9]{13,40}",  # Alibaba Cloud, Tencent Cloud
    r"eyJ[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]+",  # JSON web token (RFC 7519)
)
"""How keys and tokens of providers begin."""
_OWN = r"ts-[A-Za-z0-9_\-]{43}(?![A-Za-z0-9_\-])"
_LIKE_OPENAI = r"sk-[A-Za-z0-9_\-]*[A-Za-z0-9]{20}[A-Za-z0-9_\-]*"
"""OpenAI's and those that follow it: an unbroken run tells them from words, such as sk-learn-of-last-winter.jsonl."""
_OPEN_FORM = r"(?![*$<{])"
"""What stands for a password in an example is none: user:***@, user:$PASSWORD@, user:<password>@."""

_PASSWORD = re.compile(rf"([a-z][a-z0-9+.\-]*://[^\s/@:'\"<>]*:){_OPEN_FORM}(?!\d{{1,5}}/)[^\s@'\"<>]+@", re.IGNORECASE)
_TOKEN = re.compile(rf"((?:https?|git)://){_OPEN_FORM}[^\s/@:'\"<>]+@", re.IGNORECASE)
_SIGNED = re.compile(
    r"([a-z][a-z0-9+.\-]*://[^\s?'\"<>]*)\?(?:[^\s'\"<>]*&)?(?:x-(?:amz|goog|oss|cos|tos)-[\w\-]+|sv"
    r"|(?:[\w\-]+[_\-])?(?:sig|signature|token|secret|password|passwd|pwd|credential|auth|key|api_?key|access_?key)"
    rf"|(?:aws|oss|google)access(?:key)?id)={_OPEN_FORM}[^\s'\"<>]+",
    re.IGNORECASE,
)
_CONNECTION = re.compile(r"(?i)\b(AccountKey|SharedAccessKey|SharedAccessSignature)=[^\s;'\"]{8,}")
_KEY = re.compile(
    rf"(?<![A-Za-z0-9_\-])(?:{'|'.join((*KEY_STARTS, _LIKE_OPENAI, _OWN))})|(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{{86}}=="
)
"""The last are keys of Azure's storage accounts."""
_SENT = re.compile(r"(?i)\b(bearer|basic) +[A-Za-z0-9._~+/\-]{16,}=*")
_FORMS = (
    (_PASSWORD, rf"\1{HIDDEN}@"),
    (_TOKEN, rf"\1{HIDDEN}@"),
    (_SIGNED, rf"\1?{HIDDEN}"),
    (_CONNECTION, rf"\1={HIDDEN}"),
    (_KEY, HIDDEN),
    (_SENT, rf"\1 {HIDDEN}"),
)
_NAMED = re.compile(
    rf"(?i)\b(password|passwd|pwd|passphrase|secret(?:[_\-]?(?:access[_\-]?)?key)?|(?:api|access|account)[_\-]?key"
    rf"|(?:access|auth|api)[_\-]?token)([\"']?\s?[=:]\s?[\"']?){_OPEN_FORM}(?!env:)[^\s'\",;&)]{{6,}}"
)
"""What follows such a name in words. A query may compare a column of that name, so that it is no sign of a secret."""
_SECRET_NAMES = re.compile(
    r"SECRET|PASSW|PASSPHRASE|_PWD$|CREDENTIAL|CONNECTION_STRING|TOKEN(?:_|$)|(?:^|_)SAS(?:_|$)|KEY$"
)
"""Names of variables that hold secrets."""
_SHORTEST = 6
"""Characters of a value that is looked for: a shorter one stands in ordinary words."""
_ADDRESS = re.compile(r"[a-z][a-z0-9+.\-]*://[^\s/@:]*:(?P<password>.+)@[^@]*", re.IGNORECASE | re.DOTALL)


def holds_secret(text: str) -> bool:
    """Whether a text has a password, a key or a signature by its form."""
    return any(form.search(text) for form, _ in _FORMS)


def without_secrets(text: str) -> str:
    """The text with every secret as ***; too much is hidden rather than too little."""
    for value in sorted(_values(), key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    for form, hidden in _FORMS:
        text = form.sub(hidden, text)
    return _NAMED.sub(rf"\1\2{HIDDEN}", text)


def first_line(error: BaseException) -> str:
    """The first line of what a library said, or the error's name, without secrets; at most 300 characters."""
    return without_secrets((str(error).strip() or type(error).__name__).splitlines()[0])[:300]


def _values() -> Iterator[str]:
    """The secrets that the environment holds."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _SECRET_NAMES.search(name.upper()):
            yield value
        elif found := _ADDRESS.fullmatch(value):
            yield from (each for each in {found["password"], unquote(found["password"])} if len(each) >= _SHORTEST)
