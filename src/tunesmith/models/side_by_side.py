"""Heads of several tasks side by side on one body: every task has rows of the last layer for itself.

The last layer of transformers' own class holds the classes of the first task, then those of the second, and so on; a
task's scores, loss and gradient are of its own rows alone. So the heads train, are saved, merged and shared over
processes as one matrix, while none sees another's rows. What an architecture has between body and last layer for texts
(BERT's pooler, the dense layer of RoBERTa's head) belongs to all tasks with texts; tasks with tokens pass it by, as
transformers' class for tokens does.

A task may have a learned vector, which is added to the embedding of every token that the task reads. It starts at 0.

Shape letters: T tokens, D documents, K positions that have classes, W width, C classes of all tasks together.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.models.beginning import decoder_arguments
from tunesmith.models.blocks import ends_in_fast_block
from tunesmith.models.head_kind import HeadTask
from tunesmith.models.heads import (
    TASK_EMBEDDINGS,
    ClassPolicy,
    Head,
    Look,
    class_losses,
    class_scores,
    classifier_of,
    look_away,
)
from tunesmith.models.linear_loss import LogitLoss
from tunesmith.models.packed import Packed
from tunesmith.models.policy import Policy

NOT_ASKED = -1.0
"""In a target: the class is another task's."""


def side_by_side(parts: Mapping[str, Head], *, embeddings: bool = False) -> Head:
    """One head that holds those of several tasks, by their names. A body for texts can tag tokens, not the reverse."""
    of_tokens = all(head.task == "token_class" for head in parts.values())
    labels = tuple(f"{name}/{label}" for name, head in parts.items() for label in head.labels)
    return Head("token_class" if of_tokens else "text_class", labels, False, tuple(parts.items()), embeddings)


def spans(head: Head) -> list[slice]:
    """Which of the classes are each task's."""
    found, first = [], 0
    for _, part in head.parts:
        found.append(slice(first, first + len(part.labels)))
        first += len(part.labels)
    return found


def add_task_embeddings(model: PreTrainedModel, head: Head) -> str:
    """Give the body a vector a task, all of them 0; returns the parameter's name."""
    width = int(model.config.get_text_config().hidden_size)
    zeros = torch.zeros(len(head.parts), width, dtype=model.dtype)
    model.base_model.add_module(TASK_EMBEDDINGS, nn.Embedding(len(head.parts), width, _weight=zeros))
    return f"{model.base_model_prefix}.{TASK_EMBEDDINGS}.weight"


def policy_of(model: PreTrainedModel, head: Head | None) -> Policy:
    """The policy over a model: with a head one that gives classes, else one that gives the next token.

    Errors: packed.other_head.
    """
    if head is None:
        return Policy(model)
    return SeveralHeads(model, head) if head.parts else ClassPolicy(model, head.several)


class OneHead(ClassPolicy):
    """One task of a model that has several: its own classes alone, as if there were no others.

    Args:
        head: all of them.
        place: which one.
    """

    def __init__(self, model: PreTrainedModel, head: Head, place: int) -> None:
        own = head.parts[place][1]
        super().__init__(model, own.several)
        self._task, self._span = own.task, spans(head)[place]
        self._place, self._embedded = place, head.embeddings

    def hidden(self, batch: Packed) -> Tensor:
        """See `Policy.hidden`; every token is the task's."""
        if not self._embedded:
            return super().hidden(batch)
        return _hidden(self, batch, torch.full_like(batch.token_ids, self._place))

    def logits(self, batch: Packed) -> Tensor:
        """Scores of the task's classes, in float32 or wider."""
        return _scores(self.model, self.hidden(batch), self._task)[:, self._span]


