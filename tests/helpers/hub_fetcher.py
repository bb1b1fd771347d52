"""A process that fetches sources one after the other: a line of JSON in, a line of JSON out.

The hubs' libraries read where their hub is, and whether they are offline, when they are imported; so that stands in
this process's environment. Tokens are read at every fetch. Waiting between their attempts is left out.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import constants

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.data.collect.fetch import collect
from tunesmith.data.collect.lineage import lineage_of
from tunesmith.data.formats.read import Reading, read_source
from tunesmith.recipe.specs.sources import SourceSpec


def fetch(path: str, offline: bool, token: str, endpoint: str) -> dict[str, object]:
    """What came of a source, or the error's code and facts."""
    source = SourceSpec(path=path)
    constants.ENDPOINT = endpoint
    for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        os.environ[name] = token
    if "modelscope_hub" in sys.modules:
        sys.modules["modelscope_hub"].set_default_config(None)  # it keeps the token that it saw first
    try:
        (place,) = collect([source], Path("."), offline=offline)
        frame, report = read_source(source, "train", Path("."), Reading("chat", None, 1), Ledger())
    except TunesmithError as error:
        return {"code": error.code, "facts": {name: str(value) for name, value in error.facts.items()}}
    names = sorted(each.relative_to(place).as_posix() for each in place.rglob("*") if each.is_file())
    return {"names": names, "lineage": lineage_of(place), "rows": len(frame), "licence": report.licence}


if __name__ == "__main__":
    logging.disable()
    warnings.simplefilter("ignore")
    time.sleep = lambda _seconds: None
    if find_spec("modelscope_hub") is not None:
        import_module("modelscope_hub._download_control")._DownloadControl.sleep = lambda _self, _seconds: None
    for line in sys.stdin:
        print(json.dumps(fetch(**json.loads(line))), flush=True)
