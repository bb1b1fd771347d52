"""A Label Studio of one's own on the loopback, and the few calls of its API that people's work needs.

The variable TUNESMITH_LABEL_STUDIO names its program (`make test-annotators` installs it), or a server that runs with
TOKEN already.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "TUNESMITH_LABEL_STUDIO"
TOKEN = "0123456789abcdef0123456789abcdef01234567"
MISSING = f"{VARIABLE} is not set: `make test-annotators` installs Label Studio, a real server, and runs this"
_SECONDS = 280  # its first start writes some hundred migrations


class LabelStudio:
    """One account's way to a server."""

    def __init__(self, url: str) -> None:
        self._url = url

    def call(self, method: str, path: str, body: object = None) -> object:
        """The JSON that a call answers with."""
        content = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"}
        asked = urllib.request.Request(f"{self._url}{path}", content, headers, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                said = answer.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read()[:2000]!r}") from error
        return json.loads(said) if said else None

    def project(self, interface: str) -> int:
        """A new project with a labelling interface; its number."""
        made = self.call("POST", "/api/projects/", {"title": "rows", "label_config": interface})
        assert isinstance(made, dict)
        return int(made["id"])

    def give(self, project: int, tasks: object) -> list[dict[str, object]]:
        """Import tasks; what the server then has, in the order of the file."""
        self.call("POST", f"/api/projects/{project}/import", tasks)
        return self.export(project)

    def annotate(self, task: object, result: list[dict[str, object]]) -> None:
        """Submit an annotation, as the page does when somebody presses Submit."""
        self.call("POST", f"/api/tasks/{task}/annotations/", {"result": result, "was_cancelled": False})

    def export(self, project: int) -> list[dict[str, object]]:
        """Every task, annotated or not, as "JSON" exports it."""
        said = self.call("GET", f"/api/projects/{project}/export?exportType=JSON&download_all_tasks=true")
        assert isinstance(said, list)
        return sorted(said, key=lambda task: int(task["id"]))


@contextmanager
def label_studio(folder: Path) -> Iterator[LabelStudio]:
    """A server whose data lie in the folder."""
    named = os.environ[VARIABLE]
    if named.startswith("http://127.0.0.1"):
        yield LabelStudio(named)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    quiet = {"SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "", "COLLECT_ANALYTICS": "false", "LATEST_VERSION_CHECK": "false"}
    environment = {**os.environ, **quiet, "LABEL_STUDIO_BASE_DATA_DIR": str(folder)}
    environment |= {"LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true"}
    account = ["--username", "ann@example.org", "--password", "only-for-tests-1", "--user-token", TOKEN]
    command = [named, "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", port, *account]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            _wait(f"http://127.0.0.1:{port}/health", server, folder / "server.log")
            yield LabelStudio(f"http://127.0.0.1:{port}")
        finally:
            server.terminate()
            server.wait(30)


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _SECONDS
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError(f"Label Studio did not start: {log.read_text('utf-8', 'replace')[-2000:]}")
