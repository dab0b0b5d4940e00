"""The search for secrets finds what is leaked on purpose, in every form and place."""

from __future__ import annotations

import base64
import bz2
import gzip
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest

from rehearsal.processes import wait_for
from tests.state.canary import Canary, Watch

SECRET = "q7Zk-canary_42/x+y"
CANARY = Canary({"kafka/bridge": SECRET, "other": "never-there-0815"})

LEAKS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda raw: b"password=" + raw + b"\n",
    "json": lambda raw: json.dumps({"a": [raw.decode()]}).encode(),
    "url": lambda raw: b"postgres://me:" + quote(raw.decode(), safe="").encode() + b"@host",
    "base64": base64.b64encode,
    "base64 of more, one byte before": lambda raw: base64.b64encode(b"1" + raw + b"after"),
    "base64 of more, two bytes before": lambda raw: base64.b64encode(b"12" + raw + b"after"),
    "base64 of more, three bytes before": lambda raw: base64.b64encode(b"123" + raw + b"z"),
    "gzip": lambda raw: b"junk" + gzip.compress(b"x" * 500 + raw) + b"junk",
    "zlib": lambda raw: b"\x00\x01" + zlib.compress(b"y" * 500 + raw),
    **{f"zlib of level {level}": partial(zlib.compress, level=level) for level in range(10)},
    "base64 of gzip": lambda raw: base64.b64encode(gzip.compress(b"z" * 99 + raw)),
    "base64 of zlib": lambda raw: b'{"a":"' + base64.b64encode(zlib.compress(b"z" + raw)) + b'"}',
    "base64 of gzip in lines": lambda raw: base64.encodebytes(gzip.compress(os.urandom(99) + raw)),
    "base64 in lines": lambda raw: base64.encodebytes(b"w" * 50 + raw),
    "base64 in lines in json": lambda raw: json.dumps(
        base64.encodebytes(b"w" * 50 + raw).decode()
    ).encode(),
    "hexadecimal": lambda raw: raw.hex().upper().encode(),
    "base64 of base64": lambda raw: base64.b64encode(base64.b64encode(b"k: " + raw)),
    "base64 of base64 of gzip": lambda raw: base64.b64encode(
        base64.b64encode(gzip.compress(b"z" * 99 + raw))
    ),
    "gzip of gzip": lambda raw: gzip.compress(gzip.compress(b"z" * 99 + raw)),
    "bzip2": lambda raw: b"junk" + bz2.compress(b"z" * 99 + raw),
    "hexadecimal of base64": lambda raw: base64.b64encode(raw).hex().encode(),
    "base64 in indented lines": lambda raw: base64.encodebytes(b"w" * 50 + raw).replace(
        b"\n", b"\n      "
    ),
    "base64 of gzip in indented lines": lambda raw: base64.encodebytes(
        gzip.compress(os.urandom(99) + raw)
    ).replace(b"\n", b"\n      "),
    "url in small letters": lambda raw: (
        quote(raw.decode(), safe="").lower().replace("q7zk", "q7Zk").encode()
    ),
    "url that keeps slashes": lambda raw: quote(raw.decode(), safe="/").encode(),
    "UTF-16": lambda raw: ("password=" + raw.decode()).encode("utf-16"),
    "UTF-16, big end first": lambda raw: raw.decode().encode("utf-16-be"),
    "gzip of base64": lambda raw: gzip.compress(b"ab" + base64.b64encode(b"q" + raw + b"r")),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_into_a_file_is_found(tmp_path: Path, leak: str) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(LEAKS[leak](SECRET.encode()))
    (tmp_path / "clean").write_bytes(os.urandom(4096))
    assert CANARY.files(tmp_path) == {"deep/file": {"kafka/bridge"}}
    assert CANARY.files(tmp_path, [tmp_path / "deep"]) == {}


def test_a_leak_into_a_name_or_a_link_is_found(tmp_path: Path) -> None:
    name = base64.urlsafe_b64encode(SECRET.encode()).decode()
    (tmp_path / name).write_text("")
    (tmp_path / "link").symlink_to(f"nowhere/{SECRET}")
    assert CANARY.files(tmp_path) == {name: {"kafka/bridge"}, "link": {"kafka/bridge"}}


def test_an_empty_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="everywhere: kafka/bridge"):
        Canary({"kafka/bridge": "", "other": "x"})


def test_json_inside_json_is_found() -> None:
    canary = Canary({"odd": 'quo"te\\back'})
    assert canary.inside(json.dumps(json.dumps({"a": 'quo"te\\back'})).encode()) == {"odd"}


@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_secret_that_json_escapes_is_found(ascii_only: bool) -> None:
    secret = 'quo"te\\back-<é>&'
    canary = Canary({"odd": secret})
    written = json.dumps({"a": secret}, ensure_ascii=ascii_only)
    assert canary.inside(written.encode()) == {"odd"}
    for sign in "<>&":
        written = written.replace(sign, f"\\u{ord(sign):04x}")
    assert canary.inside(written.encode()) == {"odd"}


@pytest.mark.parametrize(
    ("arguments", "environment", "where"),
    [([f"--password={SECRET}"], {}, "cmdline"), ([], {"PGPASSWORD": SECRET}, "environ")],
)
def test_a_leak_into_a_process_is_found(
    arguments: list[str], environment: dict[str, str], where: str
) -> None:
    command = [sys.executable, "-c", "input()", *arguments]
    with (
        Watch(CANARY, every_s=0.02) as watch,
        subprocess.Popen(
            command, env={**os.environ, **environment}, stdin=subprocess.PIPE
        ) as process,
    ):
        assert wait_for(lambda: bool(watch.found), 10)
        process.communicate(b"\n")
    ((place, names),) = watch.found.items()
    assert place.endswith(where) and names == {"kafka/bridge"}
