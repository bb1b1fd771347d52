"""The scenario of pictures: a recipe becomes a run with rows that were made, each with a file of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tunesmith.core.run import list_runs
from tunesmith.data.media_run import prepared_run

_RECIPE = """
name: pictures
model: {base: smollm2-135m}
data:
  task: image_class
  sources: [{path: rows}]
  augment: {images: {crop: 0.5}, mixup: {alpha: 1.0}}
stages: [{name: one}]
"""


class Pictures:
    """Six small pictures; four of them are for training, and each of these gets two children."""

    def __init__(self, folder: Path) -> None:
        self._recipe = folder / "recipe.yaml"
        self._runs = folder / "live"
        for place in range(6):
            path = folder / "rows" / "ab"[place % 2] / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(place).integers(0, 256, (6, 8, 3), np.uint8)).save(path)
        self._recipe.write_text(_RECIPE, "utf-8")

    def prepare(self) -> None:
        self._runs.mkdir()

    def work(self) -> None:
        prepared_run(self._recipe, self._runs)

    def recover(self) -> None:
        found = list_runs(self._runs)
        if not found:
            self.work()
            return
        with found[-1].owned():
            pass
