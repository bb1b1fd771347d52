"""Answers of a teacher as rows: kept, never asked for twice, dropped with a reason; a service that misbehaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from teacher_service import Reply, Service, said

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example, Message, Origin
from tunesmith.data.table import from_examples, to_examples
from tunesmith.models.load import load_model
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.recipe.specs.hosted import HostedSpec
from tunesmith.tasks.chat import ChatTask
from tunesmith.tasks.hosted_teacher import HostedTeacher
from tunesmith.tasks.local_teacher import LocalTeacher
from tunesmith.tasks.taught import Asked, Said, read_answers, taught


def rows(*questions: str) -> list[Example]:
    return [
        Example(place, "chat", Origin("s", place), (Message("user", each), Message("assistant", "old")))
        for place, each in enumerate(questions)
    ]


class Parrot:
    """Says what it is asked; knows nothing about some."""

    identity = "parrot"

    def __init__(self, silent: Sequence[str] = (), cut: Sequence[str] = (), breaks_at: int = 1000) -> None:
        self.asked: list[str] = []
        self._silent, self._cut, self._breaks_at = silent, cut, breaks_at

    def answers(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Said | None]]:
        for place, each in enumerate(asked):
            if place == self._breaks_at:
                raise KeyboardInterrupt
            text = each.messages[-1].content
            self.asked.append(text)
            yield place, None if text in self._silent else Said(f"I hear {text}", text not in self._cut)


def ledger_of(examples: list[Example]) -> Ledger:
    ledger = Ledger()
    ledger.read("s", len(examples))
    return ledger


def test_answers_take_the_place_of_the_rows_own_and_refused_rows_say_why(tmp_path: Path) -> None:
    examples = rows("a", "b", "c")
    conversation = Example(
        3,
        "chat",
        Origin("s", 3),
        tuple(
            Message(role, text) for role, text in (("user", "x"), ("assistant", "y"), ("user", "z"), ("assistant", "w"))
        ),  # type: ignore[arg-type]
    )
    examples.append(conversation)
    ledger = ledger_of(examples)
    frame = taught(from_examples(examples), Parrot(silent=["b"], cut=["c"]), tmp_path / "answers.jsonl", ledger)
    found = to_examples(frame)
    assert [each.row for each in found] == [0, 3]
    assert [turn.content for turn in found[0].messages] == ["a", "I hear a"]
    assert [turn.content for turn in found[1].messages] == ["x", "y", "z", "I hear z"], "earlier turns stay"
    reasons = {entry.row: entry.reason for entry in ledger.entries() if entry.fate == "dropped"}
    assert reasons == {1: "teacher_gave_no_answer", 2: "teacher_answer_cut"}


def test_what_was_broken_off_asks_nothing_twice(tmp_path: Path) -> None:
    examples, file = rows("a", "b", "a", "c"), tmp_path / "answers.jsonl"
    first = Parrot(breaks_at=2)
    with pytest.raises(KeyboardInterrupt):
        taught(from_examples(examples), first, file, ledger_of(examples))
    assert first.asked == ["a", "b"], "a prompt that stands twice is asked once"
    with file.open("ab") as stream:
        stream.write(b'{"key": "cut by a cr')
    second = Parrot()
    frame = taught(from_examples(examples), second, file, ledger_of(examples))
    assert second.asked == ["c"] and len(frame) == 4
    third = Parrot()
    taught(from_examples(examples), third, file, ledger_of(examples))
    assert third.asked == [] and len(read_answers(file)) == 3
    other = Parrot()
    other.identity = "another"  # type: ignore[misc]
    taught(from_examples(examples), other, file, ledger_of(examples))
    assert other.asked == ["a", "b", "c"], "another teacher is asked anew"


def test_a_local_teacher_answers_as_it_would_alone(tmp_path: Path) -> None:
    folder = tiny_chat_model(tmp_path / "tiny", spread=0.3)
    loaded = load_model(folder, dtype=torch.float32)
    task = ChatTask.of_folder(folder, 512)
    teacher = LocalTeacher(loaded, "sha", task, 6)
    asked = [Asked((Message("user", text),), "") for text in ("one", "something longer", "x" * 2000)]
    found = dict(teacher.answers(asked))
    assert found[2] is None, "longer than its context"
    alone = dict(LocalTeacher(loaded, "sha", task, 6).answers(asked[:1]))
    assert found[0] == alone[0] and found[0] is not None


# --------------------------------------------------------------------------------------------------- hosted


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.close()


ASKED = [Asked((Message("user", text),), "") for text in ("a", "b")]


def hosted(url: str, pauses: list[float] | None = None, **settings: object) -> HostedTeacher:
    spec = HostedSpec.model_validate({"base_url": url, "timeout_seconds": 5.0, "concurrency": 1, **settings})
    return HostedTeacher(spec, "big", 32, wait=(pauses if pauses is not None else []).append)


def test_a_hosted_teacher_is_asked_as_openai_has_it(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", "secret")
    service.replies = [(200, {}, said("A")), (200, {}, said("B", "length"))]
    found = list(hosted(service.url, key_variable="TEACHER_KEY").answers(ASKED))
    assert found == [(0, Said("A", True)), (1, Said("B", False))]
    headers, body = service.seen[0]
    assert body["path"] == "/v1/chat/completions" and body["model"] == "big" and body["temperature"] == 0
    assert body["messages"] == [{"role": "user", "content": "a"}] and body["max_tokens"] == 32
    assert {name.lower(): value for name, value in headers.items()}["authorization"] == "Bearer secret"


def test_no_key_is_sent_unless_it_is_named(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not asked for")
    list(hosted(service.url).answers(ASKED[:1]))
    assert "authorization" not in {name.lower() for name in service.seen[0][0]}


def test_what_may_pass_is_tried_again(service: Service) -> None:
    pauses: list[float] = []
    service.replies = [(429, {"retry-after": "7"}, b""), (503, {}, b""), (200, {}, said("A")), (200, {}, b"no json")]
    assert list(hosted(service.url, pauses).answers(ASKED)) == [(0, Said("A", True)), (1, Said("fine", True))]
    assert pauses == [7.0, 2.0, 1.0]


def test_a_refused_prompt_gets_no_answer_and_the_others_do(service: Service) -> None:
    service.replies = [(400, {}, b"too long")]
    assert list(hosted(service.url).answers(ASKED)) == [(0, None), (1, Said("fine", True))]


@pytest.mark.parametrize(
    ("stated", "pause"),
    [("soon", 1.0), ("nan", 1.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("Fri, 21 Oct 2095 07:28:00 GMT", 60.0)],
)
def test_a_pause_may_be_stated_as_a_moment(service: Service, stated: str, pause: float) -> None:
    pauses: list[float] = []
    service.replies = [(429, {"retry-after": stated}, b"")]
    assert list(hosted(service.url, pauses).answers(ASKED[:1])) == [(0, Said("fine", True))]
    assert pauses == [pause]


@pytest.mark.parametrize("content", [None, 3, "\ud800", ["x"]])
def test_an_answer_that_is_no_text_is_empty(service: Service, content: object) -> None:
    service.replies = [(200, {}, said(content))]
    assert list(hosted(service.url).answers(ASKED[:1])) == [(0, Said("", True))]


def test_a_redirect_is_not_followed(service: Service) -> None:
    service.replies = [(307, {"location": "http://elsewhere.example/v1"}, b"")]
    with pytest.raises(TunesmithError, match="teacher_redirects"):
        list(hosted(service.url).answers(ASKED))
    assert len(service.seen) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_service_that_refuses_us_ends_the_stage(service: Service, status: int) -> None:
    service.replies = [(status, {}, b"go away")]
    with pytest.raises(TunesmithError, match="teacher_refuses"):
        list(hosted(service.url).answers(ASKED))


def test_nobody_there_ends_the_stage_with_all_answers_kept(service: Service, tmp_path: Path) -> None:
    examples = rows("a", "b", "c", "d", "e")
    service.replies = [(200, {}, said("A")), *[(500, {}, b"")] * 6]
    with pytest.raises(TunesmithError, match="teacher_unreachable"):
        taught(from_examples(examples), hosted(service.url, tries=2), tmp_path / "f", ledger_of(examples))
    assert [each.text for each in read_answers(tmp_path / "f").values()] == ["A"]
    service.close()
    with pytest.raises(TunesmithError, match="teacher_unreachable") as error:
        list(hosted(service.url, tries=1).answers(ASKED))
    assert error.value.facts["answered"] == 0, "prompts that got no answer are none that were answered"


def test_a_page_of_a_proxy_is_named_as_what_it_is(service: Service) -> None:
    service.replies = [(200, {}, b"<html>please log in</html>")]
    with pytest.raises(TunesmithError, match="teacher_unreachable") as error:
        list(hosted(service.url, tries=1).answers(ASKED[:1]))
    assert "without choices" in str(error.value.facts["reason"])


def test_a_key_is_there_and_goes_out_encrypted_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    with pytest.raises(TunesmithError, match="teacher_no_key"):
        hosted("https://teacher.example/v1", key_variable="TEACHER_KEY")
    monkeypatch.setenv("TEACHER_KEY", "secret")
    hosted("https://teacher.example/v1", key_variable="TEACHER_KEY")
    for url in ("http://teacher.example/v1", "http://127.0.0.1.evil.example/v1"):
        with pytest.raises(TunesmithError, match="teacher_plain_text") as error:
            hosted(url, key_variable="TEACHER_KEY")
        assert "secret" not in str(error.value)


# ------------------------------------------------------------------------------------------- several at a time


def question(body: dict[str, object]) -> str:
    return str(body["messages"][-1]["content"])  # type: ignore[index]


def asked(count: int) -> list[Asked]:
    return [Asked((Message("user", str(place)),), "") for place in range(count)]


class Crowd:
    """Answers with the question; the first of each group waits until all of the group have come."""

    def __init__(self, size: int) -> None:
        self._barrier, self._lock = threading.Barrier(size, timeout=10), threading.Lock()
        self.at_once = self.most = 0

    def reply(self, body: dict[str, object]) -> Reply:
        with self._lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        self._barrier.wait()
        time.sleep(0.02 if int(question(body)) % 2 else 0.0)  # the even ones are faster
        with self._lock:
            self.at_once -= 1
        return 200, {}, said(question(body))


def test_so_many_prompts_are_asked_at_a_time_and_answered_in_their_order() -> None:
    crowd = Crowd(4)
    service = Service(crowd.reply)
    try:
        found = list(hosted(service.url, concurrency=4).answers(asked(12)))
    finally:
        service.close()
    assert found == [(place, Said(str(place), True)) for place in range(12)]
    assert crowd.most == 4, "never more, and that many together"


def test_while_one_is_told_to_wait_nobody_sends() -> None:
    told, sent_meanwhile, pausing = threading.Event(), list[str](), threading.Event()

    def reply(body: dict[str, object]) -> Reply:
        if pausing.is_set():
            sent_meanwhile.append(question(body))
        if question(body) == "0" and not told.is_set():
            told.set()
            return 429, {"retry-after": "3"}, b""
        told.wait(5)
        return 200, {}, said(question(body))

    def wait(seconds: float) -> None:
        assert seconds == 3.0
        time.sleep(0.2)  # what was sent before is answered
        pausing.set()
        time.sleep(0.3)
        pausing.clear()

    service = Service(reply)
    try:
        spec = HostedSpec.model_validate({"base_url": service.url, "concurrency": 3})
        found = dict(HostedTeacher(spec, "big", 32, wait=wait).answers(asked(9)))
    finally:
        service.close()
    assert sent_meanwhile == [] and found == {place: Said(str(place), True) for place in range(9)}


def test_answers_that_are_under_way_are_kept_when_one_is_refused(tmp_path: Path) -> None:
    first_ones = threading.Barrier(3, timeout=10)

    def reply(body: dict[str, object]) -> Reply:
        first_ones.wait()
        return (401, {}, b"go away") if question(body) == "q0" else (200, {}, said(question(body)))

    service, examples, file = Service(reply), rows(*(f"q{place}" for place in range(9))), tmp_path / "f"
    try:
        with pytest.raises(TunesmithError, match="teacher_refuses"):
            taught(from_examples(examples), hosted(service.url, concurrency=3), file, ledger_of(examples))
    finally:
        service.close()
    assert [each.text for each in read_answers(file).values()] == ["q1", "q2"] and len(service.seen) == 3


def test_who_stops_listening_stops_the_asking() -> None:
    service = Service(lambda body: (503, {}, b"") if question(body) == "1" else (200, {}, said(question(body))))
    spec = HostedSpec.model_validate({"base_url": service.url, "concurrency": 2, "tries": 100})
    try:
        answers = HostedTeacher(spec, "big", 32).answers(asked(50))
        assert next(answers) == (0, Said("0", True))
        started = time.monotonic()
        answers.close()  # type: ignore[attr-defined]
        names = [each for each in threading.enumerate() if each.name.startswith("teacher")]
        for each in names:
            each.join(5)
        assert time.monotonic() - started < 5 and len(service.seen) < 6
    finally:
        service.close()
