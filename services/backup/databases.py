"""PostgreSQL's databases: by pg_dump, in one snapshot with a digest of every table, and back.

The programs run where the server is, as its superuser over its socket: `Server.command` leads
there (`kubectl exec ... --` for a pod). Roles and passwords are declared, not backed up.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from services.backup import BackupError
from services.backup.folder import Digesting, Progress, Writer

_CHUNK = 1 << 20
_DONE = "estate-done"
_AGAIN = "see ./estate verify, then run the same command again"
# So that a row's text is the same on every server.
_SETTINGS = "SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres';"
_DATABASE = """\
SELECT json_build_object(
  'owner', datdba::regrole::text, 'encoding', pg_encoding_to_char(encoding),
  'collate', datcollate, 'ctype', datctype, 'connections', datconnlimit,
  'bytes', pg_database_size(oid),
  'privileges', (SELECT coalesce(json_agg(json_build_array(
      CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END, privilege_type)), '[]')
    FROM aclexplode(coalesce(datacl, acldefault('d', datdba)))))
FROM pg_database WHERE datname = current_database()"""
_DATABASES = """\
SELECT coalesce(json_agg(datname ORDER BY datname), '[]') FROM pg_database
WHERE datallowconn AND NOT datistemplate AND datname <> 'postgres'"""
_TABLES = """\
SELECT coalesce(json_agg(json_build_array(nspname, relname) ORDER BY nspname, relname), '[]')
FROM pg_class JOIN pg_namespace AS space ON space.oid = relnamespace
WHERE relkind = 'r' AND relpersistence <> 't' AND nspname <> 'information_schema'
  AND nspname !~ '^pg_'"""


@dataclass(frozen=True)
class Server:
    """A primary. `command` goes before a program's name, `environment` is None for the caller's."""

    command: Sequence[str]
    environment: Mapping[str, str] | None = field(default=None, repr=False)

    def popen(self, *program: str, **streams: Any) -> subprocess.Popen[bytes]:
        """A program beside the server."""
        return subprocess.Popen(
            [*self.command, *program],
            env=None if self.environment is None else dict(self.environment),
            # An interrupt is for the caller, which then ends it.
            start_new_session=True,
            **streams,
        )


class Session:
    """One psql: statements go in, lines come out. An error of a statement ends it."""

    def __init__(self, server: Server, database: str) -> None:
        """Connect to a database."""
        self._database = database
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = server.popen(
            *("psql", "--no-psqlrc", "--quiet", "--no-align", "--tuples-only"),
            *("--set", "ON_ERROR_STOP=1", "--dbname", database),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    def run(self, statement: str) -> list[str]:
        """The lines that a statement gives. Raises BackupError with PostgreSQL's words."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{statement};\n\\echo {_DONE}\n".encode())
            self._process.stdin.flush()
        except OSError:
            raise self._failed() from None
        lines: list[str] = []
        for raw in self._process.stdout:
            line = raw.decode().rstrip("\n")
            if line == _DONE:
                return lines
            lines.append(line)
        raise self._failed()

    def json(self, statement: str) -> Any:
        """The one value of a statement that gives JSON."""
        return json.loads("\n".join(self.run(statement)))

    def _failed(self) -> BackupError:
        self._process.wait(30)
        return BackupError(f"database {self._database}", words(self._errors), _AGAIN)

    def close(self) -> None:
        """End it; a transaction that is open is rolled back."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def words(errors: IO[bytes]) -> str:
    """What a program said last of an error, in one line."""
    errors.seek(0)
    lines = [one.strip() for one in errors.read().decode(errors="replace").splitlines()]
    said = [one for one in lines if one and not one.startswith("Defaulted container")]
    bad = [one for one in said if "ERROR" in one or "error" in one or "FATAL" in one]
    return ((bad or said[-1:]) or ["ended without a word"])[0][:300]


def databases(server: Server) -> list[str]:
    """All but the server's own."""
    with Session(server, "postgres") as session:
        found: list[str] = session.json(_DATABASES)
        return found


def size(server: Server, names: Sequence[str]) -> int:
    """Bytes of these databases on the server's disk."""
    with Session(server, "postgres") as session:
        return sum(int(session.run(f"SELECT pg_database_size({text(one)})")[0]) for one in names)


def tables(session: Session, left_out: Sequence[str] = ()) -> dict[str, list[Any]]:
    """`schema.table` -> number of rows and two sums over their digests, whatever their order."""
    found = {}
    for schema, table in session.json(_TABLES):
        if schema in left_out:
            continue
        half = "sum(('x' || substr(md5(estate_row::text), {}, 16))::bit(64)::bigint::numeric)"
        sums = ", ".join(f"coalesce({half.format(start)}, 0)::text" for start in (1, 17))
        found[f"{schema}.{table}"] = session.json(
            f"SELECT json_build_array(count(*), {sums}) "
            f"FROM ONLY {name(schema)}.{name(table)} AS estate_row"
        )
    return found


def rows(server: Server, database: str, ignored: Callable[[str, str], bool]) -> list[str]:
    """The tables that have rows, less those that are ignored (schema, table)."""
    with Session(server, database) as session:
        return [
            f"{schema}.{table}"
            for schema, table in session.json(_TABLES)
            if not ignored(schema, table)
            and session.run(f"SELECT 1 FROM ONLY {name(schema)}.{name(table)} LIMIT 1")
        ]


# -- into a backup ---------------------------------------------------------------------------------


