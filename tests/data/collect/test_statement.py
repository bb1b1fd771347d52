"""Queries that only read are sent; whatever else stands in one, or might, is refused by its word."""

from __future__ import annotations

import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.data.collect.statement import Dialect, require_reading

ALL: tuple[Dialect, ...] = ("postgresql", "mysql", "sqlite", "duckdb")
READS = [
    "select a, b from t where c > 1 order by a limit 10;",
    "  SELECT * FROM t",
    "(select 1) union (select 2)",
    "with x as (select 1 as a) select * from x",
    "values (1), (2)",
    "select 'delete from t; drop table t' as text",
    'select "update", "into" from t',
    "select replace(a, 'x', 'y') from t",
    "select it.deleted, created_at, updated from it",
    "select 1 -- ; delete from t\n",
    "select /* insert into t */ 1",
    "select 'it''s; delete' from t",
]
WRITES = {
    "delete from t": "DELETE",
    "insert into t values (1)": "INSERT",
    "update t set a = 1": "UPDATE",
    "drop table t": "DROP",
    "select 1; delete from t": ";",
    "select 1;;": ";",
    "with x as (delete from t returning *) select * from x": "DELETE",
    "with x as (insert into t values (1) returning a) select * from x": "INSERT",
    "select * into u from t": "INTO",
    "select * from t for update": "UPDATE",
    "select a from t into outfile '/tmp/x'": "INTO",
    "copy t to program 'sh'": "COPY",
    "pragma query_only = off": "PRAGMA",
    "attach database 'x' as y": "ATTACH",
    "set default_transaction_read_only = off": "SET",
    "begin": "BEGIN",
    "explain analyze delete from t": "EXPLAIN",
    "call f()": "CALL",
    "do $$ begin delete from t; end $$": "DO or ;",
    "": "",
    "-- select 1": "",
    "'select'": "'",
    "select 1 /* ; */ ; drop table t": ";",
}
UNCLEAR: dict[Dialect, list[str]] = {
    "postgresql": [
        r"select E'a\' ; delete from t; --'",
        "select /* /* */ delete from t */ 1",
        "select 'a",
        "select /* 1",
    ],
    "mysql": [
        r"select 'a\'  ' delete from t '",
        "select 1 # it's\n; delete from t -- '",
        "select 1 --it's",
        "select /*!50000 1 */",
        "select /*M! 1 */",
    ],
    "sqlite": ["select 'a", 'select "a'],
    "duckdb": [r"select E'a\' ; delete from t; --'"],
}


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize("query", READS)
def test_reading_queries_pass(dialect: Dialect, query: str) -> None:
    require_reading(query, dialect, "s")


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize("query", WRITES)
def test_writing_queries_are_refused_by_their_word(dialect: Dialect, query: str) -> None:
    with pytest.raises(TunesmithError) as caught:
        require_reading(query, dialect, "s")
    assert caught.value.code in ("data.query_writes", "data.query_unclear")
    if caught.value.code == "data.query_writes" and query != "-- select 1":
        assert str(caught.value.facts["word"]) in WRITES[query].split(" or ") or not WRITES[query]


@pytest.mark.parametrize(("dialect", "query"), [(dialect, each) for dialect, them in UNCLEAR.items() for each in them])
def test_what_reads_in_two_ways_is_refused(dialect: Dialect, query: str) -> None:
    with pytest.raises(TunesmithError) as caught:
        require_reading(query, dialect, "s")
    assert caught.value.code in ("data.query_unclear", "data.query_writes")


def test_dollar_quotes_are_postgresqls_texts() -> None:
    require_reading("select $tag$ delete from t; $tag$", "postgresql", "s")
    with pytest.raises(TunesmithError):
        require_reading("select $a$ x $b$; delete from t; $b$ y $a$ from t; delete from t", "postgresql", "s")
    with pytest.raises(TunesmithError):
        require_reading("select $tag$ ; delete from t; $tag$", "mysql", "s")


def test_identifiers_in_other_quotes() -> None:
    require_reading("select `update` from t", "mysql", "s")
    require_reading("select [delete] from t", "sqlite", "s")
    with pytest.raises(TunesmithError):
        require_reading("select a[1], [delete from t] from t", "postgresql", "s")
