"""`tunesmith data unseal RUN`: masked personal data given back to whoever holds the key.

The key is never an argument: other users of a machine see arguments, and shells keep them. Values are written to a file
that only its owner may read, and never shown.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.manner import answer, tell
from tunesmith.cli.work import find_run
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import write_atomic
from tunesmith.core.run import LOCK
from tunesmith.messages import say
from tunesmith.recipe.load import load_recipe

SealedArgument = Annotated[Path, typer.Argument(metavar="RUN", help="cli.arg_sealed", show_default=False)]
InOption = Annotated[Path | None, typer.Option("--in", metavar="FILE", help="cli.opt_unseal_in", show_default=False)]
OutOption = Annotated[Path, typer.Option("--out", metavar="FILE", help="cli.opt_unseal_out", show_default=False)]
KeyOption = Annotated[
    Path | None, typer.Option("--key-file", metavar="FILE", help="cli.opt_key_file", show_default=False)
]


def unseal(run: SealedArgument, out: OutOption, source: InOption = None, key_file: KeyOption = None) -> None:
    """Give masked personal data back, with the key under which they were sealed."""
    from tunesmith.data.formats.encoding import decode
    from tunesmith.data.pii.restore import restored
    from tunesmith.data.pii.sealed import unseal as unsealed

    if out.exists():
        raise TunesmithError("recipe.exists", path=str(out))
    if source is not None and not source.is_file():
        raise TunesmithError("core.missing_file", path=str(source))
    sealed, variable = _sealed(run)
    values = unsealed(sealed, _key(sealed, variable, key_file))
    if source is None:
        write_atomic(out, json.dumps(values, ensure_ascii=False, indent=1) + "\n", private=True)
        tell(say("data.unsealed", values=len(values), path=str(out)))
        answer({"run": str(run), "placeholders": len(values), "out": str(out)})
        return
    text, places = restored(decode(source.read_bytes(), source).text, values, source)
    write_atomic(out, text, private=True)
    tell(say("data.unsealed_text", places=places, source=str(source), path=str(out)))
    answer({"run": str(run), "places": places, "in": str(source), "out": str(out)})


def _sealed(run: Path) -> tuple[Path, str]:
    """The sealed file that is meant, and the variable that the recipe of its run names ("" where nothing does)."""
    from tunesmith.data.pii.sealed import FILE

    folder = run.parent if run.is_file() else find_run(run)
    path = run if run.is_file() else folder / FILE
    pii = load_recipe(folder / LOCK).data.clean.pii if (folder / LOCK).is_file() else None
    return path, (pii.key if pii is not None else None) or ""


def _key(sealed: Path, variable: str, key_file: Path | None) -> bytes:
    from tunesmith.data.pii.sealed import key_of_file, user_key

    if key_file is not None:
        return key_of_file(key_file)
    if not variable:
        raise TunesmithError("data.no_key_named", path=str(sealed))
    return user_key(variable)
