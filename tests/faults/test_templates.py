"""F3: hostile chat templates are refused or cut, and whoever renders beside them is served."""

from __future__ import annotations

import gc
import json
import resource
import threading
import time
from pathlib import Path

import pytest
from chat_templates import CHATML, SHAPES, Shape, tokenizer_for
from faults_tally import Tally
from faults_templates import CUT, HOSTILE

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import MANIFEST
from tunesmith.core.types import Message, ToolCall
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.tasks.chat import ChatTask
from tunesmith.tasks.chat_template import ChatTemplate, _as_dict
from tunesmith.tasks.limited_template import LimitedTemplate
from tunesmith.tasks.template_budget import BUDGET, CHARACTERS
from tunesmith.tasks.template_budget import SECONDS as LIMIT

pytestmark = pytest.mark.case("F3")

GIVEN = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "你好 " * 20}]}
SECONDS = 2.0
"""The limit is 0.1 s of processor time, twice, since what is too slow is rendered once more; one operation more each
time, the compiler and a busy machine come on top (0.2 to 0.5 s alone, 1.2 s seen beside another process)."""


def answer_to(template: str) -> str:
    try:
        return LimitedTemplate(template).render(GIVEN)
    except TunesmithError as error:
        assert error.facts["reason"] and len(str(error.facts["reason"])) <= 300
        return error.code


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template(tally: Tally, name: str) -> None:
    template, answer = HOSTILE[name]
    tally.count("hostile templates")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.thread_time()
    assert answer_to(template) == answer
    assert time.thread_time() - started < SECONDS
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 200 << 20


def test_a_pause_of_the_interpreter_is_not_the_templates() -> None:
    """A collection of garbage over millions of rows takes longer than a template may, and strikes in its midst."""
    good = LimitedTemplate(CHATML.template)
    given = {"messages": GIVEN["messages"] * 20}
    expected = good.render(given)
    paused: list[float] = []

    def pause(phase: str, about: dict[str, int]) -> None:
        if BUDGET.get(None) is None or paused:
            return  # no rendering is under way
        paused.append(time.thread_time())
        while time.thread_time() < paused[0] + 2 * LIMIT:
            pass

    before = gc.get_threshold()
    gc.callbacks.append(pause)
    gc.set_threshold(1)
    try:
        rendered = good.render(given)
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(pause)
    assert rendered == expected and paused


def test_others_are_served_meanwhile(tally: Tally) -> None:
    """While one thread goes through hostile templates, another renders, right and without long waits."""
    good = LimitedTemplate(CHATML.template)
    expected = good.render({**GIVEN, "add_generation_prompt": True})
    stop = threading.Event()
    waits: list[float] = []

    def serve() -> None:
        while not stop.is_set():
            started = time.perf_counter()
            assert good.render({**GIVEN, "add_generation_prompt": True}) == expected
            waits.append(time.perf_counter() - started)
            time.sleep(0.001)

    server = threading.Thread(target=serve)
    server.start()
    for template, answer in tally.random.choices(list(HOSTILE.values()), k=tally.amount(25, 350)):
        assert answer_to(template) == answer
        tally.count("hostile templates")
    stop.set()
    server.join(timeout=10)
    assert not server.is_alive() and len(waits) > 20
    tally.count("renderings beside them", len(waits))
    assert max(waits) < 2.0


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_model_that_comes_with_one(tmp_path: Path, tally: Tally, place: str) -> None:
    folder = tiny_chat_model(tmp_path / "model", layers=1)
    (folder / MANIFEST).unlink()
    for name in ("loops in loops", "6,000 parentheses", "10^9 characters", "a file"):
        template, answer = HOSTILE[name]
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        if place == "chat_template.jinja":
            (folder / place).write_text(template)
        else:
            settings = json.loads((folder / place).read_text())
            (folder / place).write_text(json.dumps({**settings, "chat_template": template}))
        tally.count("hostile templates")
        with pytest.raises(TunesmithError) as caught:
            ChatTask.of_folder(folder, 512)
        assert caught.value.code == answer


def test_one_that_waits_for_a_word(tally: Tally) -> None:
    """A template that behaves until a certain message comes is cut at that message alone."""
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    text = "{% for m in messages %}{% if m.content == 'now' %}" + endless + "{% endif %}{{ m.content }}{% endfor %}"
    template = ChatTemplate(tokenizer_for(Shape(text, CHATML.ends)))
    assert template.render([Message("user", "later")]) == "later"
    with pytest.raises(TunesmithError) as caught:
        template.render([Message("user", "now")])
    assert caught.value.code == CUT
    assert template.render([Message("user", "later")]) == "later"
    tally.count("hostile templates")


def test_arguments_too_deep_or_of_too_many_values(tally: Tally) -> None:
    """What is too deep stays text, as what is no JSON; what holds too much is cut before it takes memory."""
    template = ChatTemplate(tokenizer_for(SHAPES["qwen3"]))
    for text, answer in (("[" * 100_000, ""), ("[" + "[]," * 300_000 + "1]", CUT)):
        turns = [Message("user", "a"), Message("assistant", "", tool_calls=(ToolCall("find", text, "c1"),))]
        tally.count("hostile templates")
        if not answer:
            assert text in template.render(turns)
            continue
        with pytest.raises(TunesmithError) as caught:
            template.render(turns)
        assert caught.value.code == answer
        with pytest.raises(TunesmithError) as caught:
            template.render(turns[:1], text)
        assert caught.value.code == answer


TOOLS = '[{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]'
CALL = ToolCall("find", '{"a": "ü", "n": [1, 2]}', "c1")
CHATS = [
    [Message("user", "Hi")],
    [
        Message("system", "Be short. 请简短。"),
        Message("user", "你好 🙂"),
        Message("assistant", " Yes \n"),
        Message("user", "a"),
    ],
    [
        Message("user", "Where?"),
        Message("assistant", "<think>\nhm\n</think>\n\nlook", tool_calls=(CALL,)),
        Message("tool", '{"found": "<b>&\'"}', tool_call_id="c1", name="find"),
        Message("assistant", "There."),
    ],
]


@pytest.mark.parametrize("name", SHAPES)
def test_good_templates_write_what_transformers_writes(name: str, tally: Tally) -> None:
    tokenizer = tokenizer_for(SHAPES[name])
    template = ChatTemplate(tokenizer)
    for chat in CHATS:
        for ask in (False, True):
            for tools in (None, TOOLS):
                messages = [_as_dict(message) for message in chat]
                described = json.loads(tools) if tools else None
                try:
                    expected = tokenizer.apply_chat_template(
                        messages, tools=described, tokenize=False, add_generation_prompt=ask
                    )
                except Exception as error:
                    expected = str(error)
                try:
                    found = template._render(messages, tools or "", ask)
                except TunesmithError as error:
                    found = str(error.facts["reason"])
                assert found == expected
                tally.count("good renderings")


def test_a_long_conversation_is_no_attack(tally: Tally) -> None:
    """What the messages hold may be long: a million characters, and a thousand turns."""
    for name, shape in SHAPES.items():
        template = ChatTemplate(tokenizer_for(shape))
        turns = [Message(("user", "assistant")[place % 2], f"turn {place} " + "words " * 20) for place in range(1000)]
        assert len(template.render(turns)) > 100_000, name
        long = [Message("user", "long text " * 200_000), Message("assistant", "yes")]
        assert len(template.render(long)) > 2 * CHARACTERS - 100, name
        tally.count("good renderings", 2)
