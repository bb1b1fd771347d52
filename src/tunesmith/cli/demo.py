"""`tunesmith demo`: the whole life cycle on the bundled model and generated tickets, told in plain words."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from tunesmith.cli.init import RECIPE, write_sample
from tunesmith.cli.manner import answer, command, console, manner, prose, tell
from tunesmith.cli.results import CARD, efficiency, measured, show_metrics
from tunesmith.cli.terminal import Terminal
from tunesmith.cli.words import duration
from tunesmith.cli.work import started
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import read_json
from tunesmith.core.run import CERTIFICATE
from tunesmith.messages import say
from tunesmith.models.catalog import bundled_file, find

if TYPE_CHECKING:
    from tunesmith.evaluate.decide import Verdict
    from tunesmith.work import Work

MODEL = "smollm2-135m"
PACKAGES = ("openai", "xllamacpp")
SHOWN = 3
LONGEST_SHOWN = 300

FolderOption = Annotated[Path, typer.Option("--folder", metavar="FOLDER", help="cli.opt_demo_folder")]


def demo(folder: FolderOption = Path("tunesmith-demo")) -> None:
    """Run the recipe of `tunesmith init` from rows to a served model; a second call continues or shows it again."""
    began = time.perf_counter()
    _check_packages()
    prose(say("cli.demo_intro"), "bold")
    prose(say("cli.demo_task"))
    recipe = folder / RECIPE
    if not recipe.is_file():
        write_sample(folder)
    tell(say("cli.demo_recipe", path=str(recipe)))
    with Terminal() as listener, started(recipe, [], folder / "runs", listener) as work:
        from tunesmith import lifecycle

        verdict = lifecycle.run_to_release(work)
        run = work.path
        if not (run / CERTIFICATE).exists():
            verdict = _prove_resume(work)
        rows = before_and_after(run)
        _show_rows(rows)
        figures = measured(run)
        show_metrics(figures)
        from tunesmith.cli.demo_service import serve_and_ask

        served = serve_and_ask(run, folder / "feedback.db", rows[0], listener)
    seconds = time.perf_counter() - began
    tell()
    tell(say(f"cli.verdict_{verdict.decision}"), "bold")
    tell(say("cli.card", path=str(run / CARD)))
    tell(say("cli.demo_time", time=duration(seconds)))
    _show_next(run)
    card = str(run / CARD)
    answer(
        {"run": str(run), "verdict": verdict.decision, "card": card, "metrics": figures, "served": served,
         "efficiency": efficiency(run), "seconds": round(seconds, 1)}
    )  # fmt: skip


def _prove_resume(work: Work) -> Verdict:
    """Train the last steps again from the checkpoint before them, and put the outcome on the card."""
    from tunesmith import lifecycle, proof

    tell()
    tell(say("cli.demo_resume"), "bold cyan")
    prose(say("cli.demo_why_resume"), "dim", indent=4)
    certificate = proof.certify_resume(work)
    tell(f"    {say('cli.verify_replayed', first=certificate.first, last=certificate.last)}", "green")
    return lifecycle.make_card(work)


def _check_packages() -> None:
    """Say at once what the demo would miss later. Errors: models.bundle_missing, cli.missing_package."""
    known = find(MODEL)
    if known is not None:
        bundled_file(known)
    for package in PACKAGES:
        if find_spec(package) is None:
            raise TunesmithError("cli.missing_package", package=package)


def before_and_after(run: Path, shown: int = SHOWN) -> list[dict[str, str]]:
    """The first test rows, not chosen ones: system message, message, wanted, and the answers before and after."""
    from tunesmith.data.prepare import load_split
    from tunesmith.data.table import to_examples

    examples = {example.row: example for example in to_examples(load_split(run, "test"))}
    answers = {model: _rows_of(run, model) for model in ("base", "tuned")}
    found: list[dict[str, str]] = []
    for number, after in list(answers["tuned"].items())[:shown]:
        texts = {turn.role: turn.content for turn in examples[number].messages}
        found.append(
            {
                "system": texts.get("system", ""),
                "message": texts.get("user", ""),
                "wanted": after["wanted"],
                "before": answers["base"][number]["answer"],
                "after": after["answer"],
            }
        )
    return found


def _rows_of(run: Path, model: str) -> dict[int, dict[str, str]]:
    rows = read_json(run / "evaluate" / f"{model}.json")["rows"]
    return {row["row"]: row for row in rows} if isinstance(rows, list) else {}


def _show_rows(rows: list[dict[str, str]]) -> None:
    if manner().as_json:
        return
    to = console()
    to.print()
    to.print(Text(say("cli.demo_rows"), "bold"))
    for row in rows:
        table = Table.grid(padding=(0, 2))
        for name, style in (("message", ""), ("before", "red"), ("after", "green"), ("wanted", "dim")):
            text = "".join(sign if sign.isprintable() else " " for sign in " ".join(row[name].split()))
            table.add_row(
                Text(f"  {say(f'cli.demo_{name}')}", "dim"), Text(text[:LONGEST_SHOWN], style, overflow="fold")
            )
        to.print()
        to.print(table, soft_wrap=False)


def _show_next(run: Path) -> None:
    tell()
    tell(say("cli.demo_next"), "bold")
    for verb, text in (
        ("chat", command("chat", run)),
        ("serve", command("serve", run)),
        ("xray", command("data", "xray", run)),
        ("verify", command("verify", run)),
        ("own", command("init", "my-project")),
    ):
        tell(f"  {text}")
        tell(f"      {say(f'cli.demo_next_{verb}')}", "dim")
