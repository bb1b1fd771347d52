"""The parity gate: an artefact, run from its own folder only, against the model that was evaluated.

Shape letters: K positions of an answer, V vocabulary.

Nothing is published beyond the limits. Every number and its limit is written into the artefact's `parity.json`,
those of a refusal into the error.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Emitter
from tunesmith.core.files import write_json
from tunesmith.core.types import Message
from tunesmith.models.beginning import places_before
from tunesmith.models.gguf_layout import Array
from tunesmith.models.load import BaseFolder, load_model, load_tokenizer
from tunesmith.recipe.specs.ship import ParityLimits
from tunesmith.ship.adapter_judge import judge_name, judged
from tunesmith.ship.evaluated import Reader, answer_turns, asked, broken_tokens, chat_ids
from tunesmith.ship.formats.gguf import gguf_path
from tunesmith.ship.formats.llama_cpp import LlamaJudge
from tunesmith.ship.near_ties import near_ties
from tunesmith.ship.stored_types import other_dtypes, other_types, stated_dtype
from tunesmith.tasks.chat_template import ChatTemplate, write_tools_as_text

PARITY = "parity.json"
NEAR_ANSWERS = "other_answers_at_near_ties"
_NO_CHANGE_TURNS = 4
_SECONDS = 900.0
FLOAT32_GAP = 0.02
"""Largest gap of a logit where the artefact keeps float32: a merge only adds in another order (1e-5 on a tiny model,
1e-3 on 135M parameters). Where weights were rounded, the gap informs and the most likely tokens decide."""


@dataclass(frozen=True)
class TaskMetric:
    """The task's own figure: questions, the evaluated model's answers to them, and what scores answers.

    `score` takes answers in the order of `questions` and returns points of 100.
    """

    name: str
    questions: Sequence[Sequence[Message]]
    evaluated_answers: Sequence[str]
    score: Callable[[Sequence[str]], float]
    max_new_tokens: int = 128


@dataclass(frozen=True)
class Check:
    """One comparison. `limit` is a floor or a ceiling; a check without a limit only informs."""

    name: str
    value: float
    limit: float | None = None
    kind: Literal["at_least", "at_most", "note"] = "note"

    @property
    def ok(self) -> bool:
        """Whether the value keeps its limit; a value that is not a number never does."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.kind == "at_least" else self.value <= self.limit


