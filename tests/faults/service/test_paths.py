"""G8: path tricks in every string field of every route touch no file and start no process."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from faults_openapi import Description, Operation, Place
from faults_service import KEY, MODEL, Service, Warm, ask
from faults_tally import Tally

pytestmark = [pytest.mark.case("G8"), pytest.mark.timeout(1200)]
SECRET = "the canary sings at dawn"
_STARTS = ("subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system", "pty.", "socket.connect")


@dataclass(frozen=True)
class Cage:
    """A service, and a file beside its model and its store that nobody has a reason to touch."""

    service: Service
    canary: Path
    model: Path


@pytest.fixture(scope="module")
def cage(warm: Warm, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cage]:
    folder = tmp_path_factory.mktemp("cage")
    model = folder / "model"
    shutil.copytree(tiny_model, model)
    canary = folder / "model-canary" / "canary.txt"  # a name that begins like the model's
    canary.parent.mkdir()
    canary.write_text(SECRET)
    os.utime(canary, (10**9, 10**9))  # so old that reading it would change the time of the last reading
    with warm.service(model, max_new_tokens=64, max_body_mb=1) as service:
        (model / "link").symlink_to(canary)
        (service.folder / "link").symlink_to(canary.parent, target_is_directory=True)
        yield Cage(service, canary, model)


def tricks(cage: Cage) -> list[str]:
    """Sixty names of the canary, and commands that would touch it."""
    whole = str(cage.canary)
    up = "../" * 12 + whole.lstrip("/")
    beside = "../model-canary/canary.txt"
    shell = f"touch {whole}"
    return [
        whole,
        f"/{whole}",
        f"//{whole}",
        f"/.{whole}",
        f"file://{whole}",
        f"file:{whole}",
        f"FILE://localhost{whole}",
        up,
        f"./{up}",
        f"/{up}",
        f"x/{up}",
        f"{MODEL}/{up}",
        beside,
        f"{MODEL}/{beside}",
        f"./{beside}",
        "model-canary/canary.txt",
        up.replace("../", "..\\"),
        up.replace("/", "\\"),
        beside.replace("/", "\\"),
        f"C:{whole}",
        f"\\\\?\\{whole}",
        f"\\\\localhost{whole}",
        quote(whole, safe=""),
        quote(up, safe=""),
        quote(quote(up, safe=""), safe=""),
        up.replace("../", "..%2f"),
        up.replace("../", "%2e%2e/"),
        up.replace("../", "..%5c"),
        up.replace("../", "..%c0%af"),
        up.replace("../", "....//"),
        up.replace("../", "..;/"),
        up.replace("../", "．．/"),
        f"{whole}\0",
        f"{whole}\0.json",
        f"{MODEL}\0{whole}",
        f"{whole}%00",
        f"{whole}\n",
        f"{MODEL}\n{whole}",
        f"{whole} ",
        f" {whole}",
        f"{whole}.",
        str(cage.model / "link"),
        "link",
        "./link",
        f"{MODEL}/link",
        str(cage.service.folder / "link" / "canary.txt"),
        "link/canary.txt",
        f"{cage.model}-canary/canary.txt",
        f"{cage.model}/../model-canary/canary.txt",
        f"~{whole}",
        f"$PWD{whole}",
        f"${{HOME}}/{up}",
        f"; {shell}",
        f"| {shell}",
        f"`{shell}`",
        f"$({shell})",
        f"&& {shell} &&",
        f"'; {shell}; '",
        f'"; {shell} #',
        f"{{% include '{whole}' %}}",
        f"{{{{ lipsum.__globals__.os.popen('{shell}').read() }}}}",
        f"{{{{ cycler.__init__.__globals__.os.system('{shell}') }}}}",
        f"sqlite:///{whole}",
        f"'; ATTACH DATABASE '{whole}' AS x; --",
        f"<!ENTITY x SYSTEM 'file://{whole}'>",
        f"@{whole}",
        f"-o{whole}",
        f"--config={whole}",
    ]


def fields(description: Description) -> list[tuple[Operation, str, Place]]:
    """Every place of every route where a string may stand: in the path, the query, a header or the body."""
    found: list[tuple[Operation, str, Place]] = []
    for operation in description.operations:
        found.append((operation, "query", ("x",)))
        found += [(operation, "path", (name,)) for name in operation.placeholders]
        found += [
            (operation, "header", (name,))
            for name in (*operation.headers, "Authorization", "X-Forwarded-For", "Cookie", "Accept")
        ]
        if operation.body is not None:
            found += [(operation, "body", place) for place in description.places(operation.body, "string")]
    return found


def send(cage: Cage, description: Description, operation: Operation, kind: str, place: Place, text: str) -> bytes:
    """A request that carries the text there; all that came back."""
    path, body = operation.path, None
    headers = {"Authorization": f"Bearer {KEY}"}
    if kind == "header":
        if any(ord(each) < 32 for each in text):
            return b""  # no client can send it; test_bodies.py does
        headers[str(place[0])] = text.encode().decode("latin-1")
    for name in operation.placeholders:
        path = path.replace(f"{{{name}}}", quote(text, safe="/") if kind == "path" else MODEL)
    if kind == "query":
        path += f"?x={quote(text)}"
    if operation.body is not None:
        carried = kind == "body"
        body = json.dumps(
            description.body_with(operation.body, place, text) if carried else description.smallest(operation.body)
        )
    reply = ask(cage.service.port, operation.method, path, body, headers)
    assert reply.status < 500, (operation, kind, place, text, reply)
    return reply.body + repr(reply.headers).encode()


def test_the_watch_sees_what_a_service_opens(cage: Cage) -> None:
    assert "store.db" in cage.service.said("touched")
    assert f"open '{cage.model / 'config.json'}'" in cage.service.said("touched")


def test_path_tricks_touch_nothing(cage: Cage, tally: Tally) -> None:
    description = Description(cage.service.ask("GET", "/openapi.json").json)
    names = tricks(cage)
    assert len(names) >= 60
    places = fields(description)
    assert len({kind for _, kind, _ in places}) == 4 and len(places) > 60
    before = len(cage.service.said("touched"))
    for operation, kind, place in places:
        chosen = names if tally.full else tally.random.sample(names, 3)
        for text in chosen:
            assert SECRET.encode() not in send(cage, description, operation, kind, place, text)
            tally.count("path tricks")
    touched = [
        line for line in cage.service.said("touched")[before:].splitlines() if "link" in line or "canary" in line
    ]
    assert not touched
    started = [line for line in cage.service.said("touched").splitlines() if line.startswith(_STARTS)]
    assert not started and not cage.service.process.children()
    times = cage.canary.stat()
    assert (times.st_atime, times.st_mtime) == (10**9, 10**9)
    assert cage.canary.read_text() == SECRET
