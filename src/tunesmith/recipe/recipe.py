"""Recipe: the whole request as one value.

Only `model`, `data.sources` and one stage are required; every default is written into the run's lock file.
"""

from __future__ import annotations

import json
import unicodedata
from typing import Self, get_args

from pydantic import BaseModel, Field, field_validator, model_validator

from tunesmith.recipe.plain_yaml import write_yaml
from tunesmith.recipe.specs.adapt import AdaptSpec, LoraSpec
from tunesmith.recipe.specs.base import Spec
from tunesmith.recipe.specs.curriculum import CurriculumSpec
from tunesmith.recipe.specs.data import DataSpec, SourceSpec, StageDataSpec
from tunesmith.recipe.specs.evaluate import METRICS_OF_ROWS, EvaluateSpec
from tunesmith.recipe.specs.goal import GoalSpec
from tunesmith.recipe.specs.groups import GroupsSpec
from tunesmith.recipe.specs.model import ModelSpec
from tunesmith.recipe.specs.objectives import TARGET, AdversarialSpec, MultitaskSpec, ObjectiveSpec, SupervisedSpec
from tunesmith.recipe.specs.penalties import PenaltiesSpec
from tunesmith.recipe.specs.replay import ReplaySpec
from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.recipe.specs.serve import ServeSpec
from tunesmith.recipe.specs.ship import BESIDE, MERGED, WITHOUT_GGUF, ShipFormat, ShipSpec
from tunesmith.recipe.specs.train import TrainSpec

MOST_STAGES = 20
_FOLDERS = ("data", "evaluate", "ship", "tensorboard")
"""Folders of a run that are no stage's."""
_LONGEST_NAME = 255
"""Bytes that file systems allow a folder's name."""
_IN_WORDS = frozenset("\u200c\u200d")
"""Joiners without a sign of their own: emoji and several scripts need them."""


