"""Texts and tokens with classes: what is read, where the model answers, and what its scores mean in words."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from class_rows import as_examples, several_rows, text_rows, token_rows
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example, Origin
from tunesmith.evaluate.answers import questions_of
from tunesmith.models.heads import Head, HeadTask
from tunesmith.models.tiny import tiny_chat_model, tiny_encoder
from tunesmith.tasks.classes import ClassTask, label_set, longest_row
from tunesmith.tasks.registry import class_task_of


@pytest.fixture(scope="module", params=["encoder", "decoder"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    make = tiny_encoder if request.param == "encoder" else tiny_chat_model
    return make(tmp_path_factory.mktemp("task") / str(request.param))


def task_for(
    folder: Path, examples: list[Example], task: HeadTask, several: bool = False, limit: int = 512
) -> ClassTask:
    return class_task_of(folder, Head(task, label_set(examples), several), limit, folder)


def test_labels_are_in_one_order_whatever_the_rows() -> None:
    names = ("10", "2", "b", "B-x", "O", "a")
    rows = [Example(n, "text_class", Origin("s", n), labels=(name,)) for n, name in enumerate(names)]
    assert label_set(rows) == label_set(rows[::-1]) == ("O", "2", "10", "B-x", "a", "b")


def test_a_text_is_answered_at_one_place(folder: Path) -> None:
    examples = as_examples(text_rows(20))
    task = task_for(folder, examples, "text_class")
    for example in examples:
        features = task.encode(example).features
        assert list(features.token_ids) == task.tokenizer(example.text)["input_ids"]
        (place,) = [place for place, weight in enumerate(features.weights) if weight]
        assert place == (0 if task.is_encoder else len(features.token_ids) - 1)
        assert task.head.labels[features.classes[0][0]] == example.labels[0]
    (question,) = questions_of(examples[:1])
    scores = torch.zeros(1, len(task.head.labels))
    scores[0, task.head.labels.index(examples[0].labels[0])] = 1
    assert task.answer(scores, question) == question.wanted == examples[0].labels[0]


def test_several_labels_in_words(folder: Path) -> None:
    examples = as_examples(several_rows(30))
    assert {len(each.labels) for each in examples} >= {0, 1, 2}
    task = task_for(folder, examples, "text_class", several=True)
    for example, question in zip(examples, questions_of(examples, several=True), strict=True):
        scores = torch.full((1, len(task.head.labels)), -1.0)
        for label in example.labels:
            scores[0, task.head.labels.index(label)] = 2.0
        assert task.answer(scores, question) == question.wanted


def test_a_token_is_answered_once(folder: Path) -> None:
    examples = as_examples(token_rows(20))
    assert any("B-product" in each.labels for each in examples)
    task = task_for(folder, examples, "token_class")
    for example, question in zip(examples, questions_of(examples), strict=True):
        features = task.encode(example).features
        words = task.tokenizer(list(example.tokens), is_split_into_words=True).word_ids()
        marked = [place for place, weight in enumerate(features.weights) if weight]
        assert [words[place] for place in marked] == list(range(len(example.tokens)))
        for place in marked:
            before = task.tokenizer.convert_ids_to_tokens(features.token_ids[place - 1])
            beside = words[place - 1] if task.is_encoder else [*words, None][place + 1]
            if not (task.is_encoder and before == "Ġ"):
                assert beside != words[place], "an encoder answers at the first piece, a decoder at the last"
        assert [task.head.labels[each[0]] for each in features.classes] == list(example.labels)
        scores = torch.zeros(len(marked), len(task.head.labels))
        for row, (number,) in enumerate(features.classes):
            scores[row, number] = 1
        assert task.answer(scores, question) == question.wanted
        assert task.read(question).token_ids == features.token_ids


def test_no_blank_stands_before_a_character_of_a_script_without_blanks(folder: Path, tmp_path: Path) -> None:
    """A tokenizer like XLM-RoBERTa's: every token it is given begins with a blank, alone or grown into the piece."""
    tokens = ("Re", "路", "大", "，", "海", "\u3000", "☺")
    names = ["<s>", "</s>", "<unk>", "▁", "▁Re", "路", "大", "▁大", ",", "▁☺", "☺"]
    written = Tokenizer(models.Unigram([(name, -float(place)) for place, name in enumerate(names)], unk_id=2))
    written.normalizer = normalizers.NFKC()
    written.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    written.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=written, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )
    base = tmp_path / "base"
    shutil.copytree(folder, base)
    tokenizer.save_pretrained(base)
    labels = ("O", "B-x", "O", "B-x", "O", "O", "B-x")
    example = Example(0, "token_class", Origin("made", 0), tokens=tokens, labels=labels)
    task = task_for(base, [example], "token_class")
    features = task.encode(example).features
    read = task.tokenizer.convert_ids_to_tokens(list(features.token_ids))
    assert read == ["<s>", "▁Re", "路", "大", ",", "<unk>", "▁", "▁☺", "</s>"]
    assert [place for place, weight in enumerate(features.weights) if weight] == [1, 2, 3, 4, 5, 6, 7]
    short = task_for(base, [example], "token_class", limit=8).encode(example)
    assert short.cut_tokens == 1 and list(short.features.token_ids) == [*features.token_ids[:7], features.token_ids[8]]


def test_what_is_cut_is_counted_and_answered_with_outside(folder: Path) -> None:
    examples = as_examples(token_rows(10))
    task = task_for(folder, examples, "token_class", limit=16)
    ledger = Ledger()
    ledger.read("tickets", len(examples))
    encoded = task.encode_all(examples, ledger)
    for example, item in zip(examples, encoded, strict=True):
        whole = len(task.tokenizer(list(example.tokens), is_split_into_words=True)["input_ids"])
        assert item.cut_tokens == max(0, whole - 16) and len(item.features.token_ids) == min(whole, 16)
    assert sum(each.fate == "truncated" for each in ledger.entries()) == sum(item.cut_tokens > 0 for item in encoded)
    (question,) = questions_of(examples[:1])
    scores = torch.zeros(task.read(question).learned, len(task.head.labels))
    scores[:, 1] = 1.0
    answer = task.answer(scores, question).split()
    assert len(answer) == len(question.tokens) and answer[-1] == "O" and answer[0] == task.head.labels[1]


def test_a_row_with_two_labels_has_a_fate_where_one_is_expected(folder: Path) -> None:
    examples = as_examples(several_rows(30))
    task = task_for(folder, examples, "text_class")
    ledger = Ledger()
    ledger.read("tickets", len(examples))
    encoded = task.encode_all(examples, ledger)
    assert len(encoded) == sum(len(each.labels) == 1 for each in examples)
    assert ledger.totals()["dropped: several_labels"] == len(examples) - len(encoded)


def test_a_beginning_takes_its_places_from_the_longest_row(tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "base")
    assert [longest_row(folder, 1000, places) for places in (0, 6, 120)] == [128, 122, 8]
    assert longest_row(folder, 50, 6) == 50
    with pytest.raises(TunesmithError, match=r"tasks\.no_room") as refused:
        longest_row(folder, 50, 121)
    assert refused.value.facts == {"places": 121, "positions": 128, "least": 8}
