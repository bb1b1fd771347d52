"""Conversations that every artefact is asked about, whatever it was tuned on: both languages, digits, code, signs."""

from __future__ import annotations

from tunesmith.core.types import Message


def _chat(question: str, answer: str, system: str = "") -> list[Message]:
    first = [Message("system", system)] if system else []
    return [*first, Message("user", question), Message("assistant", answer)]


FIXED_CHATS: tuple[list[Message], ...] = (
    _chat("请用一句话介绍你自己。", "我是一个乐于助人的助手。"),
    _chat("订单 A-10293 什么时候到？😊", "预计 3 天内送达。", "你是客服，回答要简短。"),
    _chat("What is 1024 * 3.5?", "1024 * 3.5 = 3584"),
    _chat("Write a loop in Python.", "for number in range(3):\n    print(number)"),
    _chat("  Leading and trailing  blanks\tand tabs \n\n\nand lines  ", "Kept as they are."),
    _chat("Ünïcödé – “quotes” … ≥ ≠ ½ 한국어 العربية", "ok ✅"),
)
"""Six short chats. The template's own marks are left out on purpose: users' text must not open a turn."""
