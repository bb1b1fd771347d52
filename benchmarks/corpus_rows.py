"""The corpus of `make bench-data`: rows of about 3 kB, put together from real texts, some of them copied or edited.

Passages of the shared texts (some sentences each, English and Chinese apart) are drawn at random, so that two rows have
hardly a passage in common. The same seed always gives the same corpus, and a smaller one is the beginning of a larger.
"""

from __future__ import annotations

import csv
import json
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROW_CHARACTERS = {"en": 2900, "zh": 1000}
EXACT, NEAR, PERSONAL = 0.05, 0.05, 0.02
"""Shares of rows that copy an earlier one, that are an edited copy of one, and that hold an invented mail and phone."""
SEED = 20261122
_REMEMBERED = 20_000
_FOLDERS = (
    "general-en", "instruct-en", "instruct-zh", "math-gsm8k", "medical-en-pubmedqa", "medical-zh-qa", "preference-en",
    "preference-zh", "qa-xquad", "qa-zh-cmrc2018", "sentiment-zh-hotel", "summ-en-dialogsum", "summ-zh-csl",
)  # fmt: skip
_SENTENCE = re.compile(r"[^.!?。！？]{20,400}[.!?。！？]+\s*")
_HAN = re.compile("[\u4e00-\u9fff]")


@dataclass(frozen=True)
class Planted:
    """What was done to a row: plain, exact or near (and of which row)."""

    kind: str
    of: int = -1


def passages(data: Path) -> dict[str, list[str]]:
    """Two to four sentences each, by language, in a fixed order."""
    found: dict[str, dict[str, None]] = {"en": {}, "zh": {}}
    for folder in _FOLDERS:
        for path in sorted((data / folder).rglob("*")):
            for text in _texts(path):
                sentences = _SENTENCE.findall(text)
                language = "zh" if len(_HAN.findall(text)) > 0.2 * len(text) else "en"
                found[language].update(
                    ("".join(sentences[first : first + 3]).strip(), None) for first in range(0, len(sentences), 3)
                )
    return {language: list(texts) for language, texts in found.items()}


def _texts(path: Path) -> Iterator[str]:
    """Every long text of a file, wherever it stands."""
    if path.suffix == ".csv":
        csv.field_size_limit(sys.maxsize)
        with path.open(encoding="utf-8", errors="ignore", newline="") as stream:
            for row in csv.reader(stream):
                yield from (cell for cell in row if len(cell) > 100)
    elif path.suffix in (".json", ".jsonl"):
        content = path.read_text("utf-8")
        documents = [content] if path.suffix == ".json" else content.split("\n")
        for document in documents:
            yield from _strings(json.loads(document) if document.strip() else "")


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str) and len(value) > 100:
        yield value
    elif isinstance(value, dict):
        yield from (text for each in value.values() for text in _strings(each))
    elif isinstance(value, list):
        yield from (text for each in value for text in _strings(each))


def rows(pool: dict[str, list[str]], count: int) -> Iterator[tuple[str, Planted]]:
    """Texts with what was planted, always the same."""
    draw = random.Random(SEED)
    earlier: list[tuple[int, str]] = []
    for number in range(count):
        chance = draw.random()
        if earlier and chance < EXACT + NEAR:
            of, text = earlier[draw.randrange(len(earlier))]
            yield (text, Planted("exact", of)) if chance < EXACT else (_edited(text, draw), Planted("near", of))
            continue
        text = _composed(pool, draw)
        if chance > 1 - PERSONAL:
            text += f" Contact person{number}@example.com, 1{draw.randrange(30, 99)}0000{draw.randrange(1000, 9999)}."
        if len(earlier) < _REMEMBERED:
            earlier.append((number, text))
        elif draw.random() < 0.2:
            earlier[draw.randrange(_REMEMBERED)] = (number, text)
        yield text, Planted("plain")


def _composed(pool: dict[str, list[str]], draw: random.Random) -> str:
    language = "zh" if draw.random() < 0.5 else "en"
    parts: list[str] = []
    wanted = ROW_CHARACTERS[language] * draw.uniform(0.7, 1.3)
    while wanted > 0:
        parts.append(pool[language][draw.randrange(len(pool[language]))])
        wanted -= len(parts[-1])
    return ("" if language == "zh" else " ").join(parts)


def _edited(text: str, draw: random.Random) -> str:
    """A near copy: up to four places of a few characters cut out, in another case, or with other punctuation."""
    for _ in range(draw.randrange(1, 5)):
        place = draw.randrange(max(1, len(text) - 30))
        length = draw.randrange(2, 25)
        instead = draw.choice(["", text[place : place + length].upper(), "……", " (sic) "])
        text = text[:place] + instead + text[place + length :]
    return text


def truth_of(folder: Path) -> Path:
    """The file that says what was planted in a corpus."""
    return folder.with_name(f"{folder.name}-truth.json")


def write_corpus(data: Path, folder: Path, megabytes: int, files: int = 4) -> tuple[int, int]:
    """Write files of lines of about so many megabytes together, and the truth beside the folder; (rows, bytes)."""
    folder.mkdir(parents=True)
    pool = passages(data)
    planted: list[list[object]] = []
    written = total = 0
    source = rows(pool, sys.maxsize)
    for number in range(files):
        with (folder / f"corpus-{number}.jsonl").open("wb") as stream:
            while written < megabytes * 1_000_000 * (number + 1) / files:
                text, done = next(source)
                line = json.dumps({"id": total, "text": text}, ensure_ascii=False).encode() + b"\n"
                stream.write(line)
                written += len(line)
                total += 1
                planted.append([done.kind, done.of])
    truth_of(folder).write_text(json.dumps(planted), "utf-8")
    return total, written
