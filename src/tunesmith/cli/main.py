"""The program and its verbs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import typer

from tunesmith.cli import (
    chat,
    corpus,
    data,
    data_gain,
    data_look,
    data_people,
    data_unseal,
    data_versions,
    demo,
    doctor,
    evaluate,
    explain,
    init,
    methods,
    plan,
    predict,
    run,
    runs,
    serve,
    ship,
    train,
    verify,
)
from tunesmith.cli.program import DataVerbs, Program, Verb, Verbs

ORDER = (
    "demo", "init", "doctor", "methods", "data", "plan", "run", "train", "evaluate", "ship",
    "serve", "chat", "predict", "runs", "verify", "explain",
)  # fmt: skip
Function = Callable[..., None]
VERBS: dict[str, Function] = {
    "demo": demo.demo,
    "init": init.init,
    "doctor": doctor.doctor,
    "methods": methods.methods,
    "plan": plan.plan,
    "run": run.run,
    "train": train.train,
    "evaluate": evaluate.evaluate,
    "ship": ship.ship,
    "serve": serve.serve,
    "chat": chat.chat,
    "predict": predict.predict,
    "verify": verify.verify,
    "explain": explain.explain,
}
DATA_VERBS: dict[str, Function] = {
    "prepare": data.prepare,
    "collect": data.collect,
    "check": data_look.check,
    "sample": data_look.sample,
    "xray": data.xray,
    "card": data_versions.card,
    "diff": data_versions.diff,
    "versions": data_versions.versions,
    "rejected": data.rejected,
    "gain": data_gain.gain,
    "agreement": data_people.agreement,
    "export": data_people.export,
    "unseal": data_unseal.unseal,
    "corpus": corpus.corpus,
}
RUNS_VERBS: dict[str, Function] = {"list": runs.list_them, "diff": runs.diff, "prune": runs.prune}


class Tunesmith(Program):
    """The program with its verbs in order."""

    order = ORDER


def _group(name: str, kind: type[Verbs], verbs: Mapping[str, Function]) -> typer.Typer:
    group = typer.Typer(cls=kind, help=f"cli.help_{name}", add_completion=False)
    for verb, function in verbs.items():
        group.command(verb, cls=Verb, help=f"cli.help_{name}_{verb}")(function)
    return group


def build_app() -> typer.Typer:
    """Every verb under one program."""
    built = typer.Typer(cls=Tunesmith, help="cli.help", add_completion=False, pretty_exceptions_enable=False)
    built.callback()(_nothing)
    for verb, function in VERBS.items():
        built.command(verb, cls=Verb, help=f"cli.help_{verb}", epilog=f"cli.example_{verb}")(function)
    built.add_typer(_group("data", DataVerbs, DATA_VERBS), name="data", epilog="cli.example_data")
    built.add_typer(_group("runs", Verbs, RUNS_VERBS), name="runs", epilog="cli.example_runs")
    return built


def _nothing() -> None:
    """Typer needs a function to hang a program's own options on."""


app = build_app()


def main() -> None:
    """The console command."""
    app()
