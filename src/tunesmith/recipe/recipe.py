"""Recipe: the whole request as one value.

Only `model`, `data.sources` and one stage are required; every default is written into the run's lock file.
"""

from __future__ import annotations

import json
import unicodedata
from typing import Self

from pydantic import Field, field_validator, model_validator

from tunesmith.recipe.plain_yaml import write_yaml
from tunesmith.recipe.specs.adapt import AdaptSpec, LoraSpec
from tunesmith.recipe.specs.base import Spec
from tunesmith.recipe.specs.data import DataSpec
from tunesmith.recipe.specs.evaluate import EvaluateSpec
from tunesmith.recipe.specs.goal import GoalSpec
from tunesmith.recipe.specs.groups import GroupsSpec
from tunesmith.recipe.specs.model import ModelSpec
from tunesmith.recipe.specs.objectives import ObjectiveSpec, SupervisedSpec
from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.recipe.specs.serve import ServeSpec
from tunesmith.recipe.specs.ship import ShipSpec
from tunesmith.recipe.specs.train import TrainSpec

_LONGEST_NAME = 255
"""Bytes that file systems allow a folder's name."""
_IN_WORDS = frozenset("\u200c\u200d")
"""Joiners without a sign of their own: emoji and several scripts need them."""


class StageSpec(Spec):
    """One training stage: a point on the axes adapt and objective, and how it is trained."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$", description="Name of the stage and of its folder.")
    adapt: AdaptSpec = Field(LoraSpec(), description="What is trained.")
    groups: GroupsSpec | None = Field(None, description="How fast each part moves, and from when; none: all alike.")
    objective: ObjectiveSpec = Field(SupervisedSpec(), description="Toward what.")
    train: TrainSpec = Field(TrainSpec(), description="How.")


class Recipe(Spec):
    """A run, from the question why to the server's port."""

    name: str = Field("run", pattern=r"^[^/\\\x00-\x1f]{1,80}$", description="Name of the run and of its folder.")
    goal: GoalSpec = Field(GoalSpec(), description="Why.")
    model: ModelSpec = Field(description="From which base.")
    data: DataSpec = Field(description="With which rows.")
    stages: list[StageSpec] = Field(min_length=1, max_length=1, description="Trained one after the other.")
    runtime: RuntimeSpec = Field(RuntimeSpec(), description="Where.")
    evaluate: EvaluateSpec = Field(EvaluateSpec(), description="Proven how.")
    ship: ShipSpec = Field(ShipSpec(), description="Published how.")
    serve: ServeSpec = Field(ServeSpec(), description="Served how.")

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
        return self

    def as_json(self) -> str:
        """Every setting as canonical JSON (keys sorted, no blanks)."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False, separators=(",", ":"))

    def as_yaml(self) -> str:
        """Every setting as YAML, in the order of the specs: the lock file."""
        return write_yaml(self.model_dump(mode="json"))
