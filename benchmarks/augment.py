"""Do synonyms and random edits help where rows are few? Naive Bayes on a few rows a class, with and without children.

python -m benchmarks.augment TRAIN.csv TEST.csv --text text --label category --rows 5 --draws 10

Every draw takes the same rows for all conditions, so that differences are paired. Children are made by the product's
own code; the classifier is scikit-learn's multinomial naive Bayes over words and pairs of words (of characters where a
script has no blanks), the floor of the classification benchmarks.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB

from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example, Origin
from tunesmith.data.augment.apply import augmented
from tunesmith.data.table import from_examples
from tunesmith.recipe.specs.augment import AugmentSpec

CONDITIONS: dict[str, dict[str, object]] = {
    "repetitions x1": {"balance": {"up_to": 2}},
    "repetitions x4": {"balance": {"up_to": 5}},
    "synonyms x1": {"synonyms": {"children": 1}},
    "synonyms x4": {"synonyms": {"children": 4}},
    "synonyms x4, share 0.3": {"synonyms": {"children": 4, "share": 0.3}},
    "edits x1": {"edit": {"children": 1}},
    "edits x4": {"edit": {"children": 4}},
    "EDA x4 (synonyms x1, edits x3 with insertions)": {
        "synonyms": {"children": 1},
        "edit": {"children": 3, "insert": 0.1},
    },
}
"""Repetitions are the control: as many rows, nothing new. Their `up_to` is in multiples of the rows a class."""
Rows = Sequence[tuple[str, str]]


def drawn(frame: pl.DataFrame, rows: int, seed: int) -> list[tuple[str, str]]:
    """So many rows of each class."""
    shuffled = frame.sample(fraction=1.0, shuffle=True, seed=seed)
    return list(shuffled.group_by("label", maintain_order=True).head(rows).select("text", "label").rows())


def with_children(rows: Rows, settings: dict[str, object], seed: int) -> tuple[list[tuple[str, str]], int]:
    """The rows with their children, and the number of these.

    Classes stay equally frequent: where some rows have no word that can change, others are repeated, since naive Bayes
    trusts a class the more the more text it has.
    """
    ledger = Ledger()
    ledger.read("train", len(rows))
    examples = [
        Example(place, "text_class", Origin("train", place), text=text, labels=(label,))
        for place, (text, label) in enumerate(rows)
    ]
    stated = settings.get("balance")
    up_to = stated["up_to"] * len(rows) // len({label for _, label in rows}) if isinstance(stated, dict) else "most"
    spec = AugmentSpec.model_validate({**settings, "balance": {"up_to": up_to}, "seed": seed})
    made, _ = augmented(spec, from_examples(examples), {}, Path.cwd(), ledger)
    pairs = [(text, labels[0]) for text, labels in made.select("text", "labels").rows()]
    return pairs, len(pairs) - len(rows)


def accuracy(train: Rows, test: Rows, characters: bool) -> float:
    """Share of the test rows that naive Bayes gets right; all classes are taken as equally frequent."""
    counts = CountVectorizer(analyzer="char" if characters else "word", ngram_range=(1, 2))
    model = MultinomialNB(fit_prior=False).fit(
        counts.fit_transform([text for text, _ in train]), [label for _, label in train]
    )
    return float(model.score(counts.transform([text for text, _ in test]), [label for _, label in test]))


def measure(train: pl.DataFrame, test: Rows, rows: int, draws: int, characters: bool) -> dict[str, object]:
    """Accuracies of all conditions, and what each gains in points with its standard error over the draws."""
    plain, gains = [], {name: [] for name in CONDITIONS}  # type: tuple[list[float], dict[str, list[float]]]
    made = dict.fromkeys(CONDITIONS, 0)
    for seed in range(draws):
        few = drawn(train, rows, seed)
        plain.append(accuracy(few, test, characters))
        for name, settings in CONDITIONS.items():
            more, made[name] = with_children(few, settings, seed)
            gains[name].append(100 * (accuracy(more, test, characters) - plain[-1]))
    found = {
        name: {
            "points": round(statistics.mean(values), 2),
            "standard_error": round(statistics.stdev(values) / len(values) ** 0.5, 2),
            "children": made[name],
        }
        for name, values in gains.items()
    }
    return {"rows_a_class": rows, "draws": draws, "plain": round(100 * statistics.mean(plain), 2), "gain": found}


def _table(path: Path) -> pl.DataFrame:
    return pl.read_ndjson(path) if path.suffix == ".jsonl" else pl.read_csv(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--text", default="text")
    parser.add_argument("--label", default="label")
    parser.add_argument("--rows", type=int, default=5)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--characters", action="store_true", help="for a script without blanks")
    asked = parser.parse_args()
    columns = {"text": pl.col(asked.text), "label": pl.col(asked.label).cast(pl.String)}
    train, test = (_table(path).select(**columns).drop_nulls() for path in (asked.train, asked.test))
    found = measure(train, list(test.rows()), asked.rows, asked.draws, asked.characters)
    found["all_rows"] = round(100 * accuracy(list(train.rows()), list(test.rows()), asked.characters), 2)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
