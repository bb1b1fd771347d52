"""Data sets of the Hugging Face hub and of ModelScope by name: a pinned revision, and only files of rows or texts.

    hf://datasets/OWNER/NAME@REVISION/FOLDER/FILE        as the hub's own library writes addresses
    modelscope://OWNER/NAME@REVISION/FOLDER/FILE

A revision that is left out, or names a branch, is settled to its commit, which the lineage states. Scripts of a data
set are never fetched, and nothing is run.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import httpx
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import folder_hashes
from tunesmith.data.collect.stores import DISK_ERRORS
from tunesmith.data.formats.extras import needed
from tunesmith.data.formats.kinds import SUFFIXES

HF, MODELSCOPE = "hf://", "modelscope://"
_NAME = r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<path>[^@]+))?"
_ADDRESS = {HF: re.compile(rf"hf://datasets/{_NAME}"), MODELSCOPE: re.compile(rf"modelscope://(?:datasets/)?{_NAME}")}


def fetch_from_hub(address: str, into: Path) -> dict[str, object]:
    """Fetch a data set of the Hugging Face hub; returns its revision, licence and number of files.

    Errors: data.fetch_failed.
    """
    name, revision, path = _parts(address, HF)
    try:
        info = HfApi().dataset_info(name, revision=revision)
        wanted = _patterns(path)
        snapshot_download(name, repo_type="dataset", revision=info.sha, local_dir=into, allow_patterns=wanted)
    except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        raise _failed(address, error) from error
    shutil.rmtree(into / ".cache", ignore_errors=True)  # the library's notes on its own downloads
    licence = getattr(info.card_data, "license", None)
    return {**_found(address, into), "revision": info.sha or "", "licence": str(licence or "")}


def fetch_from_modelscope(address: str, into: Path) -> dict[str, object]:
    """Fetch a data set of ModelScope with its own library. Errors: data.extra_missing, data.fetch_failed."""
    name, revision, path = _parts(address, MODELSCOPE)
    library = needed("modelscope.hub.snapshot_download", "modelscope", "modelscope://")
    try:
        library.snapshot_download(
            name, repo_type="dataset", revision=revision, local_dir=str(into), allow_patterns=_patterns(path)
        )
    except Exception as error:  # the library raises classes of its own that exist only with it
        raise _failed(address, error) from error
    for each in (".cache", "._____temp", ".msc", ".mv", ".mdl"):
        shutil.rmtree(into / each, ignore_errors=True)
        (into / each).unlink(missing_ok=True)
    return {**_found(address, into), "revision": revision or ""}


def _parts(address: str, scheme: str) -> tuple[str, str | None, str | None]:
    """Name, revision and path in the data set. Errors: data.fetch_failed."""
    found = _ADDRESS[scheme].fullmatch(address)
    if found is None or ".." in address:
        raise _failed(address, ValueError(f"{scheme}{'datasets/' if scheme == HF else ''}OWNER/NAME@REVISION/PATH"))
    return found["name"], found["revision"], found["path"]


def _patterns(path: str | None) -> list[str]:
    return [path, f"{path.rstrip('/')}/*"] if path else [f"*{suffix}" for suffix in SUFFIXES]


def _found(address: str, into: Path) -> dict[str, object]:
    files = len(folder_hashes(into))
    if not files:
        raise _failed(address, ValueError("no file of rows there"))
    return {"rows": files}


def _failed(address: str, error: Exception) -> TunesmithError:
    reason = (str(error) or type(error).__name__).strip().splitlines()[0][:300]
    return TunesmithError("data.fetch_failed", source=address, reason=reason)
