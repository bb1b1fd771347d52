"""Opening a service on a model folder, and its life: start, stop, run until a signal."""

from __future__ import annotations

import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

import torch
import uvicorn

from tunesmith.adapt.files import CHANGE_FILES, stands_beside_a_base
from tunesmith.adapt.published import load_published
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Emitter
from tunesmith.core.files import MANIFEST, verify_folder
from tunesmith.models.catalog import cache_folder
from tunesmith.models.clean_room import tell_unopened, tell_unused
from tunesmith.models.load import Loaded, load_model
from tunesmith.recipe.specs.serve import ServeSpec
from tunesmith.serve.access import AccessKey, find_key, is_loopback, take_port
from tunesmith.serve.answers import Teller
from tunesmith.serve.app import Service, build_app
from tunesmith.serve.bodies import BodyReader
from tunesmith.serve.connection import ConnectionRules, ruled_by
from tunesmith.serve.engine import Engine
from tunesmith.serve.guard import Access
from tunesmith.serve.measures import Measures
from tunesmith.serve.questions import QuestionReader
from tunesmith.store.database import open_database
from tunesmith.store.feedback import FeedbackStore

_START_SECONDS = 30
_GRACE_SECONDS = 5
_IDLE_SECONDS = 30  # longer than clients keep an unused connection, or one would use it as it closes
_MOST_CONNECTIONS = 1000
_OTHER_FILES = 100
_SWITCH_SECONDS = 0.0005
"""After which a thread that computes in Python gives way to one that waits; Python's own is ten times as long. Whoever
parses a large body would hold up every token of everybody else's answers by that."""


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers: signals are the command line's affair."""

    def install_signal_handlers(self) -> None:
        """Leave the signals alone."""


class Server:
    """A model that answers. Made by `open_service`.

    Attributes:
        url: where it answers, such as http://127.0.0.1:8000/v1.
        name: the model's name in requests.
        key: what clients send as `Authorization: Bearer`.
    """

    def __init__(self, service: Service, rules: ConnectionRules, taken: socket.socket) -> None:
        self._service = service
        self._socket = taken
        self.name = service.name
        self.key: AccessKey = service.access.key
        address, port = taken.getsockname()[:2]
        self.url = f"http://[{address}]:{port}/v1" if ":" in address else f"http://{address}:{port}/v1"
        config = uvicorn.Config(
            build_app(service),
            log_config=None,
            log_level="critical",  # what uvicorn would warn of is answered, counted, or an alarm of the guard
            access_log=False,
            lifespan="off",
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
            http=ruled_by(rules),
            ws="none",
        )
        self._uvicorn = _Uvicorn(config)
        self._thread = threading.Thread(target=self._serve, name="tunesmith-http", daemon=True)

    def start(self) -> None:
        """Begin to answer; returns when requests are taken. Errors: serve.not_started."""
        sys.setswitchinterval(_SWITCH_SECONDS)
        self._service.engine.start()
        self._thread.start()
        deadline = time.monotonic() + _START_SECONDS
        while not self._uvicorn.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self.stop()
                raise TunesmithError("serve.not_started", url=self.url)
            time.sleep(0.01)
        self._service.emitter.emit("stage", name="serve", url=self.url, model=self.name)

    def stop(self) -> None:
        """Let answers under way end within five seconds, then close. Safe to call twice."""
        self._uvicorn.should_exit = True
        self._service.engine.stop(_GRACE_SECONDS)
        if self._thread.ident is not None:
            self._thread.join(2 * _GRACE_SECONDS)
        self._socket.close()

    def run_forever(self) -> int:
        """Answer until SIGINT or SIGTERM; returns the exit code, 130 or 143. For the main thread."""
        received: list[int] = []
        arrived = threading.Event()

        def note(number: int, frame: FrameType | None) -> None:
            received.append(number)
            arrived.set()

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self.start()
            while not arrived.wait(0.5):
                if not self._thread.is_alive():
                    raise TunesmithError("serve.not_started", url=self.url)
        finally:
            self.stop()
            for number, handler in before.items():
                signal.signal(number, handler)
        return 128 + received[0]

    def _serve(self) -> None:
        self._uvicorn.run(sockets=[self._socket])


