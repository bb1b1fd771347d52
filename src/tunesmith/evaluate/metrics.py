"""Metrics: texts in, one score a row out, and the value over all rows.

Every score lies in 0..1. The value over all rows is the mean of the rows, except for BLEU and F1, which are defined
over a corpus: their counts are summed before the ratio is taken.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable
from sacrebleu.metrics.bleu import BLEU

from tunesmith.core.errors import TunesmithError
from tunesmith.core.types import Report
from tunesmith.evaluate.class_metrics import accuracy, f1_of_all, f1_of_rows, macro_f1, token_accuracy

Schema = Mapping[str, object]

METRICS = (
    *("json_exact", "json_valid", "exact_match", "rouge_l", "bleu_4"),
    *("accuracy", "macro_f1", "micro_f1", "entity_f1", "token_accuracy"),
)
SHARES = frozenset({"json_exact", "json_valid", "exact_match", "accuracy"})
"""Metrics whose rows score 0 or 1, so that their value is a share and has a Wilson interval."""


@dataclass(frozen=True)
class Scores:
    """What was measured: the value of every metric, and its score of every row in the order of the answers."""

    report: Report
    rows: Mapping[str, tuple[float, ...]]


def score(
    metrics: Sequence[str], answers: Sequence[str], references: Sequence[str], schema: Schema | None = None
) -> Scores:
    """Score answers against their references, one reference an answer. `schema` is what json_valid has to fit.

    Errors: evaluate.unknown_metric, evaluate.no_rows, evaluate.rows_differ, evaluate.reference_not_json,
    evaluate.bad_schema.
    """
    if not answers:
        raise TunesmithError("evaluate.no_rows")
    if len(answers) != len(references):
        raise TunesmithError("evaluate.rows_differ", answers=len(answers), references=len(references))
    values: dict[str, float] = {}
    rows: dict[str, tuple[float, ...]] = {}
    for name in metrics:
        if name == "json_valid":
            row_scores = json_valid(answers, schema)
        elif name in _PAIRED:
            row_scores = _PAIRED[name](answers, references)
        else:
            raise TunesmithError("evaluate.unknown_metric", metric=name, known=", ".join(METRICS))
        rows[name] = tuple(row_scores)
        of_all = OF_ALL_ROWS.get(name)
        values[name] = of_all(answers, references) if of_all else sum(row_scores) / len(row_scores)
    return Scores(Report(len(answers), values), rows)


# ------------------------------------------------------------------------------------------------ JSON


class _NotJson(ValueError):
    """The text is no JSON value, or one whose meaning is open."""


def _refuse_constant(name: str) -> NoReturn:
    raise _NotJson(f"{name} is no JSON")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _NotJson("a key stands twice")
    return found


def parse_json(text: str) -> object:
    """The value of a JSON text. Stricter than Python's reader: no NaN, no Infinity, no key twice in one object.

    Anything around the value but blanks (such as a code fence) makes the text no JSON. Raises ValueError.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)
    except RecursionError as error:
        raise _NotJson("nested too deeply") from error


def same_json(left: object, right: object) -> bool:
    """Equal values of equal JSON types: key order is free; true is not 1, 1 is not 1.0, and 1 is not "1"."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same_json(value, right[key]) for key, value in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same_json, left, right))
    return left == right


def json_exact(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """1 where the answer parses to the reference's value (`same_json`), else 0. Errors: evaluate.reference_not_json."""
    scores = []
    for row, (answer, reference) in enumerate(zip(answers, references, strict=True)):
        try:
            wanted = parse_json(reference)
        except ValueError as error:
            raise TunesmithError("evaluate.reference_not_json", row=row, reason=str(error)) from error
        try:
            scores.append(float(same_json(parse_json(answer), wanted)))
        except ValueError:
            scores.append(0.0)
    return scores


def json_valid(answers: Sequence[str], schema: Schema | None = None) -> list[float]:
    """1 where the answer is JSON, and fits the JSON schema (draft 2020-12) when one is given. Nothing is fetched.

    Errors: evaluate.bad_schema.
    """
    if schema is None:
        return [float(_fits(answer, None)) for answer in answers]
    try:
        Draft202012Validator.check_schema(schema)
        # an empty registry: a `$ref` to an address is an error, never a download
        validator = Draft202012Validator(schema, registry=Registry())
        return [float(_fits(answer, validator)) for answer in answers]
    except (SchemaError, Unresolvable) as error:
        reason = error.message if isinstance(error, SchemaError) else str(error)
        raise TunesmithError("evaluate.bad_schema", reason=reason) from error


