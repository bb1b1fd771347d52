"""Closed forms that tell a real number from a row of digits: checksums, dates, ranges."""

from __future__ import annotations

import ipaddress
import re
from datetime import date

_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_ENDS = "10X98765432"
_EARLIEST_BIRTH, _LATEST_BIRTH = 1850, 2100


def digits_of(text: str) -> str:
    """The ASCII digits of a text."""
    return re.sub(r"[^0-9]", "", text)


def luhn(digits: str) -> bool:
    """The check digit of payment cards (ISO/IEC 7812-1, annex B)."""
    doubled = (int(digit) * 2 for digit in digits[-2::-2])
    plain = (int(digit) for digit in digits[::-2])
    return sum(each - 9 if each > 9 else each for each in doubled) % 10 == -sum(plain) % 10


def is_card(text: str) -> bool:
    """A number of 13 to 19 digits that an issuer may have given out (ranges of ISO/IEC 7812) with its check digit."""
    digits = digits_of(text)
    length, two = len(digits), digits[:2]
    if not luhn(digits) or len(set(digits)) < 2:
        return False
    if digits[0] == "4":
        return length in (13, 16, 17, 18, 19)
    if digits[0] in "56":
        return 16 <= length <= 19
    if two in ("34", "37"):
        return length == 15
    if two in ("30", "36", "38", "39"):
        return 14 <= length <= 19
    return (two == "35" or "2221" <= digits[:4] <= "2720") and length == 16


def is_resident_id(text: str) -> bool:
    """A Chinese resident number: date of birth at place 7, check digit by ISO 7064 MOD 11-2 (GB 11643-1999)."""
    digits = re.sub(r"[\s-]", "", text).upper()
    if len(digits) != 18 or not _is_date(digits[6:14]):
        return False
    total = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, digits, strict=False))
    return _ID_ENDS[total % 11] == digits[17]


def is_old_resident_id(text: str) -> bool:
    """The form of 15 digits that was given out until 1999: a date of birth in the 20th century, no check digit."""
    return len(text) == 15 and _is_date("19" + text[6:12])


def _is_date(digits: str) -> bool:
    year, month, day = int(digits[:4]), int(digits[4:6]), int(digits[6:])
    if not _EARLIEST_BIRTH <= year <= _LATEST_BIRTH:
        return False
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


def is_hong_kong_id(text: str) -> bool:
    """One or two letters, six digits and a check digit in brackets: weights 9 to 2, modulo 11."""
    letters, digits, end = re.fullmatch(r"([A-Z]{1,2})(\d{6})\(([0-9A])\)", text).groups()  # type: ignore[union-attr]
    values = [36 if len(letters) == 1 else ord(letters[0]) - 55, ord(letters[-1]) - 55, *map(int, digits)]
    total = sum(weight * value for weight, value in zip(range(9, 1, -1), values, strict=True))
    return (total + int(end, 16)) % 11 == 0


def is_iban(text: str) -> bool:
    """An international bank account number: modulo 97 over its rearranged digits is 1 (ISO 13616)."""
    plain = text.replace(" ", "")
    if not 15 <= len(plain) <= 34:
        return False
    return int("".join(str(int(each, 36)) for each in plain[4:] + plain[:4])) % 97 == 1


def is_social_security(text: str) -> bool:
    """A US number whose three parts may have been given out, or stand for one in print (SSA: no 000, 666, 00, 0000)."""
    digits = digits_of(text)
    return digits[:3] not in ("000", "666") and digits[3:5] != "00" and digits[5:] != "0000"


def is_address(text: str) -> bool:
    """An internet address (version 4 or 6) of a machine: neither this one, nor any, nor a mask of networks."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return False
    if found.version == 6 and not (re.search(r"\d", text) and text.count(":") >= 3):
        return False  # such as a name of C++
    return not (found.is_loopback or found.is_unspecified or text.startswith(("0.", "255.")))


def is_foreign_phone(text: str) -> bool:
    """A number of 8 to 15 digits with its country code (ITU-T E.164)."""
    return 8 <= len(digits_of(text)) <= 15


def is_secret(text: str) -> bool:
    """A value somebody would keep to himself: letters and digits mixed, no word and no placeholder."""
    return bool(re.search(r"\d", text) and re.search(r"[A-Za-z]", text) and len(set(text)) > 4)
