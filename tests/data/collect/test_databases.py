"""Rows of SQLite and DuckDB by a query: once, whole, with their lineage, and never a change to the database."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import read_manifest
from tunesmith.core.ledger import Ledger
from tunesmith.data.collect.fetch import collect
from tunesmith.data.collect.lineage import lineage_of
from tunesmith.data.formats.read import Reading, read_source
from tunesmith.recipe.places import local_path
from tunesmith.recipe.specs.sources import SourceSpec

QUERY = "select question, answer, agreed from faq order by number"
FILES = {"sqlite": "faq.db", "duckdb": "faq.duckdb"}


@pytest.fixture(autouse=True)
def kept_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))


def make_database(folder: Path, kind: str, rows: int = 12) -> Path:
    path = folder / FILES[kind]
    if kind == "duckdb":
        connection = pytest.importorskip("duckdb", reason="needs the extra duckdb").connect(str(path))
    else:
        connection = sqlite3.connect(path)
    connection.execute("create table faq (number integer, question text, answer text, agreed boolean, picture blob)")
    values = [(number, f"问题 {number}?", f"Answer {number}", number % 2 == 0) for number in range(rows)]
    connection.executemany("insert into faq (number, question, answer, agreed) values (?, ?, ?, ?)", values)
    connection.commit()
    connection.close()
    return path


@pytest.mark.parametrize("kind", FILES)
def test_a_query_gives_rows_with_their_lineage(tmp_path: Path, kind: str) -> None:
    path = make_database(tmp_path, kind)
    before = path.read_bytes()
    source = SourceSpec(query=QUERY, database=path.name, name="faq", licence="ours", terms={"consent": "agreed"})
    (place,) = collect([source], tmp_path, offline=False)
    ledger = Ledger()
    frame, report = read_source(source, "train", tmp_path, Reading("chat", None, 1), ledger)
    assert [turns[0]["content"] for turns in frame["messages"]] == [f"问题 {number}?" for number in range(0, 12, 2)]
    assert ledger.totals() == {"dropped: no_consent": 6, "kept": 6}
    facts = lineage_of(place)
    assert facts["query"] == QUERY and facts["rows"] == 12
    assert facts["sha256"] == read_manifest(place)["files"]["rows.jsonl"]  # type: ignore[index]
    assert any(note.code == "data.collected_query" and note.facts["rows"] == "12" for note in report.notes)
    assert path.read_bytes() == before and place.stat().st_mode & 0o077 == 0
    assert report.files[0].path.endswith("/rows.jsonl") and report.licence == "ours"


def test_rows_are_kept_until_they_are_asked_for_again(tmp_path: Path) -> None:
    path = make_database(tmp_path, "sqlite")
    source = SourceSpec(query=QUERY, database=path.name)
    (place,) = collect([source], tmp_path, offline=False)
    first = (place / "rows.jsonl").read_bytes()
    with sqlite3.connect(path) as connection:
        connection.execute("delete from faq where number > 3")
    connection.close()
    collect([source], tmp_path, offline=False)
    collect([source], tmp_path, offline=True)
    assert (place / "rows.jsonl").read_bytes() == first
    collect([source], tmp_path, offline=False, again=True)
    assert (place / "rows.jsonl").read_bytes() == b"".join(first.splitlines(keepends=True)[:4])


def test_another_database_behind_the_same_variable_is_another_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SourceSpec(query=QUERY, database="env:FAQ_URL")
    for name, rows in (("a", 3), ("b", 5)):
        (tmp_path / name).mkdir()
        monkeypatch.setenv("FAQ_URL", f"sqlite:///{make_database(tmp_path / name, 'sqlite', rows)}")
        (place,) = collect([source], tmp_path, offline=False)
        assert lineage_of(place)["rows"] == rows
    monkeypatch.delenv("FAQ_URL")
    assert collect([source], tmp_path, offline=False) == [place], "what was fetched needs no database"


def test_what_was_fetched_and_changed_since_is_refused(tmp_path: Path) -> None:
    source = SourceSpec(query=QUERY, database=make_database(tmp_path, "sqlite").name)
    (place,) = collect([source], tmp_path, offline=False)
    (place / "rows.jsonl").write_text("{}\n", "utf-8")
    with pytest.raises(TunesmithError, match=r"core\.hash_differs"):
        collect([source], tmp_path, offline=False)


@pytest.mark.parametrize("kind", FILES)
def test_what_goes_wrong_leaves_nothing(tmp_path: Path, kind: str) -> None:
    path = make_database(tmp_path, kind)
    for query, code in (
        ("select nothing from faq", "data.query_failed"),
        ("select question from faq where number > 100", "data.empty_file"),
        ("select question, answer as question from faq", "data.duplicate_columns"),
        ("select cast('a' as blob) as picture from faq", "data.binary_column"),
        ("delete from faq", "data.query_writes"),
    ):
        source = SourceSpec(query=query, database=path.name)
        with pytest.raises(TunesmithError) as caught:
            collect([source], tmp_path, offline=False)
        assert caught.value.code == code, query
        place = local_path(source, tmp_path)
        assert not place.exists() and (not place.parent.exists() or not list(place.parent.iterdir()))
        with pytest.raises(TunesmithError, match=r"data\.not_collected"):
            read_source(source, "train", tmp_path, Reading("chat", None, 1), Ledger())
        with pytest.raises(TunesmithError, match=r"data\.offline_source"):
            collect([source], tmp_path, offline=True)


def test_sqlite_is_opened_for_reading_alone(tmp_path: Path) -> None:
    """A statement that got past the first lock would meet the second."""
    from sqlalchemy.exc import OperationalError

    from tunesmith.data.collect.database import _read_only_engine, database_url

    source = SourceSpec(query=QUERY, database=make_database(tmp_path, "sqlite").name)
    engine = _read_only_engine(database_url(source, tmp_path), "sqlite")
    with engine.connect() as connection, pytest.raises(OperationalError, match="readonly"):
        connection.exec_driver_sql("delete from faq")
    engine.dispose()


def test_duckdb_reads_no_files_of_the_machine(tmp_path: Path) -> None:
    path = make_database(tmp_path, "duckdb")
    (tmp_path / "secret.csv").write_text("a\n1\n", "utf-8")
    source = SourceSpec(query=f"select * from read_csv('{tmp_path}/secret.csv')", database=path.name)
    with pytest.raises(TunesmithError, match=r"data\.query_failed"):
        collect([source], tmp_path, offline=False)


def test_urls_are_judged_without_showing_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = SourceSpec(query=QUERY, database="env:FAQ_URL")
    monkeypatch.delenv("FAQ_URL", raising=False)
    with pytest.raises(TunesmithError, match=r"data\.no_database_url"):
        collect([source], tmp_path, offline=False)
    for url in (
        "not a url with pw7Zq",
        "oracle://user:pw7Zq@host/x",
        "postgresql://user:pw7Zq@host:port/x",
        "://pw7Zq",
    ):
        monkeypatch.setenv("FAQ_URL", url)
        with pytest.raises(TunesmithError) as caught:
            collect([source], tmp_path, offline=False)
        assert caught.value.code == "data.bad_database_url" and "pw7Zq" not in str(caught.value)
        assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_json_of_a_table_becomes_turns(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    turns = json.dumps([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    with sqlite3.connect(path) as connection:
        connection.execute("create table log (messages text)")
        connection.execute("insert into log values (?)", (turns,))
    connection.close()
    source = SourceSpec(query="select messages from log", database=path.name)
    collect([source], tmp_path, offline=False)
    frame, _ = read_source(source, "train", tmp_path, Reading("chat", None, 1), Ledger())
    assert [turn["content"] for turn in frame["messages"][0]] == ["a", "b"]
