"""What the benchmark and its child processes hand each other: rows, jobs and figures, as JSON files.

No torch here: a child settles its threads and its allocator before it imports anything heavy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One row as every system gets it: token ids, and 1 where the token is learned."""

    token_ids: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True)
class Rows:
    """`warm_up` is one batch outside the clock, `train` is what is timed, `held_out` is only judged."""

    warm_up: tuple[Row, ...]
    train: tuple[Row, ...]
    held_out: tuple[Row, ...] = ()

    @property
    def train_tokens(self) -> int:
        """Real tokens of one epoch: no padding, and shared beginnings count in every row."""
        return count_tokens(self.train)


def count_tokens(rows: Sequence[Row]) -> int:
    """Real tokens of rows."""
    return sum(len(row.token_ids) for row in rows)


def answer_share(rows: Sequence[Row]) -> float:
    """Share of tokens that carry loss."""
    return sum(sum(row.answer) for row in rows) / count_tokens(rows)


@dataclass(frozen=True)
class Job:
    """What one child does: function `task` of the file `peers/<file>.py`, with these settings."""

    file: str
    task: str
    rows: str
    base: str
    base_folder: str
    scratch: str
    threads: int
    hold_memory: bool = False
    seed: int = 42
    epochs: int = 1
    batch_size: int = 4
    rank: int = 16
    alpha: int = 32
    learning_rate: float = 2e-4
    max_grad_norm: float = 1.0
    max_length: int = 1024
    options: Mapping[str, str] = field(default_factory=dict)


Figures = dict[str, float | list[float]]
"""What a child measured, by name."""


def write_rows(path: Path, rows: Rows) -> None:
    """Save rows for the children."""
    path.write_text(json.dumps(asdict(rows)), "utf-8")


def read_rows(path: str) -> Rows:
    """The rows of a job."""
    parts = json.loads(Path(path).read_text("utf-8"))
    return Rows(
        **{
            part: tuple(Row(tuple(row["token_ids"]), tuple(row["answer"])) for row in listed)
            for part, listed in parts.items()
        }
    )


def write_job(path: Path, job: Job) -> None:
    """Save what a child shall do."""
    path.write_text(json.dumps(asdict(job)), "utf-8")


def read_job(path: Path) -> Job:
    """What this child shall do."""
    return Job(**json.loads(path.read_text("utf-8")))
