"""A real MariaDB server, spoken to as MySQL: rows in batches, nothing written, no password or row in any word."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from mariadb_server import DATABASE, Server, programs, running_server

from tunesmith.core.errors import TunesmithError
from tunesmith.data.collect.database import BATCH_ROWS, _read_only_engine, database_url
from tunesmith.data.collect.fetch import collect
from tunesmith.recipe.places import local_path
from tunesmith.recipe.specs.sources import SourceSpec

VARIABLE = "TICKETS_URL"
PLANTED = "13800007Zq"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pytest.importorskip("pymysql", reason="needs the extra mysql")
    if programs() is None:
        pytest.skip("needs the programs of MariaDB (Debian: apt-get install mariadb-server)")
    with running_server() as found:
        found.run(
            f"USE {DATABASE}",
            "CREATE TABLE tickets (number INT, asked TEXT, tags JSON, at DATETIME, price DECIMAL(9,2), picture BLOB)",
            f"INSERT INTO tickets SELECT seq, CONCAT('退款🎻 ', seq), '[1]', '2026-01-02 03:04:05', seq * 1.5, NULL "
            f"FROM seq_1_to_{BATCH_ROWS * 2 + 7}",
            f"INSERT INTO tickets VALUES (0, '{PLANTED}', NULL, NULL, NULL, 'x')",
        )
        yield found


@pytest.fixture(autouse=True)
def at_hand(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(VARIABLE, server.url())


def asked(query: str) -> SourceSpec:
    return SourceSpec(query=query, database=f"env:{VARIABLE}")


def test_rows_come_in_batches_and_with_their_types(tmp_path: Path, server: Server) -> None:
    source = asked("SELECT number, asked, at, price, tags FROM tickets WHERE asked NOT LIKE '%x%' ORDER BY number")
    (place,) = collect([source], tmp_path, offline=False)
    rows = [json.loads(line) for line in (place / "rows.jsonl").read_text("utf-8").splitlines()]
    assert [row["number"] for row in rows] == list(range(BATCH_ROWS * 2 + 8))
    assert rows[0] == {"number": 0, "asked": PLANTED, "at": None, "price": None, "tags": None}
    assert rows[3] == {"number": 3, "asked": "退款🎻 3", "at": "2026-01-02T03:04:05", "price": "4.50", "tags": "[1]"}
    assert server.secret not in (place / "manifest.json").read_text("utf-8")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("SELECT nothing FROM tickets", "data.query_failed"),
        ("SELECT * FROM nowhere", "data.query_failed"),
        ("SELECT number FROM FROM tickets", "data.query_failed"),
        ("SELECT EXTRACTVALUE('<a/>', CONCAT(0x7e, asked)) FROM tickets ORDER BY number", "data.query_failed"),
        ("SELECT picture FROM tickets ORDER BY number", "data.binary_column"),
        ("INSERT INTO tickets (number) VALUES (1)", "data.query_writes"),
        ("SELECT * FROM tickets INTO OUTFILE 'x'", "data.query_writes"),
        ("SELECT 1 /*! INTO OUTFILE 'x' */", "data.query_unclear"),
    ],
)
def test_what_goes_wrong_says_why_without_rows_or_password(
    tmp_path: Path, server: Server, query: str, code: str
) -> None:
    source = asked(query)
    with pytest.raises(TunesmithError) as caught:
        collect([source], tmp_path, offline=False)
    assert caught.value.code == code
    assert PLANTED not in str(caught.value) and server.secret not in str(caught.value)
    assert not local_path(source, tmp_path).exists()


def test_a_wrong_password_is_kept(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, server.url(secret="planted7Zq"))
    with pytest.raises(TunesmithError) as caught:
        collect([asked("SELECT 1 AS one")], tmp_path, offline=False)
    assert caught.value.code == "data.query_failed"
    assert "planted7Zq" not in str(caught.value) and "denied" in str(caught.value.facts["reason"]).lower()


def test_the_session_is_read_only(tmp_path: Path, server: Server) -> None:
    """A statement that got past the first lock would meet the second."""
    from sqlalchemy.exc import SQLAlchemyError

    engine = _read_only_engine(database_url(asked("SELECT 1"), tmp_path), "mysql")
    with engine.connect() as connection, pytest.raises(SQLAlchemyError, match="READ ONLY"):
        connection.exec_driver_sql("DELETE FROM tickets")
    engine.dispose()
    assert server.run(f"SELECT COUNT(*) FROM {DATABASE}.tickets") == [(BATCH_ROWS * 2 + 8,)]
