"""G7: a service that cannot start ends within three seconds, with the reason and the next step in both languages."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from faults_service import Warm
from faults_tally import Tally

from tunesmith.core.files import write_manifest
from tunesmith.messages import explain

pytestmark = [pytest.mark.case("G7"), pytest.mark.timeout(600)]
_SECONDS = 3.0
_KEY = "a-stated-key-0123456789"
_NEXT = {"en": "Next:", "zh": "下一步"}


@dataclass(frozen=True)
class Case:
    """How it is started, and the code of the error that must come."""

    code: str
    arguments: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


class Ground:
    """Model folders, runs and homes of a test, each broken in one way."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.model = model
        self._number = 0

    def home(self, spoil: Callable[[Path], object] = Path.mkdir) -> dict[str, str]:
        """A folder for keys, spoilt."""
        path = self._fresh("home")
        spoil(path)
        return {"TUNESMITH_HOME": str(path)}

    def copy(self, spoil: Callable[[Path], object]) -> str:
        """A copy of the model, spoilt."""
        path = self._fresh("model")
        shutil.copytree(self.model, path)
        spoil(path)
        return str(path)

    def run(self, lock: str) -> str:
        """A run with a published model, and what stands in its lock."""
        path = self._fresh("run")
        shutil.copytree(self.model, path / "ship" / "safetensors")
        write_manifest(path, {"files": {}})
        (path / "recipe.lock.yaml").write_text(lock)
        return str(path)

    def _fresh(self, name: str) -> Path:
        self._number += 1
        return self.folder / f"{name}-{self._number}"


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


def _key(text: str, mode: int) -> Callable[[Path], object]:
    def spoil(home: Path) -> None:
        home.mkdir()
        (home / "serve.key").write_text(text)
        (home / "serve.key").chmod(mode)

    return spoil


def _flip(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _without_template(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings.pop("chat_template", None)
    path.write_text(json.dumps(settings))


def _unproven(name: str, text: str) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        (folder / "manifest.json").unlink()
        (folder / name).write_text(text)

    return spoil


def cases(ground: Ground, taken_port: int) -> list[Case]:
    """Ports, keys, models, recipes and stores that are wrong."""
    model = str(ground.model)
    here = ("--port", "0")
    lock = "name: x\nmodel: {base: tiny}\ndata: {sources: [{path: a.jsonl}]}\nstages: [{name: a}]\n"
    no_store = ground.folder / "no-store"
    no_store.write_text("this is no database, whatever its name says" * 100)
    return [
        Case("serve.port_taken", (model, "--port", str(taken_port))),
        Case("serve.port_taken", (model, "--port", str(taken_port)), {"TUNESMITH_KEY": _KEY}),
        Case("serve.cannot_listen", (model, *here, "--host", "192.0.2.1", "--key", _KEY)),
        Case("serve.cannot_listen", (model, *here, "--host", "no.such.host.invalid")),
        Case("serve.cannot_listen", (model, *here, "--host", "a" * 300)),
        Case("serve.key_needed", (model, *here, "--host", "0.0.0.0")),
        Case("serve.key_needed", (model, *here, "--host", "::"), {"TUNESMITH_KEY": ""}),
        Case("serve.key_weak", (model, *here, "--host", "0.0.0.0", "--key", "short")),
        Case("serve.key_weak", (model, *here), {"TUNESMITH_KEY": "with spaces in the middle"}),
        Case("serve.key_exposed", (model, *here), ground.home(_key("k" * 40, 0o644))),
        Case("serve.key_broken", (model, *here), ground.home(_key("", 0o600))),
        Case("core.not_a_run", (str(ground.folder / "nothing"), *here)),
        Case("core.not_a_run", (str(no_store), *here)),
        Case("core.hash_differs", (ground.copy(_flip), *here), ground.home()),
        Case("core.missing_file", (ground.copy(_without_weights), *here), ground.home()),
        Case("models.", (ground.copy(_unproven("config.json", "{")), *here), ground.home()),
        Case("models.", (ground.copy(_unproven("model.safetensors", "")), *here), ground.home()),
        Case("tasks.no_template", (ground.copy(_without_template), *here), ground.home()),
        Case("recipe.", (ground.run("name: [\n"), *here)),
        Case("recipe.", (ground.run(lock + "serve: {port: 99999}\n"), *here)),
        Case("recipe.", (ground.run(lock + "serve: {prot: 8000}\n"), *here)),
        Case("cli.bad_value", (model, "--port", "99999")),
        Case("cli.bad_value", (model, "--port", "http")),
        Case("cli.missing_argument", ()),
        Case("store.bad_url", (model, *here), {"TUNESMITH_STORE": "not a url"} | ground.home()),
        Case("store.bad_url", (model, *here), {"TUNESMITH_STORE": "mysql://x/y"} | ground.home()),
        Case("store.cannot_open", (model, *here), {"TUNESMITH_STORE": f"sqlite:///{no_store}"} | ground.home()),
        Case("store.cannot_open", (model, *here), {"TUNESMITH_STORE": f"sqlite:///{no_store}/a.db"} | ground.home()),
    ]


def test_what_cannot_start_says_so_in_three_seconds(
    warm: Warm, tiny_model: Path, tmp_path: Path, taken_port: int, tally: Tally
) -> None:
    wrong = []
    every = cases(Ground(tmp_path, tiny_model), taken_port)
    for place, case in enumerate(every if tally.full else tally.random.sample(every, 6)):
        for language in ("en", "zh") if tally.full else (("en", "zh")[place % 2],):
            fault = _start(warm, case, language)
            if fault:
                wrong.append(f"{case.code} in {language}, {case.arguments}: {fault}")
            tally.count("refused starts")
    assert not wrong, "\n".join(wrong)


def _start(warm: Warm, case: Case, language: str) -> str:
    """What is wrong with how it ended; empty when all is well."""
    arguments = ["serve", *case.arguments, "--lang", language]
    child = warm.fork("command", arguments=arguments, environment=case.environment)
    code = child.wait(20)
    seconds = float((child.folder / "seconds").read_text())
    told = (child.folder / "err").read_text("utf-8")
    stated = told.splitlines()[0].strip() if told else ""
    if code != 2 or seconds > _SECONDS:
        return f"code {code} after {seconds:.1f} s: {told[:500]}"
    if (
        not stated.startswith(case.code)
        or "Traceback" in told
        or _NEXT[language] not in told
        or len(told.splitlines()) != 3
    ):
        return told[:500]
    words = explain(stated, language)
    constant = [words.cause.split("{")[0], words.next_step.split("{")[0]]
    return "" if all(each in told for each in constant) else f"not its words: {told[:500]}"
