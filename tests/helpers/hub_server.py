"""A small hub on the loopback: what the libraries of Hugging Face and of ModelScope ask for, and what goes wrong.

The name of a data set says how it behaves:

    faq       all is well; some files are kept in git, some beside it (LFS)
    gated     listed to everybody, given to the one token alone
    secret    shown to the one token alone
    busy      no more requests are answered
    altered   a file is other than what is published, of the same length; altered-lfs: one that is kept beside git
    cut       the first answer with a file ends in its middle, the next goes on where it is asked to
    short     every answer with a file ends in its middle
    down      the server itself fails
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "4f2c9e1a" * 5
TOKEN = "hf_planted0Token0Of0Tests"
LEAKED = f"The token {TOKEN} may not read https://me:pLanted7Zq@cdn.example/x?X-Amz-Signature=pLanted7Zq0"
"""What the hub says of the model "leaky"."""
FILES = {
    "train.jsonl": b'{"prompt": "a", "completion": "b"}\n',
    "extra/more.jsonl": b'{"prompt": "c", "completion": "d"}\n',
    "beside.jsonl": b'{"prompt": "e", "completion": "f"}\n' * 40,
    "README.md": b"---\nlicense: cc-by-4.0\n---\nAbout.\n",
    "load_it.py": b"raise SystemExit('run')\n",
}
BESIDE_GIT = frozenset({"beside.jsonl"})
_REVISIONS = ("main", "master", "v1", COMMIT)


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Hub(BaseHTTPRequestHandler):
    """Both hubs; their paths differ."""

    protocol_version = "HTTP/1.1"
    cut: set[str] = set()  # noqa: RUF012 - those that were cut once, of the server's one class

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        parts, asked = unquote(place.path).strip("/").split("/"), parse_qs(place.query)
        if parts[:3] == ["api", "v1", "datasets"]:
            self._modelscope(parts[4], "/".join(parts[5:]), asked)
        elif parts[:2] == ["api", "datasets"]:
            self._about(parts[3], parts[4:])
        elif parts[:1] == ["datasets"] and parts[3:4] == ["resolve"]:
            self._file(parts[2], parts[4], "/".join(parts[5:]))
        elif parts == ["api", "models", "acme", "leaky"]:
            self._say(403, LEAKED, {})
        else:
            self._send(404, {"Content-Length": "0"})

    def _may(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _refused(self, name: str, *, file: bool) -> bool:
        """Whether an answer of the Hugging Face hub that gives nothing was sent."""
        if name == "busy":
            self._say(429, "Too many requests", {"Retry-After": "7"})
        elif name == "down":
            self._say(500, "Internal error", {})
        elif name == "gated" and file and not self._may():
            status = 403 if self.headers.get("Authorization") else 401
            self._say(status, "Access to dataset acme/gated is restricted.", {"X-Error-Code": "GatedRepo"})
        elif name not in KNOWN or (name == "secret" and not self._may()):
            status = 404 if self._may() else 401
            self._say(status, "Repository not found", {"X-Error-Code": "RepoNotFound"})
        else:
            return False
        return True

    def _about(self, name: str, parts: list[str]) -> None:
        if self._refused(name, file=False):
            return
        if len(parts) > 1 and parts[1] not in _REVISIONS:
            self._say(404, "Invalid rev id", {"X-Error-Code": "RevisionNotFound"})
        elif parts[:1] == ["tree"]:
            self._json([self._listed(path, content) for path, content in FILES.items()])
        else:
            siblings = [self._sibling(path, content) for path, content in FILES.items()]
            about = {"id": f"acme/{name}", "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
            self._json({**about, "cardData": {"license": "cc-by-4.0"}, "downloads": 0})

    def _sibling(self, path: str, content: bytes) -> dict[str, object]:
        told = {"rfilename": path, "size": len(content), "blobId": _git_hash(content)}
        lfs = {"sha256": _sha256(content), "size": len(content), "pointerSize": 130}
        return {**told, "lfs": lfs} if path in BESIDE_GIT else told

    def _listed(self, path: str, content: bytes) -> dict[str, object]:
        told = {"type": "file", "path": path, "size": len(content), "oid": _git_hash(content)}
        lfs = {"oid": _sha256(content), "size": len(content), "pointerSize": 130}
        return {**told, "lfs": lfs} if path in BESIDE_GIT else told

    def _file(self, name: str, revision: str, path: str) -> None:
        if self._refused(name, file=True):
            return
        if revision not in _REVISIONS or path not in FILES:
            self._say(404, "Entry not found", {"X-Error-Code": "EntryNotFound"})
            return
        content = FILES[path]
        beside = path in BESIDE_GIT
        tag = _sha256(content) if beside else _git_hash(content)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"'}
        if beside:
            headers |= {"X-Linked-Etag": f'"{tag}"', "X-Linked-Size": str(len(content))}
        self._bytes(name, path, headers)

    def _modelscope(self, name: str, what: str, asked: dict[str, list[str]]) -> None:
        revision, path = asked.get("Revision", ["master"])[0], asked.get("FilePath", [""])[0]
        if name == "busy":
            self._say(429, "Too many requests", {"Retry-After": "7"})
        elif name == "down":
            self._say(500, "Internal error", {})
        elif name in ("gated", "secret") and not self._may():
            self._say(403, "No permission", {})
        elif name not in KNOWN or revision not in _REVISIONS or what not in ("repo", "repo/tree"):
            self._say(404, "Not found", {})
        elif what == "repo/tree":
            told = [
                {"Path": each, "Name": each.rpartition("/")[2], "Type": "blob", "Size": len(content)}
                | {"Sha256": _sha256(content), "Revision": COMMIT}
                for each, content in FILES.items()
            ]
            self._json({"Code": 200, "Success": True, "Data": {"Files": told}})
        elif path in FILES:
            self._bytes(name, path, {"ETag": f'"{_sha256(FILES[path])}"'})
        else:
            self._say(404, "Not found", {})

    def _bytes(self, name: str, path: str, headers: dict[str, str]) -> None:
        """The content of a file, or what came of it."""
        content = FILES[path]
        if (name == "altered" and path == "train.jsonl") or (name == "altered-lfs" and path in BESIDE_GIT):
            content = content[:-2] + b" \n"
        ranged = self.headers.get("Range", "")
        start = int(ranged.removeprefix("bytes=").partition("-")[0] or 0) if ranged else 0
        whole = content[start:]
        status = 206 if ranged else 200
        if ranged:
            headers |= {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        headers |= {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        breaks = path in BESIDE_GIT and (name == "short" or (name == "cut" and path not in self.cut))
        if breaks and self.command == "GET":
            self.cut.add(path)
            self._send(
                status, {**headers, "Content-Length": str(len(whole))}, b"" if ranged else whole[: len(whole) // 2]
            )
            self.close_connection = True
            return
        self._send(status, {**headers, "Content-Length": str(len(whole))}, whole)

    def _json(self, value: object) -> None:
        content = json.dumps(value).encode()
        self._send(200, {"Content-Type": "application/json", "Content-Length": str(len(content))}, content)

    def _say(self, status: int, words: str, headers: dict[str, str]) -> None:
        content = json.dumps({"error": words, "Code": status, "Message": words, "Success": False}).encode()
        headers = {"X-Error-Message": words, "Content-Type": "application/json", **headers}
        self._send(status, {**headers, "Content-Length": str(len(content))}, content)

    def _send(self, status: int, headers: dict[str, str], content: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


KNOWN = frozenset({"faq", "gated", "secret", "altered", "altered-lfs", "cut", "short"})


@contextmanager
def hub() -> Iterator[str]:
    """The address of a hub that runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
