"""What a model has lost besides its task: how likely it finds right choices, and how much likelier than wrong ones.

    likelihood of a question = log p(right)
    margin of a question     = log p(right) - mean over the wrong choices of log p(wrong)

each log p being the mean log-probability of the choice's tokens, so that long choices do not count more. Likelihoods
fall as soon as a model forgets how such texts read; margins may rise all the same, since a model that has become surer
of everything is surer of what it knew. Two models are compared question by question: the mean of the differences, with
the interval of a paired bootstrap.

Shape letters: K positions, D documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import SILENT, Emitter
from tunesmith.core.files import read_json, write_json
from tunesmith.core.run import Run
from tunesmith.evaluate.intervals import CONFIDENCE, Interval
from tunesmith.evaluate.probes import Candidate, Probe, probe_file, read_probes
from tunesmith.models.load import Loaded
from tunesmith.models.packed import Features, Packed, pack
from tunesmith.models.policy import Policy

_TOKENS_AT_ONCE = 4096
_RESAMPLES = 4000


@dataclass(frozen=True)
class Margins:
    """Of one model on one probe file, a number a question: margin and likelihood in nats a token, and whether the right
    choice was the likeliest.
    """

    margins: tuple[float, ...]
    likelihoods: tuple[float, ...]
    right: tuple[bool, ...]

    @property
    def accuracy(self) -> float:
        """Share of questions whose right choice was the likeliest."""
        return sum(self.right) / max(1, len(self.right))

    @property
    def mean(self) -> float:
        """Mean margin in nats a token."""
        return sum(self.margins) / max(1, len(self.margins))

    @property
    def likelihood(self) -> float:
        """Mean likelihood of the right choices in nats a token."""
        return sum(self.likelihoods) / max(1, len(self.likelihoods))


def measure_margins(loaded: Loaded, probes: Sequence[Probe], emitter: Emitter = SILENT) -> Margins:
    """Score every choice of every probe; the model is left in evaluation mode, with the attention it had."""
    model = loaded.model
    attention = str(model.config._attn_implementation)
    policy = Policy(model)
    policy.eval()
    margins: list[float] = []
    likelihoods: list[float] = []
    right: list[bool] = []
    try:
        with torch.inference_mode():
            for part in _parts(loaded, probes):
                scores = _scores(policy, [row for rows in part for row in rows])
                for rows, probe in zip(part, probes[len(margins) :], strict=False):
                    own = [scores[row.row] for row in rows]
                    wrong = [each for place, each in enumerate(own) if place != probe.right]
                    margins.append(own[probe.right] - sum(wrong) / len(wrong))
                    likelihoods.append(own[probe.right])
                    right.append(own[probe.right] > max(wrong))
                emitter.emit("progress", what="probe", done=len(margins), total=len(probes))
    finally:
        model.set_attn_implementation(attention)
    return Margins(tuple(margins), tuple(likelihoods), tuple(right))


def _parts(loaded: Loaded, probes: Sequence[Probe]) -> list[list[list[Features]]]:
    """The candidates of the probes as rows, numbered one after the other, in parts of so many tokens."""
    room = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", 0) or 2**31
    parts: list[list[list[Features]]] = []
    held, number = _TOKENS_AT_ONCE, 0
    for probe in probes:
        rows = []
        for candidate in probe.candidates:
            rows.append(_row(loaded, candidate, number, room))
            number += 1
        tokens = sum(len(row.token_ids) for row in rows)
        if held + tokens > _TOKENS_AT_ONCE:
            parts.append([])
            held = 0
        parts[-1].append(rows)
        held += tokens
    return parts


def _row(loaded: Loaded, candidate: Candidate, number: int, room: int) -> Features:
    """The candidate as tokens of which the continuation weighs; a context that is too long loses its beginning."""
    context, whole = (
        list(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])
        for text in (candidate.context, candidate.context + candidate.continuation)
    )
    if whole[: len(context)] != context or len(whole) == len(context):  # a token straddles the two
        whole = context + list(loaded.tokenizer(candidate.continuation, add_special_tokens=False)["input_ids"])
    own = len(whole) - len(context)
    ids = whole[-room:]
    return Features(number, tuple(ids), tuple(0.0 if place < len(ids) - own else 1.0 for place in range(len(ids))))


def _scores(policy: Policy, rows: Sequence[Features]) -> dict[int, float]:
    """Mean log-probability of each row's weighted tokens, by the row's number."""
    batch: Packed = pack(rows).to(policy.device)
    losses_K: Tensor = policy(batch)
    document_K = torch.searchsorted(batch.offsets, batch.keep, right=True) - 1
    count = batch.row.numel()
    sums_D = torch.zeros(count, dtype=torch.float64, device=losses_K.device)
    sums_D.index_add_(0, document_K, -losses_K.double())
    tokens_D = torch.bincount(document_K, minlength=count).clamp_min(1)
    means = (sums_D / tokens_D).tolist()
    return {row: means[place] for place, row in enumerate(batch.row.tolist()) if row >= 0}


def change_over_seeds(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]], seed: int = 0) -> Interval:
    """Mean of one minus other, a number a question, over several trainings, which are paired by their seed.

    The bootstrap draws trainings and questions: either could have been others.
    """
    difference_SN = np.array(one) - np.array(other)
    seeds, questions = difference_SN.shape
    draw = np.random.default_rng(seed)
    means = [
        difference_SN[np.ix_(draw.integers(0, seeds, seeds), draw.integers(0, questions, questions))].mean()
        for _ in range(_RESAMPLES)
    ]
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
    return Interval(float(difference_SN.mean()), low, high)


def margins_path(run_path: Path, place: int, label: str) -> Path:
    """Where a run keeps the margins of a model ("base" or "tuned") on a probe, by its place in the recipe."""
    return run_path / "evaluate" / f"probe-{place}-{label}.json"


def ask_probes(run: Run, folder: Path, stated: Sequence[str], loaded: Loaded, label: str, emitter: Emitter) -> None:
    """Score the choices of every probe of a recipe and keep the margins; what an earlier call has kept stays, unless
    an older version wrote it, which kept no likelihoods.

    Args:
        folder: where the recipe's paths start.
        label: of the model, "base" or "tuned".
    """
    for place, each in enumerate(stated):
        path = margins_path(run.path, place, label)
        if not (path.exists() and run.recorded(path)) or _is_of_older_version(read_json(path)):
            found = measure_margins(loaded, read_probes(probe_file(each, folder)), emitter)
            with run.replacing(path):
                write_margins(path, found)
            emitter.emit(
                "probed", model=label, probe=each, rows=len(found.margins), margin=found.mean,
                likelihood=found.likelihood, right=found.accuracy,
            )  # fmt: skip


def write_margins(path: Path, found: Margins) -> None:
    """Keep them as JSON."""
    write_json(path, {name: list(values) for name, values in asdict(found).items()})


def read_margins(path: Path) -> Margins:
    """Read them back. Errors: those of `read_json`; evaluate.old_margins."""
    stored = read_json(path)
    if _is_of_older_version(stored):
        raise TunesmithError("evaluate.old_margins", path=str(path))
    lists = [each for name in ("margins", "likelihoods", "right") if isinstance(each := stored.get(name), list)]
    if len(lists) != 3 or len({len(each) for each in lists}) != 1:
        raise TunesmithError("core.broken_json", path=str(path), reason="margins")
    margins, likelihoods, right = lists
    return Margins(tuple(map(float, margins)), tuple(map(float, likelihoods)), tuple(map(bool, right)))


def _is_of_older_version(stored: Mapping[str, object]) -> bool:
    """Whether margins were kept without likelihoods, as they were at first."""
    return "margins" in stored and "likelihoods" not in stored
