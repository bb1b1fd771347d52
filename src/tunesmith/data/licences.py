"""What licences allow, by their names: enough to refuse what surely forbids, never a legal opinion."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from tunesmith.core.errors import TunesmithError
from tunesmith.data.defects import Reason
from tunesmith.recipe.specs.data import SourceSpec
from tunesmith.recipe.specs.goal import ComplianceSpec

Use = Literal["allowed", "forbidden", "unknown"]

_FORBIDDEN = re.compile(
    r"(?<![A-Za-z])NC(?![A-Za-z])|non[ \-]?commercial|(?:research|academic|educational|study|testing)[ \-](?:use "
    r"|purposes? )?only"
    r"|academic use|no[nt] for commercial|evaluation only|非商[业用]|(?:仅|只)(?:供|限|用于).{0,8}(?:研究|学术|学习"
    r"|测试|教学)|不得.{0,6}商[业用]|禁止.{0,4}商[业用]",
    re.IGNORECASE,
)
# Licences of SPDX that allow commercial use, and what people write who own their rows.
_ALLOWED = re.compile(
    r"(?<![A-Za-z])(?:CC0|CC[ \-]?BY|PDDL|ODC[ \-]?BY|ODbL|public domain|MIT|Apache|BSD|ISC|Unlicense|Zlib|GPL|LGPL"
    r"|AGPL|MPL|EPL|CDLA|OGL|Etalab"
    r"|Mulan|own|owned|proprietary|in[ \-]?house|first[ \-]?party)(?![A-Za-z])|公有领域|木兰|自有|自建|公司内部",
    re.IGNORECASE,
)


def commercial_use(licence: str) -> Use:
    """Whether a licence allows commercial use. What forbids it anywhere in the words forbids it."""
    if _FORBIDDEN.search(licence):
        return "forbidden"
    return "allowed" if _ALLOWED.search(licence) else "unknown"


def refused_licence(licence: str, wanted: ComplianceSpec | None) -> Reason | None:
    """Why a row's licence keeps it out; None where it does not."""
    if wanted is None or not wanted.commercial:
        return None
    use = commercial_use(licence)
    if use == "forbidden":
        return "licence_forbids"
    return "licence_unknown" if use == "unknown" and wanted.unknown_licences == "refuse" else None


def check_licences(sources: Iterable[SourceSpec], wanted: ComplianceSpec | None) -> None:
    """Refuse rows that a commercial product may not learn from, before any is read.

    Sources whose rows state licences of their own are judged row by row (`refused_licence`).

    Errors: data.non_commercial, data.unknown_licence.
    """
    if wanted is None or not wanted.commercial:
        return
    stated = [each for each in sources if each.licence_column is None]
    for use, code in (("forbidden", "data.non_commercial"), ("unknown", "data.unknown_licence")):
        against = [each for each in stated if commercial_use(each.licence) == use]
        if against and (use == "forbidden" or wanted.unknown_licences == "refuse"):
            raise TunesmithError(
                code, sources="; ".join(f"{each.name or each.path} ({each.licence or '-'})" for each in against)
            )
