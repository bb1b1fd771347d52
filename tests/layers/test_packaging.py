"""What is installed agrees with itself: declared, pinned, imported, and told in the two commands."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from code_rules import SourceFile, read_package
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import tunesmith
from tunesmith.models import catalog

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def declared() -> list[Requirement]:
    """Everything any user can be asked to install, the extras included."""
    lines = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    return [each for each in map(Requirement, lines) if canonicalize_name(each.name) != "tunesmith"]


def pinned() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_the_pins_lie_within_the_declared_ranges() -> None:
    pins = pinned()
    outside = [
        str(each)
        for each in declared()
        if canonicalize_name(each.name) in pins and pins[canonicalize_name(each.name)] not in each.specifier
    ]
    assert outside == []


def test_every_core_dependency_is_pinned_and_bounded() -> None:
    pins = pinned()
    for each in map(Requirement, PROJECT["dependencies"]):
        assert canonicalize_name(each.name) in pins, f"{each.name} has no pin in constraints.txt"
        assert "<" in str(each.specifier), f"{each.name} has no upper end"


def undeclared_imports(files: list[SourceFile]) -> list[str]:
    """Imports of libraries that no dependency and no extra names; transitive luck is not a declaration.

    One that is not installed here is taken for a package of its own name.
    """
    names = {canonicalize_name(each.name) for each in declared()}
    owners = packages_distributions()
    found = []
    for file in files:
        for node in ast.walk(file.tree):
            origins = []
            if isinstance(node, ast.Import):
                origins = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                origins = [node.module or ""]
            for root in {origin.split(".")[0] for origin in origins} - {"tunesmith", *sys.stdlib_module_names}:
                if not {canonicalize_name(owner) for owner in owners.get(root, [root])} & names:
                    found.append(file.at(node, f"{root} is imported but not declared"))
    return found


def test_every_imported_library_is_declared() -> None:
    assert undeclared_imports(read_package(ROOT / "src" / "tunesmith")) == []


def test_an_undeclared_library_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import os\nimport torch\nimport surprising_library.inner\n", encoding="utf-8")
    assert undeclared_imports(read_package(tmp_path)) == ["a.py:3: surprising_library is imported but not declared"]


def test_every_bundled_model_is_held_by_one_hash() -> None:
    files = sorted(ROOT.glob("requirements-models*.txt"))
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    bundles = [model.bundle for model in catalog.KNOWN if model.bundle]
    assert {(each.distribution, each.version, each.wheel_sha256) for each in bundles} == set(
        re.findall(r"^(\S+)==(\S+) --hash=sha256:([0-9a-f]{64})$", text, re.MULTILINE)
    )


def test_the_changelog_knows_this_version() -> None:
    assert f"\n## {tunesmith.__version__} (" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "CONTRIBUTING.zh-CN.md"])
def test_the_guide_shows_the_rooms_of_the_contract(page: str) -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = next(each["layers"] for each in tool["contracts"] if each["id"] == "rooms")
    shown = re.search(r"^```\n(cli\n.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert shown is not None
    assert shown[1].splitlines() == [re.sub(r"[()]", "", layer) for layer in layers if layer != "(__main__)"]


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        ([], 0, ["make demo", "make test", "全部测试"]),
        (["demo", "PYTHON=no-such-python"], 2, ["needs Python 3.11", "需要 Python 3.11", "no-such-python"]),
    ],
)
def test_make_speaks_plainly(tmp_path: Path, arguments: list[str], code: int, expected: list[str]) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "requirements-models.txt"):
        shutil.copy(ROOT / name, tmp_path)
    outcome = subprocess.run(["make", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert outcome.returncode == code
    for words in expected:
        assert words in outcome.stdout + outcome.stderr
    assert not (tmp_path / ".venv").exists()
