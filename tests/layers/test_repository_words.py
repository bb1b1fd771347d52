"""The repository speaks of the product alone: no paths of one machine, no addresses of package hosts."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Put together from pieces, so that this file passes its own test.
UNWANTED = {
    "a path of one machine": re.compile(r"(?<![\w.~-])/" + r"work/"),
    "a package host": re.compile("pypi" + r"\.org|files\." + "pythonhosted", re.IGNORECASE),
}


def repository_files(root: Path) -> list[Path]:
    """The files git tracks or would track; in an unpacked archive, every file outside hidden folders."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root, capture_output=True, check=False,
    )  # fmt: skip
    if listed.returncode == 0 and (root / ".git").exists():
        return [root / name for name in listed.stdout.decode().split("\0") if name]
    everything = (path for path in root.rglob("*") if path.is_file())
    return [path for path in everything if not any(part.startswith(".") for part in path.relative_to(root).parts[:-1])]


def unwanted_words(files: list[Path]) -> list[str]:
    """ "file:line: what stands there" for every unwanted word; files that are no UTF-8 text are passed over."""
    found = []
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            found += [f"{path}:{number}: {what}" for what, pattern in UNWANTED.items() if pattern.search(line)]
    return found


def test_the_repository_speaks_of_the_product_alone() -> None:
    files = repository_files(ROOT)
    assert len(files) > 10
    found = unwanted_words(files)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    ["cd /" + "work/main", "see https://pypi" + ".org/x", "https://files." + "pythonhosted.org/x", "'/" + "work/'"],
)
def test_unwanted_words_are_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "page.md").write_text(f"fine\n{line}\n", encoding="utf-8")
    assert [each.split(":")[1] for each in unwanted_words(repository_files(tmp_path))] == ["2"]


def test_ordinary_words_pass(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("homework/notes, ./" + "work/x, a network\n", encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff\xfe")
    assert unwanted_words(repository_files(tmp_path)) == []
