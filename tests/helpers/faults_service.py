"""Services, neighbours and commands in processes of their own, forked from one Python that has imported everything.

Test and parent talk in lines of JSON. The parent never starts a thread, or children would wait for threads they do
not have. Each child writes what it has to tell into a folder of its own.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

KEY = "the-key-of-the-fault-table-0123456789"
MODEL = "tiny"
ASK = [{"role": "user", "content": "Where is my parcel?"}]
_READY_SECONDS = 30


def chat_body(**changes: Any) -> dict[str, Any]:
    """A chat request that is answered with eight tokens."""
    return {"model": MODEL, "messages": ASK, "max_tokens": 8, **changes}


def until(holds: Callable[[], bool], seconds: float, what: str) -> float:
    """Wait until it holds; the seconds that took."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.01)
    return time.monotonic() - started


# --------------------------------------------------------------------------------------- the test's end


class Warm:
    """The parent, asked for children."""

    def __init__(self, home: Path) -> None:
        self._made = 0
        self._home = home
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TUNESMITH_HOME": str(home / "home")}
        self._parent = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def close(self) -> None:
        """End the parent; children were ended by those who asked for them."""
        self._parent.communicate(timeout=30)

    def ask(self, **question: Any) -> Any:
        """One question, one answer."""
        assert self._parent.stdin is not None and self._parent.stdout is not None
        print(json.dumps(question), file=self._parent.stdin, flush=True)
        answer = self._parent.stdout.readline()
        assert answer, "the parent of the children is gone"
        return json.loads(answer)

    def fork(self, kind: str, **facts: Any) -> Child:
        """A child that does what `kind` says."""
        self._made += 1
        folder = self._home / f"child-{self._made}"
        folder.mkdir(parents=True)
        pid = self.ask(fork=kind, folder=str(folder), facts=facts)
        return Child(self, folder, pid)

    @contextmanager
    def service(self, model: Path, **settings: Any) -> Iterator[Service]:
        """A service on a model folder with a store of its own. At its end nothing was said and no alarm was given."""
        child = self.fork("service", model=str(model), settings={"port": 0, **settings})
        service = Service(child)
        try:
            until(lambda: service.said("address") != "" or not child.alive, _READY_SECONDS, "the service is ready")
            assert child.alive, service.said("err")
            yield service
            assert child.alive, f"the service is gone: {service.said('err')}"
        finally:
            code = child.end()
        said = (service.said("err"), service.said("out"), service.alarms())
        assert said == ("", "", []), said
        assert code == 128 + signal.SIGTERM


@dataclass
class Child:
    """A process forked from the parent."""

    warm: Warm
    folder: Path
    pid: int

    @property
    def alive(self) -> bool:
        return self.warm.ask(look=self.pid) is None

    def wait(self, seconds: float) -> int:
        """Its exit code; killed when it does not end in time."""
        started = time.monotonic()
        while (code := self.warm.ask(look=self.pid)) is None:
            if time.monotonic() - started > seconds:
                os.kill(self.pid, signal.SIGKILL)
                raise AssertionError(f"still running after {seconds} s")
            time.sleep(0.005)
        return int(code)

    def end(self) -> int:
        """Its exit code after SIGTERM."""
        if self.alive:
            os.kill(self.pid, signal.SIGTERM)
        return self.wait(20)


class Service:
    """A running service: where it is, and what its process takes."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.folder = child.folder
        self.process = psutil.Process(child.pid)

    def said(self, what: str) -> str:
        """What stands in a file of its folder; empty while there is none."""
        path = self.folder / what
        return path.read_text("utf-8", errors="replace") if path.exists() else ""

    @property
    def port(self) -> int:
        return int(self.said("address"))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def alarms(self) -> list[str]:
        return [line for line in self.said("events").splitlines() if '"alarm"' in line]

    def rss_mb(self) -> float:
        return float(self.process.memory_info().rss / 2**20)

    def handles(self) -> tuple[int, int]:
        """Open file descriptors, and threads."""
        return self.process.num_fds(), self.process.num_threads()

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 30
    ) -> Reply:
        """One request on a connection of its own, with the key."""
        return ask(self.port, method, path, body, {"Authorization": f"Bearer {KEY}", **(headers or {})}, timeout)

    def metric(self, name: str) -> float:
        lines = self.ask("GET", "/metrics").body.decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def idle(self, seconds: float = 10) -> float:
        """Wait until no answer is under way; the seconds that took."""
        return until(lambda: self.metric("tunesmith_in_flight") == 0, seconds, "no answer is under way")


@dataclass
class Reply:
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of the error that it carries."""
        return str(self.json["error"]["code"])


def ask(port: int, method: str, path: str, body: Any, headers: dict[str, str], timeout: float = 30) -> Reply:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        data = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
        connection.request(method, path, data, headers)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, found, response.read())
    finally:
        connection.close()


