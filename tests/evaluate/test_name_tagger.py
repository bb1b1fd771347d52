"""Names found by a model with classes of tokens: which labels mean people, held against transformers' own forward."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer, BertConfig

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.data.formats.labelled import word_places
from tunesmith.data.prepare import prepare
from tunesmith.data.tidy import Needs
from tunesmith.evaluate.name_tagger import NameTagger, names_head
from tunesmith.models.tiny import tiny_encoder
from tunesmith.needs import load_name_tagger
from tunesmith.recipe.identity import source_hashes
from tunesmith.recipe.load import load_recipe
from tunesmith.recipe.specs.clean import PiiSpec
from tunesmith.recipe.specs.data import DataSpec

LABELS = ("O", "B-PER", "I-PER", "B-LOC")
TEXTS = ["Ada Lovelace came to Turin.", "", "王小明在都灵。Who is she?", "one two three four five six seven " * 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random encoder with a head, as transformers' users save one."""
    base = tiny_encoder(tmp_path_factory.mktemp("tagger") / "base", spread=0.4)
    config = BertConfig.from_pretrained(base, id2label=dict(enumerate(LABELS)))
    torch.manual_seed(3)
    model = AutoModelForTokenClassification.from_config(config)
    torch.nn.init.normal_(model.classifier.weight, std=1.0)
    target = base.parent / "tagger"
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(base).save_pretrained(target)
    return target


def by_transformers(folder: Path, text: str) -> list[tuple[int, int]]:
    """Names of a text that is read whole: the class at each word's first piece."""
    model, tokenizer = (
        AutoModelForTokenClassification.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    places = word_places(text)
    if not places:
        return []
    read = tokenizer([text[start:end] for start, end in places], is_split_into_words=True, return_tensors="pt")
    with torch.inference_mode():
        best = model(**read).logits[0].argmax(-1).tolist()
    tags: dict[int, str] = {}
    for place, word in enumerate(read.word_ids()):
        if word is not None:
            tags.setdefault(word, LABELS[best[place]])
    found: list[tuple[int, int]] = []
    inside = False
    for word, (start, end) in enumerate(places):
        tag = tags.get(word, "O")
        if tag == "I-PER" and inside:
            found[-1] = (found[-1][0], end)
        elif tag.endswith("PER"):
            found.append((start, end))
        inside = tag.endswith("PER")
    return found


def test_names_are_those_of_transformers(folder: Path) -> None:
    found = load_name_tagger(folder)(TEXTS)
    assert found == [by_transformers(folder, text) for text in TEXTS]
    assert sum(map(len, found)) > 3  # a head that never says PER would prove nothing


def test_every_word_of_a_long_text_is_decided_once(folder: Path) -> None:
    tagger: NameTagger = load_name_tagger(folder)
    words = [f"w{number}" * (1 + number % 5) for number in range(700)]
    windows = list(tagger._windows(0, words))
    decided = [word for each in windows for word in range(each.decided_from, each.decided_to)]
    assert decided == list(range(len(words))) and len(windows) > 3
    for each in windows:
        assert each.first <= each.decided_from < each.decided_to <= each.end
        asked = tagger._question(0, words[each.first : each.end])
        assert not tagger._task.is_cut(asked)
    for one, other in pairwise(windows):
        assert one.decided_to - other.first >= 1 and one.end - one.decided_to >= 1  # words on both sides of the seam
    (found,) = tagger([" ".join(words)])
    assert all(0 <= start < end for start, end in found)


@pytest.mark.parametrize(
    ("labels", "people"),
    [
        (("O", "B-PER", "I-PER"), True),
        (("O", "S-person", "E-person"), True),
        (("O", "PERSON", "ORG"), True),
        (("O", "B-GIVENNAME", "B-SURNAME"), True),
        (("O", "B-name", "B-company"), True),
        (("O", "B-人名"), True),
        (("O", "B-ORG", "B-performance", "B-username"), False),
    ],
)
def test_labels_of_people_are_told_by_their_names(labels: tuple[str, ...], people: bool, tmp_path: Path) -> None:
    config = {
        "architectures": ["BertForTokenClassification"],
        "model_type": "bert",
        "id2label": {str(number): label for number, label in enumerate(labels)},
    }
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    if people:
        assert names_head(tmp_path).labels == labels
        return
    with pytest.raises(TunesmithError, match=r"evaluate\.tagger_without_people"):
        names_head(tmp_path)


def test_what_is_no_tagger_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tiny_encoder(tmp_path / "base")):
        with pytest.raises(TunesmithError, match=r"evaluate\.no_tagger"):
            load_name_tagger(path)
    with pytest.raises(ValueError, match="tagger_without_names"):
        PiiSpec(tagger="ner", types=["phone"])


def test_a_recipe_hands_the_tagger_in(folder: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"question {number}", "completion": TEXTS[0]} for number in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    spec = DataSpec.model_validate(
        {"sources": [{"path": "rows.jsonl"}], "clean": {"pii": {"tagger": str(folder), "types": ["name"]}}}
    )
    with pytest.raises(TunesmithError, match=r"data\.nobody_tags"):
        prepare(spec, tmp_path, Ledger())
    prepared = prepare(spec, tmp_path, Ledger(), needs=Needs(tagger=lambda name: load_name_tagger(Path(name))))
    said = pl.concat(prepared.tables.values())["messages"].list.last().struct.field("content")
    names = by_transformers(folder, TEXTS[0])
    assert names and said.str.count_matches("<NAME_").min() == len(names)


def test_another_tagger_is_another_run(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n', "utf-8")
    path = tmp_path / "recipe.yaml"
    data = "data: {sources: [{path: rows.jsonl}], clean: {pii: {tagger: ner}}}"
    path.write_text(f"model: {{base: tiny}}\n{data}\nstages: [{{name: one}}]\n", "utf-8")
    (tmp_path / "ner").symlink_to(folder)
    hashes = source_hashes(load_recipe(path), tmp_path)
    assert any(name.startswith("data.clean.pii.tagger") for name in hashes)