def save(
    server: Server,
    names: Sequence[str],
    left_out: Mapping[str, Sequence[str]],
    writer: Writer,
    progress: Progress,
) -> dict[str, Any]:
    """These databases, without the schemas that are left out; returns the manifest's part."""
    found: dict[str, Any] = {}
    for number, one in enumerate(names):
        progress(one, number, len(names))
        file = f"postgres/{one}.dump"
        without = list(left_out.get(one, ()))
        with Session(server, one) as session, writer.file(file) as made:
            session.run(_SETTINGS.rstrip(";"))
            session.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            snapshot = session.run("SELECT pg_export_snapshot()")[0]
            options = [f"--exclude-schema={schema}" for schema in without]
            dump(server, one, made, f"--snapshot={snapshot}", *options)
            about = session.json(_DATABASE)
            found[one] = {**about, "file": file, "without": without}
            found[one]["tables"] = tables(session, without)
        progress(one, number + 1, len(names))
    return {"databases": found}


def dump(server: Server, database: str, target: Digesting | IO[bytes], *options: str) -> None:
    """pg_dump in its own format. Raises BackupError."""
    command = ("pg_dump", "--format=custom", *options, database)
    with (
        tempfile.TemporaryFile() as errors,
        _ended(server.popen(*command, stdout=subprocess.PIPE, stderr=errors)) as process,
    ):
        assert process.stdout is not None
        while chunk := process.stdout.read(_CHUNK):
            target.write(chunk)
        if process.wait() != 0:
            raise BackupError(f"pg_dump of {database}", words(errors), _AGAIN)


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does not outlive the block."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


# -- and back --------------------------------------------------------------------------------------


def restore(
    server: Server,
    folder: Path,
    part: Mapping[str, Any],
    kept: Mapping[str, Path],
    progress: Progress,
) -> None:
    """Make the databases anew from their dumps; nobody but a superuser may connect until `open_`.

    `kept` are dumps of what a backup leaves out, taken of this server before (`keep`).
    """
    for number, (database, about) in enumerate(part["databases"].items()):
        progress(database, number, len(part["databases"]))
        _anew(server, database, about)
        _load(server, database, folder / about["file"])
        if database in kept:
            _load(server, database, kept[database])
        progress(database, number + 1, len(part["databases"]))


def keep(server: Server, database: str, schemas: Sequence[str], target: Path) -> None:
    """Dump what a backup leaves out, once: an interrupted restore finds it again."""
    if target.exists():
        return
    partial = target.with_suffix(".partial")
    with partial.open("wb") as handle:
        partial.chmod(0o600)
        dump(server, database, handle, *(f"--schema={schema}" for schema in schemas))
    partial.replace(target)


def _anew(server: Server, database: str, about: Mapping[str, Any]) -> None:
    with Session(server, "postgres") as session:
        if session.run(f"SELECT 1 FROM pg_database WHERE datname = {text(database)}"):
            session.run(f"DROP DATABASE {name(database)} WITH (FORCE)")
        session.run(
            f"CREATE DATABASE {name(database)} WITH OWNER {name(about['owner'])} "
            f"TEMPLATE template0 ENCODING {text(about['encoding'])} "
            f"LC_COLLATE {text(about['collate'])} LC_CTYPE {text(about['ctype'])} "
            "CONNECTION LIMIT 0"
        )
        session.run(f"REVOKE ALL ON DATABASE {name(database)} FROM PUBLIC")
        for role, privilege in about["privileges"]:
            if privilege not in ("CONNECT", "CREATE", "TEMPORARY"):
                raise BackupError(f"database {database}", f"unknown right {privilege!r}", _AGAIN)
            whom = role if role == "PUBLIC" else name(role.strip('"'))
            session.run(f"GRANT {privilege} ON DATABASE {name(database)} TO {whom}")


def _load(server: Server, database: str, dump_file: Path) -> None:
    command = ("pg_restore", "--exit-on-error", "--single-transaction", f"--dbname={database}")
    with (
        dump_file.open("rb") as source,
        tempfile.TemporaryFile() as errors,
        _ended(
            server.popen(*command, stdin=source, stdout=subprocess.DEVNULL, stderr=errors)
        ) as process,
    ):
        if process.wait() != 0:
            raise BackupError(
                f"pg_restore of {database}",
                words(errors),
                "declare the roles that it names in postgres.roles, run up, then restore again",
            )


def compare(server: Server, part: Mapping[str, Any], progress: Progress) -> list[str]:
    """Every table's rows with what the backup saw; what differs."""
    wrong: list[str] = []
    for number, (database, about) in enumerate(part["databases"].items()):
        progress(database, number, len(part["databases"]))
        with Session(server, database) as session:
            session.run(_SETTINGS.rstrip(";"))
            found = tables(session, about["without"])
        for table in sorted({*found, *about["tables"]}):
            due, there = about["tables"].get(table), found.get(table)
            if due is None or there is None:
                what = "is missing" if there is None else "is in no backup"
                wrong.append(f"table {database}.{table} {what}")
            elif due != there:
                what = f"{there[0]} rows, not {due[0]}" if due[0] != there[0] else "other rows"
                wrong.append(f"table {database}.{table} has {what}")
        progress(database, number + 1, len(part["databases"]))
    return wrong


def open_(server: Server, part: Mapping[str, Any]) -> None:
    """Let everybody connect again whom the backup says."""
    with Session(server, "postgres") as session:
        for database, about in part["databases"].items():
            limit = int(about["connections"])
            session.run(f"ALTER DATABASE {name(database)} CONNECTION LIMIT {limit}")


def name(identifier: str) -> str:
    """An identifier in SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def text(value: str) -> str:
    """A text in SQL; standard_conforming_strings is on since PostgreSQL 9.1."""
    return "'" + value.replace("'", "''") + "'"
