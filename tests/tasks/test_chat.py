"""What is trained of a conversation: against masks written by hand, and as laws over many templates."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from chat_templates import (
    CHATML,
    DEEPSEEK,
    DEEPSEEK_R1,
    GEMMA,
    GLM,
    LLAMA3,
    MISTRAL,
    PHI,
    PLAIN,
    QWEN3,
    SHAPES,
    Shape,
    tokenizer_for,
)

from tunesmith.core.errors import TunesmithError
from tunesmith.core.types import Example, Message, Origin, ToolCall
from tunesmith.tasks.chat import ChatTask, Encoded, question_and_answer, with_examples

PRES = ("smollm", "llama-bpe")


def task_for(shape: Shape, pre: str = "smollm", max_length: int = 4096) -> ChatTask:
    tokenizer = tokenizer_for(shape, pre)
    return ChatTask(tokenizer, [int(tokenizer.convert_tokens_to_ids(end)) for end in shape.ends], max_length)


def row(*messages: Message, tools: str = "") -> Example:
    return Example(0, "chat", Origin("here", 0), messages, tools)


def runs(task: ChatTask, encoded: Encoded) -> list[tuple[str, float]]:
    """The row as runs of equal weight, decoded."""
    pairs = zip(encoded.features.weights, encoded.features.token_ids, strict=True)
    return [
        (str(task.tokenizer.decode([token for _, token in group])), weight)
        for weight, group in itertools.groupby(pairs, key=lambda pair: pair[0])
    ]


def check(shape: Shape, example: Example, expected: Sequence[tuple[str, float]], masked: int = 0) -> None:
    for pre in PRES:
        task = task_for(shape, pre)
        encoded = task.encode(example)
        assert runs(task, encoded) == list(expected)
        assert (encoded.cut_tokens, encoded.masked_turns) == (0, masked)
        assert encoded.trained_tokens == sum(1 for weight in encoded.features.weights if weight)


SYSTEM, ASK, SAY = Message("system", "Be brief."), Message("user", "hi 你好"), Message("assistant", "Hello, 今天！🎻")
MORE, LAST = Message("user", " and\n\nthen?"), Message("assistant", "Bye.")
CHAT = (ASK, SAY, MORE, LAST)

# --------------------------------------------------------------------------------------- masks by hand


def test_chatml() -> None:
    check(
        CHATML,
        row(SYSTEM, *CHAT),
        [
            (
                "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi 你好<|im_end|>\n<|im_start|>assistant\n",
                0,
            ),
            ("Hello, 今天！🎻<|im_end|>", 1),
            ("\n<|im_start|>user\n and\n\nthen?<|im_end|>\n<|im_start|>assistant\n", 0),
            ("Bye.<|im_end|>", 1),
            ("\n", 0),
        ],
    )


def test_llama3() -> None:
    check(
        LLAMA3,
        row(SYSTEM, *CHAT),
        [
            (
                "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
                "<|start_header_id|>user<|end_header_id|>\n\nhi 你好<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\n",
                0,
            ),
            ("Hello, 今天！🎻<|eot_id|>", 1),
            (
                "<|start_header_id|>user<|end_header_id|>\n\nand\n\nthen?<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\n",
                0,
            ),
            ("Bye.<|eot_id|>", 1),
        ],
    )


def test_qwen3_drops_the_thinking_of_earlier_turns() -> None:
    check(
        QWEN3,
        row(
            ASK,
            Message("assistant", "<think>\nhm\n</think>\n\nHello"),
            MORE,
            Message("assistant", "<think>\nso\n</think>\n\nBye."),
        ),
        [
            (
                "<|im_start|>user\nhi 你好<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
                "<|im_start|>user\n and\n\nthen?<|im_end|>\n<|im_start|>assistant\n",
                0,
            ),
            ("<think>\nso\n</think>\n\nBye.<|im_end|>", 1),
            ("\n", 0),
        ],
        masked=1,
    )


def test_qwen3_answers_that_do_not_think() -> None:
    check(
        QWEN3,
        row(SYSTEM, ASK, LAST),
        [
            (
                "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi 你好<|im_end|>\n<|im_start|>assistant\n",
                0,
            ),
            ("<think>\n\n</think>\n\nBye.<|im_end|>", 1),
            ("\n", 0),
        ],
    )


def test_mistral() -> None:
    check(
        MISTRAL,
        row(SYSTEM, *CHAT),
        [
            ("<|begin_of_text|>[INST] Be brief.\n\nhi 你好 [/INST]", 0),
            (" Hello, 今天！🎻</s>", 1),
            ("[INST]  and\n\nthen? [/INST]", 0),
            (" Bye.</s>", 1),
        ],
    )


def test_gemma() -> None:
    check(
        GEMMA,
        row(*CHAT),
        [
            ("<|begin_of_text|><start_of_turn>user\nhi 你好<end_of_turn>\n<start_of_turn>model\n", 0),
            ("Hello, 今天！🎻<end_of_turn>", 1),
            ("\n<start_of_turn>user\nand\n\nthen?<end_of_turn>\n<start_of_turn>model\n", 0),
            ("Bye.<end_of_turn>", 1),
            ("\n", 0),
        ],
    )
    with pytest.raises(TunesmithError) as error:
        task_for(GEMMA).encode(row(SYSTEM, *CHAT))
    assert error.value.code == "tasks.template_failed"
    assert "System role not supported" in str(error.value.facts["reason"])


def test_phi_closes_the_last_turn_twice() -> None:
    check(
        PHI,
        row(*CHAT),
        [
            ("<|user|>\nhi 你好<|end|>\n<|assistant|>\n", 0),
            ("Hello, 今天！🎻<|end|>", 1),
            ("\n<|user|>\n and\n\nthen?<|end|>\n<|assistant|>\n", 0),
            ("Bye.<|end|>\n<|endoftext|>", 1),
        ],
    )


def test_deepseek_takes_the_thinking_out_of_every_turn() -> None:
    check(
        DEEPSEEK,
        row(SYSTEM, ASK, Message("assistant", "<think>\nhm\n</think>Hello"), MORE, LAST),
        [
            ("<|begin_of_text|>Be brief.<｜User｜>hi 你好<｜Assistant｜>", 0),
            ("Hello<｜end▁of▁sentence｜>", 1),
            ("<｜User｜> and\n\nthen?<｜Assistant｜>", 0),
            ("Bye.<｜end▁of▁sentence｜>", 1),
        ],
    )


def test_a_prompt_that_no_turn_continues_trains_nothing() -> None:
    task = task_for(DEEPSEEK_R1)
    encoded = task.encode(row(*CHAT))
    assert encoded.trained_tokens == 0 and encoded.masked_turns == 2


TOOLS = json.dumps([{"type": "function", "function": {"name": "天气", "parameters": {}}}], ensure_ascii=False)
CALL = Message("assistant", "", tool_calls=(ToolCall("天气", '{"city": "北京",  "n": 2}', "call00001"),))
RESULT = Message("tool", '{"c": 3}', name="天气", tool_call_id="call00001")


def test_tools_in_a_template_that_knows_them() -> None:
    check(
        GLM,
        row(ASK, CALL, RESULT, LAST, tools=TOOLS),
        [
            (
                '[gMASK]<sop><|system|>\n# Tools\n{"type": "function", "function": {"name": "天气", "parameters": {}}}'
                "<|user|>\nhi 你好<|assistant|>\n",
                0,
            ),
            (
                "\n<tool_call>天气\n<arg_key>city</arg_key>\n<arg_value>北京</arg_value>\n<arg_key>n</arg_key>\n"
                "<arg_value>2</arg_value>\n</tool_call><|endoftext|>",
                1,
            ),
            ('<|observation|>\n<tool_response>{"c": 3}</tool_response><|assistant|>\n', 0),
            ("Bye.<|endoftext|>", 1),
        ],
    )


def test_tools_in_a_thinking_template_that_knows_them() -> None:
    task = task_for(QWEN3)
    assert task.template.knows_tools
    encoded = task.encode(row(SYSTEM, ASK, CALL, RESULT, LAST, tools=TOOLS))
    trained = [text for text, weight in runs(task, encoded) if weight]
    # The first turn had an empty thinking part while it was the last; the template leaves it out afterwards.
    assert trained == ["<think>\n\n</think>\n\nBye.<|im_end|>"] and encoded.masked_turns == 1


def test_tools_in_a_template_that_does_not_know_them() -> None:
    assert not task_for(CHATML).template.knows_tools
    check(
        CHATML,
        row(SYSTEM, ASK, CALL, RESULT, LAST, tools=TOOLS),
        [
            (
                "<|im_start|>system\nBe brief.\n\nYou may call these functions:\n<tools>\n" + TOOLS + "\n</tools>\n"
                'Call one with <tool_call>{"name": ..., "arguments": ...}</tool_call>.<|im_end|>\n'
                "<|im_start|>user\nhi 你好<|im_end|>\n<|im_start|>assistant\n",
                0,
            ),
            ('<tool_call>\n{"name": "天气", "arguments": {"city": "北京",  "n": 2}}\n</tool_call><|im_end|>', 1),
            (
                '\n<|im_start|>user\n<tool_response>\n{"c": 3}\n</tool_response><|im_end|>\n<|im_start|>assistant\n',
                0,
            ),
            ("Bye.<|im_end|>", 1),
            ("\n", 0),
        ],
    )


def test_weights_of_turns() -> None:
    check(
        CHATML,
        row(
            Message("system", "Be brief.", weight=1),
            Message("user", "hi", weight=1),
            Message("assistant", "One", weight=0),
            Message("user", "more"),
            Message("assistant", "Two", weight=0.5),
            Message("user", "more", weight=0),
            Message("assistant", "Three", weight=1),
        ),
        [
            ("<|im_start|>system\nBe brief.<|im_end|>", 1),
            ("\n", 0),
            ("<|im_start|>user\nhi<|im_end|>", 1),
            ("\n<|im_start|>assistant\nOne<|im_end|>\n<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n", 0),
            ("Two<|im_end|>", 0.5),
            ("\n<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n", 0),
            ("Three<|im_end|>", 1),
            ("\n", 0),
        ],
    )


def test_a_turn_that_nobody_asked_for_is_not_learned() -> None:
    check(
        CHATML,
        row(LAST, ASK, SAY),
        [
            ("<|im_start|>assistant\nBye.<|im_end|>\n<|im_start|>user\nhi 你好<|im_end|>\n<|im_start|>assistant\n", 0),
            ("Hello, 今天！🎻<|im_end|>", 1),
            ("\n", 0),
        ],
        masked=1,
    )


def test_plain_text_is_learned_whole_and_ends() -> None:
    example = Example(0, "text", Origin("here", 0), text="  早上好\n\n🎻 ")
    for shape in (CHATML, PHI):
        check(shape, example, [("  早上好\n\n🎻 " + shape.ends[0], 1)])


def test_what_looks_like_an_end_inside_an_answer_does_not_end_it() -> None:
    check(
        CHATML,
        row(ASK, Message("assistant", "say <|im_end|> and go on")),
        [
            ("<|im_start|>user\nhi 你好<|im_end|>\n<|im_start|>assistant\n", 0),
            ("say <|im_end|> and go on<|im_end|>", 1),
            ("\n", 0),
        ],
    )


# ------------------------------------------------------------------------------------------------- laws

HEADS = ["", " ", "  ", "\n", "\n\n", " \n", "\t", "你", "！", "🎻", "'s", "12", ")", "a", "\u00a0", "\u3000", "\r\n"]


@pytest.mark.parametrize("pre", PRES)
@pytest.mark.parametrize("name", SHAPES)
def test_the_prompt_at_serving_is_what_training_saw_before_the_answer(name: str, pre: str) -> None:
    task = task_for(SHAPES[name], pre)
    for head, tail in itertools.product(HEADS, ["word", "你好", " x", ""]):
        if not (head + tail).strip():
            continue
        answer = Message("assistant", head + tail)
        example = row(Message("user", f"x{head}"), answer)
        prompt = task.prompt(example.messages[:1])
        encoded = task.encode(example)
        ids, weights = encoded.features.token_ids, encoded.features.weights
        assert list(ids[: len(prompt)]) == prompt, (head, tail)
        assert not any(weights[: len(prompt)]) and weights[len(prompt)] == 1
        whole = task.template.render(example.messages)
        assert task.tokenizer.decode(list(ids)) == whole
        asked = task.template.render(example.messages[:1], ask=True)
        trained = [token for token, weight in zip(ids, weights, strict=True) if weight]
        end = whole.rindex(task.tokenizer.convert_ids_to_tokens(trained[-1]))
        assert task.tokenizer.decode(trained) == whole[len(asked) : end] + whole[end:].rstrip("\n")
        assert task.decode(trained).rstrip("\n") == whole[len(asked) : end].replace("<|end|>", "").rstrip("\n")


@pytest.mark.parametrize("pre", PRES)
def test_a_token_that_would_straddle_the_start_is_cut_there(pre: str) -> None:
    """The case is real in this vocabulary: tokenized in one go, the ids before the answer would be others."""
    task = task_for(PLAIN, pre)
    messages = (Message("user", "hi"), Message("assistant", "hello"))
    prompt = task.prompt(messages[:1])
    in_one_go = task.tokenizer(task.template.render(messages), add_special_tokens=False)["input_ids"]
    assert in_one_go[: len(prompt)] != prompt
    assert list(task.encode(row(*messages)).features.token_ids[: len(prompt)]) == prompt


def test_a_tokenizer_that_looks_ahead_is_cut_too() -> None:
    """GPT-2's split reads two line ends as one token at the end of a text, and as two before a word."""
    shape = Shape(LLAMA3.template, LLAMA3.ends)
    task = task_for(shape, "smollm")
    messages = (Message("user", "hi"), Message("assistant", "hello"))
    prompt = task.prompt(messages[:1])
    in_one_go = task.tokenizer(task.template.render(messages), add_special_tokens=False)["input_ids"]
    assert in_one_go[: len(prompt)] != prompt
    assert list(task.encode(row(*messages)).features.token_ids[: len(prompt)]) == prompt


