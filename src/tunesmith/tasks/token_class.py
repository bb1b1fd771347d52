"""Tokens that have a class each, such as names in a text (BIO or BIOES tags).

The tokenizer splits a token into pieces; the model answers once a token. An encoder answers at the first piece, as is
usual, or at the next one where that is a blank alone; a decoder at the last one, the only one that has seen the whole
token. Before a token of a script without blanks the blank goes that a tokenizer sets before every token it is given.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

from tunesmith.core.types import Example
from tunesmith.models.packed import Features
from tunesmith.tasks.base import Encoded
from tunesmith.tasks.classes import OUTSIDE, Asked, ClassTask, Judged

_BLANKS = ("\u2581", "\u0120")
"""How tokenizers write a blank: SentencePiece's, and that of pieces of bytes."""
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff\uff01-\uff60]")
"""Thai, Lao, Burmese, Khmer, kana and Chinese characters, with their signs."""


class TokenClassTask(ClassTask):
    """One place of answer a token that has pieces within the length limit."""

    def encode(self, example: Example) -> Encoded:
        """The pieces of all tokens, with the tokenizer's own marks around; the class of each at one of its pieces."""
        ids, places, cut = self._pieces(example.tokens)
        classes = tuple((self._number[example.labels[token]],) for token in places.values())
        return Encoded(self._features(example.row, ids, places, classes), cut)

    def read(self, asked: Asked) -> Features:
        """The tokens, their places of answer marked."""
        ids, places, _ = self._pieces(asked.tokens)
        return self._features(asked.row, ids, places, ((0,),) * len(places))

    def is_cut(self, asked: Asked) -> bool:
        """Whether the tokens have more pieces than the limit."""
        return self._pieces(asked.tokens)[2] > 0

    def _features(
        self, row: int, ids: Sequence[int], places: dict[int, int], classes: tuple[tuple[int, ...], ...]
    ) -> Features:
        weights = tuple(float(place in places) for place in range(len(ids)))
        return Features(row, tuple(ids), weights, classes)

    def _pieces(self, tokens: Sequence[str]) -> tuple[list[int], dict[int, int], int]:
        """Piece ids, the token that is answered at each place, and how many pieces fell off at the end."""
        read = self.tokenizer(list(tokens), is_split_into_words=True, verbose=False)
        pieces = self._without_foreign_blanks(list(zip(read["input_ids"], read.word_ids(), strict=True)), tokens)
        cut = max(0, len(pieces) - self.max_length)
        if cut:
            end = 1 + max(place for place, (_, token) in enumerate(pieces) if token is not None)
            del pieces[end - cut : end]  # the tokenizer's own marks stay
        places: dict[int, int] = {}
        seen: dict[int, int] = {}
        for place, (_, token) in enumerate(pieces):
            if token is None or (self.is_encoder and token in seen and not self._is_blank(pieces[seen[token]][0])):
                continue
            if token in seen:
                del places[seen[token]]
            seen[token] = place
            places[place] = token
        return [piece for piece, _ in pieces], places, cut

    def _without_foreign_blanks(
        self, pieces: list[tuple[int, int | None]], tokens: Sequence[str]
    ) -> list[tuple[int, int | None]]:
        """The pieces as the same tokens have in a text of their script: a tokenizer that sets a blank before each
        token doubles the pieces of a Chinese sentence, and what stands in them was never seen in training.
        """
        kept = []
        for place, (piece, token) in enumerate(pieces):
            begins = token is not None and (place == 0 or pieces[place - 1][1] != token)
            if begins and _UNSPACED.match(tokens[token or 0]):
                name: str = self.tokenizer.convert_ids_to_tokens([piece])[0]
                bare = name.removeprefix(_BLANKS[0]).removeprefix(_BLANKS[1])
                if not bare and place + 1 < len(pieces) and pieces[place + 1][1] == token:
                    continue
                without = self.tokenizer.convert_tokens_to_ids(bare)
                if isinstance(without, int) and without != self.tokenizer.unk_token_id:
                    piece = without
            kept.append((piece, token))
        return kept

    def _is_blank(self, piece: int) -> bool:
        """Whether a piece is the sign for a blank alone, as XLM-RoBERTa sets before every Chinese character: the same
        one everywhere, which says nothing of the token.
        """
        return self.tokenizer.convert_ids_to_tokens(piece) in _BLANKS

    def answer(self, scores_KC: Tensor, asked: Asked) -> str:
        """A tag for every token, with blanks between; `O` for one that has no piece."""
        return " ".join(self.judge(scores_KC, asked).labels)

    def judge(self, scores_KC: Tensor, asked: Asked) -> Judged:
        """As `answer`, every tag with its probability."""
        tags = [OUTSIDE] * len(asked.tokens)
        probabilities: list[float | None] = [None] * len(asked.tokens)
        _, places, _ = self._pieces(asked.tokens)
        shares_KC = scores_KC.softmax(-1)
        for place, token in enumerate(places.values()):
            best = int(scores_KC[place].argmax())
            tags[token], probabilities[token] = self.head.labels[best], float(shares_KC[place, best])
        return Judged(tuple(tags), tuple(probabilities))