def _fits(answer: str, validator: Draft202012Validator | None) -> bool:
    try:
        value = parse_json(answer)
    except ValueError:
        return False
    return True if validator is None else bool(validator.is_valid(value))


# ------------------------------------------------------------------------------------------------ text


def normalize_blanks(text: str) -> str:
    """Unicode NFC, every run of blanks one blank, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def exact_match(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """1 where answer and reference are the same text after `normalize_blanks`. Letter case counts."""
    return [float(normalize_blanks(a) == normalize_blanks(r)) for a, r in zip(answers, references, strict=True)]


# Scripts written without blanks between words: each of their characters is a token.
_UNSPACED = ("CJK UNIFIED", "CJK COMPATIBILITY", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


def is_unspaced(character: str) -> bool:
    """Whether the character belongs to a script that is written without blanks, such as Chinese."""
    return ord(character) > 0x7F and unicodedata.name(character, "").startswith(_UNSPACED)


def tokens_of(text: str) -> list[str]:
    """Tokens for ROUGE, one rule for every language: lower case; runs of letters, marks and digits; each character
    of a script without blanks alone; everything else separates. On English it is the rouge-score package's rule."""
    tokens: list[str] = []
    joins = False
    for character in unicodedata.normalize("NFC", text).lower():
        kind = unicodedata.category(character)[0]
        alone = kind in "LN" and is_unspaced(character)
        if kind not in "LMN":
            joins = False
        elif joins and not alone:
            tokens[-1] += character
        else:
            tokens.append(character)
            joins = not alone
    return tokens


def rouge_l(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """F1 of the longest common subsequence of `tokens_of` (Lin, ROUGE, ACL workshop 2004, section 3; beta = 1)."""
    return [_rouge_l(tokens_of(a), tokens_of(r)) for a, r in zip(answers, references, strict=True)]


def _rouge_l(answer: list[str], reference: list[str]) -> float:
    if not answer or not reference:
        return 0.0
    lengths = [0] * (len(reference) + 1)
    for token in answer:
        diagonal = 0
        for place, other in enumerate(reference, 1):
            above = lengths[place]
            lengths[place] = diagonal + 1 if token == other else max(above, lengths[place - 1])
            diagonal = above
    return 2 * lengths[-1] / (len(answer) + len(reference))


def _bleu(references: Sequence[str], per_row: bool) -> BLEU:
    """sacreBLEU with its Chinese tokenizer as soon as a reference holds Chinese, else its standard one (13a)."""
    chinese = any("\u3400" <= character <= "\u9fff" for text in references for character in text)
    return BLEU(tokenize="zh" if chinese else "13a", effective_order=per_row)


def bleu_4(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """Sentence BLEU of each row, 0..1 (orders longer than the text are left out, higher ones smoothed)."""
    bleu = _bleu(references, per_row=True)
    return [_share(bleu.sentence_score(a, [r]).score) for a, r in zip(answers, references, strict=True)]


def corpus_bleu_4(answers: Sequence[str], references: Sequence[str]) -> float:
    """BLEU-4 over all rows (Papineni et al., ACL 2002), 0..1."""
    return _share(_bleu(references, per_row=False).corpus_score(list(answers), [list(references)]).score)


def _share(percent: float) -> float:
    # a perfect score comes out of logarithms a little above 100
    return min(1.0, float(percent) / 100)


_PAIRED: Mapping[str, Callable[[Sequence[str], Sequence[str]], list[float]]] = {
    "json_exact": json_exact,
    "exact_match": exact_match,
    "rouge_l": rouge_l,
    "bleu_4": bleu_4,
    "accuracy": accuracy,
    "macro_f1": accuracy,
    "micro_f1": partial(f1_of_rows, "micro_f1"),
    "entity_f1": partial(f1_of_rows, "entity_f1"),
    "token_accuracy": token_accuracy,
}
OF_ALL_ROWS: Mapping[str, Callable[[Sequence[str], Sequence[str]], float]] = {
    "bleu_4": corpus_bleu_4,
    "macro_f1": macro_f1,
    "micro_f1": partial(f1_of_all, "micro_f1"),
    "entity_f1": partial(f1_of_all, "entity_f1"),
}
"""Metrics whose value is of the whole corpus, so that the mean of its rows has no business beside it."""