@pytest.mark.parametrize("name", ["chatml", "mistral", "gemma", "phi", "deepseek", "glm"])
def test_random_conversations_keep_every_prompt_and_every_weight(name: str) -> None:
    draw = random.Random(name)
    task = task_for(SHAPES[name], "llama-bpe")
    for _ in range(25):
        turns = [
            Message(
                "user" if place % 2 == 0 else "assistant",
                "".join(
                    draw.choices(["word ", "你好", "🎻", "\n", " ", "12", "'s", "<b>", "é"], k=draw.randrange(1, 9))
                )
                + "x",
                weight=draw.choice([None, None, 0, 0.25, 1]) if place % 2 else None,
            )
            for place in range(2 * draw.randrange(1, 5))
        ]
        # Answers that begin with blanks are cut off from their prompt, and from there on a server may read otherwise.
        turns[1:-1] = [replace(turn, content=turn.content.lstrip()) for turn in turns[1:-1]]
        encoded = task.encode(row(*turns))
        ids, weights = list(encoded.features.token_ids), encoded.features.weights
        assert encoded.masked_turns == 0
        expected: dict[float, str] = {}
        for place, turn in enumerate(turns):
            if turn.role == "assistant":
                prompt = task.prompt(turns[:place])
                weight = 1.0 if turn.weight is None else turn.weight
                if weight:
                    assert ids[: len(prompt)] == prompt and weights[len(prompt)] == weight
                expected[weight] = expected.get(weight, "") + turn.content.strip()
        for weight, texts in expected.items():
            if weight:
                said = task.decode([token for token, each in zip(ids, weights, strict=True) if each == weight])
                assert "".join(said.split()) == "".join(texts.split())


