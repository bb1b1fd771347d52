"""Data sets of a hub, from a small server on the loopback that answers as the Hugging Face hub does.

The library reads whether it is offline when it is imported, so that each fetch is a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "4f2c9e1a" * 5
FILES = {
    "train.jsonl": b'{"prompt": "a", "completion": "b"}\n',
    "extra/more.jsonl": b'{"prompt": "c", "completion": "d"}\n',
    "README.md": b"---\nlicense: cc-by-4.0\n---\nAbout.\n",
    "load_it.py": b"raise SystemExit('run')\n",
}
FETCH = """
import json, sys
from pathlib import Path
from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.data.collect.fetch import collect
from tunesmith.data.collect.lineage import lineage_of
from tunesmith.data.formats.read import Reading, read_source
from tunesmith.recipe.specs.sources import SourceSpec
source = SourceSpec(path=sys.argv[1])
try:
    (place,) = collect([source], Path("."), offline=False)
    frame, report = read_source(source, "train", Path("."), Reading("chat", None, 1), Ledger())
    names = sorted(each.relative_to(place).as_posix() for each in place.rglob("*") if each.is_file())
    print(json.dumps({"names": names, "lineage": lineage_of(place), "rows": len(frame), "licence": report.licence}))
except TunesmithError as error:
    print(json.dumps({"code": error.code, "reason": error.facts.get("reason")}))
"""


class Hub(BaseHTTPRequestHandler):
    """One data set, acme/faq, whose branch main and tag v1 are one commit."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        about = {"id": "acme/faq", "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]}
        about |= {"cardData": {"license": "cc-by-4.0"}, "private": False, "tags": [], "downloads": 0}
        tree = [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in FILES.items()
        ]
        api, resolve = "/api/datasets/acme/faq", f"/datasets/acme/faq/resolve/{COMMIT}/"
        if path in (api, *(f"{api}/revision/{each}" for each in ("main", "v1", COMMIT))):
            self._send(json.dumps(about).encode(), "application/json")
        elif path.startswith(f"{api}/tree/{COMMIT}"):
            self._send(json.dumps(tree).encode(), "application/json")
        elif path.startswith(resolve) and path.removeprefix(resolve) in FILES:
            self._send(FILES[path.removeprefix(resolve)], "application/octet-stream")
        else:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        headers = {"Content-Type": kind, "Content-Length": str(len(content)), "X-Repo-Commit": COMMIT}
        headers["ETag"] = f'"{hashlib.sha1(content).hexdigest()}"'
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def fetch(address: str, endpoint: str, folder: Path) -> dict[str, object]:
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    environment |= {"TUNESMITH_HOME": str(folder / "home"), "HF_HOME": str(folder / "hf"), "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", FETCH, address], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("revision", ["", "@main", "@v1", f"@{COMMIT}"])
def test_a_data_set_is_pinned_to_its_commit(tmp_path: Path, endpoint: str, revision: str) -> None:
    found = fetch(f"hf://datasets/acme/faq{revision}", endpoint, tmp_path)
    assert found["names"] == ["README.md", "extra/more.jsonl", "manifest.json", "train.jsonl"], "and no script"
    lineage = found["lineage"]
    assert isinstance(lineage, dict) and lineage["revision"] == COMMIT and lineage["licence"] == "cc-by-4.0"
    assert (found["rows"], found["licence"]) == (2, "cc-by-4.0")


def test_one_file_or_folder_of_it(tmp_path: Path, endpoint: str) -> None:
    for path in ("extra/more.jsonl", "extra"):
        found = fetch(f"hf://datasets/acme/faq@v1/{path}", endpoint, tmp_path)
        assert found["names"] == ["extra/more.jsonl", "manifest.json"] and found["rows"] == 1


@pytest.mark.parametrize(
    "address", ["hf://datasets/acme/nothing", "hf://datasets/acme/faq@v9", "hf://datasets/acme/faq@v1/no.csv"]
)
def test_what_is_not_there_is_said(tmp_path: Path, endpoint: str, address: str) -> None:
    assert fetch(address, endpoint, tmp_path)["code"] == "data.fetch_failed"
    kept = tmp_path / "home" / "collected"
    assert not kept.exists() or not list(kept.iterdir())