class StageSpec(Spec):
    """One training stage: a point on the axes adapt and objective, and how it is trained."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$", description="Name of the stage and of its folder.")
    data: StageDataSpec | None = Field(None, description="Rows that this stage alone learns from; none: the run's.")
    adapt: AdaptSpec = Field(LoraSpec(), description="What is trained.")
    groups: GroupsSpec | None = Field(None, description="How fast each part moves, and from when; none: all alike.")
    objective: ObjectiveSpec = Field(SupervisedSpec(), description="Toward what.")
    penalties: PenaltiesSpec | None = Field(None, description="What the weights themselves cost; none: nothing.")
    replay: ReplaySpec | None = Field(None, description="Old rows among the new ones; none: only new ones.")
    curriculum: CurriculumSpec | None = Field(None, description="Easy rows first; none: all epochs are shuffled.")
    train: TrainSpec = Field(TrainSpec(), description="How.")

    @model_validator(mode="before")
    @classmethod
    def _is_supervised_unless_it_says(cls, values: object) -> object:
        """An objective without a kind is the usual one with other settings."""
        stated = values.get("objective") if isinstance(values, dict) else None
        if isinstance(values, dict) and isinstance(stated, dict) and "kind" not in stated:
            return {**values, "objective": {"kind": SupervisedSpec().kind, **stated}}
        return values

    @property
    def task_embeddings(self) -> bool:
        """Whether every task has a learned vector of its own."""
        return isinstance(self.objective, MultitaskSpec) and self.objective.task_embeddings

    @property
    def sources(self) -> dict[str, list[SourceSpec]]:
        """Sources that this stage alone names, by what it wants with their rows: validation, train, ewc, replay."""
        if self.data is None:
            return self.old_sources
        own = {"validation": self.data.validation_sources, "train": self.data.sources}
        return {name: sources for name, sources in own.items() if sources} | self.old_sources

    @property
    def old_sources(self) -> dict[str, list[SourceSpec]]:
        """Sources of rows beside those of data, by what the stage wants with them: ewc, replay, target."""
        ewc = self.penalties.ewc if self.penalties is not None else None
        stated = {
            "ewc": ewc.sources if ewc else [],
            "replay": self.replay.sources if self.replay else [],
            TARGET: self.objective.target_sources if isinstance(self.objective, AdversarialSpec) else [],
        }
        return {name: sources for name, sources in stated.items() if sources}


class Recipe(Spec):
    """A run, from the question why to the server's port."""

    name: str = Field("run", pattern=r"^[^/\\\x00-\x1f]{1,80}$", description="Name of the run and of its folder.")
    goal: GoalSpec = Field(GoalSpec(), description="Why.")
    model: ModelSpec = Field(description="From which base.")
    data: DataSpec = Field(description="With which rows.")
    stages: list[StageSpec] = Field(min_length=1, max_length=MOST_STAGES, description="Trained one after the other.")
    runtime: RuntimeSpec = Field(RuntimeSpec(), description="Where.")
    evaluate: EvaluateSpec = Field(EvaluateSpec(), description="Proven how.")
    ship: ShipSpec = Field(ShipSpec(), description="Published how.")
    serve: ServeSpec = Field(ServeSpec(), description="Served how.")

    @model_validator(mode="before")
    @classmethod
    def _with_defaults_of_the_task(cls, values: object) -> object:
        """What is left open is what the task needs: other metrics."""
        data = values.get("data") if isinstance(values, dict) else None
        tasks = data.get("tasks") if isinstance(data, dict) else None
        task = data.get("task", "text_class" if tasks else None) if isinstance(data, dict) else None
        if not isinstance(values, dict) or not isinstance(data, dict) or task not in ("text_class", "token_class"):
            return values
        several = "micro_f1" if data.get("rows") == "multi_label" else "accuracy"
        metrics: list[str] = [several, "macro_f1"] if task == "text_class" else ["entity_f1", "token_accuracy"]
        if isinstance(tasks, dict):
            known = [METRICS_OF_ROWS[rows] for rows in METRICS_OF_ROWS if rows in tasks.values()]
            metrics = list(dict.fromkeys(name for names in known for name in names)) or metrics
        open_choices: dict[str, dict[str, object]] = {"evaluate": {"metrics": metrics}}
        open_choices["goal"] = {"support_rate": 0.5}  # against a method that often answers alike
        stated = {part: values.get(part, {}) for part in open_choices}
        if not all(isinstance(each, dict) for each in stated.values()):
            return values
        return {**values, **{part: {**open_choices[part], **stated[part]} for part in open_choices}}

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str) -> str:
        if name.startswith(".") or name != name.strip():
            raise ValueError("run_name")
        if len(name.encode("utf-8", "replace")) > _LONGEST_NAME:
            raise ValueError("run_name_bytes")
        # Signs that show nothing, turn the direction of reading or end a line: the name is not what it looks like.
        if any(unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl", "Zp") and each not in _IN_WORDS for each in name):
            raise ValueError("run_name_signs")
        return name

    @model_validator(mode="after")
    def _stage_names_differ(self) -> Self:
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError("stage_names")
        if set(names) & set(_FOLDERS):
            raise ValueError("stage_folder")
        return self

    @property
    def sources_beside(self) -> dict[str, list[SourceSpec]]:
        """Sources of what is read besides `data`, by the name of their table, such as instruct-replay.

        They stand in the order in which the ledger numbers their rows.
        """
        return {f"{stage.name}-{what}": each for stage in self.stages for what, each in stage.sources.items()}

    @property
    def all_sources(self) -> list[SourceSpec]:
        """Every source of rows that a run reads."""
        data = self.data
        beside = [source for sources in self.sources_beside.values() for source in sources]
        return [*data.sources, *data.validation_sources, *data.test_sources, *(data.benchmarks or ()), *beside]

    @property
    def task_embeddings(self) -> bool:
        """Whether every task of the run's rows has a learned vector of its own."""
        return any(each.task_embeddings for each in self.stages if each.data is None)

    @property
    def formats(self) -> list[ShipFormat]:
        """What is published: the formats stated, else those that the last stage's change and the task allow."""
        adapt = self.stages[-1].adapt
        merged = WITHOUT_GGUF if self.data.task != "chat" else MERGED
        return self.ship.formats or list(merged if adapt.mergeable else BESIDE)

    def as_json(self) -> str:
        """Every setting as canonical JSON (keys sorted, no blanks)."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False, separators=(",", ":"))

    def as_yaml(self) -> str:
        """Every setting as YAML, in the order of the specs: the lock file. What is not there stays away."""
        return write_yaml(_without_absent(self, self.model_dump(mode="json")))


def _without_absent(spec: BaseModel, values: dict[str, object]) -> dict[str, object]:
    """The values of a spec but those of add-ons that nobody asked for, and of settings of few recipes."""
    kept: dict[str, object] = {}
    unstated = spec.unstated if isinstance(spec, Spec) else ()
    for name, field in type(spec).model_fields.items():
        inner, value = getattr(spec, name), values[name]
        if inner is None and (name in unstated or any(_is_table(each) for each in get_args(field.annotation))):
            continue
        if isinstance(inner, BaseModel) and isinstance(value, dict):
            value = _without_absent(inner, value)
        elif isinstance(inner, list) and isinstance(value, list):
            pairs = zip(inner, value, strict=True)
            value = [_without_absent(*pair) if isinstance(pair[0], BaseModel) else pair[1] for pair in pairs]
        kept[name] = value
    return kept


def _is_table(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