def test_cut_rows_are_the_beginning_of_the_whole_row() -> None:
    whole = task_for(CHATML).encode(row(*CHAT))
    length = len(whole.features.token_ids)
    for limit in range(8, length + 3):
        cut = task_for(CHATML, max_length=limit).encode(row(*CHAT))
        assert cut.features.token_ids == whole.features.token_ids[:limit]
        assert cut.features.weights == whole.features.weights[:limit]
        assert cut.cut_tokens == max(0, length - limit)


def test_an_end_token_that_also_pads_is_trained() -> None:
    task = task_for(CHATML)
    assert task.tokenizer.pad_token_id == task.end_token_id
    batch = task.pack([task.encode(row(*CHAT)).features, task.encode(row(ASK, LAST)).features])
    assert int((batch.target == task.end_token_id).sum()) == 3
    assert bool((batch.weight == 1).all())


# --------------------------------------------------------------------------------- questions and answers


def test_the_question_is_everything_before_the_last_answer() -> None:
    asked, wanted = question_and_answer(row(SYSTEM, *CHAT, Message("user", "trailing")))
    assert asked == (SYSTEM, ASK, SAY, MORE) and wanted == "Bye."
    with pytest.raises(TunesmithError, match="no_answer"):
        question_and_answer(row(ASK))


