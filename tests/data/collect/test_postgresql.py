"""A real PostgreSQL server: rows in batches, nothing written, and no password or row in any word that is said."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgresql_cluster import OWNER, Cluster, programs, running_cluster

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.data.collect.database import BATCH_ROWS
from tunesmith.data.collect.fetch import collect
from tunesmith.data.collect.lineage import lineage_of
from tunesmith.data.formats.read import Reading, read_source
from tunesmith.messages import LANGUAGES, render
from tunesmith.recipe.places import local_path
from tunesmith.recipe.specs.sources import SourceSpec

VARIABLE = "TICKETS_URL"
PLANTED = "13800007Zq"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    for name in ("psycopg", "adbc_driver_postgresql"):
        pytest.importorskip(name, reason="needs the extra postgresql")
    if programs() is None:
        pytest.skip("needs PostgreSQL's programs initdb and pg_ctl (Debian: apt-get install postgresql)")
    with running_cluster() as found:
        found.run(
            "CREATE TABLE tickets "
            "(number integer, asked text, answered text, tags jsonb, at timestamptz, price numeric)",
            "INSERT INTO tickets SELECT n, '退款要多久？ ' || n, 'About ' || n || ' days.', '[\"a\", {\"b\": null}]', "
            f"'2026-01-02 03:04:05+08'::timestamptz + n * interval '1 day', n * 1.5 "
            f"FROM generate_series(1, {BATCH_ROWS * 2 + 7}) n",
            f"INSERT INTO tickets VALUES (0, NULL, '{PLANTED}', NULL, NULL, NULL)",
            "CREATE SEQUENCE counter",
            "CREATE FUNCTION add_one() RETURNS integer LANGUAGE sql AS "
            "$$INSERT INTO tickets (number) VALUES (-1) RETURNING number$$",
            "GRANT ALL ON ALL TABLES IN SCHEMA public TO reader",
            "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO reader",
        )
        yield found


@pytest.fixture(autouse=True)
def at_hand(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(VARIABLE, cluster.url())


def asked(query: str) -> SourceSpec:
    return SourceSpec(query=query, database=f"env:{VARIABLE}", columns={"prompt": "asked", "completion": "answered"})


def test_rows_come_in_batches_and_with_their_types(tmp_path: Path, cluster: Cluster) -> None:
    source = asked("SELECT * FROM tickets WHERE answered NOT LIKE '%x%' ORDER BY number")
    (place,) = collect([source], tmp_path, offline=False)
    rows = [json.loads(line) for line in (place / "rows.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == BATCH_ROWS * 2 + 8 == lineage_of(place)["rows"]
    assert [row["number"] for row in rows] == list(range(BATCH_ROWS * 2 + 8))
    assert rows[0] == {"number": 0, "asked": None, "answered": PLANTED, "tags": None, "at": None, "price": None}
    assert rows[3]["tags"] == ["a", {"b": None}] and rows[3]["price"] == "4.5" and rows[2]["price"] == 3
    assert rows[1]["at"].startswith("2026-01-0") and "T" in rows[1]["at"]
    ledger = Ledger()
    frame, report = read_source(source, "train", tmp_path, Reading("chat", None, 1), ledger)
    assert frame["messages"][2][0]["content"] == "退款要多久？ 3" and len(frame) == len(rows) - 1
    assert cluster.secret not in (place / "manifest.json").read_text("utf-8") + str(report) + str(
        local_path(source, tmp_path)
    )


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT add_one()", "25006"),
        ("SELECT nextval('counter')", "25006"),
        ("SELECT set_config('transaction_read_only', 'off', false), add_one()", "transaction read-write mode"),
        ("SELECT nothing FROM tickets", "nothing"),
        ("SELECT * FROM nowhere", "nowhere"),
        ("SELECT number FROM FROM tickets", "FROM"),
        ("SELECT answered::integer FROM tickets ORDER BY number", "22P02"),
        ("SELECT 1 / (number - 9000) FROM tickets ORDER BY number", "22012"),
    ],
)
def test_a_query_that_fails_says_why_without_rows_or_password(
    tmp_path: Path, cluster: Cluster, caplog: pytest.LogCaptureFixture, query: str, said: str
) -> None:
    caplog.set_level(logging.DEBUG)
    source = asked(query)
    with pytest.raises(TunesmithError) as caught:
        collect([source], tmp_path, offline=False)
    error = caught.value
    assert error.code == "data.query_failed" and error.__cause__ is None and error.__suppress_context__
    words = [
        str(error),
        caplog.text,
        *(f"{render(error, each).cause} {render(error, each).next_step}" for each in LANGUAGES),
    ]
    assert all(PLANTED not in each and cluster.secret not in each for each in words)
    assert said in str(error.facts["reason"]) or (said[:2] == "25" and "read-only" in str(error.facts["reason"]))
    assert not local_path(source, tmp_path).exists()
    cluster.run("DO $$ BEGIN ASSERT (SELECT count(*) FROM tickets WHERE number < 0) = 0; END $$")


@pytest.mark.parametrize("wrong", ["password", "user", "database", "host"])
def test_a_server_that_cannot_be_reached_keeps_the_password(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    urls = {
        "password": cluster.url(secret="planted7Zq"),
        "user": cluster.url(user="nobody_here", secret="planted7Zq"),
        "database": cluster.url(database="no_such_database"),
        "host": cluster.url(secret="planted7Zq").replace(str(cluster.folder), str(tmp_path)),
    }
    monkeypatch.setenv(VARIABLE, urls[wrong])
    with pytest.raises(TunesmithError) as caught:
        collect([asked("SELECT 1")], tmp_path, offline=False)
    assert caught.value.code == "data.query_failed"
    assert "planted7Zq" not in str(caught.value) and cluster.secret not in str(caught.value)


def test_a_writing_query_never_reaches_the_server(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, cluster.url(OWNER))
    for query in ("DELETE FROM tickets", "WITH gone AS (DELETE FROM tickets RETURNING *) SELECT * FROM gone"):
        with pytest.raises(TunesmithError, match=r"data\.query_writes"):
            collect([asked(query)], tmp_path, offline=False)
    assert "DELETE" not in (cluster.folder / "log").read_text("utf-8", "replace")
    collect([asked("SELECT * FROM tickets")], tmp_path, offline=False)


ODD = {
    "numeric": ("12345678901234567890.1230", "12345678901234567890.1230"),
    "numeric(9,1)": ("1e-1", "0.1"),
    "money": ("1.5", "$1.50"),
    "integer[]": ("{{1,2},{3,null}}", [[1, 2], [3, None]]),
    "text[]": ('{a,NULL,"b,c"}', ["a", None, "b,c"]),
    "numeric[]": ("{1.5}", [1.5]),
    "jsonb": ('{"a": [1, null], "中": "文"}', {"a": [1, None], "中": "文"}),
    "json": ('{"b":\n 1.0, "a": 2}', {"b": 1.0, "a": 2}),
    "uuid": ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    "timestamp": ("2026-01-02 03:04:05.678", "2026-01-02T03:04:05.678000"),
    "timestamptz": ("2026-01-02 03:04:05+08", "2026-01-01T19:04:05+00:00"),
    "date": ("2026-01-02", "2026-01-02"),
    "time": ("03:04:05", "03:04:05"),
    "timetz": ("03:04:05+08", "03:04:05+08"),
    "interval": ("1 day 2 hours", "1 day 02:00:00"),
    "inet": ("10.0.0.1", "10.0.0.1"),
    "macaddr": ("08:00:2b:01:02:03", "08:00:2b:01:02:03"),
    "int4range": ("[1,4)", "[1,4)"),
    "point": ("(1,2)", "(1,2)"),
    "tsvector": ("a b", "'a' 'b'"),
    "xml": ("<a>文</a>", "<a>文</a>"),
    "oid": ("4000000000", 4_000_000_000),
    "bigint": ("-9007199254740993", -9007199254740993),
    "double precision": ("0.1", 0.1),
    "boolean": ("yes", True),
    "char(3)": ("x", "x  "),
    "mood": ("好", "好"),
    "pair": ('(1,"a b")', {"a": 1, "b": "a b"}),
    "text": ('\\ "quoted"\n\t\x7f 😀', '\\ "quoted"\n\t\x7f 😀'),
}


def test_every_type_arrives_as_it_is_or_as_its_words(tmp_path: Path, cluster: Cluster) -> None:
    cluster.run("CREATE TYPE mood AS ENUM ('好', 'bad')", "CREATE TYPE pair AS (a integer, b text)")
    columns = [f"'{said.replace(chr(39), chr(39) * 2)}'::{kind} AS \"{kind}\"" for kind, (said, _) in ODD.items()]
    query = f"SELECT {', '.join(columns)} UNION ALL SELECT {', '.join(['NULL'] * len(columns))} -- the end"
    ask = SourceSpec(
        query=f"SELECT * FROM ({query.removesuffix(' -- the end')}) AS all_rows -- the end", database=f"env:{VARIABLE}"
    )
    (place,) = collect([ask], tmp_path, offline=False)
    found, empty = map(json.loads, (place / "rows.jsonl").read_text("utf-8").splitlines())
    assert found == {kind: told for kind, (_, told) in ODD.items()}
    assert empty == dict.fromkeys(ODD)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("SELECT 'infinity'::timestamptz AS at", "data.endless_time"),
        ("SELECT '-infinity'::date AS at", "data.endless_time"),
        ("SELECT 'x'::bytea AS at", "data.binary_column"),
        ("SELECT 1 AS a, 2 AS a", "data.duplicate_columns"),
        ("SELECT 1 AS a WHERE false", "data.empty_file"),
    ],
)
def test_what_no_line_can_hold_is_an_error(tmp_path: Path, query: str, code: str) -> None:
    with pytest.raises(TunesmithError) as caught:
        collect([asked(query)], tmp_path, offline=False)
    assert caught.value.code == code


@pytest.mark.parametrize("text", ["postgresql", "postgres+x"])
def test_urls_in_the_forms_that_people_write(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Settings of the session come through, the secret's odd characters too."""
    scheme = {"postgresql": "postgresql", "postgres+x": "postgresql+psycopg"}[text]
    url = cluster.url().replace("postgresql", scheme, 1) + "&options=-c%20search_path%3Dpg_catalog%20-c%20geqo%3Doff"
    monkeypatch.setenv(VARIABLE, url)
    query = "SELECT current_setting('search_path') AS path, current_setting('geqo') AS geqo, '+'::text AS plus"
    (place,) = collect([asked(query)], tmp_path, offline=False)
    assert json.loads((place / "rows.jsonl").read_text("utf-8")) == {"path": "pg_catalog", "geqo": "off", "plus": "+"}


LARGE = """
import json, resource, sys
from pathlib import Path
from tunesmith.data.collect.fetch import collect
from tunesmith.recipe.specs.sources import SourceSpec
def source(rows):
    query = f"SELECT repeat(md5(n::text), 64) AS text FROM generate_series(1, {rows}) n"
    return SourceSpec(query=query, database="env:TICKETS_URL")
collect([source(5000)], Path("."), offline=False)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
(place,) = collect([source(int(sys.argv[1]))], Path("."), offline=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, (place / "rows.jsonl").stat().st_size)
"""


def test_a_large_result_passes_through_little_memory(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LARGE, "60000"],
        cwd=tmp_path,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    grown_kb, written = map(int, done.stdout.split())
    assert written > 120e6 and grown_kb < 40_000