def open_service(
    folder: Path,
    spec: ServeSpec,
    store_url: str,
    emitter: Emitter,
    key: str | None = None,
    *,
    name: str | None = None,
    dtype: torch.dtype | None = None,
    base: str | None = None,
) -> Server:
    """Check access, take the port, verify and load the model; the server answers after `start`.

    Args:
        folder: a published safetensors artefact, a published adapter, or a base model.
        spec: address and limits.
        store_url: database for feedback.
        emitter: takes events; the key is never among them.
        key: a stated key; without one a random key is kept in the cache folder with mode 0600.
        name: the model's name in requests; without it the artefact's.
        dtype: of the weights in memory; bfloat16 without it.
        base: where the base of an adapter is found; none leaves it to the adapter's manifest.

    Errors: serve.key_needed, serve.key_weak, serve.key_exposed, serve.port_taken, serve.cannot_listen,
        core.hash_differs and others of `verify_folder`, those of `load_model` and `load_published`, tasks.no_template,
        store.*.
    """
    access_key = find_key(cache_folder(), spec.host, key)
    taken = take_port(spec.host, spec.port)
    try:
        facts = _verify(folder, emitter)
        loaded = _load(folder, base, dtype or torch.bfloat16)
        feedback = FeedbackStore(open_database(store_url))
        service = _service(loaded, spec, feedback, emitter, access_key, name or _name_of(folder, facts))
    except BaseException:
        taken.close()
        raise
    return Server(service, _rules(spec, service.measures), taken)


def _load(folder: Path, base: str | None, dtype: torch.dtype) -> Loaded:
    if stands_beside_a_base(folder):
        return load_published(folder, base=base, dtype=dtype, device=_device())[0]
    return load_model(folder, dtype=dtype, device=_device())


def _rules(spec: ServeSpec, measures: Measures) -> ConnectionRules:
    """Half as many connections as this process may have files open besides its own: refused ones linger."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = 2**31 if files == resource.RLIM_INFINITY else files
    room = min(_MOST_CONNECTIONS, (files - _OTHER_FILES) // 2)
    return ConnectionRules(
        seconds=spec.request_seconds,
        connections=max(room, 1),
        refused=lambda status: measures.requests.labels("other", str(status)).inc(),
    )


def _service(
    loaded: Loaded, spec: ServeSpec, feedback: FeedbackStore, emitter: Emitter, key: AccessKey, name: str
) -> Service:
    measures = Measures()
    engine = Engine(loaded, max_batch=spec.max_batch, max_queue=spec.max_queue, measures=measures, emitter=emitter)
    return Service(
        name=name,
        created=int(time.time()),
        reader=QuestionReader(loaded, name, context=engine.context, max_new_tokens=spec.max_new_tokens),
        teller=Teller(loaded.tokenizer, emitter),
        engine=engine,
        feedback=feedback,
        measures=measures,
        access=Access(key, spec.host, loopback=is_loopback(spec.host)),
        bodies=BodyReader(spec.max_body_mb * 2**20),
        emitter=emitter,
    )


def _verify(folder: Path, emitter: Emitter) -> Mapping[str, object]:
    """Refuse changed bytes. A folder from elsewhere has no manifest to hold it to, and that is said."""
    if not folder.is_dir():
        raise TunesmithError("core.missing_file", path=str(folder))
    if not (folder / MANIFEST).is_file():
        emitter.emit("note", code="serve.unproven", path=str(folder))
        if stands_beside_a_base(folder):
            tell_unopened(folder, CHANGE_FILES, emitter)
        else:
            tell_unused(folder, emitter)
        return {}
    return verify_folder(folder)


def _name_of(folder: Path, facts: Mapping[str, object]) -> str:
    """The manifest's `model` or `name`; of an artefact in a run, the run's name; else the folder's."""
    for fact in ("model", "name"):
        stated = facts.get(fact)
        if isinstance(stated, str) and stated:
            return stated
    resolved = folder.resolve()
    if resolved.parent.name == "ship" and len(resolved.parents) > 3:
        return resolved.parents[2].name
    return resolved.name


def _device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
