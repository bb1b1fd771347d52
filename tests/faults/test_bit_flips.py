"""B2: one flipped bit in anything that is kept is refused by its hash, on the way on which it would be used."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fits import make_job
from tiny_project import write_tiny_recipe

from tunesmith import lifecycle, proof
from tunesmith.cli.models import open_model
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import MANIFEST, folder_hashes
from tunesmith.data.prepare import load_split
from tunesmith.models.load import load_tokenizer, resolve_base
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.recipe.specs.serve import ServeSpec
from tunesmith.runtime.local import LocalRuntime
from tunesmith.serve.server import open_service
from tunesmith.ship.formats.gguf import write_gguf
from tunesmith.ship.merge import read_weights
from tunesmith.train.loop import fit

if TYPE_CHECKING:
    from faults_tally import Tally


@dataclass(frozen=True)
class Kept:
    """Files that are kept, the way on which they are used, and how a hash that differs is told there."""

    files: tuple[Path, ...]
    use: Callable[[], object]
    code: str = "core.hash_differs"


def files_below(*folders: Path) -> tuple[Path, ...]:
    found = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return tuple(path for path in found if path.name != MANIFEST)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kept]:
    """Everything that a finished run keeps, and a training that was broken off."""
    folder = tmp_path_factory.mktemp("kept")
    base = tiny_chat_model(folder / "base", spread=0.1, context=2048)
    gguf = write_tiny_gguf(base, folder)
    foreign = tiny_chat_model(folder / "foreign", spread=0.1, context=2048)
    (foreign / MANIFEST).unlink()  # a base from elsewhere has none; the run remembers its hash
    recipe = write_tiny_recipe(folder, foreign, rows=(16, 4, 8))
    work = lifecycle.start(recipe, (), folder / "runs", ())
    lifecycle.run_to_release(work)
    artefact = work.path / "ship" / "safetensors"
    job = make_job(base, folder / "fit", LocalRuntime(RuntimeSpec(device="cpu", threads=1)))
    fit(job, until=2)

    def serve() -> None:
        store = f"sqlite:///{folder}/store.db"
        open_service(artefact, ServeSpec(port=0), store, work.events, "a-key-of-24-characters..").stop()

    cache = resolve_base(str(gguf)).path
    return {
        "checkpoint": Kept(files_below(folder / "fit"), job.checkpoints.newest, "train.no_valid_checkpoint"),
        "adapter": Kept(files_below(work.change), lambda: lifecycle.load_tuned(work)),
        "base with a manifest": Kept(files_below(base), lambda: resolve_base(str(base))),
        "base of a run": Kept((foreign / "model.safetensors",), work.base, "lifecycle.base_changed"),
        "converted base": Kept(files_below(cache), lambda: remade(gguf, cache), "core.hash_differs"),
        "rows": Kept(files_below(work.path / "data"), lambda: load_split(work.path, "train")),
        "rows behind a chat": Kept(files_below(work.path / "data"), lambda: open_model(str(work.path))),
        "artefact in a chat": Kept(files_below(artefact), lambda: open_model(str(work.path))),
        "artefact behind a server": Kept(files_below(artefact), serve),
        "answers and ledger": Kept(
            (*files_below(work.path / "evaluate"), work.path / "ledger.jsonl"), lambda: lifecycle.make_card(work)
        ),
        "anything in a verified run": Kept(
            files_below(*(work.path / name for name in ("data", "evaluate", "instruct", "ship"))),
            lambda: proof.verify(work, replay=False),
        ),
    }


def write_tiny_gguf(base: Path, folder: Path) -> Path:
    tokenizer = load_tokenizer(base)
    template = str(tokenizer.chat_template)
    (folder / "gguf").mkdir()
    return write_gguf(
        folder / "gguf", "gguf-f16", read_weights(base), base, tokenizer, template, name="tiny", licence="Apache-2.0"
    )


def remade(gguf: Path, cache: Path) -> None:
    """A damaged conversion is not used: it is made again from its file, and is then what it was."""
    damaged = folder_hashes(cache)
    resolve_base(str(gguf))
    if folder_hashes(cache) != damaged:
        raise TunesmithError("core.hash_differs", path=str(cache))


@contextmanager
def flipped(path: Path, place: int, bit: int) -> Iterator[None]:
    """The file with one bit changed, then as it was."""
    content = path.read_bytes()
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    path.write_bytes(changed)
    try:
        yield
    finally:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def places(kept: dict[str, Kept], count: int, draw: random.Random) -> Iterator[tuple[str, Path, int, int]]:
    """Kind after kind, a random file of it, a random byte of the file, a random bit."""
    for number in range(count):
        name = list(kept)[number % len(kept)]
        path = draw.choice([each for each in kept[name].files if each.stat().st_size])
        yield name, path, draw.randrange(path.stat().st_size), draw.randrange(8)


@pytest.mark.case("B2")
@pytest.mark.timeout(600)
def test_one_flipped_bit_is_refused_by_its_hash(kept: dict[str, Kept], tally: Tally) -> None:
    for name, each in kept.items():
        if name != "converted base":
            each.use()  # whole, it is used
    for name, path, place, bit in places(kept, tally.amount(22, 200), tally.random):
        with flipped(path, place, bit), pytest.raises(TunesmithError) as error:
            kept[name].use()
        assert error.value.code == kept[name].code, f"{name}: {path.name}, byte {place}, bit {bit}: {error.value}"
        tally.count("bits flipped")


@pytest.mark.case("B2")
@pytest.mark.timeout(600)
def test_one_flipped_bit_in_a_manifest_is_refused(kept: dict[str, Kept], tally: Tally) -> None:
    """The list of the hashes is itself held to one; a run's is looked at by every command."""
    verified = "anything in a verified run"
    manifests = {
        (name, path / MANIFEST) for name, each in kept.items() for path in {file.parent for file in each.files}
    } | {(verified, kept[verified].files[0].parents[1] / MANIFEST)}
    found = sorted((name, path) for name, path in manifests if path.is_file() and name != "converted base")
    assert {name for name, _ in found} >= {"checkpoint", "adapter", "rows", "artefact behind a server", verified}
    for number in range(tally.amount(len(found), 200)):
        name, path = found[number % len(found)]
        place, bit = tally.random.randrange(path.stat().st_size), tally.random.randrange(8)
        with flipped(path, place, bit), pytest.raises(TunesmithError) as error:
            kept[name].use()
        refused = {"core.hash_differs", "core.broken_json", kept[name].code}
        assert error.value.code in refused, f"{name}: {path}, byte {place}, bit {bit}: {error.value}"
        tally.count("bits flipped in a manifest")
