"""Task heads: a body that gives classes to texts or to tokens, over packed batches.

Body and head are transformers' own classes for sequence and token classification, so that what is written here is read
by any tool. A head is new where the base has no weights for it; it then trains whatever the adaptation is.

Shape letters: T tokens, K positions that have classes (the class token of a text, or the first piece of a word),
W width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
)

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import read_manifest
from tunesmith.core.seed import derive_seed
from tunesmith.models.allowed import read_allowed
from tunesmith.models.attention import PACKED_ATTENTION
from tunesmith.models.encoder_attention import PACKED_ENCODER_ATTENTION
from tunesmith.models.head_kind import HeadTask, head_kind
from tunesmith.models.linear_loss import LogitLoss
from tunesmith.models.packed import Packed
from tunesmith.models.policy import Policy
from tunesmith.models.sites import is_encoder

_SHOWN = 10
"""Labels that an error names."""
_POSITIONS_BEHIND_PADDING = ("roberta", "xlm-roberta")
"""Architectures that count positions from the one behind the padding token's number."""


TASK_EMBEDDINGS = "task_embeddings"
"""Name of the module in a body that has a vector a task."""


Look = Callable[[Tensor], None]
"""Is shown what a head reads, [K, W]."""


def look_away(hidden_KW: Tensor) -> None:
    """The null object of `Look`."""


@dataclass(frozen=True)
class Head:
    """What a head answers: `labels` by their number; with `several` a text has any number of them.

    `parts` are the heads of several tasks by name, where this one holds them side by side (`side_by_side.py`); with
    `embeddings` each task has a learned vector besides.
    """

    task: HeadTask
    labels: tuple[str, ...]
    several: bool = False
    parts: tuple[tuple[str, Head], ...] = ()
    embeddings: bool = False

    def config(self) -> dict[str, object]:
        """The keys of a model's configuration that say so."""
        numbered = dict(enumerate(self.labels))
        stated: dict[str, object] = {"id2label": numbered, "label2id": {name: n for n, name in numbered.items()}}
        if self.task == "text_class":
            kind = "multi_label" if self.several else "single_label"
            stated["problem_type"] = f"{kind}_classification"
        return stated


def stated_head(folder: Path) -> Head | None:
    """The head that a model folder states with its labels: in its configuration, or in the manifest of a change that
    was published beside its base. None without one."""
    kind = head_kind(folder)
    if kind is not None and not (folder / "config.json").is_file():
        facts = read_manifest(folder)
        listed = facts.get("labels")
        return Head(kind, tuple(map(str, listed)), bool(facts.get("several"))) if isinstance(listed, list) else None
    stated = read_allowed(folder, "config.json").values
    numbered = stated.get("id2label")
    if kind is None or not isinstance(numbered, dict):
        return None
    labels = tuple(str(numbered[number]) for number in sorted(numbered, key=int))
    return Head(kind, labels, stated.get("problem_type") == "multi_label_classification")


def is_unnamed(labels: Sequence[str]) -> bool:
    """Whether labels are those that transformers invents where nobody named any: LABEL_0, LABEL_1."""
    return all(name.startswith("LABEL_") for name in labels)


def refuse_other_labels(folder: Path, known: Sequence[str], wanted: Sequence[str]) -> None:
    """Refuse rows whose labels are not those of a model's head, and name the model's for those spelt otherwise.

    Errors: models.other_labels.
    """
    missing, surplus = ([each for each in one if each not in set(other)] for one, other in
                        ((known, wanted), (wanted, known)))  # fmt: skip
    if not missing and not surplus:
        return
    by_letters = {"".join(each.casefold().replace("_", " ").split()): each for each in missing}
    alike = {each: by_letters.get("".join(each.casefold().replace("_", " ").split())) for each in surplus}
    names = ", ".join(f"{each}: {model}" for each, model in alike.items() if model is not None)
    raise TunesmithError(
        "models.other_labels",
        path=str(folder),
        missing=_listed(missing),
        surplus=_listed(surplus),
        names=f"{{{names or 'NAME IN THE ROWS: NAME IN THE MODEL'}}}",
    )


def _listed(labels: Sequence[str]) -> str:
    more = len(labels) - _SHOWN
    return (", ".join(labels[:_SHOWN]) + (f" (+{more})" if more > 0 else "")) or "-"


def class_name(architecture: str, head: Head) -> str:
    """The name of transformers' class for a body with this head."""
    tables = {
        "text_class": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "token_class": MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    }
    return str(tables[head.task][architecture])


def head_names(model: PreTrainedModel) -> list[str]:
    """Names of the parameters that are the head's and not the body's."""
    prefix = f"{model.base_model_prefix}."
    return [name for name, _ in model.named_parameters() if not name.startswith(prefix)]