def test_solved_examples_stand_between_system_and_question() -> None:
    shown = [row(Message("system", "other"), ASK, Message("assistant", "One", weight=0.5)), row(ASK, LAST)]
    turns = with_examples((SYSTEM, MORE), shown)
    assert [turn.content for turn in turns] == ["Be brief.", ASK.content, "One", ASK.content, "Bye.", MORE.content]
    assert all(turn.weight is None for turn in turns)
    assert with_examples((MORE,), []) == (MORE,)


@pytest.mark.parametrize("template", [None, "", "  \n"])
def test_a_model_without_a_template(template: str | None) -> None:
    tokenizer = tokenizer_for(CHATML)
    tokenizer.chat_template = template
    with pytest.raises(TunesmithError, match="no_template"):
        ChatTask(tokenizer, [1], 64)


@pytest.mark.parametrize(
    "template", ["{% for %}", "{{ messages[0].content.nothing.more }}", "{{ 1 + 'a' }}", "{{ 1 / 0 }}"]
)
def test_a_broken_template_is_an_error_with_its_own_words(template: str) -> None:
    with pytest.raises(TunesmithError) as error:
        task_for(Shape(template, ("</s>",))).encode(row(ASK, SAY))
    unreadable = template == "{% for %}"  # found out before anything is written
    assert error.value.code == ("tasks.template_refused" if unreadable else "tasks.template_failed")
    assert error.value.facts["reason"]
