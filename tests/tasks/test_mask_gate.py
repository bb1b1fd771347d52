"""Mistakes planted in data, template or settings: each is stopped by the gate, or stands in the ledger."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from chat_templates import CHATML, DEEPSEEK_R1, GEMMA, GLM_OPEN, LLAMA3, QWEN3, Shape, tokenizer_for

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example, Message, Origin
from tunesmith.data.prepare import prepare
from tunesmith.data.table import to_examples
from tunesmith.messages import both
from tunesmith.recipe.specs.data import DataSpec
from tunesmith.tasks.chat import ChatTask, Encoded
from tunesmith.tasks.mask_gate import GateReport, check_masks, shares_by_source

ASK, SAY = Message("user", "hi 你好"), Message("assistant", "Hello")


def rows_of(*chats: Sequence[Message], source: str = "here", first: int = 0) -> list[Example]:
    return [Example(first + place, "chat", Origin(source, place), tuple(chat)) for place, chat in enumerate(chats)]


def task_for(shape: Shape = CHATML, max_length: int = 512) -> ChatTask:
    tokenizer = tokenizer_for(shape)
    return ChatTask(tokenizer, [int(tokenizer.convert_tokens_to_ids(end)) for end in shape.ends], max_length)


def through_gate(
    task: ChatTask, examples: Sequence[Example], artefact: str | None = None
) -> tuple[GateReport | TunesmithError, Ledger, list[Encoded]]:
    """Encode and check as a run does; the ledger always adds up, and every reason has words."""
    ledger = Ledger()
    for example in examples:
        ledger.read(example.origin.source, 1)
    encoded: list[Encoded] = []
    try:
        encoded = task.encode_all(examples, ledger)
        report: GateReport | TunesmithError = check_masks(
            task, examples, encoded, task.template.text if artefact is None else artefact
        )
    except TunesmithError as error:
        report = error
    ledger.check(item.features.row for item in encoded)
    for label in ledger.totals():
        fate, _, reason = label.partition(": ")
        assert both(f"data.fate_{fate}")
        assert not reason or both(f"data.reason_{reason}")
    return report, ledger, encoded


def code(report: GateReport | TunesmithError) -> str:
    return report.code if isinstance(report, TunesmithError) else "passed"


def test_good_rows_pass_with_their_sums() -> None:
    task = task_for()
    examples = [*rows_of([ASK, SAY], [ASK, SAY, ASK, SAY]), *rows_of([ASK, SAY], source="there", first=2)]
    report, ledger, encoded = through_gate(task, examples)
    assert isinstance(report, GateReport)
    assert ledger.totals() == {"kept": 3} and report.rows_with_end == 3
    assert report.template_sha256 == task.template.sha256
    assert {name: share.rows for name, share in report.sources.items()} == {"here": 2, "there": 1}
    for name, share in report.sources.items():
        own = [item for item, row in zip(encoded, examples, strict=True) if row.origin.source == name]
        assert share.tokens == sum(len(item.features.token_ids) for item in own)
        assert share.trained == sum(item.trained_tokens for item in own) and share.cut == 0
        assert share.share == share.trained / share.tokens


NO_END = Shape(CHATML.template.replace("'<|im_end|>' + ", ""), CHATML.ends)
END_BETWEEN_TURNS = Shape(
    CHATML.template.replace("'<|im_end|>'", "('' if loop.last and message['role'] != 'user' else '<|im_end|>')"),
    CHATML.ends,
)
END_AT_THE_VERY_END = Shape(
    CHATML.template.replace("'<|im_end|>'", "('<|im_end|>' if loop.last or message['role'] == 'user' else '')"),
    CHATML.ends,
)
OTHER_FAMILYS_END = Shape(CHATML.template, LLAMA3.ends)


@pytest.mark.parametrize("shape", [NO_END, END_BETWEEN_TURNS, OTHER_FAMILYS_END, GLM_OPEN])
def test_1_to_4_an_answer_that_no_end_token_closes(shape: Shape) -> None:
    for chat in ([ASK, SAY], [ASK, SAY, ASK, SAY]):
        report, _, _ = through_gate(task_for(shape), rows_of(chat))
        assert code(report) == "tasks.end_token_untrained"
        assert isinstance(report, TunesmithError) and report.facts["rows"] == 1


def test_5_an_end_token_only_behind_the_last_turn() -> None:
    """The earlier turns could not end when they were last; only the last is learned, and the ledger says so."""
    report, ledger, encoded = through_gate(task_for(END_AT_THE_VERY_END), rows_of([ASK, SAY, ASK, SAY]))
    assert code(report) == "passed" and ledger.totals() == {"masked: turns_never_said": 1}
    assert encoded[0].masked_turns == 1


def test_6_another_template_than_the_artefacts() -> None:
    report, _, _ = through_gate(task_for(), rows_of([ASK, SAY]), artefact=CHATML.template + " ")
    assert code(report) == "tasks.template_differs"


@pytest.mark.parametrize(
    "chat",
    [
        [ASK, Message("user", "and?")],
        [ASK, Message("assistant", "Hello", weight=0)],
        [ASK, Message("assistant", "Hello", weight=0), ASK, Message("assistant", "Bye", weight=0.0)],
        [],
    ],
    ids=["only questions", "weight 0", "weight 0 everywhere", "no turns"],
)
def test_7_to_9_nothing_is_learned(chat: list[Message]) -> None:
    report, ledger, encoded = through_gate(task_for(), rows_of(chat, chat))
    assert not encoded and sum(ledger.totals().values()) == 2
    if chat:
        assert code(report) == "tasks.empty_mask" and ledger.totals() == {"dropped: no_trained_turn": 2}
    else:
        assert code(report) == "tasks.template_failed"


def test_10_one_source_of_masked_turns_among_good_ones() -> None:
    examples = [*rows_of([ASK, SAY]), *rows_of([ASK, Message("assistant", "x", weight=0)], source="masked", first=1)]
    report, ledger, _ = through_gate(task_for(), examples)
    assert isinstance(report, TunesmithError) and code(report) == "tasks.empty_mask"
    assert report.facts["source"] == "masked" and ledger.totals() == {"dropped: no_trained_turn": 1, "kept": 1}


def test_11_a_length_limit_shorter_than_the_prompts() -> None:
    report, ledger, _ = through_gate(task_for(max_length=8), rows_of([ASK, SAY], [ASK, SAY]))
    assert code(report) == "tasks.empty_mask" and ledger.totals() == {"dropped: answer_behind_max_length": 2}


def test_12_a_length_limit_within_every_answer() -> None:
    task = task_for()
    prompt = len(task.prompt([ASK]))
    report, ledger, _ = through_gate(task_for(max_length=prompt + 1), rows_of([ASK, SAY], [ASK, SAY]))
    assert code(report) == "tasks.all_rows_cut" and ledger.totals() == {"truncated: tokens_behind_max_length": 2}


def test_13_an_end_token_cut_off_some_rows() -> None:
    task = task_for()
    whole = len(task.encode(rows_of([ASK, SAY])[0]).features.token_ids)
    long = Message("assistant", "Hello " * 50)
    report, ledger, encoded = through_gate(task_for(max_length=whole), rows_of([ASK, SAY], [ASK, long]))
    assert isinstance(report, GateReport) and report.rows_with_end == 1
    assert ledger.totals() == {"kept": 1, "truncated: tokens_behind_max_length": 1}
    amounts = [entry.amount for entry in ledger.entries()]
    assert amounts == [0, encoded[1].cut_tokens] and amounts[1] > 0
    assert report.sources["here"].cut == amounts[1]


def test_14_an_end_token_that_also_pads() -> None:
    task = task_for()
    assert task.tokenizer.pad_token == task.tokenizer.eos_token
    report, _, _ = through_gate(task, rows_of([ASK, SAY]))
    assert isinstance(report, GateReport) and report.rows_with_end == 1


def test_15_a_template_that_refuses() -> None:
    with_system = [Message("system", "Be brief."), ASK, SAY]
    report, ledger, _ = through_gate(task_for(GEMMA), rows_of([ASK, SAY], with_system))
    assert code(report) == "passed" and ledger.totals() == {"dropped: refused_by_template": 1, "kept": 1}
    report, ledger, _ = through_gate(task_for(GEMMA), rows_of(with_system, with_system))
    assert isinstance(report, TunesmithError) and code(report) == "tasks.template_failed"
    assert "System role not supported" in str(report.facts["reason"]), "the template's own words, not a guess"
    assert ledger.totals() == {"dropped: refused_by_template": 2}


def test_16_thinking_that_the_template_takes_out_again() -> None:
    think = Message("assistant", "<think>\nhm\n</think>\n\nHello")
    report, ledger, _ = through_gate(task_for(QWEN3), rows_of([ASK, think, ASK, think]))
    assert code(report) == "passed" and ledger.totals() == {"masked: turns_never_said": 1}
    assert [entry.amount for entry in ledger.entries()] == [1]


def test_17_a_prompt_that_no_answer_continues() -> None:
    report, ledger, _ = through_gate(task_for(DEEPSEEK_R1), rows_of([ASK, SAY]))
    assert code(report) == "tasks.empty_mask" and ledger.totals() == {"dropped: no_trained_turn": 1}


@pytest.mark.parametrize("content", ["", "  ", "<think>only thinking</think>"])
def test_18_answers_of_which_the_template_leaves_nothing(content: str) -> None:
    shape = Shape(LLAMA3.template.replace("| trim", ".split('</think>')[-1] | trim"), LLAMA3.ends)
    report, ledger, _ = through_gate(task_for(shape), rows_of([ASK, SAY], [ASK, Message("assistant", content)]))
    assert code(report) == "passed" and ledger.totals() == {"dropped: answer_empty_in_template": 1, "kept": 1}


def test_19_empty_answers_in_a_file_of_rows(tmp_path: Path) -> None:
    answers = ["yes", "", "no", "maybe", "  \n", "often", "never", "今天"]
    lines = [json.dumps({"prompt": f"question {place}", "completion": answer}) for place, answer in enumerate(answers)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    ledger = Ledger()
    prepared = prepare(DataSpec.model_validate({"sources": [{"path": "rows.jsonl"}]}), tmp_path, ledger)
    task = task_for()
    encoded = {split: task.encode_all(to_examples(frame), ledger) for split, frame in prepared.frames.items()}
    ledger.check(item.features.row for items in encoded.values() for item in items)
    assert sum(ledger.totals().values()) == len(answers) == len(ledger)
    assert {entry.index for entry in ledger.entries() if entry.fate == "dropped"} == {1, 4}


def test_no_rows_at_all() -> None:
    report, _, _ = through_gate(task_for(), [])
    assert code(report) == "tasks.empty_mask"
    assert shares_by_source([], []) == {}
