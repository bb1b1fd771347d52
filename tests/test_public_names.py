"""The public names exist, load nothing before they are used, and are the ones the guides list."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import tunesmith

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", tunesmith.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(tunesmith, name) is not None


def test_a_name_that_is_not_public_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="forge"):
        _ = tunesmith.forge  # type: ignore[attr-defined]


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = "import sys, tunesmith; print(sorted({'torch', 'pydantic', 'polars', 'yaml'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_guide_lists_the_public_names(language: str) -> None:
    text = (ROOT / "docs" / language / "python.md").read_text("utf-8")
    listed = set(re.findall(r"^\| `tunesmith\.([A-Za-z_]+)`", text, flags=re.MULTILINE))
    assert listed == set(tunesmith.__all__)
