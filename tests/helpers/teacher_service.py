"""A teacher's service on the loopback that answers as it is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

Reply = tuple[int, dict[str, str], bytes]


def said(text: object, reason: str = "stop") -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}, "finish_reason": reason}]}).encode()


class Service:
    """A service on the loopback that answers as it is told: by its list, or by what `reply` says to a question."""

    def __init__(self, reply: Callable[[dict[str, object]], Reply] | None = None) -> None:
        self.replies: list[Reply] = []
        self.seen: list[tuple[dict[str, str], dict[str, object]]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                service.seen.append((dict(self.headers), {"path": self.path, **body}))
                listed = service.replies.pop(0) if service.replies else (200, {}, said("fine"))
                status, headers, content = reply(body) if reply is not None else listed
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
