"""A process of the resume certificate, started by `tunesmith verify RUN --resume`; no command of its own.

python -m tunesmith.cli.rehearse RUN FOLDER [LIKE]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tunesmith.cli.work import ready
from tunesmith.core.errors import TunesmithError
from tunesmith.core.run import LOCK
from tunesmith.recipe.load import load_recipe


def command(run: Path) -> Callable[[Path], Sequence[str]]:
    """How the process for a folder is started; it cuts its micro-batches as the folder `whole` beside it, if any."""

    def start(folder: Path) -> Sequence[str]:
        whole = folder.with_name("whole")
        like = [str(whole)] if whole.is_dir() else []
        # -P: nothing in the folder that the program was called from takes the place of a module.
        return [sys.executable, "-P", "-m", "tunesmith.cli.rehearse", str(run), str(folder), *like]

    return start


def main(run: Path, folder: Path, like: Path | None = None) -> int:
    """Run the short copy; an error is told as a line of its own."""
    try:
        ready(load_recipe(run / LOCK).runtime.threads)
        from tunesmith import proof

        proof.rehearse_in(run, folder, like, sys.stdout)
    except TunesmithError as error:
        sys.stdout.write(json.dumps({"kind": "error", "code": error.code, "facts": error.facts}) + "\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*(Path(each) for each in sys.argv[1:])))
