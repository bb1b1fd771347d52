"""The four axes of the support matrix: named settings, and which two of them refuse each other.

A new value is one line in a table below, with a pattern of what it moves; a new refusal is one line in `REFUSALS`.
`tests/matrix` fails while a kind of the recipe's specs stands in no table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import combinations, product

Settings = Mapping[str, object]


@dataclass(frozen=True)
class Adapt:
    """What is trained: its spec, which of the policy's names move, the decoder it is tried on, and its step size."""

    spec: Settings
    moves: str
    decoder: str = "llama"
    quantize: str = "none"
    learning_rate: float = 1e-2


@dataclass(frozen=True)
class Aim:
    """Toward what and with which add-ons: fields of a stage, and the terms that every step then tells.

    `from_zero` are terms that cost nothing before the first step. With `in_turns` some of what is named may have had no
    turn yet. `epochs` are more where fewer rows of a step have labels.
    """

    stage: Settings = field(default_factory=dict)
    terms: Collection[str] = ()
    from_zero: Collection[str] = ()
    in_turns: bool = False
    epochs: float = 3.0


@dataclass(frozen=True)
class Task:
    """What rows mean: fields of `data`, and whether an encoder reads them."""

    data: Settings
    encoder: bool = False


_OLD = {"sources": [{"path": "old.jsonl"}]}
_TARGETS = {"target_sources": [{"path": "target.jsonl"}]}
_BLOCK = r"\.layers?\.1\."

ADAPTS: Mapping[str, Adapt] = {
    "full": Adapt({"kind": "full"}, r"", learning_rate=3e-3),
    "subset: last block": Adapt(
        {"kind": "subset", "first_layer": -1}, rf"{_BLOCK}|^model\.model\.norm\.|\.pooler\.", learning_rate=3e-3
    ),
    "subset: norms": Adapt({"kind": "subset", "parts": ["norm"]}, r"[Nn]orm"),
    "subset: BitFit": Adapt({"kind": "subset", "parts": ["bias"]}, r"\.bias$", decoder="qwen2"),
    "lora": Adapt({"kind": "lora", "rank": 4}, r"\.lora_[AB]\."),
    "lora: top attention": Adapt(
        {"kind": "lora", "rank": 4, "target_modules": "attention", "first_layer": -1}, rf"{_BLOCK}.*\.lora_[AB]\."
    ),
    "lora: rsLoRA, dropout": Adapt(
        {"kind": "lora", "rank": 4, "use_rslora": True, "lora_dropout": 0.1}, r"\.lora_[AB]\.", learning_rate=5e-3
    ),
    "lora: DoRA": Adapt({"kind": "lora", "rank": 4, "use_dora": True}, r"\.lora_(A|B|magnitude_vector)\."),
    "lora: PiSSA": Adapt({"kind": "lora", "rank": 4, "init_lora_weights": "pissa"}, r"\.lora_[AB]\."),
    "lora: OLoRA": Adapt(
        {"kind": "lora", "rank": 4, "init_lora_weights": "olora"}, r"\.lora_[AB]\.", learning_rate=3e-3
    ),
    "lora: on experts' model": Adapt({"kind": "lora", "rank": 4}, r"\.lora_[AB]\.", decoder="qwen3_moe"),
    "qlora: nf4": Adapt({"kind": "lora", "rank": 4}, r"\.lora_[AB]\.", quantize="nf4"),
    "qlora: int8": Adapt({"kind": "lora", "rank": 4}, r"\.lora_[AB]\.", quantize="int8"),
    "bottleneck: Houlsby": Adapt({"kind": "bottleneck", "size": 8, "places": "houlsby"}, r"\.adapter\.(down|up)\."),
    "bottleneck: Pfeiffer": Adapt({"kind": "bottleneck", "size": 8, "places": "pfeiffer"}, r"\.adapter\.(down|up)\."),
    "bottleneck: parallel": Adapt({"kind": "bottleneck", "size": 8, "places": "parallel"}, r"\.adapter\.(down|up)\."),
    "prompt": Adapt({"kind": "prompt", "num_virtual_tokens": 6}, r"beginning", learning_rate=5e-2),
    "prompt: text": Adapt(
        {
            "kind": "prompt",
            "num_virtual_tokens": 6,
            "prompt_tuning_init": "text",
            "prompt_tuning_init_text": "Name the intent.",
        },
        r"beginning",
        learning_rate=5e-2,
    ),
    "p-tuning": Adapt({"kind": "p-tuning", "num_virtual_tokens": 6}, r"beginning"),
    "p-tuning: LSTM": Adapt(
        {"kind": "p-tuning", "num_virtual_tokens": 6, "encoder_reparameterization_type": "lstm"}, r"beginning"
    ),
    "prefix": Adapt({"kind": "prefix", "num_virtual_tokens": 6}, r"beginning", learning_rate=5e-2),
    "prefix: projected": Adapt({"kind": "prefix", "num_virtual_tokens": 6, "prefix_projection": True}, r"beginning"),
    "experts": Adapt({"kind": "experts"}, r"\.experts\.", decoder="qwen3_moe", learning_rate=3e-3),
    "experts: most used, router": Adapt(
        {"kind": "experts", "most_used": 2, "router": True},
        r"\.experts\.moving_|\.mlp\.gate\.weight",
        decoder="qwen3_moe",
        learning_rate=3e-3,
    ),
    "lora-experts": Adapt({"kind": "lora-experts", "new_experts": 3, "rank": 4}, r"mixture"),
}

