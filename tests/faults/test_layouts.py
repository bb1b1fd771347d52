"""How a batch is cut, packed or shared out changes neither a loss nor a weight; and no row touches another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from faults_ranks import PairFit, Pairs
from faults_tally import Tally
from faults_training import PLANTS, Watch, far_apart, masters
from fits import examples, local, make_job
from safetensors.torch import load_file
from torch import Tensor

from tunesmith.models.blocks import use_blocks
from tunesmith.models.load import load_model
from tunesmith.models.packed import Features, Packed, pack
from tunesmith.models.policy import Policy
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.tasks.chat import ChatTask
from tunesmith.train import build
from tunesmith.train.loop import fit

TOLERANCE = {"float64": 1e-9, "float32": 1e-5}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("tiny") / "base", spread=0.1)


@pytest.fixture(scope="module")
def pairs() -> Iterator[Pairs]:
    with Pairs() as started:
        yield started


@dataclass(frozen=True)
class Found:
    """What a fit came to."""

    losses: list[float]
    validation: list[float]
    weights: dict[str, Tensor] = field(repr=False)


CUTS: dict[str, dict[str, object]] = {
    "1 x 8": {"batch_size": 8},
    "2 x 4": {"batch_size": 4, "gradient_accumulation_steps": 2},
    "4 x 2": {"batch_size": 2, "gradient_accumulation_steps": 4},
    "8 x 1": {"batch_size": 1, "gradient_accumulation_steps": 8},
    "auto": {"batch_size": "auto"},
    "auto, 200 tokens at once": {"batch_size": "auto"},
    "auto, 1 token at once": {"batch_size": "auto"},
    "not packed": {"batch_size": 8, "packing": False},
    "activations computed again": {"batch_size": 8, "gradient_checkpointing": True},
    "plain blocks": {"batch_size": 8, "blocks": "plain"},  # transformers' own norms are float32 in every precision
}
A_FEW = ("2 x 4", "8 x 1", "auto, 200 tokens at once", "not packed")
# SGD: Adam's first steps are signs of gradients, and turn the rounding of a zero into a whole step.
ALWAYS: dict[str, object] = {"optimizer": "sgd", "epochs": 2.0, "max_grad_norm": 0.5, "weight_decay": 0.1}


def alone(
    base: Path,
    folder: Path,
    patch: pytest.MonkeyPatch,
    name: str,
    kind: str,
    dtype: str,
    rows: int,
    accumulate: int = 1,
) -> Found:
    settings = {**ALWAYS, **CUTS[name]}
    settings["gradient_accumulation_steps"] = accumulate * int(str(settings.get("gradient_accumulation_steps", 1)))
    watch = Watch()
    with patch.context() as here:
        if "at once" in name:
            here.setattr(build, "most_at_once", lambda device: int(name.split()[1]))
        job = make_job(base, folder, local(), settings=settings, adapt={"kind": kind}, dtype=getattr(torch, dtype),
                       rows=rows, emitter=watch.emitter)  # fmt: skip
        fit(job)
    return Found(watch.of("step", "loss"), watch.of("validation", "loss"), masters(job))


def same(found: Found, wanted: Found, tolerance: float, what: str) -> None:
    assert len(found.losses) == len(wanted.losses) > 1
    for one, other in zip(found.losses + found.validation, wanted.losses + wanted.validation, strict=True):
        assert one == pytest.approx(other, rel=tolerance), what
    assert far_apart(found.weights, wanted.weights) <= tolerance, what


@pytest.mark.case("C2")
@pytest.mark.timeout(600)
def test_every_cut_of_a_batch_gives_the_same_losses_and_weights(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    rows = tally.amount(9, 61)  # the last step of an epoch is a small one
    ways = [("lora", "float64"), ("full", "float32"), ("full", "float64"), ("lora", "float32")][: tally.amount(1, 4)]
    for kind, dtype in ways:
        whole = alone(base, tmp_path / f"{kind}-{dtype}-whole", monkeypatch, "1 x 8", kind, dtype, rows)
        for name in list(CUTS)[1:] if tally.full else A_FEW:
            if name == "plain blocks" and dtype == "float64":
                continue
            found = alone(base, tmp_path / f"{kind}-{dtype}-{name}", monkeypatch, name, kind, dtype, rows)
            same(found, whole, TOLERANCE[dtype], f"{kind}, {dtype}, {name}")
            tally.count("cuts of a batch compared")


SHARED: dict[str, tuple[dict[str, object], int]] = {
    "1 x 4 on each of 2": ({"batch_size": 4}, 0),
    "auto on each of 2, 200 tokens at once": ({"batch_size": "auto"}, 200),
    "4 x 1 on each of 2": ({"batch_size": 1, "gradient_accumulation_steps": 4}, 0),
    "auto on each of 2": ({"batch_size": "auto"}, 0),
    "not packed on each of 2": ({"batch_size": 4, "packing": False}, 0),
}


@pytest.mark.case("C2")
@pytest.mark.timeout(600)
def test_two_processes_give_what_one_gives(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally, pairs: Pairs
) -> None:
    rows = tally.amount(9, 61)
    for dtype in list(TOLERANCE)[: tally.amount(1, 2)]:
        for kind in ("lora", "full")[: tally.amount(1, 2)]:
            for name, (settings, at_once) in list(SHARED.items())[: tally.amount(1, 5)]:
                folder = tmp_path / f"{dtype}-{kind}-{name}"
                told = pairs.fit(
                    PairFit(str(base), str(folder), dtype, rows, kind, {**ALWAYS, **settings}, at_once=at_once)
                )
                assert told["error"] == ""
                # auto stands for 8 rows on each process
                accumulate = 2 if settings["batch_size"] == "auto" else 1
                one = alone(base, tmp_path / f"{folder.name}-1", monkeypatch, "1 x 8", kind, dtype, rows, accumulate)
                newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
                pair = Found(told["losses"], told["validation"], load_file(newest / "masters.safetensors"))
                same(pair, one, TOLERANCE[dtype], f"{dtype}, {kind}, {name}")
                tally.count("fits by two processes")


@pytest.mark.case("C1", "C2")
@pytest.mark.timeout(600)
def test_a_bad_number_on_one_rank_holds_both(base: Path, tmp_path: Path, tally: Tally, pairs: Pairs) -> None:
    for plant in list(PLANTS)[: tally.amount(1, 5)]:
        for rank in range(tally.amount(1, 2)):
            folder = tmp_path / f"{plant}-{rank}".replace("'", "")
            settings = {**ALWAYS, "batch_size": 2, "epochs": 3.0}
            wanted = PairFit(str(base), str(folder), "float32", 8, "lora", settings, plant, 1 - rank, 2)
            told = pairs.fit(wanted)
            assert told["applied"] == [step != 2 for step in range(1, 7)]
            digests = told["digests"]
            assert digests[1] == digests[2] and len(set(digests)) == 6
            assert told["error"] == ""
            tally.count("bad steps")


# -------------------------------------------------------------------------------------------- rows beside each other


class Reader:
    """Losses by row, of packed rows and of single ones."""

    def __init__(self, base: Path, dtype: torch.dtype, blocks: str) -> None:
        loaded = load_model(base, dtype=dtype)
        self.policy = Policy(loaded.model)
        self.policy.eval()
        use_blocks(self.policy.model, blocks)
        self.task = ChatTask(loaded.tokenizer, loaded.end_token_ids, 512)

    def losses(self, batch: Packed) -> dict[int, Tensor]:
        """The losses of every learned token, by row."""
        losses_K = self.policy(batch)
        documents = torch.searchsorted(batch.offsets, batch.keep, right=True) - 1
        rows = batch.row[documents]
        return {int(row): losses_K[rows == row] for row in rows.unique()}


def some_rows(task: ChatTask, count: int) -> list[Features]:
    """Tickets of unequal length, half of them behind one instruction that they share."""
    from dataclasses import replace

    from tunesmith.core.types import Message

    system = Message("system", "Answer with the intent of the customer's message in one word, and nothing else.")
    rows = examples(count)
    rows = [replace(row, messages=(system, *row.messages)) if row.row % 2 else row for row in rows]
    return [task.encode(row).features for row in rows]


def perturbed(row: Features, task: ChatTask) -> Features:
    """The row with every learned token another one."""
    size = len(task.tokenizer)
    pairs = zip(row.token_ids, row.weights, strict=True)
    ids = tuple(token if not weight else 3 + (token + 7) % (size - 3) for token, weight in pairs)
    return Features(row.row, ids, row.weights)


READERS = [(torch.float32, "auto"), (torch.bfloat16, "auto"), (torch.float32, "plain"), (torch.float64, "auto")]


@pytest.mark.case("C3")
def test_a_packed_row_has_the_loss_it_has_alone(base: Path, tally: Tally) -> None:
    for blocks in ("auto", "plain"):
        reader = Reader(base, torch.float32, blocks)
        rows = some_rows(reader.task, tally.amount(8, 64))
        together = reader.losses(pack(rows))
        assert sorted(together) == [row.row for row in rows]
        for row in rows:
            (single,) = reader.losses(pack([row])).values()
            torch.testing.assert_close(together[row.row], single, rtol=0, atol=1e-5)
            tally.count("rows compared, packed and alone")


@pytest.mark.case("C3")
def test_positions_restart_in_every_row(base: Path, tally: Tally) -> None:
    rows = some_rows(Reader(base, torch.float32, "plain").task, tally.amount(8, 64))
    batch = pack(rows)
    spans = list(zip(batch.offsets[:-1].tolist(), batch.offsets[1:].tolist(), strict=True))
    lengths = [last - first for first, last in spans]
    for (first, last), parent in zip(spans, batch.parent.tolist(), strict=True):
        start = lengths[parent] if parent >= 0 else 0
        assert batch.position_ids[first:last].tolist() == list(range(start, start + last - first))
    for row in rows:  # a row with what it shares is the row
        document = batch.row.tolist().index(row.row)
        parent = batch.parent[document]
        chain = [document] if parent < 0 else [int(parent), document]
        ids = [token for each in chain for token in batch.token_ids[slice(*spans[each])].tolist()]
        assert ids == list(row.token_ids)
        tally.count("rows laid out")


@pytest.mark.case("C3")
@pytest.mark.timeout(300)
def test_another_answer_in_one_row_changes_no_bit_of_the_others(base: Path, tally: Tally) -> None:
    for dtype, blocks in READERS[: tally.amount(2, 4)]:
        reader = Reader(base, dtype, blocks)
        rows = some_rows(reader.task, tally.amount(8, 32))
        before = reader.losses(pack(rows))
        for place in tally.random.sample(range(len(rows)), tally.amount(4, 32)):
            changed = [*rows[:place], perturbed(rows[place], reader.task), *rows[place + 1 :]]
            _others_keep_every_bit(before, reader.losses(pack(changed)), rows[place].row)
            tally.count("rows perturbed")


@pytest.mark.case("C3")
@pytest.mark.timeout(300)
def test_a_row_of_enormous_values_changes_no_bit_of_the_others(base: Path, tally: Tally) -> None:
    """Whatever looked at such a row, with however small a weight, would change."""
    for dtype, blocks in READERS[: tally.amount(2, 4)]:
        reader = Reader(base, dtype, blocks)
        rows = some_rows(reader.task, tally.amount(8, 32))
        batch = pack(rows)
        before = reader.losses(batch)
        embedding = reader.policy.model.get_input_embeddings()
        for place in tally.random.sample(range(len(rows)), tally.amount(4, 32)):
            document = batch.row.tolist().index(rows[place].row)
            first, last = batch.offsets[document : document + 2].tolist()

            def spoil(module: object, given: object, out: Tensor, first: int = first, last: int = last) -> Tensor:
                spoilt = out.clone()
                spoilt[:, first:last] *= -1e6
                spoilt[:, first:last, 0] = 1e9
                return spoilt

            handle = embedding.register_forward_hook(spoil)
            after = reader.losses(batch)
            handle.remove()
            _others_keep_every_bit(before, after, rows[place].row)
            tally.count("rows of enormous values")


@pytest.mark.case("C3")
def test_no_gradient_crosses_from_row_to_row(base: Path, tally: Tally) -> None:
    reader = Reader(base, torch.float32, "auto")
    rows = some_rows(reader.task, tally.amount(8, 32))
    batch = pack(rows)
    embedding, held = reader.policy.model.get_input_embeddings(), []

    def hold(module: object, given: object, out: Tensor) -> Tensor:
        held.append(out.detach().requires_grad_())
        return held[-1]

    handle = embedding.register_forward_hook(hold)
    losses = reader.losses(batch)
    handle.remove()
    for row in tally.random.sample(sorted(losses), tally.amount(4, 32)):
        (gradient,) = torch.autograd.grad(losses[row].sum(), held, retain_graph=True)
        touched = gradient[0].abs().sum(-1) > 0
        document = batch.row.tolist().index(row)
        allowed = {document, int(batch.parent[document])}
        places = torch.searchsorted(batch.offsets, torch.arange(len(touched)), right=True) - 1
        assert set(places[touched].tolist()) <= allowed
        tally.count("rows whose gradient was followed")


def _others_keep_every_bit(before: dict[int, Tensor], after: dict[int, Tensor], changed: int) -> None:
    others: Sequence[int] = [row for row in before if row != changed]
    assert all(torch.equal(before[row], after[row]) for row in others)
    assert not torch.equal(before[changed], after[changed])
