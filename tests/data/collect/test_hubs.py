"""Data sets of the hubs, by the hubs' own libraries, from a small server on the loopback that speaks as they do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import hub_fetcher
import pytest
from hub_server import COMMIT, TOKEN, hub

from tunesmith.core.errors import TunesmithError
from tunesmith.messages import LANGUAGES, render

Fetch = Callable[..., dict[str, object]]
HF, MODELSCOPE = "hf://datasets/acme/", "modelscope://acme/"
needs_modelscope = pytest.mark.skipif(find_spec("modelscope") is None, reason="tunesmith[modelscope] is not installed")
BOTH = [HF, pytest.param(MODELSCOPE, marks=needs_modelscope)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hubs")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with hub() as address:
        yield address


@pytest.fixture(scope="module")
def fetch(home: Path, endpoint: str) -> Iterator[Fetch]:
    """Fetches in another process, which knows the hub from its environment."""
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environment |= {"MODELSCOPE_ENDPOINT": endpoint, "MODELSCOPE_DOMAIN": endpoint.partition("//")[2]}
    environment |= {"TUNESMITH_HOME": str(home / "home"), "HF_HOME": str(home / "hf"), "NO_PROXY": "127.0.0.1"}
    environment |= {"MODELSCOPE_HOME": str(home / "ms"), "MODELSCOPE_CACHE": str(home / "ms")}
    environment |= {"MODELSCOPE_DOWNLOAD_MAX_RETRIES": "2"}
    with (
        (home / "said.txt").open("a") as said,
        subprocess.Popen(
            [sys.executable, hub_fetcher.__file__],
            cwd=home,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
        ) as process,
    ):

        def ask(path: str, *, offline: bool = False, token: str = "", at: str = endpoint) -> dict[str, object]:
            assert process.stdin is not None and process.stdout is not None
            asked = {"path": path, "offline": offline, "token": token, "endpoint": at}
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            found = json.loads(process.stdout.readline() or "null")
            assert isinstance(found, dict), (home / "said.txt").read_text("utf-8")[-2000:]
            return found

        yield ask


def kept(home: Path) -> set[str]:
    folder = home / "home" / "collected"
    return {each.name for each in folder.iterdir()} if folder.exists() else set()


@pytest.mark.parametrize("revision", ["", "@main", "@v1", f"@{COMMIT}"])
def test_a_data_set_is_pinned_to_its_commit(fetch: Fetch, revision: str) -> None:
    found = fetch(f"{HF}faq{revision}")
    assert found["names"] == ["README.md", "beside.jsonl", "extra/more.jsonl", "manifest.json", "train.jsonl"]
    lineage = found["lineage"]
    assert isinstance(lineage, dict) and lineage["revision"] == COMMIT and lineage["licence"] == "cc-by-4.0"
    assert (found["rows"], found["licence"]) == (42, "cc-by-4.0")


@needs_modelscope
@pytest.mark.parametrize(("revision", "stated"), [("", "master"), ("@v1", "v1")])
def test_a_data_set_of_modelscope(fetch: Fetch, revision: str, stated: str) -> None:
    found = fetch(f"{MODELSCOPE}faq{revision}")
    assert found["names"] == ["README.md", "beside.jsonl", "extra/more.jsonl", "manifest.json", "train.jsonl"]
    lineage = found["lineage"]
    assert isinstance(lineage, dict) and lineage["revision"] == stated and found["rows"] == 42


@pytest.mark.parametrize("hub_address", BOTH)
def test_one_file_or_folder_of_it(fetch: Fetch, hub_address: str) -> None:
    for path in ("extra/more.jsonl", "extra"):
        found = fetch(f"{hub_address}faq@v1/{path}")
        assert found["names"] == ["extra/more.jsonl", "manifest.json"] and found["rows"] == 1


@pytest.mark.parametrize("hub_address", BOTH)
@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("nothing", "data.hub_no_dataset"),
        ("secret", "data.hub_no_dataset or data.hub_gated"),
        ("faq@v9", "data.hub_no_revision or data.hub_no_dataset"),
        ("faq@v1/no.csv", "data.hub_no_file"),
        ("gated", "data.hub_gated"),
        ("busy", "data.hub_busy"),
        ("down", "data.fetch_failed"),
        ("altered", "data.download_broken"),
        ("altered-lfs", "data.download_broken"),
        ("short", "data.download_broken"),
    ],
)
def test_what_cannot_be_had_is_said_and_leaves_nothing(
    fetch: Fetch, home: Path, hub_address: str, place: str, code: str
) -> None:
    before = kept(home)
    found = fetch(f"{hub_address}{place}")
    codes = code.split(" or ")  # where the hubs tell things differently: the Hugging Face hub's first
    assert found.get("code") == (codes[0] if hub_address == HF else codes[-1]), found
    facts = found["facts"]
    assert isinstance(facts, dict)
    for language in LANGUAGES:
        said = render(TunesmithError(str(found["code"]), **facts), language)
        assert f"{hub_address}{place}" in said.cause and said.next_step and "\n" not in said.cause
    if place == "busy":
        assert facts["wait"] == "7"
    assert kept(home) == before


@pytest.mark.parametrize("hub_address", BOTH)
def test_a_download_that_breaks_off_goes_on(fetch: Fetch, hub_address: str) -> None:
    assert fetch(f"{hub_address}cut")["rows"] == 42


@pytest.mark.parametrize("hub_address", BOTH)
@pytest.mark.parametrize("name", ["gated", "secret"])
def test_a_token_opens_what_it_may_and_stands_nowhere(fetch: Fetch, home: Path, hub_address: str, name: str) -> None:
    for wrong in ("", TOKEN[::-1]):
        assert fetch(f"{hub_address}{name}", token=wrong)["code"] in ("data.hub_gated", "data.hub_no_dataset")
    found = fetch(f"{hub_address}{name}", token=TOKEN)
    assert found.get("rows") == 42, found
    assert fetch(f"{hub_address}nothing", token=TOKEN)["code"] == "data.hub_no_dataset"
    written = [each for each in (home / "home").rglob("*") if each.is_file()] + [home / "said.txt"]
    assert not [each for each in written if TOKEN.encode() in each.read_bytes()]


@pytest.mark.parametrize("hub_address", BOTH)
def test_offline_what_is_here_is_used_and_nothing_asked(fetch: Fetch, hub_address: str) -> None:
    fetch(f"{hub_address}faq@v1")
    assert fetch(f"{hub_address}faq@v1", offline=True)["rows"] == 42
    assert fetch(f"{hub_address}faq@master", offline=True)["code"] == "data.offline_source"


def test_a_hub_that_is_not_there(fetch: Fetch) -> None:
    assert fetch(f"{HF}faq@main/train.jsonl", at="http://127.0.0.1:9")["code"] == "data.fetch_failed"