AIMS: Mapping[str, Aim] = {
    "supervised": Aim(),
    "label smoothing": Aim({"objective": {"kind": "supervised", "label_smoothing": 0.1}}),
    "distill": Aim({"objective": {"kind": "distill", "teacher": "teacher"}}, ("divergence",)),
    "distill: kept": Aim({"objective": {"kind": "distill", "teacher": "teacher", "top_k": 8}}, ("divergence",)),
    "multitask": Aim({"objective": {"kind": "multitask", "sampling_temperature": 2.0}}, ("loss/one", "loss/other")),
    "multitask: task vectors": Aim(
        {"objective": {"kind": "multitask", "task_embeddings": True}}, ("loss/one", "loss/other")
    ),
    "adversarial: reversal": Aim(
        {"objective": {"kind": "adversarial", **_TARGETS, "reversal": {"max_lambda": 1.0, "hidden_size": 16}}},
        ("task", "domain", "lambda"),
        ("lambda",),
        epochs=6.0,
    ),
    "adversarial: KL": Aim({"objective": {"kind": "adversarial", **_TARGETS, "kl": 0.01}}, ("task", "kl"), epochs=6.0),
    "adversarial: MMD": Aim(
        {"objective": {"kind": "adversarial", **_TARGETS, "mmd": {"weight": 0.1}}}, ("task", "mmd")
    ),
    "ewc": Aim({"penalties": {"ewc": {"weight": 1.0, "rows": 4, **_OLD}}}, ("ewc",), ("ewc",)),
    "l2_sp": Aim({"penalties": {"l2_sp": 0.01}}, ("l2_sp",), ("l2_sp",)),
    "l2": Aim({"penalties": {"l2": 1e-4}}, ("l2",)),
    "l1": Aim({"penalties": {"l1": 1e-5}}, ("l1",)),
    "router balance": Aim({"penalties": {"router_balance": 0.01}}, ("router_balance",)),
    "replay": Aim({"replay": {"share": 0.25, **_OLD}}),
    "groups: layer decay": Aim({"groups": {"layer_decay": 0.7}}),
    "groups: rates": Aim({"groups": {"rates": {"attention": 0.5}}}),
    "groups: LoRA+": Aim({"groups": {"loraplus_lr_ratio": 4.0}}),
    "groups: no decay": Aim({"groups": {"no_decay": ["*layer*"]}}),
    "groups: unfreezing by steps": Aim({"groups": {"unfreeze": {"blocks": 1, "every_steps": 1}}}),
    "groups: unfreezing at a plateau": Aim({"groups": {"unfreeze": {"blocks": 1, "patience": 1}}}, in_turns=True),
}

TASKS: Mapping[str, Task] = {
    "chat": Task({"task": "chat"}),
    "text_class: decoder": Task({"task": "text_class"}),
    "text_class: encoder": Task({"task": "text_class"}, encoder=True),
    "multi_label: decoder": Task({"task": "text_class", "rows": "multi_label"}),
    "multi_label: encoder": Task({"task": "text_class", "rows": "multi_label"}, encoder=True),
    "token_class: decoder": Task({"task": "token_class"}),
    "token_class: encoder": Task({"task": "token_class"}, encoder=True),
    "several heads: decoder": Task({"tasks": {"one": "multi_label", "other": "token_class"}, "task": "text_class"}),
    "several heads: encoder": Task(
        {"tasks": {"one": "text_class", "other": "token_class"}, "task": "text_class"}, encoder=True
    ),
}

RUNTIMES: Mapping[str, Settings] = {
    "local": {"kind": "local"},
    "distributed: 2 processes": {"kind": "distributed"},
}

AXES: Mapping[str, Mapping[str, object]] = {"adapt": ADAPTS, "objective": AIMS, "task": TASKS, "runtime": RUNTIMES}


@dataclass(frozen=True, order=True)
class Point:
    """One value of each axis."""

    adapt: str
    objective: str
    task: str
    runtime: str

    def __str__(self) -> str:
        return " + ".join((self.adapt, self.objective, self.task, self.runtime))

    @property
    def values(self) -> tuple[tuple[str, str], ...]:
        """Axis and value, in the order of `AXES`."""
        return tuple((axis, getattr(self, axis)) for axis in AXES)

    @property
    def pairs(self) -> list[Pair]:
        """Every two of its values."""
        return list(combinations(self.values, 2))


Pair = tuple[tuple[str, str], tuple[str, str]]


