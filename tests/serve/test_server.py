"""Keys, ports, changed bytes, and a server in a process of its own that is told to stop."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import SILENT, Event, Events
from tunesmith.recipe.specs.serve import ServeSpec
from tunesmith.serve.access import find_key, host_allowed
from tunesmith.serve.measures import Measures
from tunesmith.serve.server import _rules, open_service
from tunesmith.serve.tool_calls import find_tool_calls
from tunesmith.store.database import sqlite_url


def test_the_key_is_made_once_and_private(tmp_path: Path) -> None:
    first = find_key(tmp_path / "home", "127.0.0.1", None)
    again = find_key(tmp_path / "home", "localhost", None)
    assert first.path is not None and first.made_now and not again.made_now
    assert first.text == again.text and len(first.text) > 30
    assert first.path.stat().st_mode & 0o777 == 0o600
    assert first.text not in repr(first)
    assert first.matches(f"Bearer {first.text}") and first.matches(f"bearer {first.text}")
    for wrong in (None, "", "Bearer", "Bearer ", f"Basic {first.text}", f"Bearer {first.text}x", first.text):
        assert not first.matches(wrong)
    first.path.chmod(0o644)
    with pytest.raises(TunesmithError, match=r"serve\.key_exposed"):
        find_key(tmp_path / "home", "127.0.0.1", None)


@pytest.mark.parametrize(
    ("host", "key", "code"),
    [
        ("0.0.0.0", None, "serve.key_needed"),
        ("::", None, "serve.key_needed"),
        ("0.0.0.0", "short", "serve.key_weak"),
        ("127.0.0.1", "with spaces in it ......", "serve.key_weak"),
        ("no.such.host.invalid", None, "serve.cannot_listen"),
    ],
)
def test_addresses_and_keys_that_are_refused(tmp_path: Path, host: str, key: str | None, code: str) -> None:
    with pytest.raises(TunesmithError, match=code.replace(".", r"\.")):
        find_key(tmp_path, host, key)


@pytest.mark.parametrize(("files", "connections"), [(64, 1), (150, 25), (1024, 462), (resource.RLIM_INFINITY, 1000)])
def test_connections_leave_files_for_the_server(files: int, connections: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert _rules(ServeSpec(), Measures()).connections == connections


def test_local_names_only() -> None:
    for good in ("127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000"):
        assert host_allowed(good, "127.0.0.1", loopback=True)
    for bad in (None, "", "evil.example", "127.0.0.1.evil.example", "[::2]"):
        assert not host_allowed(bad, "127.0.0.1", loopback=True)
    assert host_allowed("my.server", "0.0.0.0", loopback=False)


def test_a_taken_port_is_found_before_the_model_is_read(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        spec = ServeSpec(port=other.getsockname()[1])
        started = time.monotonic()
        with pytest.raises(TunesmithError, match=r"serve\.port_taken"):
            open_service(tmp_path / "no model", spec, sqlite_url(tmp_path / "s.db"), SILENT)
        assert time.monotonic() - started < 3


def test_changed_bytes_are_refused_and_the_port_is_free_again(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(model_folder, folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with socket.socket() as finder:
        finder.bind(("127.0.0.1", 0))
        port = finder.getsockname()[1]
    for _ in range(2):
        with pytest.raises(TunesmithError, match=r"core\.hash_differs"):
            open_service(folder, ServeSpec(port=port), sqlite_url(tmp_path / "s.db"), SILENT)
    with pytest.raises(TunesmithError, match=r"core\.missing_file"):
        open_service(tmp_path / "none", ServeSpec(port=port), sqlite_url(tmp_path / "s.db"), SILENT)


def test_a_folder_without_a_manifest_is_served_but_said(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "from elsewhere"
    shutil.copytree(model_folder, folder, ignore=shutil.ignore_patterns("manifest.json"))
    seen: list[Event] = []
    events = Events(listeners=(seen.append,))
    server = open_service(folder, ServeSpec(port=0), sqlite_url(tmp_path / "s.db"), events)
    server.start()
    try:
        headers = {"Authorization": f"Bearer {server.key.text}"}
        models = httpx.get(f"{server.url}/models", headers=headers).json()["data"]
        assert [model["id"] for model in models] == ["from elsewhere"]
    finally:
        server.stop()
        server.stop()
    assert [event.values.get("code") for event in seen if event.kind == "note"] == ["serve.unproven"]
    assert not any(server.key.text in str(event.values) for event in seen)
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)


CHILD = """
import sys
from pathlib import Path
from tunesmith.core.events import SILENT
from tunesmith.core.process import prepare
prepare()
from tunesmith.recipe.specs.serve import ServeSpec
from tunesmith.serve.server import open_service
server = open_service(Path(sys.argv[1]), ServeSpec(port=0), sys.argv[2], SILENT, sys.argv[3])
print(server.url, flush=True)
sys.exit(server.run_forever())
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_server_cleanly(model_folder: Path, tmp_path: Path, number: int, code: int) -> None:
    key = "a-key-for-the-child-process"
    argv = [sys.executable, "-c", CHILD, str(model_folder), sqlite_url(tmp_path / "s.db"), key]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        assert child.stdout is not None
        url = child.stdout.readline().strip()
        headers = {"Authorization": f"Bearer {key}"}
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
        assert httpx.post(f"{url}/chat/completions", json=body, headers=headers, timeout=30).status_code == 200
        child.send_signal(number)
        _, errors = child.communicate(timeout=20)
        assert (child.returncode, errors) == (code, "")
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize(
    ("text", "said", "called"),
    [
        ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', "", ['{"a": 1}']),
        ('Sure.\n<tool_call>{"name": "f", "arguments": "{}"}</tool_call>', "Sure.", ["{}"]),
        ('<tool_call>{"name":"f","arguments":{}}</tool_call><tool_call>{"name":"f"}</tool_call>', "", ["{}", "{}"]),
        ('<tool_call>{"name": "f", "arguments": {}}', "", ["{}"]),
        ('{"name": "f", "parameters": {"q": "你"}}', "", ['{"q": "你"}']),
        ('{"name": "unknown", "arguments": {}}', '{"name": "unknown", "arguments": {}}', []),
        ("<tool_call>broken</tool_call>", "<tool_call>broken</tool_call>", []),
        ("[" * 5000, "[" * 5000, []),
        ('{"name": {"a": 1}}', '{"name": {"a": 1}}', []),
        ('{"name": ["f"]}', '{"name": ["f"]}', []),
        ('{"name": "f", "arguments": "\\ud800"}', '{"name": "f", "arguments": "\\ud800"}', []),
        ("plain", "plain", []),
    ],
)
def test_tool_calls_in_text(text: str, said: str, called: list[str]) -> None:
    found, calls = find_tool_calls(text, {"f"})
    assert (found, [call.arguments for call in calls]) == (said, called)


def test_answers_on_a_kept_connection_come_at_once(http: httpx.Client) -> None:
    """A server whose socket does not send small pieces at once waits 40 ms for each acknowledgement."""
    seconds = []
    for _ in range(20):
        started = time.monotonic()
        assert http.get("/health").status_code == 200
        seconds.append(time.monotonic() - started)
    assert sorted(seconds)[5] < 0.03
