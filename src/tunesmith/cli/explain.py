"""`tunesmith explain [CODE]`: what an error code means and what to do; without a code, all of them."""

from __future__ import annotations

import difflib
from typing import Annotated

import typer

from tunesmith.cli.manner import answer, tell
from tunesmith.core.errors import TunesmithError
from tunesmith.messages import error_codes, say
from tunesmith.messages import explain as explanation_of

CodeArgument = Annotated[str | None, typer.Argument(metavar="CODE", help="cli.arg_code", show_default=False)]


def explain(code: CodeArgument = None) -> None:
    """Explain one code, or list every code with its cause."""
    if code is None:
        codes = {each: explanation_of(each).cause for each in error_codes()}
        for each, cause in codes.items():
            tell(each, "bold")
            tell(f"    {cause}")
        answer({"codes": codes})
        return
    known = error_codes()
    if code not in known:
        nearest = difflib.get_close_matches(code, known, n=3, cutoff=0.3)
        raise TunesmithError("cli.unknown_code", code=code, nearest=", ".join(nearest) or known[0])
    words = explanation_of(code)
    tell(words.code, "bold")
    tell(f"  {words.cause}")
    tell(f"  {say('cli.next_step')}{words.next_step}")
    answer({"code": words.code, "cause": words.cause, "next": words.next_step})