@dataclass
class Neighbour:
    """An ordinary client in a process of its own: it asks again and again and notes how long each answer took."""

    child: Child

    def seconds(self, since: float) -> list[float]:
        """Of the answers whose requests began after a moment of `time.monotonic`."""
        path = self.child.folder / "times"
        lines = path.read_text("ascii").splitlines() if path.exists() else []
        pairs = [line.split() for line in lines if line.endswith(".")]
        return [float(took) for begun, took, _ in pairs if float(begun) >= since]

    def median(self, since: float) -> float:
        """Waits until there are a few."""
        until(lambda: len(self.seconds(since)) >= 5 or not self.child.alive, 30, "the neighbour is answered")
        assert self.child.alive, (self.child.folder / "err").read_text("utf-8")
        return statistics.median(self.seconds(since))


@contextmanager
def neighbour(warm: Warm, service: Service, tokens: int) -> Iterator[Neighbour]:
    """A neighbour for as long as the block lasts; all its requests were answered."""
    child = warm.fork("neighbour", port=service.port, tokens=tokens)
    try:
        yield Neighbour(child)
        assert child.alive, (child.folder / "err").read_text("utf-8")
    finally:
        child.end()


@dataclass
class Peak:
    """The most memory that was seen, sampled."""

    service: Service
    mb: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Peak:
        self.mb = self.service.rss_mb()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *ignored: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.mb = max(self.mb, self.service.rss_mb())


# -------------------------------------------------------------------------------------- the parent's end


def _parent() -> None:
    from tunesmith.core.process import prepare

    prepare()
    import tunesmith.cli.main
    import tunesmith.serve.server  # noqa: F401

    ended: dict[int, int] = {}
    for line in sys.stdin:
        question = json.loads(line)
        if "fork" in question:
            pid = os.fork()
            if pid == 0:
                _child(question["fork"], Path(question["folder"]), question["facts"])
            answer: int | None = pid
        else:
            pid = question["look"]
            if pid not in ended:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    ended[pid] = os.waitstatus_to_exitcode(status)
            answer = ended.get(pid)
        print(json.dumps(answer), flush=True)
    os._exit(0)  # taking all libraries down in order takes seconds


def _child(kind: str, folder: Path, facts: dict[str, Any]) -> None:
    """Never returns."""
    for number, name in ((0, os.devnull), (1, "out"), (2, "err")):
        flags = os.O_RDONLY if number == 0 else os.O_CREAT | os.O_WRONLY | os.O_APPEND
        os.dup2(os.open(name if number == 0 else folder / name, flags, 0o600), number)
    code = 1
    try:
        kinds = {"service": _service, "neighbour": _neighbour, "command": _command, "model": _model}
        code = kinds[kind](folder, **facts)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _service(folder: Path, model: str, settings: dict[str, Any]) -> int:
    import torch

    from tunesmith.core.events import Event, Events
    from tunesmith.recipe.specs.serve import ServeSpec
    from tunesmith.serve.server import open_service
    from tunesmith.store.database import sqlite_url

    watch_files_and_processes(folder / "touched")
    events = (folder / "events").open("a", encoding="utf-8")

    def note(event: Event) -> None:
        events.write(json.dumps({"kind": event.kind, **event.values}) + "\n")
        events.flush()

    store = sqlite_url(folder / "store.db")
    spec = ServeSpec(**settings)
    server = open_service(Path(model), spec, store, Events(None, (note,)), KEY, name=MODEL, dtype=torch.float32)
    address = folder / "address.new"
    address.write_text(server.url.rsplit(":", 1)[1].split("/")[0])
    address.rename(folder / "address")
    return server.run_forever()


def _model(folder: Path) -> int:
    from tunesmith.models.tiny import tiny_chat_model

    tiny_chat_model(folder / MODEL, spread=0.3)
    return 0


def watch_files_and_processes(log: Path) -> None:
    """Note every name that this process opens, lists, links, removes or connects to, and every process it starts."""
    out = log.open("a", encoding="utf-8", errors="backslashreplace")
    starting = ("subprocess.", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "pty.")
    touching = ("open", "os.", "shutil.", "glob.", "socket.connect", "urllib.", "sqlite3.connect")

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith((*starting, *touching)):
            out.write(f"{event} {' '.join(map(repr, arguments[:2]))}\n")
            out.flush()

    sys.addaudithook(hook)


def _neighbour(folder: Path, port: int, tokens: int) -> int:
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    body = json.dumps(chat_body(max_tokens=tokens))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with (folder / "times").open("a", encoding="ascii") as times:
        while True:
            begun = time.monotonic()
            connection.request("POST", "/v1/chat/completions", body, headers)
            response = connection.getresponse()
            response.read()
            assert response.status == 200, response.status
            times.write(f"{begun} {time.monotonic() - begun} .\n")
            times.flush()
            time.sleep(0.01)


def _command(folder: Path, arguments: list[str], environment: dict[str, str]) -> int:
    from tunesmith.cli.main import main

    os.environ.update(environment)
    sys.argv = ["tunesmith", *arguments]
    sys.stdout = os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = os.fdopen(2, "w", encoding="utf-8")
    started = time.monotonic()
    try:
        main()
    finally:
        (folder / "seconds").write_text(str(time.monotonic() - started))
    return 0


if __name__ == "__main__":
    _parent()
