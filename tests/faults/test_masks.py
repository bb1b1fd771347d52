"""Only what the assistant says and its end token carry loss; a model trained so stops; cut answers are no success."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from chat_templates import DEEPSEEK_R1, GLM_OPEN, SHAPES, Shape, tokenizer_for
from faults_tally import Tally
from faults_training import Watch
from fits import examples, local, make_job

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example, Message, Origin
from tunesmith.messages import LANGUAGES, both, render
from tunesmith.models.generate import generate
from tunesmith.models.load import load_model
from tunesmith.models.packed import Features
from tunesmith.models.sampling import GenerateSettings
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.tasks.chat import ChatTask
from tunesmith.tasks.mask_gate import check_masks
from tunesmith.tasks.xray import pieces
from tunesmith.train.batching import Source
from tunesmith.train.loop import fit

Piece = tuple[str, float]
Write = Callable[[Sequence[Message]], list[Piece]]
"""A template written by hand: the conversation in pieces, each with the weight of its loss."""


def weight(turn: Message) -> float:
    return (1.0 if turn.role == "assistant" else 0.0) if turn.weight is None else turn.weight


def chatml(turns: Sequence[Message]) -> list[Piece]:
    parts = [
        [(f"<|im_start|>{turn.role}\n", 0.0), (f"{turn.content}<|im_end|>", weight(turn)), ("\n", 0.0)]
        for turn in turns
    ]
    return [piece for part in parts for piece in part]


def llama3(turns: Sequence[Message]) -> list[Piece]:
    found: list[Piece] = [("<|begin_of_text|>", 0.0)]
    for turn in turns:
        found.append((f"<|start_header_id|>{turn.role}<|end_header_id|>\n\n", 0.0))
        found.append((f"{turn.content.strip()}<|eot_id|>", weight(turn)))
    return found


def qwen3(turns: Sequence[Message]) -> list[Piece]:
    """An answer that is not the last loses its thinking part afterwards, so nobody ever says it as it stands."""
    found = chatml(turns[:-1])
    found = [(text, 0.0) for text, _ in found]
    last = turns[-1]
    answer = f"<think>\n\n</think>\n\n{last.content}<|im_end|>"
    return [*found, ("<|im_start|>assistant\n", 0.0), (answer, weight(last)), ("\n", 0.0)]


def mistral(turns: Sequence[Message]) -> list[Piece]:
    found: list[Piece] = [("<|begin_of_text|>", 0.0)]
    system = ""
    for turn in turns:
        if turn.role == "system":
            system = f"{turn.content}\n\n"
        elif turn.role == "user":
            found.append((f"[INST] {system}{turn.content} [/INST]", 0.0))
            system = ""
        else:
            found.append((f" {turn.content}</s>", weight(turn)))
    return found


def gemma(turns: Sequence[Message]) -> list[Piece]:
    found: list[Piece] = [("<|begin_of_text|>", 0.0)]
    for turn in turns:
        name = "model" if turn.role == "assistant" else turn.role
        found.append((f"<start_of_turn>{name}\n", 0.0))
        found += [(f"{turn.content.strip()}<end_of_turn>", weight(turn)), ("\n", 0.0)]
    return found


def phi(turns: Sequence[Message]) -> list[Piece]:
    found: list[Piece] = []
    for place, turn in enumerate(turns):
        found.append((f"<|{turn.role}|>\n", 0.0))
        if place == len(turns) - 1:
            found.append((f"{turn.content}<|end|>\n<|endoftext|>", weight(turn)))
        else:
            found += [(f"{turn.content}<|end|>", weight(turn)), ("\n", 0.0)]
    return found


def deepseek(turns: Sequence[Message]) -> list[Piece]:
    found: list[Piece] = [("<|begin_of_text|>", 0.0)]
    for turn in turns:
        if turn.role == "assistant":
            found += [("<｜Assistant｜>", 0.0), (f"{turn.content}<｜end▁of▁sentence｜>", weight(turn))]
        else:
            found.append(("<｜User｜>" * (turn.role == "user") + turn.content, 0.0))
    return found


def deepseek_r1(turns: Sequence[Message]) -> list[Piece]:
    """Its prompt opens a thinking part that no answer continues: nothing can be learned."""
    return [(text, 0.0) for text, _ in deepseek(turns)]


def glm(turns: Sequence[Message], end: str = "<|endoftext|>") -> list[Piece]:
    found: list[Piece] = [("[gMASK]<sop>", 0.0)]
    for turn in turns:
        found.append((f"<|{turn.role}|>\n", 0.0))
        found.append((turn.content + end * (turn.role == "assistant"), weight(turn)))
    return found


def glm_open(turns: Sequence[Message]) -> list[Piece]:
    return glm(turns, end="")


def plain(turns: Sequence[Message]) -> list[Piece]:
    parts = [[(f"{t.role}: ", 0.0), (f"{t.content}</s>", weight(t)), ("\n", 0.0)] for t in turns]
    return [piece for part in parts for piece in part]


ORACLES: dict[str, tuple[Shape, Write]] = {
    **{name: (SHAPES[name], globals()[name]) for name in SHAPES},
    "deepseek_r1": (DEEPSEEK_R1, deepseek_r1),
    "glm_open": (GLM_OPEN, glm_open),
}
SYSTEM, ASK, SAY = (
    Message("system", "Be brief. 简短些"),
    Message("user", "hi 你好"),
    Message("assistant", "Hello, 今天！🎻"),
)
MORE, LAST = Message("user", " and\n\nthen 12?"), Message("assistant", "Bye.")
CODE = Message("assistant", "for n in range(3):\n    print(n)  # 数到 2\n\n\tdone")
ROWS = [
    (ASK, SAY),
    (SYSTEM, ASK, CODE),
    (ASK, SAY, MORE, LAST),
    (ASK, replace(SAY, weight=0.0), MORE, CODE),
    (ASK, SAY, MORE, replace(CODE, weight=0.25), ASK, LAST),
]


def merged(found: Sequence[Piece]) -> list[Piece]:
    groups = itertools.groupby((piece for piece in found if piece[0]), key=lambda piece: piece[1])
    return [("".join(text for text, _ in group), each) for each, group in groups]


def row(turns: Sequence[Message], number: int = 0) -> Example:
    return Example(number, "chat", Origin("here", number), tuple(turns))


@pytest.mark.case("C5")
@pytest.mark.parametrize("name", ORACLES)
def test_tokens_and_mask_are_those_written_by_hand(tally: Tally, name: str) -> None:
    shape, write = ORACLES[name]
    for pre in ("smollm", "llama-bpe"):
        tokenizer = tokenizer_for(shape, pre)
        ends = [int(tokenizer.convert_tokens_to_ids(end)) for end in shape.ends]
        task = ChatTask(tokenizer, ends, 4096)
        for turns in ROWS:
            if name == "gemma" and turns[0].role == "system":
                with pytest.raises(TunesmithError, match="template_failed"):
                    task.encode(row(turns))
                continue
            encoded = task.encode(row(turns))
            expected = merged(write(turns))
            ids, weights = encoded.features.token_ids, encoded.features.weights
            groups = itertools.groupby(zip(weights, ids, strict=True), key=lambda pair: pair[0])
            seen = [(str(tokenizer.decode([token for _, token in group])), each) for each, group in groups]
            assert seen == expected, (pre, turns)
            shown = merged([(piece.text, piece.weight) for piece in pieces(task, encoded)])
            assert shown == expected, "the X-ray shows what is trained"
            learned = [turn for turn in turns if turn.role == "assistant" and weight(turn)]
            if expected_end := any(each for _, each in expected):
                trained = [token for token, each in zip(ids, weights, strict=True) if each]
                assert (trained[-1] in ends) == (name != "glm_open") and learned and expected_end
            tally.count("rows compared with a mask by hand")


# ----------------------------------------------------------------------------------------------- a model that stops

WORDS = "red green blue lamp order parcel 订单 退款 灯 refund late early yes no 12 7 please thanks 谢谢 🎻".split()


@pytest.mark.case("C5")
@pytest.mark.timeout(300)
def test_a_model_that_has_learned_its_answers_stops_after_them(tmp_path: Path, tally: Tally) -> None:
    count = tally.amount(6, 50)
    base = tiny_chat_model(tmp_path / "base", spread=0.08, hidden=96)
    loaded = load_model(base, dtype=torch.float32)
    task = ChatTask(loaded.tokenizer, loaded.end_token_ids, 512)
    assert loaded.tokenizer.pad_token_id in task.end_token_ids, "the token that also pads must be learned"
    chats = []
    for number in range(count):
        answer = " ".join(tally.random.choices(WORDS, k=1 + number % 9))
        chats.append(row((Message("user", f"{number}?"), Message("assistant", answer)), number))
    rows = [task.encode(chat).features for chat in chats]
    settings = {"epochs": 60.0, "batch_size": 5, "learning_rate": 5e-3, "eval_steps": 10_000, "weight_decay": 0.0}
    job = make_job(base, tmp_path / "fit", local(), settings=settings, adapt={"kind": "full"}, rows=count)
    fit(replace(job, source=Source(rows, 5, seed=1)))
    prompts = [task.prompt(chat.messages[:1]) for chat in chats]
    stopped = 0
    with job.policy.answering() as model:
        for features, prompt in zip(rows, prompts, strict=True):
            answer = sum(map(bool, features.weights)) - 1  # the end token is no part of it
            allowed = GenerateSettings(answer + 5, end_token_ids=tuple(task.end_token_ids))
            (said,) = generate(model, task.tokenizer, [prompt], allowed)
            stopped += said.finish_reason == "stop"
            tally.count("answers of an overfitted model")
    assert stopped >= 0.95 * count, f"{stopped} of {count} stopped within 5 tokens"


# --------------------------------------------------------------------------------------------- answers cut away


def long_and_short(task: ChatTask, count: int) -> list[Example]:
    """Rows whose question alone grows from a few to a few hundred tokens."""
    found = examples(count)
    return [
        replace(each, messages=(replace(each.messages[0], content="word " * (3 * place) + "end"), each.messages[1]))
        for place, each in enumerate(found)
    ]


@pytest.mark.case("C4")
def test_rows_whose_answer_was_cut_away_are_counted_and_listed(tmp_path: Path, tally: Tally) -> None:
    base = tiny_chat_model(tmp_path / "base")
    loaded = load_model(base, dtype=torch.float32)
    whole = ChatTask(loaded.tokenizer, loaded.end_token_ids, 10**6)
    rows = long_and_short(whole, tally.amount(30, 200))
    items = [whole.encode(each).features for each in rows]
    longest = max(len(item.token_ids) for item in items)
    for limit in sorted(tally.random.sample(range(30, longest + 1), tally.amount(6, 12))):
        task = ChatTask(loaded.tokenizer, loaded.end_token_ids, limit)
        ledger = Ledger()
        ledger.read("here", len(rows))
        encoded = task.encode_all(rows, ledger)
        nothing = {item.row for item in items if not any(item.weights[:limit])}
        cut = {item.row: len(item.token_ids) - limit for item in items if len(item.token_ids) > limit}
        fates = {entry.row: entry for entry in ledger.entries()}
        listed = {number for number, entry in fates.items() if entry.reason == "answer_behind_max_length"}
        assert listed == nothing and all(fates[number].fate == "dropped" for number in listed)
        told = {number: entry.amount for number, entry in fates.items() if entry.fate == "truncated"}
        assert told == {number: tokens for number, tokens in cut.items() if number not in nothing}
        assert {item.features.row for item in encoded} == set(fates) - listed
        ledger.check(item.features.row for item in encoded)
        tally.count("rows cut", len(cut))
        if len(nothing) == len(rows):
            with pytest.raises(TunesmithError, match="empty_mask"):
                check_masks(task, rows, encoded, task.template.text)
        elif len(cut) == len(rows):
            with pytest.raises(TunesmithError, match="all_rows_cut"):
                check_masks(task, rows, encoded, task.template.text)
        else:
            report = check_masks(task, rows, encoded, task.template.text)
            assert report.sources["tickets"].cut == sum(told.values())
    assert all(both("data.reason_answer_behind_max_length")[language] for language in LANGUAGES)


@pytest.mark.case("C4")
def test_a_loss_over_nothing_is_never_zero(tmp_path: Path, tally: Tally) -> None:
    """Past the gate: rows without any learned token, planted in the loop itself."""
    base = tiny_chat_model(tmp_path / "base")
    for name, masked in {"one window": {0, 1, 2, 3}, "half of a window": {0, 1}}.items():
        watch = Watch()
        settings = {"batch_size": 4, "epochs": 1.0}
        job = make_job(base, tmp_path / name, local(), settings=settings, rows=12, emitter=watch.emitter)
        windows = [job.source.window(step) for step in range(3)]
        windows[1] = [_silent(each) if place in masked else each for place, each in enumerate(windows[1])]

        class Planted(Source):
            def window(self, step: int, windows: list[list[Features]] = windows) -> list[Features]:
                return windows[step]

        result = fit(watch.watch(replace(job, source=Planted(windows[0] * 3, 4, seed=1))))
        losses = watch.of("step", "loss")
        assert 0.0 not in losses and len(losses) == 3
        silent = len(masked) == 4
        assert math.isnan(losses[1]) is silent and watch.of("step", "applied")[1] is not silent
        assert (watch.digests[1] == watch.digests[2]) is silent and result.progress.skipped_steps == silent
        tally.count("rows without a learned token", len(masked))
    with pytest.raises(TunesmithError) as caught:
        make_silent_job(base, tmp_path / "all")
    assert caught.value.code == "train.nothing_to_train" and render(caught.value).cause


def _silent(features: Features) -> Features:
    return replace(features, weights=(0.0,) * len(features.weights))


def make_silent_job(base: Path, folder: Path) -> object:
    """A fit in which no row teaches anything."""
    from tunesmith.core.events import SILENT
    from tunesmith.models.load import resolve_base
    from tunesmith.recipe.recipe import StageSpec
    from tunesmith.train.build import StageInputs, build
    from tunesmith.train.validation import no_task_metric

    loaded = load_model(base, dtype=torch.float32)
    task = ChatTask(loaded.tokenizer, loaded.end_token_ids, 512)
    rows = [_silent(task.encode(each).features) for each in examples(8)]
    rows[0] = replace(rows[0], weights=(1.0, *rows[0].weights[1:]))  # the first token, which nothing predicts
    inputs = StageInputs(
        loaded=loaded, base=resolve_base(str(base)), task=task, train_rows=rows, validation_rows=rows, folder=folder,
        task_metric=no_task_metric, **_conditions(),
    )  # fmt: skip
    return build(StageSpec(name="instruct"), inputs, local(), SILENT)


def _conditions() -> dict[str, object]:
    from tunesmith.core.conditions import Conditions

    return {"conditions": Conditions()}
