"""Why the model is tuned: kept with the run and read by the readiness check and the release card."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.recipe.specs.base import Spec

Need = Literal["style", "format", "domain", "capability", "compliance"]
Tried = Literal["prompting", "rag"]


class TargetSpec(Spec):
    """The figure that the tuned model has to reach on the test split."""

    metric: str = Field("json_exact", description="Name of a metric of the task.")
    at_least: float = Field(0.85, ge=0, le=1, description="Share, 0 to 1, that counts as reached.")


class ComplianceSpec(Spec):
    """What the product may learn from."""

    commercial: bool = Field(True, description="Whether the product is commercial; sources that forbid it are refused.")
    unknown_licences: Literal["report", "refuse"] = Field(
        "report", description="Sources whose licence is not stated or not known: named in the report, or refused."
    )


class GoalSpec(Spec):
    """The business side of a run."""

    problem: str = Field("", description="The problem in one sentence, as the product manager would say it.")
    need: list[Need] = Field([], description="Reasons for tuning.")
    tried: list[Tried] = Field([], description="What was tried before; readiness warns where nothing was.")
    business_metric: str = Field(
        "", description="The business figure that should move, such as first-contact resolution."
    )
    target: TargetSpec | None = Field(None, description="The figure to reach; none means that any gain is reported.")
    support_rate: float = Field(
        0.70, ge=0.5, le=1, description="Share of blind wins against the baseline for a release."
    )
    compliance: ComplianceSpec | None = Field(None, description="Licences that count; none: they are only noted.")