class SeveralHeads(ClassPolicy):
    """A body with heads side by side over batches whose rows are of any of the tasks.

    Errors: packed.other_head.
    """

    def __init__(self, model: PreTrainedModel, head: Head) -> None:
        super().__init__(model)
        self._parts = head
        self._spans = spans(head)

    def alone(self, name: str) -> OneHead:
        """The model as one task sees it, over the same weights."""
        place = [each for each, _ in self._parts.parts].index(name)
        return OneHead(self.model, self._parts, place).train(self.training)

    def hidden(self, batch: Packed) -> Tensor:
        """See `Policy.hidden`; a token is of the task that its document is asked by."""
        if not self._parts.embeddings:
            return super().hidden(batch)
        asked_D = torch.zeros_like(batch.row).index_copy(0, batch.document_of_kept(), self._asked(batch))
        return _hidden(self, batch, asked_D.repeat_interleave(batch.offsets.diff()))

    def forward(
        self,
        batch: Packed,
        label_smoothing: float = 0.0,
        measure: LogitLoss | None = None,
        look: Look = look_away,
    ) -> Tensor:
        """Negative log-likelihood of `batch.target` among the classes of the task that is asked, [K], unweighted."""
        if measure is not None:
            raise NotImplementedError("no objective measures the scores of classes by itself")
        hidden_KW, asked_K = self.hidden(batch), self._asked(batch)
        look(hidden_KW)
        # both kinds for all positions, even for none: so every process has a gradient for every layer
        kinds = sorted({part.task for _, part in self._parts.parts})
        by_kind = {task: _scores(self.model, hidden_KW, task) for task in kinds}
        losses_K = next(iter(by_kind.values())).new_zeros(len(asked_K))
        for place, ((_, part), span) in enumerate(zip(self._parts.parts, self._spans, strict=True)):
            at = (asked_K == place).nonzero()[:, 0]
            wanted = batch.target[at, span]
            target = wanted if part.several else wanted.argmax(-1)
            scores = by_kind[part.task][at, span]
            losses_K = losses_K.index_copy(0, at, class_losses(scores, target, label_smoothing, several=part.several))
        return losses_K

    def logits(self, batch: Packed) -> Tensor:
        """Scores of all classes, [K, C]: those of tasks that are not asked are what their head says of other rows."""
        hidden_KW, asked_K = self.hidden(batch), self._asked(batch)
        of_texts, of_tokens = (_scores(self.model, hidden_KW, task) for task in ("text_class", "token_class"))
        tags = torch.tensor([part.task == "token_class" for _, part in self._parts.parts], device=asked_K.device)
        return torch.where(tags[asked_K, None], of_tokens, of_texts)

    def scores_and_target(self, batch: Packed) -> tuple[Tensor, Tensor]:
        """Of a batch whose rows ask one task: scores of its classes and its target, as if it had the model alone."""
        place = int(self._asked(batch)[0])
        own, span = self._parts.parts[place][1], self._spans[place]
        scores_KC = _scores(self.model, self.hidden(batch), own.task)[:, span]
        wanted_KC = batch.target[:, span]
        return scores_KC, wanted_KC if own.several else wanted_KC.argmax(-1)

    def _asked(self, batch: Packed) -> Tensor:
        """Which task each position is asked by, [K]."""
        firsts = [span.start for span in self._spans]
        return (batch.target[:, firsts] > NOT_ASKED).long().argmax(-1)


def _scores(model: PreTrainedModel, hidden_KW: Tensor, task: HeadTask) -> Tensor:
    """Scores of all classes as a model for texts or for tokens makes them, in float32 or wider."""
    scores_KC = class_scores(model, hidden_KW) if task == "text_class" else _token_scores(model, hidden_KW)
    return scores_KC.to(torch.promote_types(scores_KC.dtype, torch.float32))


def _token_scores(model: PreTrainedModel, hidden_KW: Tensor) -> Tensor:
    classifier = classifier_of(model)
    dropout = getattr(classifier, "dropout", None) or getattr(model, "dropout", None)
    if isinstance(dropout, nn.Dropout):
        hidden_KW = dropout(hidden_KW)
    last = getattr(classifier, "out_proj", classifier)
    scores_KC: Tensor = last(hidden_KW)
    return scores_KC


def _hidden(policy: Policy, batch: Packed, task_T: Tensor) -> Tensor:
    """Last hidden states at `batch.keep`, the vector of its task added to what every token begins as, [K, W]."""
    model = policy.model
    arguments = decoder_arguments(model, batch)
    embeddings_TW: Tensor = model.get_input_embeddings()(arguments.pop("input_ids")[0])
    vectors_TW: Tensor = model.base_model.get_submodule(TASK_EMBEDDINGS)(task_T)
    arguments["inputs_embeds"] = (embeddings_TW + vectors_TW)[None]
    arguments["position_ids"] = policy.positions(arguments["position_ids"])
    hidden: Tensor = model.base_model(**arguments, use_cache=False).last_hidden_state[0]
    return hidden if ends_in_fast_block(model) else hidden[arguments["keep"]]
