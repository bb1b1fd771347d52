"""Feedback and releases in a real SQLite file."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, text, update

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import new_folder
from tunesmith.store.database import open_database, sqlite_url
from tunesmith.store.feedback import Feedback, FeedbackStore
from tunesmith.store.releases import ReleaseStore
from tunesmith.store.schema import version

LIKE = Feedback("m", "like", ({"role": "user", "content": "你好"},), "hello", consent=True)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_database(sqlite_url(tmp_path / "new folder" / "store.db"))


def test_feedback_comes_back_as_it_was_given(engine: Engine) -> None:
    store = FeedbackStore(engine)
    correction = replace(LIKE, kind="correction", corrected="better", comment="why", consent=False, user_hash="ab")
    ids = [store.add(LIKE)[0], store.add(correction)[0], store.add(LIKE)[0]]
    rows = list(store.rows())
    assert [row.id for row in rows] == ids
    assert [row.feedback for row in rows] == [LIKE, correction, LIKE]
    assert [row.id for row in store.rows(consented_only=True)] == [ids[0], ids[2]]
    assert store.count() == {"like": 2, "correction": 1}


def test_a_repeated_key_stores_once_even_under_threads(engine: Engine) -> None:
    store = FeedbackStore(engine)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda place: store.add(LIKE, f"key-{place % 4}"), range(64)))
    assert sum(new for _, new in found) == 4
    assert len({number for number, _ in found}) == 4 == len(list(store.rows()))
    with pytest.raises(TunesmithError, match=r"store\.key_reused"):
        store.add(replace(LIKE, answer="other"), "key-0")


@pytest.mark.parametrize("text", ["a\0", "\\\0", "\ud800"])
def test_what_not_every_database_holds_is_refused(engine: Engine, text: str) -> None:
    with pytest.raises(TunesmithError, match=r"store\.unstorable"):
        FeedbackStore(engine).add(replace(LIKE, comment=text))
    with pytest.raises(TunesmithError, match=r"store\.unstorable"):
        FeedbackStore(engine).add(replace(LIKE, messages=({text: 1.0},)))


def test_words_about_a_nul_are_kept(engine: Engine) -> None:
    about = replace(LIKE, comment="\\u0000 and \\\\u0000")
    FeedbackStore(engine).add(about)
    assert [row.feedback for row in FeedbackStore(engine).rows()] == [about]


def test_a_refused_row_without_a_key_is_no_repetition(engine: Engine) -> None:
    store = FeedbackStore(engine)
    store.add(LIKE)
    with pytest.raises(TunesmithError, match=r"store\.cannot_write"):
        store.add(replace(LIKE, answer=None))  # type: ignore[arg-type]


def test_the_file_is_in_wal_mode_and_opens_again(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    FeedbackStore(open_database(sqlite_url(path))).add(LIKE)
    with sqlite3.connect(path) as plain:
        assert plain.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    plain.close()
    assert len(list(FeedbackStore(open_database(sqlite_url(path))).rows())) == 1


def test_releases_carry_the_hash_of_their_manifest(engine: Engine, tmp_path: Path) -> None:
    with new_folder(tmp_path / "artefact") as folder:
        (folder / "a").write_text("a")
    store = ReleaseStore(engine)
    first = store.add("desk", tmp_path / "artefact", {"exact": 0.9})
    store.add("other", tmp_path / "artefact")
    assert store.all("desk") == [first]
    assert len(store.all()) == 2
    with pytest.raises(TunesmithError, match=r"core\.missing_file"):
        store.add("desk", tmp_path)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("nonsense", "store.bad_url"),
        ("mysql://host/db", "store.bad_url"),
        ("sqlite:////proc/none/store.db", "store.cannot_open"),
        ("postgresql+nodriver://host/db", "store.driver_missing"),
    ],
)
def test_a_wrong_url_has_a_code(url: str, code: str) -> None:
    with pytest.raises(TunesmithError, match=code.replace(".", r"\.")):
        open_database(url)


def test_a_broken_file_and_another_schema_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.db").write_bytes(b"not a database" * 100)
    with pytest.raises(TunesmithError, match=r"store\.cannot_open"):
        open_database(sqlite_url(tmp_path / "broken.db"))
    engine = open_database(sqlite_url(tmp_path / "new.db"))
    with engine.begin() as connection:
        connection.execute(update(version).values(version=99))
    with pytest.raises(TunesmithError, match=r"store\.other_schema"):
        open_database(sqlite_url(tmp_path / "new.db"))


def test_a_database_that_refuses_says_so(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE feedback"))
    with pytest.raises(TunesmithError, match=r"store\.cannot_write"):
        FeedbackStore(engine).add(LIKE)
