"""Why a row cannot be used. The reason is a code; its words are in the message catalogue (`data.reason_<code>`)."""

from __future__ import annotations

from typing import Literal

Reason = Literal[
    "bad_columns",
    "bad_entities",
    "bad_history",
    "bad_label",
    "bad_labels",
    "bad_tags",
    "bad_tokens",
    "bad_tool_call",
    "bad_tools",
    "bad_weight",
    "broken_json",
    "content_not_text",
    "duplicate_key",
    "empty_answer",
    "empty_label",
    "empty_prompt",
    "empty_text",
    "entity_inside_word",
    "exact_duplicate_of_row",
    "group_also_in_test",
    "group_also_in_validation",
    "lone_surrogate",
    "made_against_schema",
    "made_by_back_translation",
    "made_by_edit",
    "made_by_paraphrase",
    "made_by_repetition",
    "made_by_synonyms",
    "made_by_synthesis",
    "made_of_odd_length",
    "made_too_similar",
    "made_unreadable",
    "made_with_unknown_label",
    "made_without_answer",
    "missing_columns",
    "answer_not_whole",
    "near_duplicate_of_row",
    "no_assistant",
    "no_consent",
    "no_messages",
    "not_an_object",
    "not_sampled",
    "other_feedback",
    "prompt_also_in_test",
    "prompt_also_in_validation",
    "request_failed",
    "prompt_near_one_in_test",
    "prompt_near_one_in_validation",
    "repeats_benchmark",
    "role_order",
    "same_answers",
    "semantic_duplicate_of_row",
    "teacher_answer_cut",
    "teacher_answer_empty",
    "teacher_gave_no_answer",
    "several_labels",
    "thinned_out",
    "too_deep",
    "too_large",
    "too_old",
    "trailing_turn",
    "unknown_role",
    "wrong_field_count",
]


class RowDefect(Exception):
    """A row with a wrong shape. Never carries what the row says, only why it is refused."""

    def __init__(self, reason: Reason) -> None:
        self.reason: Reason = reason
        super().__init__(reason)
