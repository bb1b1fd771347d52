"""Who may ask: a key for every request, loopback unless a key was stated, and no answer to a foreign Host name."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import secrets
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import disk_errors, fsync_path

KEY_FILE = "serve.key"
_SHORTEST_KEY = 16
_BACKLOG = 128
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class AccessKey:
    """The key of a server; `made_now` says that nobody has seen it yet, `path` where it is kept (None: stated)."""

    text: str
    path: Path | None
    made_now: bool

    def __repr__(self) -> str:
        return "AccessKey(...)"

    def matches(self, header: str | None) -> bool:
        """Whether an Authorization header carries this key, in a time that does not depend on the difference."""
        scheme, _, given = (header or "").partition(" ")
        if scheme.lower() != "bearer":
            return False
        wanted = hashlib.sha256(self.text.encode()).digest()
        return hmac.compare_digest(wanted, hashlib.sha256(given.strip().encode("utf-8", "surrogateescape")).digest())

    def hash_user(self, user: str) -> str:
        """A name that stands for a person, useless without the key; empty stays empty."""
        return hmac.new(self.text.encode(), user.encode(), hashlib.sha256).hexdigest() if user else ""


def find_key(home: Path, host: str, stated: str | None) -> AccessKey:
    """The stated key, else the one in `home`, made at the first start with mode 0600.

    Errors: serve.key_needed (no stated key and an address beyond this machine), serve.key_weak, serve.key_exposed.
    """
    if stated is not None:
        _check_stated(stated)
        return AccessKey(stated, None, False)
    if not is_loopback(host):
        raise TunesmithError("serve.key_needed", host=host)
    path = home / KEY_FILE
    with disk_errors(path):
        home.mkdir(parents=True, exist_ok=True)
        made_now = _make_key(path)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise TunesmithError("serve.key_exposed", path=str(path))
        text = path.read_text("ascii", errors="replace").strip()
    if len(text) < _SHORTEST_KEY:
        raise TunesmithError("serve.key_broken", path=str(path))
    return AccessKey(text, path, made_now)


def _check_stated(key: str) -> None:
    if len(key) < _SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise TunesmithError("serve.key_weak", least=_SHORTEST_KEY)


def _make_key(path: Path) -> bool:
    """Write a random key unless there is one; True when it was written. Whole at once, and never readable by others."""
    if path.exists():
        return False
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(f"ts-{secrets.token_urlsafe(32)}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        os.link(aside, path)  # unlike a rename it fails where another first start was quicker
    except FileExistsError:
        return False
    finally:
        aside.unlink()
    fsync_path(path.parent)
    return True


def is_loopback(host: str) -> bool:
    """Whether every address of a host name is on this machine alone. Errors: serve.cannot_listen."""
    return all(ipaddress.ip_address(str(each[4][0]).split("%")[0]).is_loopback for each in _addresses(host, 0))


def check_access(host: str, port: int, stated: str | None) -> None:
    """Refuse what can be refused at once, before anything heavy is loaded; makes nothing and keeps nothing.

    Errors: serve.key_needed, serve.key_weak, serve.port_taken, serve.cannot_listen.
    """
    if stated is not None:
        _check_stated(stated)
    elif not is_loopback(host):
        raise TunesmithError("serve.key_needed", host=host)
    take_port(host, port).close()


def take_port(host: str, port: int) -> socket.socket:
    """A listening socket, taken before the model is loaded. Errors: serve.port_taken, serve.cannot_listen."""
    family, _, protocol, _, address = _addresses(host, port)[0]
    taken = socket.socket(family, socket.SOCK_STREAM, protocol)  # asyncio sends small answers at once on TCP alone
    try:
        if os.name == "posix":
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        taken.listen(_BACKLOG)
    except OSError as error:
        taken.close()
        if error.errno is not None and "in use" in os.strerror(error.errno).lower():
            raise TunesmithError("serve.port_taken", host=host, port=port) from error
        raise TunesmithError("serve.cannot_listen", host=host, port=port, reason=str(error.strerror)) from error
    return taken


_Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int] | tuple[str, int, int, int]]


def _addresses(host: str, port: int) -> list[_Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise TunesmithError("serve.cannot_listen", host=host, port=port, reason=str(error)) from error
    return [each for each in found if isinstance(each[4][0], str)]  # type: ignore[misc]


def host_allowed(header: str | None, bound_host: str, *, loopback: bool) -> bool:
    """Whether a Host header names this server. A server on loopback answers to local names only.

    A page on another site can point its own name at 127.0.0.1 (DNS rebinding); its requests carry that name.
    """
    if not loopback:
        return True
    name = (header or "").lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    return name in _LOCAL_NAMES or name == bound_host.lower()