@dataclass(frozen=True)
class Refusal:
    """Values of two axes that do not go together, and the code that says so; an empty axis is none of the two."""

    code: str
    adapt: frozenset[str] = field(default=frozenset())
    objective: frozenset[str] = field(default=frozenset())
    task: frozenset[str] = field(default=frozenset())
    runtime: frozenset[str] = field(default=frozenset())

    def meets(self, pair: Pair) -> bool:
        """Whether the two values are refused by it."""
        stated = {axis for axis in AXES if getattr(self, axis)}
        return stated == {axis for axis, _ in pair} and all(value in getattr(self, axis) for axis, value in pair)


def _all(axis: Mapping[str, object], *beginnings: str, but: Collection[str] = ()) -> frozenset[str]:
    """The values of an axis whose names begin so, but for some."""
    return frozenset(name for name in axis if name.startswith(beginnings or "") and name not in but)


_BEGINNINGS = _all(ADAPTS, "prompt", "p-tuning", "prefix")
_MOE = frozenset(name for name, each in ADAPTS.items() if each.decoder == "qwen3_moe")
_CLASSES = _all(TASKS, but=["chat"])
_HEADS = _all(TASKS, "several heads")
_VECTORS = frozenset({"multitask: task vectors"})
_DISTRIBUTED = frozenset({"distributed: 2 processes"})
_ENCODERS = frozenset(name for name, each in TASKS.items() if each.encoder)
_EXPERTS = frozenset({"experts", "experts: most used, router"})
_BESIDE = _all(ADAPTS, "bottleneck", "lora-experts")
_LORA = frozenset(name for name, each in ADAPTS.items() if each.spec["kind"] == "lora")
_TOP = frozenset({"subset: last block", "lora: top attention"})
_UNFREEZING = _all(AIMS, "groups: unfreezing")
_NO_EFFECT = "adapt.group_without_effect"

REFUSALS: tuple[Refusal, ...] = (
    # adapt x task
    Refusal("adapt.beginning_both_ways", adapt=_all(ADAPTS, "prompt", "p-tuning"), task=_ENCODERS),
    Refusal("adapt.no_place", adapt=frozenset({"bottleneck: parallel", "lora-experts"}), task=_ENCODERS),
    Refusal("adapt.no_experts", adapt=_EXPERTS, task=_ENCODERS),
    # objective x task
    Refusal("compat.rows", objective=_all(AIMS, "distill", "multitask"), task=_CLASSES - _HEADS),
    Refusal("compat.rows", objective=_all(AIMS, "adversarial"), task=frozenset({"chat"})),
    Refusal("compat.heads_objective", objective=frozenset(AIMS) - _all(AIMS, "multitask"), task=_HEADS),
    Refusal("compat.embeddings_without_heads", objective=_VECTORS, task=frozenset({"chat"})),
    Refusal("adapt.no_experts", objective=frozenset({"router balance"}), task=_ENCODERS),
    # objective x runtime
    Refusal("compat.unfreeze_distributed", objective=_UNFREEZING, runtime=_DISTRIBUTED),
    # adapt x objective
    Refusal(
        "adapt.no_experts", adapt=frozenset(ADAPTS) - _MOE - {"lora-experts"}, objective=frozenset({"router balance"})
    ),
    Refusal(
        "compat.penalty_adaptation",
        adapt=_BEGINNINGS | _BESIDE | _EXPERTS | {"lora: DoRA"},
        objective=frozenset({"ewc"}),
    ),
    Refusal("compat.penalty_adaptation", adapt=frozenset({"lora: DoRA"}), objective=frozenset({"l2_sp"})),
    Refusal("compat.embeddings_beside", adapt=_BEGINNINGS | _BESIDE, objective=_VECTORS),
    Refusal(_NO_EFFECT, adapt=_BEGINNINGS | _TOP, objective=frozenset({"groups: layer decay"}) | _UNFREEZING),
    Refusal(
        _NO_EFFECT,
        adapt=_BEGINNINGS
        | _EXPERTS
        | {"subset: norms", "bottleneck: Pfeiffer", "bottleneck: parallel", "lora-experts"},
        objective=frozenset({"groups: rates"}),
    ),
    Refusal(_NO_EFFECT, adapt=_all(ADAPTS, but=_LORA), objective=frozenset({"groups: LoRA+"})),
    Refusal(_NO_EFFECT, adapt=_BEGINNINGS, objective=frozenset({"groups: no decay"})),
)


def codes(point: Point) -> set[str]:
    """The codes that a point may be refused with; none where it has to train."""
    return {refusal.code for refusal in REFUSALS for pair in point.pairs if refusal.meets(pair)}


def is_refused(pair: Pair) -> bool:
    """Whether two values refuse each other."""
    return any(refusal.meets(pair) for refusal in REFUSALS)


def all_pairs() -> list[Pair]:
    """Every two values of different axes."""
    found: list[Pair] = []
    for one, other in combinations(AXES, 2):
        found += [((one, left), (other, right)) for left, right in product(AXES[one], AXES[other])]
    return found
