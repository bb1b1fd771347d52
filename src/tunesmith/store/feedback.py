"""What people said about answers. Each is stored exactly once, however often a client repeats itself."""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from sqlalchemy import Engine, RowMapping, func, insert, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from tunesmith.core.errors import TunesmithError
from tunesmith.store.schema import feedback

# NUL as JSON spells it: an even number of backslashes before it are backslashes of the text.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")

FeedbackKind = Literal["like", "dislike", "correction", "choice", "comment"]


@dataclass(frozen=True)
class Feedback:
    """One thing said about one answer.

    Args:
        model: name of the model that answered.
        kind: `correction` carries `corrected`; `choice` says that `answer` was preferred to `rejected`.
        messages: what the model was asked, as role and content.
        answer: what it answered.
        consent: whether it may be learned from.
        user_hash: stands for the person; never a name.
    """

    model: str
    kind: FeedbackKind
    messages: tuple[Mapping[str, object], ...]
    answer: str
    corrected: str = ""
    rejected: str = ""
    comment: str = ""
    consent: bool = False
    user_hash: str = ""


@dataclass(frozen=True)
class StoredFeedback:
    """A row: when it came (seconds since 1970) and under which id."""

    id: str
    time: float
    feedback: Feedback


class FeedbackStore:
    """Feedback in a database; every method may be called from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, item: Feedback, idempotency_key: str | None = None) -> tuple[str, bool]:
        """Store and return the id, and whether it is new: the same key with the same content gives the first id.

        Errors: store.unstorable, store.key_reused when the key came with other content before, store.cannot_write.
        """
        digest = hashlib.sha256(_content(item)).hexdigest()
        values = {**vars(item), "messages": [dict(message) for message in item.messages]}
        number = str(uuid.uuid4())
        row = {"id": number, "time": time.time(), "idempotency_key": idempotency_key, "content_sha256": digest}
        try:
            try:
                with self._engine.begin() as connection:
                    connection.execute(insert(feedback).values(**row, **values))
                return number, True
            except IntegrityError as error:
                if idempotency_key is None:  # then it is no repetition that the database refuses
                    raise
                return self._first(idempotency_key, digest, str(error.orig)), False
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise TunesmithError("store.cannot_write", reason=reason) from error

    def _first(self, idempotency_key: str, digest: str, reason: str) -> str:
        """The id under which the same was stored before."""
        wanted = select(feedback.c.id, feedback.c.content_sha256).where(feedback.c.idempotency_key == idempotency_key)
        with self._engine.connect() as connection:
            row = connection.execute(wanted).first()
        if row is None:
            raise TunesmithError("store.cannot_write", reason=reason)
        if str(row[1]) != digest:
            raise TunesmithError("store.key_reused", id=str(row[0]))
        return str(row[0])

    def count(self) -> dict[str, int]:
        """Rows of each kind."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(feedback.c.kind, func.count()).group_by(feedback.c.kind)).all()
        return {str(kind): int(count) for kind, count in rows}

    def rows(self, *, consented_only: bool = False, since: float = 0.0) -> Iterator[StoredFeedback]:
        """Rows in the order in which they came."""
        wanted = select(feedback).where(feedback.c.time >= since).order_by(feedback.c.time, feedback.c.id)
        if consented_only:
            wanted = wanted.where(feedback.c.consent)
        with self._engine.connect() as connection:
            for row in connection.execute(wanted).mappings():
                yield StoredFeedback(str(row["id"]), float(row["time"]), _feedback(row))


def _content(item: Feedback) -> bytes:
    """What the item says. Errors: store.unstorable for what PostgreSQL cannot hold: all databases take the same."""
    try:
        text = json.dumps(asdict(item), sort_keys=True, ensure_ascii=False, allow_nan=False, default=dict)
        content = text.encode()
    except ValueError as error:
        raise TunesmithError("store.unstorable") from error
    if _NUL.search(text):
        raise TunesmithError("store.unstorable")
    return content


def _feedback(row: RowMapping) -> Feedback:
    values = {name: row[name] for name in Feedback.__dataclass_fields__}
    return Feedback(**{**values, "messages": tuple(values["messages"])})
