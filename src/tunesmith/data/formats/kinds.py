"""Which files are read, told from their names: tables of rows, documents, and what either may be packed in."""

from __future__ import annotations

from pathlib import Path

ROWS = (
    ".json",
    ".jsonl",
    ".ndjson",
    ".csv",
    ".tsv",
    ".parquet",
    ".arrow",
    ".feather",
    ".xlsx",
    ".conll",
    ".bio",
)
"""Files that hold one row after another."""

DOCUMENTS = (".txt", ".md", ".html", ".htm", ".pdf", ".docx")
"""Files that hold running text, which is cut into rows."""

TGZ = ".tgz"
"""Short for .tar.gz."""

PRESSED = (".gz", ".bz2", ".xz", ".zst", TGZ)
"""One file made smaller; its kind stands before, as in rows.jsonl.gz."""

ZIP, TAR = ".zip", ".tar"
ARCHIVES = (ZIP, TAR)
"""Several files in one."""

SUFFIXES = (*ROWS, *DOCUMENTS, *PRESSED, *ARCHIVES)


def is_pressed(path: Path) -> bool:
    """Whether a name says that the file is made smaller."""
    return path.suffix.lower() in PRESSED


def kind_of_file(path: Path) -> str:
    """What a file is read as, such as ".jsonl" for rows.jsonl.gz; "" for a name that tells of nothing that is read."""
    suffix = path.suffix.lower()
    kind = Path(path.stem).suffix.lower() if is_pressed(path) else suffix
    if suffix == TGZ:
        return TAR
    known = (*ROWS, *DOCUMENTS, TAR) if is_pressed(path) else (*ROWS, *DOCUMENTS, *ARCHIVES)
    return kind if kind in known else ""
