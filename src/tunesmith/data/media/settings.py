"""Settings that only words can have: refused where rows are about pictures or sounds."""

from __future__ import annotations

from tunesmith.core.errors import TunesmithError
from tunesmith.data.media.kinds import MEDIA_KINDS
from tunesmith.recipe.specs.data import DataSpec, StageDataSpec


def refuse_settings_of_words(spec: DataSpec | StageDataSpec) -> None:
    """Errors: data.media_setting."""
    if spec.kind not in MEDIA_KINDS:
        return
    clean = spec.clean
    stated: dict[str, object] = {
        f"clean.{name}": getattr(clean, name)
        for name in ("near_duplicates", "semantic_duplicates", "repair", "filter", "pii", "content")
    }
    for place, each in enumerate(spec.sources):
        stated |= {f"sources.{place}.chunk_size": each.chunk_size, f"sources.{place}.split": each.split}
        stated[f"sources.{place}.sheet"] = each.sheet
    stated["labels"] = spec.labels
    if isinstance(spec, DataSpec):
        stated["benchmarks"] = spec.benchmarks
    for name, value in stated.items():
        if value is not None:
            raise TunesmithError("data.media_setting", setting=f"data.{name}", kind=spec.kind)
