"""Metrics against independent references: other packages, and small definitions written again."""

from __future__ import annotations

import itertools
import json
import random
import warnings

import pytest
import sacrebleu

from tunesmith.core.errors import TunesmithError
from tunesmith.evaluate import metrics
from tunesmith.evaluate.metrics import score

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from rouge_score import rouge_scorer

ENGLISH = [
    ("The cat sat on the mat.", "The cat is on the mat."),
    ("don't stop-me now", "Don't stop me, now!"),
    ("a b c d e f", "f e d c b a"),
    ("", "something"),
    ("Order #4711 was sent 3 days ago", "order 4711 was sent three days ago"),
]


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ('{"b": 1, "a": [1, 2]}', ' {"a":[1,2],"b":1}\n', 1),
        ('{"a": 1.0}', '{"a": 1}', 0),
        ('{"a": true}', '{"a": 1}', 0),
        ('{"a": "1"}', '{"a": 1}', 0),
        ('{"a": null}', "{}", 0),
        ("[2, 1]", "[1, 2]", 0),
        ('{"a": 1, "a": 1}', '{"a": 1}', 0),
        ('```json\n{"a": 1}\n```', '{"a": 1}', 0),
        ('{"a": 1} and more', '{"a": 1}', 0),
        ("NaN", "1", 0),
        ("[" * 100_000, "1", 0),
        ("9" * 5000, "1", 0),
        ("", "1", 0),
        ('{"名": "李"}', '{"\\u540d": "\\u674e"}', 1),
    ],
)
def test_json_exact(answer: str, reference: str, expected: int) -> None:
    assert metrics.json_exact([answer], [reference]) == [expected]


def test_json_exact_agrees_with_canonical_text() -> None:
    values = [1, 1.5, True, False, None, "1", [], {}, [1], {"a": 1}, {"a": True}, {"a": {"b": [1, "x"]}}]
    for left, right in itertools.product(values, repeat=2):
        expected = json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)
        assert metrics.json_exact([json.dumps(left)], [json.dumps(right)]) == [expected]


def test_a_reference_that_is_no_json_is_named() -> None:
    with pytest.raises(TunesmithError) as caught:
        metrics.json_exact(["1", "1"], ["1", "nothing"])
    assert (caught.value.code, caught.value.facts["row"]) == ("evaluate.reference_not_json", 1)


def test_json_valid_with_and_without_a_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}
    answers = ['{"a": "x"}', '{"a": "z"}', "[]", "{"]
    assert metrics.json_valid(answers) == [1, 1, 1, 0]
    assert metrics.json_valid(answers, schema) == [1, 0, 0, 0]


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"$ref": "http://192.0.2.1/schema.json"}])
def test_a_bad_schema_is_refused_and_nothing_is_fetched(schema: dict[str, object]) -> None:
    with pytest.raises(TunesmithError, match=r"evaluate\.bad_schema"):
        metrics.json_valid(["{}"], schema)


def test_exact_match_forgives_blanks_only() -> None:
    answers, references = ["a  b\n", "e\u0301", "A", "ab"], ["a b", "\u00e9", "a", "a b"]
    assert metrics.exact_match(answers, references) == [1, 1, 0, 0]


def test_rouge_l_is_the_package_s_on_english() -> None:
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    generator = random.Random(1)
    words = ["red", "Blue", "green,", "4", "it's", "x-y", "(so)"]
    made = [(" ".join(generator.choices(words, k=9)), " ".join(generator.choices(words, k=7))) for _ in range(50)]
    for answer, reference in ENGLISH + made:
        expected = scorer.score(reference, answer)["rougeL"].fmeasure
        assert metrics.rouge_l([answer], [reference]) == [pytest.approx(expected, abs=1e-12)]


def longest_common_subsequence(left: str, right: str) -> int:
    """By trying every subsequence of the left text, longest first."""
    for size in range(len(left), 0, -1):
        for choice in itertools.combinations(left, size):
            rest = iter(right)
            if all(character in rest for character in choice):
                return size
    return 0


def test_rouge_l_counts_characters_in_chinese() -> None:
    pairs = [("请问我的订单到哪了", "我的订单到哪里了"), ("今天天气好", "天气今天好"), ("好", "坏")]
    for answer, reference in pairs:
        common = longest_common_subsequence(answer, reference)
        expected = 2 * common / (len(answer) + len(reference))
        assert metrics.rouge_l([answer], [reference]) == [pytest.approx(expected)]


def test_tokens_of_mixed_and_other_scripts() -> None:
    assert metrics.tokens_of("用GPT-4写诗，OK？") == ["用", "gpt", "4", "写", "诗", "ok"]
    assert metrics.tokens_of("Привет, мир") == ["привет", "мир"]
    assert metrics.tokens_of("नमस्ते दुनिया") == ["नमस्ते", "दुनिया"]
    assert metrics.tokens_of("안녕 세상 snake_case") == ["안녕", "세상", "snake", "case"]


def test_bleu_is_sacrebleu_s() -> None:
    answers, references = [list(texts) for texts in zip(*ENGLISH, strict=True)]
    expected = sacrebleu.corpus_bleu(answers, [references], tokenize="13a").score / 100
    assert metrics.corpus_bleu_4(answers, references) == pytest.approx(expected)
    rows = metrics.bleu_4(answers, references)
    assert rows[0] == pytest.approx(sacrebleu.sentence_bleu(answers[0], [references[0]]).score / 100)
    chinese = ["我的订单到哪里了，请帮我查一下"]
    assert metrics.corpus_bleu_4(chinese, chinese) == 1.0
    other = ["我的订单到哪里了，麻烦查一下"]
    expected = sacrebleu.corpus_bleu(other, [chinese], tokenize="zh").score / 100
    assert metrics.corpus_bleu_4(other, chinese) == pytest.approx(expected)
    assert expected > 0.3


def test_score_gives_values_and_rows_of_every_metric() -> None:
    found = score(list(metrics.METRICS), ['{"a": 1}', "no"], ['{"a": 1}', "2"])
    assert found.report.rows == 2
    assert found.report.metrics["json_exact"] == 0.5
    assert found.report.metrics["json_valid"] == 0.5
    assert found.rows["exact_match"] == (1.0, 0.0)
    assert set(found.rows) == set(metrics.METRICS)
    assert all(0 <= each <= 1 for rows in found.rows.values() for each in rows)


@pytest.mark.parametrize(
    ("names", "answers", "references", "code"),
    [
        (["fluency"], ["a"], ["a"], "evaluate.unknown_metric"),
        (["rouge_l"], [], [], "evaluate.no_rows"),
        (["rouge_l"], ["a"], ["a", "b"], "evaluate.rows_differ"),
    ],
)
def test_wrong_questions_get_a_code(names: list[str], answers: list[str], references: list[str], code: str) -> None:
    with pytest.raises(TunesmithError) as caught:
        score(names, answers, references)
    assert caught.value.code == code
