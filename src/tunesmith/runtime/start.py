"""The table of runtimes."""

from __future__ import annotations

from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.runtime.base import Runtime
from tunesmith.runtime.distributed import DistributedRuntime
from tunesmith.runtime.local import LocalRuntime


def start(spec: RuntimeSpec) -> Runtime:
    """The runtime of a recipe, joined to its group. Errors: runtime.no_device, runtime.no_launcher."""
    return DistributedRuntime(spec) if spec.kind == "distributed" else LocalRuntime(spec)
