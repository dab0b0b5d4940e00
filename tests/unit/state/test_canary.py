"""The search for secrets finds what is leaked on purpose, in every form and place."""

from __future__ import annotations

import base64
import gzip
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
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
    "gzip of base64": lambda raw: gzip.compress(b"ab" + base64.b64encode(b"q" + raw + b"r")),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_into_a_file_is_found(tmp_path: Path, leak: str) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(LEAKS[leak](SECRET.encode()))
    (tmp_path / "clean").write_bytes(os.urandom(4096))
    assert CANARY.files(tmp_path) == {"deep/file": {"kafka/bridge"}}
    assert CANARY.files(tmp_path, [tmp_path / "deep"]) == {}


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
