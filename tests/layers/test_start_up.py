"""Commands that only talk start at once: no heavy library is loaded, and little processor time is spent."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "tunesmith"
HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "scipy", "sklearn", "fastapi")

# The promise is half a second on a quiet machine. A test cannot ask for a quiet machine, so it measures
# processor time (user + system), which a busy neighbour hardly changes, and leaves room for slow disks
# and for the cold caches of a fresh checkout.
PROCESSOR_SECONDS = 0.9

pytestmark = pytest.mark.skipif(not (SOURCE / "cli").is_dir(), reason="the commands (cli/) are not written yet")

# The same call as the installed console script, plus a last line on standard error with what it loaded.
PROGRAM = """
import sys
code = 0
try:
    from tunesmith.cli.main import main
    main()
except SystemExit as stop:
    code = stop.code
finally:
    print("\\nLOADED", *(name for name in sys.argv[0].split(",") if name in sys.modules), file=sys.stderr)
sys.exit(code)
"""


@dataclass(frozen=True)
class Outcome:
    code: int
    seconds: float
    loaded: list[str]
    output: str


def run(arguments: list[str], folder: Path, program: str = PROGRAM) -> Outcome:
    """One command in a child process and the processor seconds that this child used."""
    program = f"import sys; sys.argv[0] = {','.join(HEAVY)!r}\n{program}"
    with (folder / "output.txt").open("w+", encoding="utf-8") as output:
        child = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            cwd=folder, env={**os.environ, "COLUMNS": "100"}, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    loaded = text.rpartition("LOADED")[2].split()
    return Outcome(child.returncode, usage.ru_utime + usage.ru_stime, loaded, text)


def verbs() -> list[str]:
    """Every command of the program, read from the program itself."""
    if not (SOURCE / "cli").is_dir():
        return []
    import typer

    from tunesmith.cli.main import app

    return sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def quick(arguments: list[str], folder: Path) -> Outcome:
    """The better of two runs: the first one may still write bytecode."""
    outcomes = [run(arguments, folder) for _ in range(2)]
    return min(outcomes, key=lambda outcome: outcome.seconds)


def assert_light(outcome: Outcome) -> None:
    assert outcome.code == 0, outcome.output
    assert outcome.loaded == []
    assert outcome.seconds < PROCESSOR_SECONDS, f"{outcome.seconds:.2f} s of processor time"


@pytest.mark.parametrize("verb", ["", *verbs()])
def test_help_starts_at_once(verb: str, tmp_path: Path) -> None:
    assert_light(quick([*([verb] if verb else []), "--help"], tmp_path))


def test_explain_starts_at_once(tmp_path: Path) -> None:
    assert_light(quick(["explain", "recipe.unknown_key"], tmp_path))


def test_init_starts_at_once(tmp_path: Path) -> None:
    outcomes = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        outcomes.append(run(["init"], tmp_path / name))
    assert_light(min(outcomes, key=lambda outcome: outcome.seconds))


def test_a_heavy_import_and_a_slow_start_are_noticed(tmp_path: Path) -> None:
    slow = "sys.modules['torch'] = sys\nwhile sum(__import__('os').times()[:2]) < 1: pass\n"
    outcome = run([], tmp_path, slow + PROGRAM.replace("from tunesmith.cli.main import main\n    main()", "pass"))
    assert outcome.loaded == ["torch"]
    assert outcome.seconds > PROCESSOR_SECONDS
    with pytest.raises(AssertionError):
        assert_light(outcome)