@dataclass(frozen=True)
class Parity:
    """All comparisons of one artefact: over how many chats, answers and positions, in how many seconds."""

    format: str
    judge: str
    chats: int
    answers: int
    positions: int
    checks: tuple[Check, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every check keeps its limit."""
        return all(check.ok for check in self.checks)

    def value(self, name: str) -> float:
        """The figure of a check by its name. Errors: KeyError for a name that was not checked."""
        return {check.name: check.value for check in self.checks}[name]

    def write(self, folder: Path, facts: Mapping[str, object]) -> None:
        """Write `parity.json`, with facts about what was compared."""
        checks = [{**asdict(check), "ok": check.ok} for check in self.checks]
        write_json(folder / PARITY, {**asdict(self), "checks": checks, "ok": self.ok, **facts})


class Gate:
    """The evaluated model's side, computed once for all formats.

    Args:
        evaluated: the model as it was evaluated, float32.
        base: the untouched base, float32.
        tokenizer: the one the model was trained and evaluated with.
        chats: real conversations.
    """

    def __init__(
        self,
        evaluated: PreTrainedModel,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        chats: Sequence[Sequence[Message]],
        limits: ParityLimits,
        emitter: Emitter,
    ) -> None:
        self._chats = list(chats)[: limits.chats]
        self._limits = limits
        self._emitter = emitter
        self._tokenizer = tokenizer
        self._evaluated = evaluated
        self.context = int(getattr(evaluated.config, "max_position_embeddings", 4096)) - places_before(evaluated)
        self._ids = chat_ids(tokenizer, self._chats)
        self._turns = answer_turns(tokenizer, self._chats, self.context)
        self._reader = Reader(evaluated, self._turns)
        base_reader = Reader(base, self._turns)
        self._base_logits = [base_reader.logits(turn) for turn in self._turns[:_NO_CHANGE_TURNS]]
        self._best: list[list[int]] = []

    def check_safetensors(self, folder: Path) -> Parity:
        """Judge a merged folder in float32: ids, number format, gap of logits, top-1 agreement, and that it changed."""
        start = time.monotonic()
        artefact = load_model(folder, dtype=torch.float32)
        checks = (
            *self._compare("safetensors", artefact.model, artefact.tokenizer, stated_dtype(folder)),
            Check("tensors_of_another_format", other_dtypes(folder), 0, "at_most"),
        )
        return self._parity("safetensors", f"transformers, torch {torch.__version__}, float32", checks, start)

    def check_adapter(self, folder: Path, base: BaseFolder) -> Parity:
        """Judge a change beside its base in float32, read by other code than ours: the same as of a merged folder."""
        start = time.monotonic()
        tokenizer = load_tokenizer(folder, base.path)
        checks = self._compare("adapter", judged(base, folder), tokenizer, "float32")
        return self._parity("adapter", f"{judge_name(folder)}, torch {torch.__version__}, float32", checks, start)

    def _compare(
        self, kind: str, model: nn.Module, tokenizer: PreTrainedTokenizerFast, dtype: str
    ) -> tuple[Check, ...]:
        """Ids, top-1 agreement, gap of logits, and that the base changed, of an artefact whose weights are `dtype`."""
        differing = _differing(self._ids, chat_ids(tokenizer, self._chats))
        reader = Reader(model, self._turns)
        gaps: list[float] = []
        from_base: list[float] = []
        same = 0
        best: list[list[int]] = []
        for place, turn in enumerate(self._turns):
            own_KV, other_KV = self._reader.logits(turn), reader.logits(turn)
            best.append(own_KV.argmax(-1).tolist())
            gaps.append(_gap(own_KV, other_KV))
            same += int((own_KV.argmax(-1) == other_KV.argmax(-1)).sum())
            if place < len(self._base_logits):
                from_base.append(_gap(self._base_logits[place], other_KV))
            self._progress(kind, place + 1)
        self._best = best
        return (
            Check("chats_with_other_ids", differing, 0, "at_most"),
            Check("top1_agreement", same / self._positions, self._limits.top1_safetensors, "at_least"),
            _gap_check(_largest(gaps), dtype),
            Check("change_from_base", _largest(from_base), float(np.finfo(np.float32).tiny), "at_least"),
        )

    def check_gguf(
        self,
        folder: Path,
        kind: str,
        unchanged: Mapping[str, Array],
        metric: TaskMetric | None,
    ) -> Parity:
        """Judge a GGUF file inside llama.cpp: ids through its own template and tokenizer, top-1 agreement, metric.

        Args:
            unchanged: what the base has where the file must have something else, by names in the file.
        """
        start = time.monotonic()
        best = self._evaluated_best()
        broken = broken_tokens(self._tokenizer, self._turns)
        questions = self._question_ids(metric)
        longest = max(
            [len(turn.prompt) + len(turn.answer) for turn in self._turns]
            + [len(ids) + (metric.max_new_tokens if metric else 0) for ids in questions]
        )
        checks: list[Check] = []
        with LlamaJudge(gguf_path(folder), context=min(self.context, longest + 8), seconds=_SECONDS) as judge:
            differing = _differing(self._ids, self._judge_ids(judge))
            checks.append(Check("chats_with_other_ids", differing, 0, "at_most"))
            checks.append(Check("tensors_of_another_format", other_types(gguf_path(folder), kind), 0, "at_most"))
            checks.append(Check("tensors_changed", _tensors_changed(gguf_path(folder), unchanged), 1, "at_least"))
            if all(check.ok for check in checks):  # other ids make every later figure meaningless, and slow to get
                found = judge.map(
                    lambda turn: judge.best_tokens(turn.prompt, turn.answer, broken),
                    self._turns,
                    lambda done: self._progress(kind, done),
                )
                same = sum(
                    a == b for own, other in zip(best, found, strict=True) for a, b in zip(own, other, strict=True)
                )
                limit = self._limits.top1_gguf_f16 if kind == "gguf-f16" else self._limits.top1_gguf_q8_0
                checks.append(Check("top1_agreement", same / self._positions, limit, "at_least"))
            if metric is not None and all(check.ok for check in checks):
                checks += self._metric(judge, metric, questions)
        return self._parity(kind, "llama.cpp (xllamacpp)", tuple(checks), start)

    def _evaluated_best(self) -> list[list[int]]:
        if not self._best:
            found: list[list[int]] = []
            for place, turn in enumerate(self._turns):
                found.append(self._reader.logits(turn).argmax(-1).tolist())
                self._progress("evaluated", place + 1)
            self._best = found
        return self._best

    def _judge_ids(self, judge: LlamaJudge) -> list[list[int]]:
        """Ids of the chats as llama.cpp sees them, in the order of `chat_ids`; a chat it refuses has none."""
        plain = not ChatTemplate(self._tokenizer).knows_tools

        def ids(job: tuple[Sequence[Message], bool]) -> list[int]:
            messages, ask = job
            turns = write_tools_as_text(messages, "") if plain else messages
            return judge.tokenize(judge.render([_as_openai(turn) for turn in turns], ask=ask))

        jobs = [job for chat in self._chats for job in ((chat, False), (asked(chat), True))]
        return judge.map(ids, jobs)

    def _question_ids(self, metric: TaskMetric | None) -> list[list[int]]:
        if metric is None:
            return []
        return [chat_ids(self._tokenizer, [question])[1] for question in metric.questions]

    def _metric(self, judge: LlamaJudge, metric: TaskMetric, questions: Sequence[Sequence[int]]) -> list[Check]:
        answers = judge.map(
            lambda ids: judge.answer(ids, metric.max_new_tokens),
            questions,
            lambda done: self._emitter.emit("progress", what=f"ship.{metric.name}", done=done, total=len(questions)),
        )
        own_texts, texts = metric.evaluated_answers, [each.text for each in answers]
        other = [place for place, text in enumerate(own_texts) if texts[place] != text]
        settled, near = list(texts), 0
        for done, place in enumerate(other, 1):
            own_ids = self._tokenizer(own_texts[place], add_special_tokens=False)["input_ids"]
            if near_ties(self._evaluated, questions[place], [own_ids, answers[place].tokens]):
                settled[place] = own_texts[place]
                near += 1
            self._emitter.emit("progress", what="near_ties", done=done, total=len(other))
        own, raw, apart = (metric.score(each) for each in (own_texts, texts, settled))
        return [
            Check(f"{metric.name}_evaluated", own),
            Check(f"{metric.name}_artefact", raw),
            Check("other_answers", len(other)),
            Check(NEAR_ANSWERS, near),
            self._difference(f"{metric.name}_difference", own - raw, not self._limits.near_ties_apart),
            self._difference(
                f"{metric.name}_difference_near_ties_apart", own - apart, bool(self._limits.near_ties_apart)
            ),
        ]

    def _difference(self, name: str, points: float, limited: bool) -> Check:
        value = round(abs(points), 9)
        return Check(name, value, self._limits.metric_points, "at_most") if limited else Check(name, value)

    @property
    def _positions(self) -> int:
        return sum(len(turn.answer) for turn in self._turns)

    def _progress(self, kind: str, done: int) -> None:
        self._emitter.emit("progress", what=f"ship.{kind}", done=done, total=len(self._turns))

    def _parity(self, kind: str, judge: str, checks: tuple[Check, ...], start: float) -> Parity:
        seconds = round(time.monotonic() - start, 2)
        return Parity(kind, judge, len(self._chats), len(self._turns), self._positions, checks, seconds)


def refuse_beyond_limits(parity: Parity) -> None:
    """Errors: ship.parity_failed, naming every check that failed."""
    failed = [
        f"{check.name} = {check.value:.6g} ({'>=' if check.kind == 'at_least' else '<='} {check.limit:.6g})"
        for check in parity.checks
        if check.limit is not None and not check.ok
    ]
    if failed:
        raise TunesmithError("ship.parity_failed", format=parity.format, failed="; ".join(failed))


def _largest(values: Sequence[float]) -> float:
    """The largest value; not a number where one of them is none, which Python's own `max` may pass over."""
    return float(np.max(values))


def _gap_check(gap: float, dtype: str) -> Check:
    informs = dtype not in ("float32", "float64") and math.isfinite(gap)
    return Check("largest_logit_gap", gap) if informs else Check("largest_logit_gap", gap, FLOAT32_GAP, "at_most")


def _gap(one_KV: Tensor, other_KV: Tensor) -> float:
    return float((one_KV - other_KV).abs().max())


def _differing(one: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> int:
    """Chats of which the whole or the question has other ids; both lists hold two entries a chat."""
    pairs = [list(a) != list(b) for a, b in zip(one, other, strict=True)]
    return sum(any(pairs[place : place + 2]) for place in range(0, len(pairs), 2))


def _as_openai(message: Message) -> dict[str, object]:
    turn: dict[str, object] = {"role": message.role, "content": message.content}
    if message.name:
        turn["name"] = message.name
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return turn


def _tensors_changed(path: Path, unchanged: Mapping[str, Array]) -> int:
    """How many of the named tensors in the file are not what the base's own values would have become there."""
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    count = 0
    for name, values in unchanged.items():
        as_base = gguf.quantize(values, stored[name].tensor_type)
        count += np.asarray(stored[name].data).tobytes() != as_base.tobytes()
    return count
