"""Why a row cannot be used. The reason is a code; its words are in the message catalogue (`data.reason_<code>`)."""

from __future__ import annotations

from typing import Literal

Reason = Literal[
    "advertising",
    "assistant_first",
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
    "broken_encoding",
    "broken_json",
    "conflicting_answers",
    "content_not_text",
    "duplicate_key",
    "empty_answer",
    "empty_label",
    "empty_prompt",
    "empty_text",
    "entity_inside_word",
    "exact_duplicate_of_row",
    "gibberish",
    "group_also_in_test",
    "group_also_in_validation",
    "listed_content",
    "lone_surrogate",
    "missing_columns",
    "no_assistant",
    "no_messages",
    "not_an_object",
    "not_sampled",
    "other_language",
    "personal_data",
    "placeholder_left",
    "prompt_also_in_test",
    "prompt_also_in_validation",
    "refusal",
    "repetition",
    "role_order",
    "same_answers",
    "same_role_twice",
    "several_labels",
    "suspected_label",
    "teacher_answer_cut",
    "teacher_answer_empty",
    "teacher_gave_no_answer",
    "too_deep",
    "too_large",
    "too_long",
    "too_short",
    "trailing_turn",
    "truncated_text",
    "unknown_role",
    "wrong_field_count",
]


class RowDefect(Exception):
    """A row with a wrong shape. Never carries what the row says, only why it is refused."""

    def __init__(self, reason: Reason) -> None:
        self.reason: Reason = reason
        super().__init__(reason)
