"""Downloads from the Hugging Face hub and from ModelScope: pinned, and only files that run no code."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from tunesmith.core.errors import TunesmithError
from tunesmith.core.secrets import first_line

ALLOWED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "NOTICE*"]
"""What is fetched from a repository; everything else stays there."""

_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def download(hub_id: str, revision: str | None, *, offline: bool) -> tuple[Path, str]:
    """The repository's folder on this machine and the commit it is of.

    Args:
        hub_id: `org/name`.
        revision: commit, tag or branch; the newest commit when None.
        offline: take only what is in the hub's cache already.

    Errors: models.offline, models.download_failed, models.pickle_only.
    """
    if offline:
        try:
            folder = Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
        except (LocalEntryNotFoundError, OSError, ValueError) as error:
            raise TunesmithError("models.offline", base=hub_id) from error
        return folder, folder.name
    try:
        info = HfApi().model_info(hub_id, revision=revision)
        names = [sibling.rfilename for sibling in info.siblings or []]
        pickles = [name for name in names if name.endswith(_PICKLE_SUFFIXES)]
        if pickles and not any(name.endswith(".safetensors") for name in names):
            raise TunesmithError("models.pickle_only", base=hub_id, files=", ".join(pickles[:3]))
        folder = Path(snapshot_download(hub_id, revision=info.sha, allow_patterns=ALLOWED))
    except TunesmithError:
        raise
    except Exception as error:  # which library sends the requests, and so whose errors come, has changed before
        raise TunesmithError("models.download_failed", base=hub_id, reason=first_line(error)) from None  # has secrets
    return folder, info.sha or folder.name


def download_modelscope(model_id: str, revision: str | None, *, offline: bool) -> Path:
    """The same from ModelScope, through its own library. Errors: models.offline, models.download_failed."""
    fetch = import_module("modelscope.hub.snapshot_download").snapshot_download
    try:
        return Path(str(fetch(model_id, revision=revision, allow_patterns=ALLOWED, local_files_only=offline)))
    except Exception as error:  # the library raises classes of its own that exist only with it
        if offline:
            raise TunesmithError("models.offline", base=model_id) from None
        raise TunesmithError("models.download_failed", base=model_id, reason=first_line(error)) from None
