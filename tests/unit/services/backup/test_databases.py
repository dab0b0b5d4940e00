"""Databases into a backup and back, by the real programs on a real PostgreSQL."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from services.backup import BackupError, databases, folder
from services.backup.databases import Server, Session
from services.backup.folder import Writer
from tests import postgres

NAMES = ["app", "documents"]
LEFT_OUT = {"documents": ["admin"]}
FILL = """
CREATE TABLE plain (id bigserial PRIMARY KEY, t text, at timestamptz, f float8, j jsonb, b bytea);
INSERT INTO plain (t, at, f, j, b)
  SELECT repeat('é', n % 7), now() + n * interval '1 s', n / 3.0, jsonb_build_object('n', n),
    decode(md5(n::text), 'hex') FROM generate_series(1, 500) AS n;
CREATE TABLE nothing ();
INSERT INTO nothing DEFAULT VALUES;
CREATE TABLE parted (id int, t text) PARTITION BY LIST (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
INSERT INTO parted VALUES (1, 'a'), (1, 'a');
CREATE SCHEMA "odd ""name";
CREATE TABLE "odd ""name"."T '" (n int);
INSERT INTO "odd ""name"."T '" VALUES (1);
CREATE VIEW seen AS SELECT count(*) FROM plain;
"""


@pytest.fixture(scope="module")
def running() -> Iterator[postgres.Running]:
    with postgres.running() as made:
        yield made


@pytest.fixture
def server(running: postgres.Running) -> Iterator[Server]:
    """Two databases as the estate has them: an owner, a reader, nobody else."""
    search = f"{running.programs}{os.pathsep}{os.environ['PATH']}"
    place = {"PGHOST": str(running.folder), "PGUSER": "test", "PATH": search}
    made = Server(["env"], {**os.environ, **place})
    with Session(made, "postgres") as session:
        for one in NAMES:
            session.run(f"DROP DATABASE IF EXISTS {one} WITH (FORCE)")
        for role in ("owner", "reader", '"odd-role"'):
            session.run(f"DROP ROLE IF EXISTS {role}")
            session.run(f"CREATE ROLE {role} LOGIN")
        for one in NAMES:
            session.run(f"CREATE DATABASE {one} OWNER owner")
            session.run(f"REVOKE ALL ON DATABASE {one} FROM PUBLIC")
            session.run(f'GRANT CONNECT ON DATABASE {one} TO reader, "odd-role"')
    with psycopg.connect(f"host={running.folder} user=owner dbname=app") as owner:
        owner.execute("GRANT USAGE ON SCHEMA public TO reader")
        owner.execute("ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO reader")
        owner.execute(FILL.encode())
    with psycopg.connect(f"host={running.folder} user=owner dbname=documents") as owner:
        owner.execute("CREATE SCHEMA lake; CREATE TABLE lake.images AS SELECT 1 AS n")
        owner.execute("CREATE SCHEMA admin; CREATE TABLE admin.users AS SELECT 'old' AS secret")
    yield made


def save(server: Server, target: Path) -> tuple[Path, dict[str, Any]]:
    writer = Writer(folder.begin(target))
    return writer.folder, databases.save(server, NAMES, LEFT_OUT, writer, lambda *_: None)


def run(server: Server, database: str, statement: str) -> list[str]:
    with Session(server, database) as session:
        return session.run(statement)


def test_what_is_lost_comes_back(running: postgres.Running, server: Server, tmp_path: Path) -> None:
    where, part = save(server, tmp_path / "one")
    assert part["databases"]["app"]["tables"]["public.plain"][0] == 500
    assert "admin.users" not in part["databases"]["documents"]["tables"]
    with Session(server, "postgres") as session:
        for one in NAMES:
            session.run(f"DROP DATABASE {one}")
            session.run(f"CREATE DATABASE {one} OWNER owner")
    run(server, "documents", "CREATE SCHEMA admin; CREATE TABLE admin.users AS SELECT 'new' AS s")
    run(server, "app", "CREATE TABLE surplus (n int)")
    kept = {"documents": tmp_path / "kept.dump"}
    databases.keep(server, "documents", ["admin"], kept["documents"])
    assert kept["documents"].stat().st_mode & 0o777 == 0o600
    databases.restore(server, where, part, kept, lambda *_: None)
    assert databases.compare(server, part, lambda *_: None) == []
    assert run(server, "documents", "SELECT s FROM admin.users") == ["new"]
    assert run(server, "app", "SELECT nextval('plain_id_seq')") == ["501"]
    # Rights are as they were: of the owner, of the reader, and of nobody else.
    with pytest.raises(psycopg.OperationalError, match="too many connections"):
        psycopg.connect(f"host={running.folder} user=owner dbname=app")
    databases.open_(server, part)
    with psycopg.connect(f"host={running.folder} user=owner dbname=app") as owner:
        owner.execute("CREATE TABLE later AS SELECT 1 AS n")
    with psycopg.connect(f"host={running.folder} user=reader dbname=app") as reader:
        assert reader.execute("SELECT n FROM later").fetchall() == [(1,)]
    psycopg.connect(f"host={running.folder} user=odd-role dbname=documents").close()
    run(server, "postgres", "DROP ROLE IF EXISTS nobody")
    run(server, "postgres", "CREATE ROLE nobody LOGIN")
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(f"host={running.folder} user=nobody dbname=app")


def test_a_restore_ends_whoever_is_connected_and_works_twice(
    running: postgres.Running, server: Server, tmp_path: Path
) -> None:
    where, part = save(server, tmp_path / "one")
    with closing(psycopg.connect(f"host={running.folder} user=owner dbname=app")) as owner:
        for _ in range(2):
            databases.restore(server, where, part, {}, lambda *_: None)
        with pytest.raises(psycopg.OperationalError):
            owner.execute("SELECT 1")
    assert databases.compare(server, part, lambda *_: None) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("UPDATE plain SET t = 'x' WHERE id = 7", "public.plain has other rows"),
        ("DELETE FROM plain WHERE id = 7", "public.plain has 499 rows, not 500"),
        ("DELETE FROM parted_1 WHERE ctid = '(0,1)'", "public.parted_1 has 1 rows, not 2"),
        ("DROP TABLE nothing", "public.nothing is missing"),
        ("CREATE TABLE more ()", "public.more is in no backup"),
    ],
)
def test_each_difference_is_named(server: Server, tmp_path: Path, change: str, says: str) -> None:
    _, part = save(server, tmp_path / "one")
    run(server, "app", change)
    assert databases.compare(server, part, lambda *_: None) == [f"table app.{says}"]


def test_dump_and_digests_are_of_one_moment(
    running: postgres.Running, server: Server, tmp_path: Path
) -> None:
    done = threading.Event()

    def write() -> None:
        with psycopg.connect(
            f"host={running.folder} user=owner dbname=app", autocommit=True
        ) as one:
            while not done.is_set():
                one.execute("INSERT INTO plain (t) VALUES ('meanwhile')")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        where, part = save(server, tmp_path / "one")
    finally:
        done.set()
        writer.join()
    databases.restore(server, where, part, {}, lambda *_: None)
    assert databases.compare(server, part, lambda *_: None) == []


def test_a_dump_that_is_no_dump_is_told(server: Server, tmp_path: Path) -> None:
    where, part = save(server, tmp_path / "one")
    dump = where / part["databases"]["app"]["file"]
    dump.write_bytes(dump.read_bytes()[:-200])
    with pytest.raises(BackupError, match=r"pg_restore of app: .*error"):
        databases.restore(server, where, part, {}, lambda *_: None)


def test_a_role_that_is_not_declared_any_more_is_named(server: Server, tmp_path: Path) -> None:
    where, part = save(server, tmp_path / "one")
    for one in NAMES:
        run(server, "postgres", f"DROP DATABASE {one}")
    run(server, "postgres", "DROP ROLE reader")
    with pytest.raises(BackupError, match='role "reader" does not exist'):
        databases.restore(server, where, part, {}, lambda *_: None)


def test_a_statement_that_fails_says_why(server: Server) -> None:
    with Session(server, "app") as session:
        assert session.run("SELECT 1") == ["1"]
        with pytest.raises(BackupError, match=r'database app: .*relation "none" does not exist'):
            session.run("SELECT * FROM none")
    with pytest.raises(BackupError, match="does not exist"):
        run(server, "no-such", "SELECT 1")


def test_rows_of_somebody(server: Server) -> None:
    found = databases.rows(server, "app", lambda schema, table: table == "plain")
    assert found == ["odd \"name.T '", "public.nothing", "public.parted_1"]
    assert databases.databases(server) == NAMES
    assert databases.size(server, NAMES) > 10_000_000


@pytest.mark.parametrize("value", ["it's", 'a"b', "$$; DROP", "\\", "é"])
def test_quoting(server: Server, value: str) -> None:
    assert run(server, "app", f"SELECT {databases.text(value)}") == [value]
    assert run(server, "app", f"SELECT 1 AS {databases.name(value)}") == ["1"]
