"""Text from tokens as they come: no half characters, and nothing shown that a stop text may still take back."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_HALF_CHARACTER = "\ufffd"
_LONGEST_CHARACTER_TOKENS = 8
"""A replacement character that stays for so many tokens is what the model wrote, not half of something."""


class TextStream:
    """Turns one answer's tokens into text, piece by piece.

    Args:
        tokenizer: decodes; special tokens leave no text.
        stop: texts that end the answer; the earliest one is cut off together with all that follows.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._token_ids: list[int] = []
        self._context = 0  # first token of the window that is decoded, so that spaces between words come out right
        self._decoded = 0  # tokens whose text is in `text`
        self._shown = 0  # characters handed out
        self.text = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """Take a token; returns the new text that is safe to show."""
        self._token_ids.append(token_id)
        self._decode(at_end=False)
        return self._show(at_end=self.stopped)

    def finish(self) -> str:
        """No more tokens: returns the rest of the text."""
        if not self.stopped:
            self._decode(at_end=True)
        return self._show(at_end=True)

    def _decode(self, at_end: bool) -> None:
        before = self._plain(self._token_ids[self._context : self._decoded])
        now = self._plain(self._token_ids[self._context :])
        waiting = len(self._token_ids) - self._decoded
        if now.endswith(_HALF_CHARACTER) and not at_end and waiting < _LONGEST_CHARACTER_TOKENS:
            return
        if len(now) > len(before):
            start = len(self.text)
            self.text += now[len(before) :]
            self._context = self._decoded
            self._decoded = len(self._token_ids)
            self._cut(start)

    def _plain(self, token_ids: list[int]) -> str:
        text = self._tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text if isinstance(text, str) else "".join(text)

    def _cut(self, start: int) -> None:
        places = (self.text.find(stop, max(0, start - len(stop) + 1)) for stop in self._stop)
        found = [place for place in places if place >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.stopped = True

    def _show(self, at_end: bool) -> str:
        end = len(self.text) if at_end else len(self.text) - self._held_back()
        piece = self.text[self._shown : end]
        self._shown = max(self._shown, end)
        return piece

    def _held_back(self) -> int:
        """Length of the longest end of the text that a stop text begins with."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for length in range(min(longest, len(self.text)), 0, -1):
            if any(stop.startswith(self.text[-length:]) for stop in self._stop):
                return length
        return 0