def draw_head(model: PreTrainedModel, names: tuple[str, ...], seed: int) -> None:
    """Give new parameters their first values, drawn from a seed: matrices by the model's own spread, biases and vectors
    of tasks 0."""
    spread = float(getattr(model.config.get_text_config(), "initializer_range", 0.02))
    parameters = dict(model.named_parameters())
    for place, name in enumerate(names):
        parameter = parameters[name].data
        if parameter.ndim == 1 or name.endswith(f".{TASK_EMBEDDINGS}.weight"):
            parameter.fill_(0.0)
            continue
        generator = torch.Generator().manual_seed(derive_seed(seed, "head", place))
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)


class ClassPolicy(Policy):
    """A body with a head over packed batches; `forward` gives losses like any policy's.

    Errors: packed.other_head.
    """

    def __init__(self, model: PreTrainedModel, several: bool = False) -> None:
        self.attention = PACKED_ENCODER_ATTENTION if is_encoder(model) else PACKED_ATTENTION
        super().__init__(model)
        self._several = several
        architecture, padding = str(model.config.model_type), model.config.pad_token_id
        self.first_position = int(padding) + 1 if architecture in _POSITIONS_BEHIND_PADDING else 0

    def check_head(self, model: PreTrainedModel) -> None:
        """Refuse what has no classifier. Errors: packed.other_head."""
        if not (hasattr(model, "classifier") or hasattr(model, "score")):
            raise TunesmithError("packed.other_head", architecture=str(model.config.model_type), part="classifier")

    @property
    def head(self) -> Tensor:
        """The matrix that makes scores of hidden states, [C, W]."""
        return next(each for each in reversed(list(classifier_of(self.model).parameters())) if each.ndim == 2)

    def forward(
        self,
        batch: Packed,
        label_smoothing: float = 0.0,
        measure: LogitLoss | None = None,
        look: Look = look_away,
    ) -> Tensor:
        """Negative log-likelihood of `batch.target`, [K] float32 or wider, unweighted.

        `look` is shown what the head reads, [K, W], within the pass: modules beside the model are called there. Where
        classes do not exclude each other it is the sum of C independent yes-or-no decisions over C, as in
        torch's `binary_cross_entropy_with_logits`.
        """
        hidden_KW = self.hidden(batch)
        look(hidden_KW)
        scores_KC = self._scores(hidden_KW)
        if measure is not None:
            raise NotImplementedError("no objective measures the scores of classes by itself")
        return class_losses(scores_KC, batch.target, label_smoothing, several=self._several)

    def logits(self, batch: Packed) -> Tensor:
        """Scores of every class at `batch.keep`, [K, C] in float32 or wider."""
        return self._scores(self.hidden(batch))

    def _scores(self, hidden_KW: Tensor) -> Tensor:
        scores_KC = class_scores(self.model, hidden_KW)
        return scores_KC.to(torch.promote_types(scores_KC.dtype, torch.float32))


def class_losses(scores_KC: Tensor, target: Tensor, label_smoothing: float, *, several: bool) -> Tensor:
    """Negative log-likelihood of classes, [K]; `target` is one a position, [K], or with `several` 0 or 1 of each,
    [K, C]."""
    if not several:
        return cross_entropy(scores_KC, target, reduction="none", label_smoothing=label_smoothing)
    wanted_KC = target.to(scores_KC.dtype) * (1 - label_smoothing) + label_smoothing / 2
    return binary_cross_entropy_with_logits(scores_KC, wanted_KC, reduction="none").mean(-1)


def class_scores(model: PreTrainedModel, hidden_KW: Tensor) -> Tensor:
    """What the model's own head says of hidden states, [K, C].

    Texts: BERT goes through its pooler, RoBERTa's head takes the first token of a sequence, a decoder's is a matrix.
    """
    classifier = classifier_of(model)
    scores_KC: Tensor
    if hasattr(classifier, "out_proj"):
        scores_KC = classifier(hidden_KW[:, None])
        return scores_KC
    pooler = getattr(model.base_model, "pooler", None)
    if pooler is not None:
        hidden_KW = pooler(hidden_KW[:, None])
    dropout = getattr(model, "dropout", None)
    if isinstance(dropout, nn.Dropout):
        hidden_KW = dropout(hidden_KW)
    scores_KC = classifier(hidden_KW)
    return scores_KC


def classifier_of(model: PreTrainedModel) -> nn.Module:
    """The module that a head ends in. Errors: packed.other_head."""
    found = getattr(model, "classifier", None) or getattr(model, "score", None)
    if not isinstance(found, nn.Module):
        raise TunesmithError("packed.other_head", architecture=str(model.config.model_type), part="classifier")
    return found
