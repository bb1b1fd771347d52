"""Data sets of the Hugging Face hub and of ModelScope by name: a pinned revision, and only files of rows or texts.

    hf://datasets/OWNER/NAME@REVISION/FOLDER/FILE        as the hub's own library writes addresses
    modelscope://OWNER/NAME@REVISION/FOLDER/FILE

A revision that is left out, or names a branch, is settled to its commit, which the lineage states. Scripts of a data
set are never fetched, and nothing is run.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.hf_api import RepoSibling

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import folder_hashes, sha256_file
from tunesmith.data.collect.failures import broken, failed, hub_failure
from tunesmith.data.collect.stores import DISK_ERRORS, refuse_alike
from tunesmith.data.formats.extras import needed
from tunesmith.data.formats.kinds import SUFFIXES

HF, MODELSCOPE = "hf://", "modelscope://"
_HUBS = {HF: "Hugging Face", MODELSCOPE: "ModelScope"}
_NAME = r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<path>[^@]+))?"
_ADDRESS = {HF: re.compile(rf"hf://datasets/{_NAME}"), MODELSCOPE: re.compile(rf"modelscope://(?:datasets/)?{_NAME}")}
_MAIN = "master"
"""The branch that ModelScope takes where none is stated."""


def fetch_from_hub(address: str, into: Path) -> dict[str, object]:
    """Fetch a data set of the Hugging Face hub; returns its revision, licence and number of files.

    Every file is held to the hash that the hub states of it. Errors: those of `hub_failure`, data.hub_no_file,
    data.names_alike.
    """
    name, revision, path = _parts(address, HF)
    try:
        info = HfApi().dataset_info(name, revision=revision, files_metadata=True)
        wanted = _patterns(path)
        names = [each.rfilename for each in info.siblings or ()]
        refuse_alike([each for each in names if any(fnmatch(each, pattern) for pattern in wanted)], address)
        snapshot_download(name, repo_type="dataset", revision=info.sha, local_dir=into, allow_patterns=wanted)
    except TunesmithError:
        raise
    except Exception as error:  # which library sends the requests, and so whose errors come, has changed before
        raise _said(address, HF, error) from None
    shutil.rmtree(into / ".cache", ignore_errors=True)  # the library's notes on its own downloads
    _verify(address, into, info.siblings or ())
    licence = getattr(info.card_data, "license", None)
    return {**_found(address, into), "revision": info.sha or "", "licence": str(licence or "")}


def fetch_from_modelscope(address: str, into: Path) -> dict[str, object]:
    """Fetch a data set of ModelScope with its own library, which holds files to their hashes.

    A branch or a tag is not settled to a commit, which that hub does not tell; the hashes in the manifest say what
    came. Errors: data.extra_missing, data.hub_no_file, those of `hub_failure`.
    """
    name, revision, path = _parts(address, MODELSCOPE)
    library = needed("modelscope.hub.snapshot_download", "modelscope", "modelscope://")
    try:
        library.snapshot_download(
            name, repo_type="dataset", revision=revision, local_dir=str(into), allow_patterns=_patterns(path)
        )
    except Exception as error:  # the library raises classes of its own that exist only with it
        raise _said(address, MODELSCOPE, error) from None
    for each in (".cache", "._____temp", ".msc", ".mv", ".mdl"):
        shutil.rmtree(into / each, ignore_errors=True)
        (into / each).unlink(missing_ok=True)
    return {**_found(address, into), "revision": revision or _MAIN}


def _said(address: str, scheme: str, error: Exception) -> Exception:
    """What a hub said, or the error itself where it says what this disk lacks."""
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return error
    return hub_failure(error, address, _HUBS[scheme])


def _parts(address: str, scheme: str) -> tuple[str, str | None, str | None]:
    """Name, revision and path in the data set. Errors: data.fetch_failed."""
    found = _ADDRESS[scheme].fullmatch(address)
    if found is None or ".." in address:
        form = f"{scheme}{'datasets/' if scheme == HF else ''}OWNER/NAME@REVISION/PATH"
        raise failed(address, ValueError(form))
    return found["name"], found["revision"], found["path"]


def _patterns(path: str | None) -> list[str]:
    return [path, f"{path.rstrip('/')}/*"] if path else [f"*{suffix}" for suffix in SUFFIXES]


def _verify(address: str, into: Path, published: Iterable[RepoSibling]) -> None:
    """Hold files to what the hub says of them; its library looks at their size alone. Errors: data.download_broken."""
    for each in published:
        file = into / each.rfilename
        if not file.is_file():
            continue
        if each.lfs is not None:
            differs = sha256_file(file) != each.lfs.sha256
        else:
            differs = each.blob_id is not None and _git_hash(file) != each.blob_id
        if differs:
            raise broken(address, each.rfilename, "SHA-256" if each.lfs is not None else "SHA-1")


def _git_hash(file: Path) -> str:
    """The name that git gives to a file: SHA-1 of "blob", its size in bytes, a zero, and the bytes."""
    found = hashlib.sha1(b"blob %d\0" % file.stat().st_size, usedforsecurity=False)
    with file.open("rb") as content:
        while piece := content.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def _found(address: str, into: Path) -> dict[str, object]:
    files = len(folder_hashes(into))
    if not files:
        raise TunesmithError("data.hub_no_file", source=address)
    return {"rows": files}
