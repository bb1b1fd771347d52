"""Heads side by side: scores, losses and gradients are those of as many models with a head each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from head_fits import TASKS, TEXTS, heads_of, task_examples
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification

from tunesmith.core.types import Example
from tunesmith.models.heads import Head, class_name, draw_head
from tunesmith.models.load import load_with_head
from tunesmith.models.side_by_side import NOT_ASKED, SeveralHeads, policy_of, spans
from tunesmith.models.tiny import tiny_chat_model, tiny_encoder
from tunesmith.recipe.specs.data import ClassRows
from tunesmith.ship.one_task import tensors_of_task
from tunesmith.tasks.registry import class_task_of
from tunesmith.tasks.side_by_side import SideBySideTask

ONLY_TAGS: dict[str, ClassRows] = {"names": "token_class", "orders": "token_class"}
SETS = {"all kinds": TASKS, "texts": TEXTS, "tags": ONLY_TAGS}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    return {"bert": tiny_encoder(folder / "bert", spread=0.1), "llama": tiny_chat_model(folder / "llama", spread=0.1)}


class Set:
    """A tiny model with drawn heads and vectors, its task and a few rows of every task."""

    def __init__(self, base: Path, tasks: dict[str, ClassRows], *, embeddings: bool) -> None:
        self.examples = task_examples(tasks, 4)
        self.head = heads_of(tasks, self.examples, embeddings=embeddings)
        loaded = load_with_head(base, self.head, dtype=torch.float64)
        draw_head(loaded.model, loaded.new, 3)
        if embeddings:
            vectors = loaded.model.get_parameter(f"{loaded.model.base_model_prefix}.task_embeddings.weight")
            assert not vectors.any(), "they begin at nothing"
            vectors.data.copy_(0.3 * torch.randn(vectors.shape, generator=torch.Generator().manual_seed(5)))
        self.base, self.model = base, loaded.model
        policy, task = policy_of(loaded.model, self.head), class_task_of(base, self.head, 96, base)
        assert isinstance(policy, SeveralHeads) and isinstance(task, SideBySideTask)
        self.policy, self.task = policy.eval(), task
        self.rows = [task.encode(each).features for each in self.examples]

    def plain(self, name: str) -> tuple[nn.Module, Head]:
        """transformers' own model of one task."""
        part = dict(self.head.parts)[name]
        config = AutoConfig.from_pretrained(self.base, **part.config())
        kinds = {"text_class": AutoModelForSequenceClassification, "token_class": AutoModelForTokenClassification}
        model = kinds[part.task].from_config(config).double().eval()
        assert type(model).__name__ == class_name(config.model_type, part)
        tensors = {each: tensor.detach() for each, tensor in self.model.named_parameters()}
        missing = model.load_state_dict(tensors_of_task(tensors, self.head, name), strict=False)
        assert not missing.unexpected_keys and not [each for each in missing.missing_keys if "position_ids" not in each]
        return model, part

    def by_hand(self, example: Example) -> tuple[Tensor, float]:
        """Scores [K, C] and the summed loss of one row, by transformers' forward over it alone."""
        model, part = self.plain(example.origin.source)
        own = self.task.parts[example.origin.source].encode(example).features
        with torch.no_grad():
            scores = model(input_ids=torch.tensor([own.token_ids])).logits[0]
        scores_KC = scores[None] if scores.ndim == 1 else scores[[p for p, w in enumerate(own.weights) if w]]
        if part.several:
            wanted = torch.tensor([[float(c in own.classes[0]) for c in range(len(part.labels))]]).double()
            return scores_KC, float(binary_cross_entropy_with_logits(scores_KC, wanted))
        target = torch.tensor([each[0] for each in own.classes])
        return scores_KC, float(cross_entropy(scores_KC, target, reduction="sum"))


@pytest.mark.parametrize("embeddings", [False, True])
@pytest.mark.parametrize("tasks", SETS)
@pytest.mark.parametrize("base", ["bert", "llama"])
def test_a_batch_of_all_tasks_is_each_tasks_own_model(
    base: str, tasks: str, embeddings: bool, bases: dict[str, Path]
) -> None:
    found = Set(bases[base], dict(SETS[tasks]), embeddings=embeddings)
    batch = found.task.pack(found.rows)
    with torch.no_grad():
        losses_K, scores_KC = found.policy(batch), found.policy.logits(batch)
    row_K = batch.row[batch.document_of_kept()]
    names = [name for name, _ in found.head.parts]
    for example in found.examples:
        at, span = row_K == example.row, spans(found.head)[names.index(example.origin.source)]
        scores, loss = found.by_hand(example)
        torch.testing.assert_close(scores_KC[at][:, span], scores, rtol=1e-9, atol=1e-9)
        assert float(losses_K[at].sum()) == pytest.approx(loss, rel=1e-9)
        task = found.task.parts[example.origin.source]
        alone = found.policy.alone(example.origin.source)
        with torch.no_grad():
            torch.testing.assert_close(alone.logits(task.pack([task.encode(example).features])), scores)


def test_a_task_moves_no_row_of_anothers_head(bases: dict[str, Path]) -> None:
    found = Set(bases["bert"], dict(TASKS), embeddings=True)
    asked = [row for row, each in zip(found.rows, found.examples, strict=True) if each.origin.source == "marks"]
    found.policy(found.task.pack(asked)).sum().backward()
    gradients = {name: each.grad for name, each in found.model.named_parameters()}
    span = spans(found.head)[1]
    for name, gradient in gradients.items():
        assert gradient is not None, f"every process needs a gradient of {name}"
        if name.startswith("classifier."):
            others = torch.ones(len(gradient), dtype=torch.bool)
            others[span] = False
            assert gradient[span].any() and not gradient[others].any()
        if ".task_embeddings." in name:
            assert gradient[1].any() and not gradient[0].any() and not gradient[2].any()


def test_targets_say_who_is_asked_and_no_class_at_all_is_an_answer(bases: dict[str, Path]) -> None:
    found = Set(bases["llama"], dict(TEXTS), embeddings=False)
    first, second = spans(found.head)
    none = replace(found.rows[1], classes=((),), row=99)
    target = found.task.pack([found.rows[0], none]).target
    assert target[0, first].sum() == 1 and (target[0, second] == NOT_ASKED).all()
    assert (target[1, first] == NOT_ASKED).all() and not target[1, second].any()


def test_rows_that_weigh_nothing_have_no_loss(bases: dict[str, Path]) -> None:
    found = Set(bases["bert"], dict(TASKS), embeddings=True)
    idle = replace(found.rows[0], weights=(0.0,) * len(found.rows[0].weights))
    losses_K = found.policy(found.task.pack([idle]))
    assert losses_K.shape == (0,)
    losses_K.sum().backward()
