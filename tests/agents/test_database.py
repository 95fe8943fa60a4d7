"""SQL that reads; everything else is refused, and the file is never touched."""

import hashlib
import sqlite3
import time

import pytest

from tasks.agents.actions import database
from tasks.agents.tools import Action, ActionError


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "shop #1.db"     # a name that a URI would cut
    with sqlite3.connect(file) as connection:
        connection.execute("create table orders (id integer, city text)")
        connection.executemany("insert into orders values (?, ?)", [(n, "北京" if n % 3 else "Oslo") for n in range(30)])
    connection.close()
    return file


def ask(path, query):
    return Action.of(database.action(path)).call('{"query": %s}' % __import__("json").dumps(query))


def test_reads(path):
    counted = ask(path, "select city, count(*) from orders group by city order by 2")
    assert counted == "city | count(*)\nOslo | 10\n北京 | 20"
    assert "orders(id, city)" in Action.of(database.action(path)).schema["function"]["description"]
    assert ask(path, "select id from orders where id > 99") == "no rows"
    assert ask(path, "select id from orders").endswith("(more rows)")


@pytest.mark.parametrize("query", [
    "delete from orders", "drop table orders", "insert into orders values (1, 'x')", "pragma writable_schema=1",
    "attach '/tmp/other.db' as o", "select load_extension('/tmp/x.so')", "vacuum into '/tmp/copy.db'",
    "select 1; delete from orders", "selec 1", "", "select zeroblob(100000000)", "select writefile('/tmp/x', 'y')",
    "create temp table t (a)", "select * from nothing", "select \x00",
])
def test_nothing_else_and_the_file_stays(path, query):
    before = hashlib.sha256(path.read_bytes()).digest()
    with pytest.raises(ActionError) as error:
        ask(path, query)
    assert "\n" not in str(error.value)
    assert hashlib.sha256(path.read_bytes()).digest() == before


def test_an_endless_query_is_stopped(path):
    start = time.monotonic()
    with pytest.raises(ActionError, match="stopped after"):
        ask(path, "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n")
    assert time.monotonic() - start < 3 * database.SECONDS


def test_no_database(tmp_path):
    (tmp_path / "text.db").write_text("this is no database" * 100)
    for bad in (tmp_path / "none.db", tmp_path / "text.db", tmp_path):
        with pytest.raises(ActionError):
            database.action(bad)
