"""Who may import whom: the contracts of pyproject.toml, run through import-linter, and proof that they bite."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter import api

ROOT = Path(__file__).parents[2]
LIGHT_ROOMS = ("core", "messages", "recipe", "compat", "store", "data", "plan")
HEAVY = ("torch", "transformers", "peft")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """import-linter on the package in ``folder/src`` under the contracts in ``folder/pyproject.toml``."""
    program = (
        "import sys\n"
        "from importlinter import configuration\n"
        "from importlinter.application import use_cases\n"
        "configuration.configure()\n"
        "kept = use_cases.lint_imports(config_filename='pyproject.toml', cache_dir=None, is_debug_mode=False)\n"
        "sys.exit(0 if kept else 1)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(folder / "src"), "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_package_keeps_its_contracts() -> None:
    outcome = lint(ROOT)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def planted_package(folder: Path, files: dict[str, str]) -> Path:
    """The project's own contracts over a small package with the same room names."""
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text(encoding="utf-8"), encoding="utf-8")
    package = folder / "src" / "tunesmith"
    for name, text in {"models/catalog.py": "", **files}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for inner in [package, *(path for path in package.rglob("*") if path.is_dir())]:
        (inner / "__init__.py").touch()
    return folder


def test_a_clean_package_passes(tmp_path: Path) -> None:
    files = {"core/a.py": "import json\n", "train/b.py": "import torch\nfrom tunesmith.core import a\n"}
    outcome = lint(planted_package(tmp_path, files))
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"core/a.py": "from tunesmith.train import b\n", "train/b.py": ""}, "Each room imports only"),
        ({"data/a.py": "from tunesmith.models import b\n", "models/b.py": ""}, "Each room imports only"),
        (
            {"adapt/a.py": "def f():\n    import tunesmith.objectives.b\n", "objectives/b.py": ""},
            "Each room imports only",
        ),
        ({"surprise/a.py": "", "core/b.py": ""}, "surprise"),
        ({"data/a.py": "import torch\n"}, "Rooms that start fast"),
        ({"recipe/specs/a.py": "def f():\n    from transformers import x\n"}, "Rooms that start fast"),
        ({"models/catalog.py": "import torch\n"}, "Rooms that start fast"),
        ({"plan/a.py": "from tunesmith.tasks import b\n", "tasks/b.py": "import peft\n"}, "Rooms that start fast"),
    ],
    ids=["upward", "sideways", "lazily", "unknown-room", "torch", "lazy-transformers", "catalog", "round-a-corner"],
)
def test_a_broken_contract_is_found(tmp_path: Path, files: dict[str, str], complaint: str) -> None:
    outcome = lint(planted_package(tmp_path, files))
    assert outcome.returncode == 1
    assert complaint in outcome.stdout, outcome.stdout + outcome.stderr


def test_the_contracts_name_every_light_room() -> None:
    contracts = {each["id"]: each for each in api.read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"]}
    assert set(contracts["light-rooms"]["source_modules"]) == {
        "tunesmith.models.catalog",
        *(f"tunesmith.{room}.*" for room in LIGHT_ROOMS),
    }
    assert set(contracts["light-rooms"]["forbidden_modules"]) == set(HEAVY)
