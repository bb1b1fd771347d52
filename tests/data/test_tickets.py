from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import jsonschema

from tunesmith.core.types import SPLITS, SplitName
from tunesmith.data.samples.tickets import INTENTS, PRODUCTS, SCHEMA, generate_tickets, phrase_texts, write_tickets


def test_no_phrase_stands_in_two_splits() -> None:
    texts: dict[SplitName, set[str]] = {
        split: {re.sub(r"\W+", " ", text).strip().lower() for text in phrase_texts(split).values()} for split in SPLITS
    }
    assert not texts["train"] & texts["validation"]
    assert not texts["train"] & texts["test"]
    assert not texts["validation"] & texts["test"]


def test_generated_splits_share_no_template_and_no_message() -> None:
    drawn = {split: generate_tickets(400, split, seed=3) for split in SPLITS}
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        first, second = drawn[one], drawn[other]  # type: ignore[index]
        assert not {p for t in first for p in t.phrases} & {p for t in second for p in t.phrases}
        assert not {t.message for t in first} & {t.message for t in second}


def test_each_intent_has_at_least_sixty_phrasings_in_every_split() -> None:
    for split in SPLITS:
        phrasings: dict[str, set[tuple[str, ...]]] = {intent: set() for intent in INTENTS}
        for ticket in generate_tickets(1600, split, seed=1):
            phrasings[ticket.intent].add(ticket.phrases)
        assert min(len(found) for found in phrasings.values()) >= 60


def test_words_of_unseen_phrases_are_known_from_training() -> None:
    def words(split: SplitName) -> Counter[str]:
        texts = (text for name, text in phrase_texts(split).items() if not name.startswith(("openers", "closings")))
        return Counter(word for text in texts for word in re.findall(r"[a-z']+", text.lower()))

    known = words("train")
    for split in ("validation", "test"):
        seen = words(split)
        assert sum(count for word, count in seen.items() if word in known) / seen.total() > 0.93


def test_answers_satisfy_the_schema_and_stand_in_the_message() -> None:
    for ticket in generate_tickets(800, "train", seed=5):
        label = json.loads(ticket.answer)
        jsonschema.validate(label, SCHEMA)
        assert list(label) == ["intent", "product", "urgency", "order", "callback"]
        found = re.findall(r"[a-hA-H]-\d{5}", ticket.message)
        assert [each.upper() for each in found] == ([ticket.order] if ticket.order else [])


def test_labels_are_varied() -> None:
    tickets = generate_tickets(1600, "train", seed=7)
    assert set(Counter(ticket.intent for ticket in tickets).values()) == {200}
    assert {ticket.product for ticket in tickets} == {*PRODUCTS, None}
    urgency = Counter(ticket.urgency for ticket in tickets)
    assert min(urgency.values()) > 300
    assert 0.2 < sum(ticket.callback for ticket in tickets) / 1600 < 0.4


def test_same_seed_same_rows_and_more_rows_keep_the_first() -> None:
    assert generate_tickets(50, "test", seed=9) == generate_tickets(80, "test", seed=9)[:50]
    assert generate_tickets(50, "test", seed=9) != generate_tickets(50, "test", seed=10)


def test_files_hold_the_messages_layout(tmp_path: Path) -> None:
    paths = write_tickets(tmp_path, train=16, validation=8, test=8, seed=1)
    assert sorted(path.name for path in paths.values()) == ["test.jsonl", "train.jsonl", "validation.jsonl"]
    rows = [json.loads(line) for line in paths["train"].read_text("utf-8").splitlines()]
    assert len(rows) == 16
    assert [turn["role"] for turn in rows[0]["messages"]] == ["system", "user", "assistant"]
    assert rows[0]["template"].split("/")[3] == "train"


def test_a_text_has_its_intent_and_an_entity_its_own_words() -> None:
    tickets = generate_tickets(400, "train", seed=5, task="token_class")
    labels = Counter(str(entity["label"]) for ticket in tickets for entity in ticket.entities or ())
    assert labels["product"] == sum(ticket.product is not None for ticket in tickets) > 250
    assert labels["order"] == sum(ticket.order is not None for ticket in tickets) > 150
    for ticket in tickets:
        row = ticket.row("token_class")
        assert row["text"] == ticket.message and row["template"] == ticket.template
        named = {"product": ticket.named, "order": ticket.order}
        for entity in ticket.entities or ():
            found = ticket.message[slice(entity["start"], entity["end"])]  # type: ignore[misc]
            assert found.lower() == str(named[str(entity["label"])]).lower()
    assert {str(ticket.row("text_class")["label"]) for ticket in tickets} == set(INTENTS)


def test_a_name_with_a_slip_is_no_entity_row() -> None:
    drawn = generate_tickets(400, "train", seed=5)
    hidden = [ticket for ticket in drawn if ticket.entities is None]
    assert hidden, "some names suffer a slip"
    assert all(ticket.named.lower() not in ticket.message.lower() for ticket in hidden)
