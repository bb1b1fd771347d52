"""`tunesmith serve RUN|FOLDER`: the published model answers over HTTP, in OpenAI's form."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.manner import answer, tell
from tunesmith.cli.models import base_of, published_folder
from tunesmith.cli.options import BaseOption
from tunesmith.cli.terminal import Terminal
from tunesmith.cli.work import ready
from tunesmith.core.events import Events
from tunesmith.core.run import LOCK
from tunesmith.messages import say
from tunesmith.models.catalog import cache_folder
from tunesmith.models.head_kind import refuse_head
from tunesmith.recipe.load import load_recipe
from tunesmith.recipe.specs.serve import ServeSpec
from tunesmith.serve.access import check_access

ModelArgument = Annotated[Path, typer.Argument(metavar="RUN|FOLDER", help="cli.arg_served", show_default=False)]
HostOption = Annotated[str | None, typer.Option("--host", metavar="ADDRESS", help="cli.opt_host", show_default=False)]
PortOption = Annotated[
    int | None, typer.Option("--port", min=0, max=65535, metavar="N", help="cli.opt_port", show_default=False)
]
KeyOption = Annotated[str | None, typer.Option("--key", metavar="KEY", help="cli.opt_key", show_default=False)]


def serve(
    model: ModelArgument, host: HostOption = None, port: PortOption = None, key: KeyOption = None,
    base: BaseOption = None,
) -> None:  # fmt: skip
    """Answer until Ctrl-C or SIGTERM."""
    folder = published_folder(model)
    refuse_head(folder)
    spec = settings_of(folder, host, port)
    stated = key or os.environ.get("TUNESMITH_KEY") or None
    check_access(spec.host, spec.port, stated)
    ready()
    tell(say("cli.loading"), "dim")
    from tunesmith.serve.server import open_service
    from tunesmith.store.database import sqlite_url

    store = os.environ.get("TUNESMITH_STORE") or sqlite_url(cache_folder() / "store.db")
    with Terminal() as listener:
        server = open_service(folder, spec, store, Events(None, (listener,)), stated, base=base_of(folder, base))
        tell(say("serve.listening", model=server.name, url=server.url), "bold")
        made = server.key
        if made.made_now:
            tell(say("serve.key_made", path=str(made.path), key=made.text))
        else:
            tell(say("serve.key_kept", path=str(made.path)) if made.path else say("serve.key_stated"))
        tell(say("cli.serve_stop"), "dim")
        answer({"url": server.url, "model": server.name, "key_file": str(made.path) if made.path else None})
        code = server.run_forever()
    tell(say("serve.stopped"))
    raise typer.Exit(code)


def settings_of(folder: Path, host: str | None, port: int | None) -> ServeSpec:
    """The recipe's settings where the model comes from a run, with address and port of this call in their place."""
    folder = folder.resolve()
    lock = folder.parent.parent / LOCK
    spec = load_recipe(lock).serve if folder.parent.name == "ship" and lock.is_file() else ServeSpec()
    changes = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    return spec.model_copy(update=changes)
