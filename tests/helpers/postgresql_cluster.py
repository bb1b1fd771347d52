"""A PostgreSQL server of a test's own: Debian's programs, a new cluster in its folder, a socket and no port."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

_PLACES = ("/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt")
OWNER, READER, DATABASE = "owner", "reader", "postgres"


@dataclass(frozen=True)
class Cluster:
    """A running server. `secret` is the password of both users, made anew for every run."""

    folder: Path
    secret: str

    def url(self, user: str = READER, secret: str | None = None, database: str = DATABASE) -> str:
        password = quote(self.secret if secret is None else secret, safe="")
        return f"postgresql://{user}:{password}@/{database}?host={self.folder}"

    def run(self, *statements: str) -> None:
        """Run statements as the owner."""
        import psycopg

        with psycopg.connect(self.url(OWNER), autocommit=True) as connection:
            for each in statements:
                connection.execute(each)


def programs() -> Path | None:
    """The folder with initdb and pg_ctl; None where they are not installed."""
    found = shutil.which("initdb")
    known = [Path(found).resolve().parent] if found else []
    known += sorted((each.parent for place in _PLACES for each in Path(place).glob("*/bin/initdb")), reverse=True)
    return next((each for each in known if (each / "pg_ctl").exists()), None)


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Make a cluster, start it, and remove it in the end."""
    binaries = programs()
    assert binaries is not None
    folder = Path(tempfile.mkdtemp(prefix="ts-pg-", dir="/tmp"))  # the path of a socket has at most 107 bytes
    user = other_user(folder)
    cluster = Cluster(folder, secrets.token_hex(12) + "@:/%")
    (folder / "password").write_text(cluster.secret, "utf-8")
    (folder / "password").chmod(0o644)
    data = str(folder / "data")
    access = ["--auth=scram-sha-256", f"--pwfile={folder / 'password'}", f"--username={OWNER}"]
    settings = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"

    def call(*command: str) -> None:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, **user)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        call(str(binaries / "initdb"), "-D", data, *access, "--encoding=UTF8", "--locale=C", "--no-sync")
        call(str(binaries / "pg_ctl"), "-D", data, "-w", "-o", settings, "-l", str(folder / "log"), "start")
        try:
            cluster.run(f"CREATE ROLE {READER} LOGIN PASSWORD '{cluster.secret}'")
            yield cluster
        finally:
            call(str(binaries / "pg_ctl"), "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def other_user(folder: Path) -> dict[str, object]:
    """Arguments of a child that is not root, which the server refuses; the folder becomes that user's."""
    if os.getuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
