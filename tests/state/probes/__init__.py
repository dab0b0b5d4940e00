"""Probes: how a check's statement is asked of the running estate, by the estate's own protocols.

A probe is a function `(ctx: ProbeContext, **args) -> str` that returns a short detail, or raises
AssertionError with a clear line. It runs inside the rehearsal's namespaces, where the cluster's
names resolve. One module per component, imported when one of its probes is asked for: client
libraries are most of what a quick answer costs.
"""

from __future__ import annotations

import base64
import functools
import importlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from rehearsal.kube import Api, ApiError

Probe = Callable[..., str]
_P = TypeVar("_P", bound=Probe)
_REGISTERS = re.compile(r'^@probe\("(\w+)"\)$', re.MULTILINE)

PROBES: dict[str, Probe] = {}
"""The probes of the modules that were imported, by name."""

TIMEOUT_S = 45.0
"""A probe that has not answered by then counts as red, whatever its clients still wait for."""


class Final(AssertionError):
    """A red that stays: nothing that is declared changes it, so nobody need wait for green."""


def probe(name: str) -> Callable[[_P], _P]:
    """Register a probe under the name that checks use."""

    def register(function: _P) -> _P:
        if PROBES.setdefault(name, function) is not function:
            raise ValueError(f"two probes are called {name!r}: {PROBES[name]}, {function}")
        return function

    return register


def find(name: str) -> Probe | None:
    """The probe of this name, its module imported; None when no module has it."""
    if name not in PROBES and (module := modules().get(name)) is not None:
        importlib.import_module(module)
    return PROBES.get(name)


@functools.cache
def modules() -> dict[str, str]:
    """The module of every probe by the probe's name, as the sources of this package say it."""
    sources = [file for file in sorted(Path(__file__).parent.glob("*.py")) if file.stem[0] != "_"]
    return {
        name: f"{__name__}.{file.stem}"
        for file in sources
        for name in _REGISTERS.findall(file.read_text(encoding="utf-8"))
    }


def api() -> Api:
    """The API that KUBECONFIG leads to."""
    return Api(Path(os.environ["KUBECONFIG"]))


class ProbeContext:
    """What a probe may use: the Kubernetes API, secrets by reference, a folder of its own."""

    def __init__(self, tmp: Path, api: Api) -> None:
        """`tmp` is an empty folder that goes after the probe."""
        self.tmp = tmp
        self.api = api

    def pods(self, namespace: str, selector: str) -> list[dict[str, Any]]:
        """The pods of a label selector that are not about to go."""
        path = f"/api/v1/namespaces/{namespace}/pods"
        found = self.api.request("GET", path, query={"labelSelector": selector})["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def config_map(self, namespace: str, name: str) -> dict[str, str]:
        """The data of a ConfigMap; AssertionError when there is none."""
        return self._data("configmaps", namespace, name)

    def secret(self, ref: Mapping[str, str]) -> bytes:
        """The value behind {"namespace", "secret", "key"}; AssertionError when it is missing."""
        data = self._data("secrets", ref["namespace"], ref["secret"])
        where = f"{ref['namespace']}/{ref['secret']}"
        assert ref["key"] in data, f"secret {where} has no key {ref['key']}"
        return base64.b64decode(data[ref["key"]])

    def _data(self, plural: str, namespace: str, name: str) -> dict[str, str]:
        try:
            found = self.api.request("GET", f"/api/v1/namespaces/{namespace}/{plural}/{name}")
        except ApiError as error:
            raise AssertionError(f"{plural[:-1]} {namespace}/{name}: {error}") from None
        data: dict[str, str] = found.get("data") or {}
        return data


@dataclass(frozen=True)
class Result:
    """A check's answer: `ok`, one line of detail, milliseconds of the last try.

    `final`: red, and asking again is of no use.
    """

    id: str
    ok: bool
    detail: str
    ms: int
    final: bool = False

    def json_object(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def run_check(
    check: Mapping[str, Any],
    folder: Path,
    api: Api,
    timeout_s: float = TIMEOUT_S,
) -> Result:
    """Ask one check once; never raises, a probe that hangs is left behind and counts as red."""
    answer: list[tuple[bool, str, bool]] = []
    began = time.monotonic()
    target = threading.Thread(
        target=lambda: answer.append(_ask(check, folder, api)), daemon=True, name=check["id"]
    )
    target.start()
    target.join(timeout_s)
    late = (False, f"no answer within {timeout_s:.0f} s", False)
    ok, detail, final = answer[0] if answer else late
    return Result(check["id"], ok, detail, round((time.monotonic() - began) * 1000), final)


def _ask(check: Mapping[str, Any], folder: Path, api: Api) -> tuple[bool, str, bool]:
    name = check["probe"]
    try:
        asked = find(name)
        assert asked is not None, f"no probe is called {name!r} in tests/state/probes"
        with TemporaryDirectory(dir=folder, prefix="probe-", ignore_cleanup_errors=True) as tmp:
            return True, one_line(asked(ProbeContext(Path(tmp), api), **check["args"])), False
    except AssertionError as error:
        words = one_line(error) or "assertion without a message"
        return False, words, isinstance(error, Final)
    except Exception as error:  # whatever a client library raises is an answer too: red
        return False, one_line(f"{type(error).__name__}: {error}"), False


def one_line(value: object) -> str:
    """Text folded to one line of at most 240 characters."""
    words = " ".join(str(value).split())
    return words if len(words) <= 240 else words[:237] + "..."


def read_checks(file: Path) -> list[dict[str, Any]]:
    """The checks that `estate verify` wrote for the tests."""
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return found
