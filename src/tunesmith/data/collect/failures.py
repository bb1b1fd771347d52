"""What went wrong at a fetch: a code for each thing that its reader can do something else about, and no secrets.

Stores and hubs have error classes of their own, some of which exist only with their libraries. So errors are told by
their status of HTTP, and by the names of classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from tunesmith.core.errors import TunesmithError
from tunesmith.core.secrets import first_line

_BROKEN = frozenset(
    "RemoteProtocolError ReadError ReadTimeout IncompleteRead IncompleteReadError ChunkedEncodingError"
    " ClientPayloadError ServerDisconnectedError ConnectionResetError ProtocolError ResponseStreamingError"
    " FileIntegrityError IntegrityError ChecksumError".split()
)
_REFUSED = frozenset(
    "PermissionError NoCredentialsError PartialCredentialsError ClientAuthenticationError CredentialUnavailableError"
    " DefaultCredentialsError AuthenticationError PermissionDeniedError".split()
)
_MISSING = frozenset({"FileNotFoundError", "ResourceNotFoundError", "NotADirectoryError", "NotExistError"})
_WAIT = re.compile(r"t=(\d+)")
"""Seconds in the header RateLimit of the Hugging Face hub."""


def failed(address: str, error: BaseException) -> TunesmithError:
    """What no other code is for."""
    return TunesmithError("data.fetch_failed", source=address, reason=first_line(error))


def broken(address: str, file: str, reason: str) -> TunesmithError:
    """A file that did not come whole, or is not what was published."""
    return TunesmithError("data.download_broken", source=address, file=file, reason=reason)


def hub_failure(error: Exception, address: str, hub: str) -> TunesmithError:
    """What a hub said.

    Codes: data.hub_busy, data.hub_gated, data.hub_no_dataset, data.hub_no_revision, data.download_broken,
    data.fetch_failed.
    """
    names, status = _names(error), _status(error)
    facts = {"source": address, "hub": hub}
    if status == 429:
        return TunesmithError("data.hub_busy", **facts, wait=_wait(error))
    if "RevisionNotFoundError" in names:
        return TunesmithError("data.hub_no_revision", **facts)
    if "GatedRepoError" in names:
        return TunesmithError("data.hub_gated", **facts, reason=first_line(error))
    if status == 404 or names & {"RepositoryNotFoundError", "NotExistError"}:
        return TunesmithError("data.hub_no_dataset", **facts)
    if status in (401, 403):
        return TunesmithError("data.hub_gated", **facts, reason=first_line(error))
    if names & _BROKEN or "Consistency check failed" in str(error) or "Hash mismatch" in str(error):
        return broken(address, "-", first_line(error))
    return failed(address, error)


def store_failure(error: Exception, address: str, file: str = "") -> TunesmithError:
    """What a store said; `file` is what was on its way.

    Codes: data.store_refused, data.store_missing, data.download_broken, data.fetch_failed.
    """
    names, status = _names(error), _status(error)
    if names & _REFUSED or status in (401, 403):
        return TunesmithError("data.store_refused", source=address, reason=first_line(error))
    if names & _MISSING or status == 404:
        return TunesmithError("data.store_missing", source=address, reason=first_line(error))
    if file:
        return broken(address, file, first_line(error))
    return failed(address, error)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it came from; ModelScope's library keeps those of several files in `failed_files`."""
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        now = waiting.pop(0)
        if id(now) in seen:
            continue
        seen.add(id(now))
        yield now
        files = getattr(now, "failed_files", None)
        several = list(files.values()) if isinstance(files, Mapping) else []
        waiting += [each for each in (now.__cause__ or now.__context__, *several) if isinstance(each, BaseException)]


def _names(error: BaseException) -> frozenset[str]:
    return frozenset(kind.__name__ for each in _chain(error) for kind in type(each).__mro__)


def _status(error: BaseException) -> int | None:
    """The status of HTTP that the server answered with."""
    for each in _chain(error):
        for holder in (each, getattr(each, "response", None)):
            for name in ("status_code", "status", "code"):
                found = getattr(holder, name, None)
                if isinstance(found, int) and 100 <= found < 600:
                    return found
    return None


def _wait(error: BaseException) -> str:
    """Seconds that the server asks to wait; "-" where it does not say."""
    for each in _chain(error):
        stated = getattr(each, "retry_after", None)
        headers = getattr(getattr(each, "response", None), "headers", None) or {}
        limit = _WAIT.search(str(headers.get("ratelimit", "")))
        found = stated or headers.get("retry-after") or (limit[1] if limit else None)
        if found:
            return str(found)
    return "-"
