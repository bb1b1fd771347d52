"""What personal data look like. A pattern is one regular expression with its check, and a hint that is cheap.

A hint is read by polars over all rows (Rust: linear time, no look-around) and may be true too often, never too rarely;
a test holds the two together. The pattern is read by Python in rows with a hint alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from tunesmith.core.secrets import KEY_STARTS
from tunesmith.data.jumps import led_by
from tunesmith.data.pii import checks
from tunesmith.recipe.specs.clean import PiiType

ALL_TYPES: tuple[PiiType, ...] = (
    "secret", "email", "id_card", "bank_card", "bank_account", "ssn", "phone", "passport", "ip", "plate", "wechat",
    "qq", "address", "name",
)  # fmt: skip
"""In the order in which patterns are tried: of two that overlap the earlier one holds."""


@dataclass(frozen=True)
class Pattern:
    """One way to write one type. The value is group 1, or all of it where there is none.

    `check` takes the value; `unless` says that words before it tell of something else (an order number).
    """

    type: PiiType
    hint: str
    regex: re.Pattern[str]
    check: Callable[[str], bool] | None = None
    unless: re.Pattern[str] | None = None


# Words right before a number that say that it is no person's. One clean text in eight of shop and technical writing
# carries such a number, and one in ten of them passes the Luhn test by chance.
_A_THING = re.compile(
    r"(?:订单|单号|运单|快递|物流|编号|货号|批次|批号|型号|序列号|流水|发票|条码|版本|料号|图号|标准号|专利"
    r"|order|invoice|tracking|serial|batch|lot|part|item|model|sku|isbn|issn|doi|upc|ean|imei|build|version|ticket|case"
    r"|reference|ref|patent)(?:\s?(?:编号|号码|号|number|num|no|id|nr))?[\s.:：#＃为是-]{0,4}$",
    re.IGNORECASE,
)
_A_VERSION = re.compile(
    r"(?:\bv|\bver|version|release|build|firmware|版本|版本号|固件|第|§|section)[\s.:：]{0,3}$", re.IGNORECASE
)
_HAN = "[\u4e00-\u9fa5]"
_PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
_STREET = (
    "(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Way|Place|Pl|Square|Sq|Terrace"
    "|Highway|Hwy)"
)
_ALONE = r"(?<![0-9A-Za-z_])(?<![0-9][.\-])"
_ENDS = r"(?![0-9A-Za-z_])(?![.\-]?[0-9])"
_PHONE_WORD = r"(?:电话|手机|联系方式|传真|热线|座机|telephone|phone|mobile|cell|call|tel|fax)"
_KEY_STARTS = (
    r"sk-[A-Za-z0-9_\-]{20,}",  # OpenAI and those that follow it
    *KEY_STARTS,
)
_PEM = r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----[\s\S]{1,8000}?-----END [A-Z ]{0,20}PRIVATE KEY-----"


def _pattern(
    type_: PiiType,
    hint: str,
    regex: str,
    check: Callable[[str], bool] | None = None,
    unless: re.Pattern[str] | None = None,
) -> Pattern:
    return Pattern(type_, hint, re.compile(regex), check, unless)


PATTERNS: tuple[Pattern, ...] = (
    _pattern("secret", "-----BEGIN ", _PEM),
    _pattern(
        "secret",
        r"sk-[A-Za-z0-9_\-]{20}|(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}|github_pat_|glpat-|xox[abprs]-|AIza"
        r"|hf_[A-Za-z0-9]{30}|LTAI|AKID|eyJ[A-Za-z0-9_\-]{8,}\.eyJ",
        rf"(?<![A-Za-z0-9_\-])(?:{'|'.join(_KEY_STARTS)})",
    ),
    _pattern(
        "secret",
        r"(?i:passwd|password|secret(?:[_\- ]?key)?|api[_\- ]?key|access[_\- ]?token|密码|口令)"
        r"[\"']?[\s\x1c-\x1f]?(?:[:=：]|是|is)",
        r"(?i:passwd|password|secret(?:[_\- ]?key)?|api[_\- ]?key|access[_\- ]?token|密码|口令)[\"']?\s?(?:[:=：]|是"
        r"|is)\s?[\"']?"
        r"([A-Za-z0-9!@#%^&*_+=.~\-]{8,128})(?![(\[])",
        checks.is_secret,
    ),
    _pattern("secret", r"(?i:bearer)", r"(?i:bearer) ([A-Za-z0-9._~+/\-]{20,}=*)", checks.is_secret),
    _pattern(
        "email",
        r"[A-Za-z0-9._%+\-]@[A-Za-z0-9\-]",
        r"(?<![A-Za-z0-9._%+\-])(?!git@)[A-Za-z0-9._%+\-]{1,64}@(?:[A-Za-z0-9\-]{1,63}\.){1,8}"
        r"(?!png|jpg|jpeg|gif|svg|webp)[A-Za-z]{2,24}(?![A-Za-z0-9])",
    ),
    _pattern(
        "id_card",
        r"(?:1[89]|2[01])[0-9]{2}[01][0-9][0-3][0-9][ \-]?[0-9]{3}[0-9Xx]",
        rf"{_ALONE}[1-9]\d{{5}}[ \-]?(?:1[89]|2[01])\d\d[01]\d[0-3]\d[ \-]?\d{{3}}[\dXx]{_ENDS}",
        checks.is_resident_id,
    ),
    _pattern("id_card", "身份证", r"身份证[^\d\n]{0,8}(\d{15})(?!\d)", checks.is_old_resident_id),
    _pattern("id_card", r"[A-Z][0-9]{6}\([0-9A]\)", r"(?<![A-Za-z0-9])[A-Z]{1,2}\d{6}\([0-9A]\)",
    checks.is_hong_kong_id),
    _pattern(
        "bank_card",
        r"[2-6](?:[ \-]?[0-9]){12}",
        rf"{_ALONE}(?:[2-6]\d{{12,18}}|[2-6]\d{{3}}(?:[ \-]\d{{4}}){{3}}(?:[ \-]?\d{{1,3}})?"
        rf"|3\d{{3}}[ \-]\d{{6}}[ \-]\d{{4,5}}){_ENDS}",
        checks.is_card,
        _A_THING,
    ),
    _pattern(
        "bank_account",
        r"[0-9]{2}(?: ?[A-Z0-9]){11}",  # 15 signs at least, of which two stand before; digits are found faster
        r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?![A-Za-z0-9])",
        checks.is_iban,
    ),
    _pattern(
        "bank_account",
        r"(?i:银行[账帐][号户]|银行卡|开户|收款[账帐]|对公[账帐]|卡号|account (?:number|no|#)|acct|routing number"
        r"|card (?:number|no|#))[^0-9]{0,12}[0-9](?:[ \-]?[0-9]){7}",
        r"(?i:银行[账帐][号户]|银行卡号?|开户[账帐]?号|收款[账帐][号户]|对公[账帐]户|卡号|(?:bank )?account (?:number"
        r"|no|#)"
        r"|acct(?: no)?|routing number|card (?:number|no|#))[\s.:：#为是is]{0,6}([0-9](?:[ \-]?[0-9]){7,29})(?![0-9])",
    ),
    _pattern(
        "ssn", r"[0-9]{3}-[0-9]{2}-[0-9]{4}", rf"{_ALONE}\d{{3}}-\d{{2}}-\d{{4}}{_ENDS}", checks.is_social_security,
        _A_THING
    ),
    _pattern(
        "ssn",
        "[Ss][Ss][Nn]|(?i:social sec)",
        r"(?i:ssn|social security(?: number| no)?)[\s.:：#is]{0,6}(\d{3}[ \-]?\d{2}[ \-]?\d{4})(?!\d)",
        checks.is_social_security,
    ),
    _pattern(
        "phone",
        r"1[3-9][0-9][ \-]?[0-9]{4}[ \-]?[0-9]{4}",
        rf"(?:(?<![0-9A-Za-z_])(?:\+|00)?86[ \-]?|{_ALONE})1[3-9]\d[ \-]?\d{{4}}[ \-]?\d{{4}}{_ENDS}",
        None,
        _A_THING,
    ),
    _pattern(
        "phone",
        r"\+ ?\(?[1-9](?:[ .\-()]{0,3}\d){7}",
        r"(?<![0-9A-Za-z_+])\+ ?\(?[1-9]\d{0,2}\)?(?:[ .\-]?\(?\d{1,5}\)?){2,6}(?![0-9A-Za-z_])",
        checks.is_foreign_phone,
    ),
    _pattern(
        "phone",
        r"[2-9][0-9]{2}\)? ?[ .\-]?[2-9][0-9]{2}[ .\-][0-9]{4}",
        rf"(?<![0-9A-Za-z_.\-(])(?:1[ .\-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .\-])[2-9]\d\d[ .\-]\d{{4}}{_ENDS}",
        None,
        _A_THING,
    ),
    _pattern(
        "phone",
        r"0(?:10|2[0-9]|[3-9][0-9]{2})[)） \-]{1,2}[2-9]",
        r"(?<![0-9A-Za-z_.\-])[(（]?0(?:10|2\d|[3-9]\d\d)(?:[)）][ \-]?|[ \-])[2-9]\d{2,3}[ \-]?\d{4}(?:(?:-|转"
        r"|转分机)\d{1,5})?(?![0-9])",
        None,
        _A_THING,
    ),
    _pattern(
        "phone",
        r"[48]00-[0-9]{3,4}-[0-9]{3,4}",
        rf"{_ALONE}[48]00-(?:\d{{3}}-\d{{4}}|\d{{4}}-\d{{3}}){_ENDS}",
        None,
        _A_THING,
    ),
    _pattern(
        "phone",
        rf"(?i:{_PHONE_WORD})[号码\s\x1c-\x1f.:：#]{{0,6}}[+(（]?[0-9](?:[ .()（）\-]{{0,2}}[0-9]){{6}}",
        rf"(?i:{_PHONE_WORD})(?:号码"
        rf"|号)?[\s.:：#]{{0,4}}([+(（]?[0-9](?:[ .()（）\-]{{0,2}}[0-9]){{6,14}})(?![0-9A-Za-z_])",
    ),
    _pattern(
        "passport",
        r"(?i:passport|护照)",
        r"(?i:passport|护照)[^\d\n]{0,16}?(?<![A-Za-z0-9])([A-Z]{1,2}\d{7,8}|\d{9})(?![A-Za-z0-9])",
    ),
    _pattern(
        "ip",
        r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]",
        r"(?<![0-9A-Za-z_.])(?:\d{1,3}\.){3}\d{1,3}(?![0-9A-Za-z_])(?!\.[0-9])",
        checks.is_address,
        _A_VERSION,
    ),
    _pattern("ip", r"[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:",
    r"(?<![0-9A-Za-z:.])[0-9A-Fa-f:]{6,39}(?![0-9A-Za-z:])", checks.is_address),
    _pattern(
        "plate",
        led_by(_PROVINCES, r"[A-HJ-NP-Z][·•・ \-]?[A-HJ-NP-Z0-9]{4}"),
        rf"[{_PROVINCES}][A-HJ-NP-Z][·•・ \-]?(?=[A-HJ-NP-Z]{{0,4}}\d)[A-HJ-NP-Z0-9]{{4}}(?:[A-HJ-NP-Z0-9]{{1,2}}"
        rf"|[挂学警港澳])(?![A-Za-z0-9])",
    ),
    _pattern(
        "wechat",
        "微信|薇信|[Ww][Ee][Cc]|[Vv][Xx]|[Ww][Xx]",  # (?i: in front of all would be too many letters to jump to
        r"(?i:微信|薇信|wechat|(?<![A-Za-z])vx|(?<![A-Za-z])wx)(?:号|id| id)?[\s:：是为]{0,3}"
        r"((?=[A-Za-z_\-]{0,19}\d|[A-Za-z]{1,18}_)[A-Za-z][A-Za-z0-9_\-]{5,19})(?![A-Za-z0-9_])",
    ),
    _pattern("qq", r"(?i:qq)[号群\s:：]{0,4}[1-9][0-9]{4}", r"(?<![A-Za-z])(?i:qq)[号群\s:：]{0,4}([1-9]\d{4,10})"
        r"(?!\d)"),
    _pattern(
        "address",
        r"(?:路|街|道|巷|弄|胡同|村|镇|小区|花园|苑)[0-9A-Za-z一二三四五六七八九十]{1,8}[号栋幢座]",
        rf"(?:{_HAN}{{2,6}}(?:省|自治区))?(?:{_HAN}{{2,6}}市)?(?:{_HAN}{{2,6}}[区县旗])?{_HAN}{{1,8}}(?:路|街|道|巷|弄|胡同|村|镇|小区|花园|苑)"
        r"[0-9A-Za-z一二三四五六七八九十]{1,8}[号栋幢座](?:[0-9A-Za-z一二三四五六七八九十\-]{1,6}(?:号楼|号院|号|栋|幢|座|单元|楼|层|室)){0,5}",
    ),
    _pattern(
        "address",
        rf"[0-9] (?:[A-Z][A-Za-z]+\.? ){{1,3}}{_STREET}",
        rf"(?<![0-9A-Za-z])\d{{1,5}} (?:[A-Z][A-Za-z]+\.? ){{1,3}}{_STREET}\b\.?(?:,? (?:Apt|Suite|Unit"
        rf"|Floor)\.? ?\w{{1,5}})?"
        r"(?:, [A-Z][A-Za-z]+(?: [A-Z][A-Za-z]+){0,2})?(?:,? [A-Z]{2} \d{5}(?:-\d{4})?)?",
    ),
    _pattern(
        "name",
        r"(?:联系人|收件人|收货人|姓名|户名)[:：]",
        rf"(?:联系人|收件人|收货人|姓名|户名)[:：]\s?({_HAN}{{2,4}})(?!{_HAN})",
    ),
    _pattern(
        "name",
        r"(?i:act|ame|ttn|ent): ?[A-Z][a-z]+ [A-Z]",  # so few letters that they can be jumped to
        r"(?i:contact|name|attn|recipient): ?([A-Z][a-z]+(?: [A-Z]\.)?(?: [A-Z][a-z]+){1,2})(?![A-Za-z])",
    ),
)  # fmt: skip


def patterns_of(types: Collection[PiiType]) -> tuple[Pattern, ...]:
    """The patterns of these types, in the order in which they are tried."""
    return tuple(pattern for pattern in PATTERNS if pattern.type in types)
