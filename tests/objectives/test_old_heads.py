"""Old rows of tasks with heads: each is read by the head of its task, in replay as in EWC."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from fits import local
from head_fits import OLD, TASKS, heads_of, make_heads_job, old_examples, task_examples
from torch import nn

from tunesmith.core.events import Event, Events
from tunesmith.core.files import folder_hashes
from tunesmith.models.heads import class_losses
from tunesmith.models.load import load_with_head
from tunesmith.models.side_by_side import SeveralHeads, policy_of, spans
from tunesmith.models.tiny import tiny_chat_model, tiny_encoder
from tunesmith.objectives.fisher import fisher_diagonal
from tunesmith.tasks.registry import class_task_of
from tunesmith.tasks.side_by_side import SideBySideTask
from tunesmith.train.checkpoint import checkpoint_paths
from tunesmith.train.loop import fit

SOURCES = [{"path": f"{name}.jsonl", "name": name} for name in TASKS]
REPLAY = {"replay": {"share": 0.25, "sources": SOURCES}}
EWC = {"penalties": {"ewc": {"weight": 10, "rows": 6, "sources": SOURCES}}}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    return {"bert": tiny_encoder(folder / "bert", spread=0.1), "llama": tiny_chat_model(folder / "llama", spread=0.1)}


def side_by_side(base: Path, *, embeddings: bool = False) -> tuple[SeveralHeads, SideBySideTask]:
    old = old_examples(TASKS)
    head = heads_of(TASKS, [*task_examples(TASKS, 10), *old], embeddings=embeddings)
    policy = policy_of(load_with_head(base, head, dtype=torch.float64).model, head)
    task = class_task_of(base, head, 96, base)
    assert isinstance(policy, SeveralHeads) and isinstance(task, SideBySideTask)
    for number, each in enumerate(policy.parameters()):
        if not each.any():  # heads are drawn, vectors of tasks begin at 0: here they tell tasks apart
            generator = torch.Generator().manual_seed(number)
            each.data.copy_(0.1 * torch.randn(each.shape, generator=generator, dtype=each.dtype))
    return policy, task


def test_every_step_holds_its_share_and_tells_each_tasks_old_rows(bases: dict[str, Path], tmp_path: Path) -> None:
    seen: list[Event] = []
    job = make_heads_job(
        bases["bert"], tmp_path, local(), dtype=torch.float64, settings={"batch_size": 8}, add_ons=REPLAY,
        emitter=Events(None, (seen.append,)),
    )  # fmt: skip
    assert job.source.windows_per_epoch == -(-21 // 6), "two of the eight rows of a step are old"
    steps = 2 * job.source.windows_per_epoch
    windows = [job.source.window(step) for step in range(steps)]
    assert all(sum(row.row >= OLD for row in each) == 2 for each in windows if len(each) == 8)
    drawn = Counter(row.row for each in windows for row in each if row.row >= OLD)
    assert max(drawn.values()) - min(drawn.values()) <= 1
    _, task = side_by_side(bases["bert"])
    policy = SeveralHeads(job.policy.model, task.head)  # type: ignore[arg-type]
    by_row = {each.row: each for each in old_examples(TASKS)}
    wanted: dict[str, list[torch.Tensor]] = {}
    for row in windows[0]:
        if row.row in by_row:
            name = by_row[row.row].origin.source
            own = task.parts[name]
            batch = own.pack([own.encode(by_row[row.row]).features])
            scores_KC = policy.alone(name).logits(batch).detach()
            losses_K = class_losses(scores_KC, batch.target, 0.0, several=own.head.several)
            wanted.setdefault(name, []).extend(losses_K.unbind())
    fit(job, until=2)
    first, *_ = (event.values for event in seen if event.kind == "step")
    told = {name for name in first if name.startswith("loss_of_old_rows/")}
    assert told == {f"loss_of_old_rows/{name}" for name in wanted}
    for name, losses in wanted.items():
        assert float(str(first[f"loss_of_old_rows/{name}"])) == pytest.approx(
            float(sum(losses)) / len(losses), rel=1e-9
        )


@pytest.mark.parametrize(("base", "labels"), [("bert", "observed"), ("bert", "sampled"), ("llama", "observed")])
def test_a_row_of_the_fisher_is_that_of_its_task_alone(bases: dict[str, Path], base: str, labels: str) -> None:
    policy, task = side_by_side(bases[base], embeddings=base == "bert")
    moving: dict[str, nn.Parameter] = dict(policy.named_parameters())
    own_rows = dict(zip(TASKS, spans(task.head), strict=True))
    for example in old_examples(TASKS)[:3]:
        name = example.origin.source
        own = task.parts[name]
        found, wanted = (
            fisher_diagonal(over, [each.encode(example).features], each.pack, moving, (), labels, 1)  # type: ignore[arg-type]
            for over, each in ((policy, task), (policy.alone(name), own))
        )
        assert found.keys() == wanted.keys() and any(bool(each.any()) for each in found.values())
        for key, each in wanted.items():
            torch.testing.assert_close(found[key], each, rtol=1e-9, atol=1e-18)
        last = next(key for key in reversed(list(found)) if found[key].shape[0] == len(task.head.labels))
        others = torch.ones(len(task.head.labels), dtype=torch.bool)
        others[own_rows[name]] = False
        assert found[last][~others].any() and not found[last][others].any(), "heads of other tasks are not reached"


@pytest.mark.parametrize("adapt", ["lora", "full"])
def test_held_from_where_the_stage_began(bases: dict[str, Path], tmp_path: Path, adapt: str) -> None:
    seen: list[Event] = []
    job = make_heads_job(
        bases["bert"], tmp_path, local(), adapt={"kind": adapt}, add_ons=EWC, emitter=Events(None, (seen.append,))
    )
    assert job.penalties.add() == {"ewc": 0.0}
    fit(job, until=4)
    told = [float(str(event.values["ewc"])) for event in seen if event.kind == "step"]
    assert told[0] == 0.0 and min(told[1:]) > 0


def test_broken_off_and_gone_on(bases: dict[str, Path], tmp_path: Path) -> None:
    ends = []
    for name, stops in (("whole", (None,)), ("broken", (2, 5, None))):
        for stop in stops:
            fit(make_heads_job(bases["bert"], tmp_path / name, local(), add_ons={**REPLAY, **EWC}), until=stop)
        hashes = folder_hashes(checkpoint_paths(tmp_path / name)[-1])
        ends.append({file: digest for file, digest in hashes.items() if file != "state.json"})
    assert ends[0] == ends[1]
