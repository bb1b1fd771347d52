"""A MariaDB server of a test's own: Debian's programs, new files in a folder of its own, a socket and no port."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from postgresql_cluster import other_user

READER, DATABASE = "reader", "tickets"
_SECONDS_TO_START = 60


@dataclass(frozen=True)
class Server:
    """A running server. `secret` is the reader's password, made anew for every run."""

    folder: Path
    secret: str

    def url(self, secret: str | None = None) -> str:
        password = quote(self.secret if secret is None else secret, safe="")
        return f"mysql://{READER}:{password}@localhost/{DATABASE}?unix_socket={self.folder}/socket"

    def run(self, *statements: str) -> list[object]:
        """Run statements as root; returns the rows of the last one."""
        import pymysql

        with pymysql.connect(unix_socket=f"{self.folder}/socket", user="root", autocommit=True) as connection:
            cursor = connection.cursor()
            for each in statements:
                cursor.execute(each)
            return list(cursor.fetchall())


def programs() -> tuple[str, str] | None:
    """mariadb-install-db and mariadbd; None where they are not installed."""
    install = shutil.which("mariadb-install-db")
    server = shutil.which("mariadbd", path="/usr/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
    return (install, server) if install and server else None


@contextmanager
def running_server() -> Iterator[Server]:
    """Make the files, start the server, and remove it all in the end."""
    found = programs()
    assert found is not None
    install, program = found
    folder = Path(tempfile.mkdtemp(prefix="ts-my-", dir="/tmp"))
    user = other_user(folder)
    server = Server(folder, secrets.token_hex(12) + "@:/%")
    data = ["--no-defaults", f"--datadir={folder / 'data'}"]
    running: subprocess.Popen[bytes] | None = None
    try:
        made = subprocess.run(
            [install, *data, "--auth-root-authentication-method=normal", "--skip-test-db"],
            cwd=folder, capture_output=True, text=True, timeout=90, **user,
        )  # type: ignore[call-overload]  # fmt: skip
        assert made.returncode == 0, made.stdout + made.stderr
        settings = [f"--socket={folder / 'socket'}", "--skip-networking", f"--pid-file={folder / 'pid'}"]
        small = ["--innodb-buffer-pool-size=16M", "--innodb-flush-log-at-trx-commit=0"]
        running = subprocess.Popen(
            [program, *data, *settings, *small],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **user,
        )  # type: ignore[call-overload]
        _wait(server)
        server.run(
            f"CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4",
            f"CREATE USER {READER}@localhost IDENTIFIED BY '{server.secret}'",
            f"GRANT ALL ON {DATABASE}.* TO {READER}@localhost",
        )
        yield server
    finally:
        if running is not None:
            running.kill()
            running.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait(server: Server) -> None:
    """Until somebody listens: the client library leaves a socket open where it finds nobody."""
    last = time.monotonic() + _SECONDS_TO_START
    while True:
        with socket.socket(socket.AF_UNIX) as tried:
            if tried.connect_ex(f"{server.folder}/socket") == 0:
                return
        assert time.monotonic() < last, "the server does not start"
        time.sleep(0.1)
