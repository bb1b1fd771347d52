"""What placeholders stand for, kept under a key of the user's: authenticated encryption, and nothing without the key.

A file is the mark, 16 bytes of salt and an AES-SIV ciphertext (RFC 5297) of JSON. The key is derived by scrypt
(RFC 7914) from the environment variable that the recipe names; it is neither kept nor shown.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import write_atomic
from tunesmith.recipe.specs.clean import PiiSpec

FILE = "placeholders.sealed"
_MARK = b"tunesmith placeholders 1\n"
_SALT = 16
_SHORTEST = 16
"""Characters of a key: shorter ones are found by trying."""
_LONGEST = 4096
"""Bytes of a key's file that are read."""
_COST = {"n": 2**15, "r": 8, "p": 1, "maxmem": 2**26}
"""32 MB and a tenth of a second for each attempt, as OWASP asks of passwords."""


def user_key(variable: str) -> bytes:
    """The key as the environment has it.

    Errors: data.no_key, data.short_key, data.rule_needs_package without the package `cryptography`.
    """
    if find_spec("cryptography") is None:
        raise TunesmithError("data.rule_needs_package", setting="data.clean.pii.key", package="cryptography")
    key = os.environ.get(variable, "")
    if not key:
        raise TunesmithError("data.no_key", variable=variable)
    if len(key) < _SHORTEST:
        raise TunesmithError("data.short_key", variable=variable, shortest=_SHORTEST)
    return key.encode("utf-8", "surrogateescape")


def one_key(rules: Iterable[PiiSpec | None]) -> str | None:
    """The variable of the key that all rules that mask agree on; None where masking cannot be undone.

    A placeholder means the same in all tables of a run, so that what it stands for is kept for all of them or for none.

    Errors: data.several_keys.
    """
    named = list(dict.fromkeys(each.key for each in rules if each is not None and each.action == "mask"))
    if len(named) > 1:
        raise TunesmithError("data.several_keys", keys=", ".join(each or "-" for each in named))
    return named[0] if named else None


def key_of_file(path: Path) -> bytes:
    """The key in a file that nobody but its owner can read, without the line end behind it.

    Errors: core.missing_file, data.key_file_open.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise TunesmithError("core.missing_file", path=str(path)) from error
    except OSError as error:  # a link, or a file of somebody else
        raise TunesmithError("data.key_file_open", path=str(path), mode="-") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077 or found.st_uid != os.getuid():
            raise TunesmithError("data.key_file_open", path=str(path), mode=f"{stat.S_IMODE(found.st_mode):04o}")
        return os.read(descriptor, _LONGEST).rstrip(b"\r\n")
    finally:
        os.close(descriptor)


def seal(values: Mapping[str, str], key: bytes, path: Path) -> None:
    """Write the encrypted mapping of placeholders to values."""
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    salt = secrets.token_bytes(_SALT)
    plain = json.dumps(dict(values), ensure_ascii=False).encode()
    write_atomic(path, _MARK + salt + AESSIV(_derived(key, salt)).encrypt(plain, [_MARK]))


def unseal(path: Path, key: bytes) -> dict[str, str]:
    """Read the mapping back. Errors: data.not_sealed, data.wrong_key (or a file that was changed)."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    content = path.read_bytes() if path.exists() else b""
    if not content.startswith(_MARK):
        raise TunesmithError("data.not_sealed", path=str(path))
    salt, sealed = content[len(_MARK) :][:_SALT], content[len(_MARK) + _SALT :]
    try:
        plain = AESSIV(_derived(key, salt)).decrypt(sealed, [_MARK])
    except (InvalidTag, ValueError) as error:
        raise TunesmithError("data.wrong_key", path=str(path)) from error
    return {str(placeholder): str(value) for placeholder, value in json.loads(plain).items()}


def _derived(key: bytes, salt: bytes) -> bytes:
    return hashlib.scrypt(key, salt=salt, dklen=64, **_COST)
