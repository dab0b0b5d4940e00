"""Runs the whole program under Pulumi's mocks and keeps what it would send to the cluster.

In a process of its own: Pulumi keeps mocks, event loop and stack for the whole process, so that a
second program in the same one would wait for the first.
"""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pulumi
import yaml
from pulumi.runtime import mocks, test

from components.model import Image, Images
from configs import versions
from configs.schema import CONFIG_KEY, load, secret_refs
from policies.model import Subject
from policies.pod_security import level_of
from stacks.context import Context
from stacks.estate import compose
from stacks.secret_sources import SecretSources

ROOT = Path(__file__).resolve().parent.parent
SECRET = "4dabf18193072939515e22adb298388d"  # Pulumi's mark of a secret value
ONPREM: dict[str, Any] = yaml.safe_load(
    (ROOT / "configs" / "Pulumi.onprem.yaml").read_text(encoding="utf-8")
)["config"][CONFIG_KEY]
"""The values of onprem, as they are written."""
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job")


@dataclass(frozen=True)
class Rendered:
    """Every resource's type, name and inputs, and the program's outputs."""

    resources: list[list[Any]]
    checks: list[dict[str, Any]]
    expected_pods: list[dict[str, Any]]
    protected: list[list[str]]
    """Type and name of what Pulumi protects."""

    def subjects(self) -> list[Subject]:
        """The Kubernetes objects as the policies see them, secrets in plain."""
        found = [
            Subject(plain(body), [type_, name] in self.protected)
            for type_, name, body in self.resources
            if "kind" in body
        ]
        levels = {one.name: level_of(one) for one in found if one.kind == "Namespace"}
        return [replace(one, level=levels.get(one.namespace, "restricted")) for one in found]

    def objects(self, *kinds: str) -> list[dict[str, Any]]:
        """The Kubernetes objects of these kinds; all of them without a kind."""
        return [
            body
            for _, _, body in self.resources
            if "kind" in body and (not kinds or body["kind"] in kinds)
        ]

    def object(self, kind: str, name: str) -> dict[str, Any]:
        """The object of this kind and name."""
        found = [body for body in self.objects(kind) if body["metadata"]["name"] == name]
        assert found, f"no {kind} {name}; there are {self.names(kind)}"
        return found[0]

    def names(self, kind: str) -> list[str]:
        """The names of a kind's objects."""
        return sorted(body["metadata"]["name"] for body in self.objects(kind))


def plain(value: Any) -> Any:
    """A rendered value as the provider sends it: no nulls, and secrets without Pulumi's wrapper."""
    if isinstance(value, dict):
        if SECRET in value:
            return plain(value["value"])
        return {key: plain(item) for key, item in value.items() if item is not None}
    return [plain(item) for item in value] if isinstance(value, list) else value


class _Monitor(mocks.MockMonitor):
    """Keeps what mocks are not told: which resources are protected."""

    def __init__(self, found: _Mocks) -> None:
        super().__init__(found)
        self.protected: list[tuple[str, str]] = []

    def RegisterResource(self, request: Any) -> Any:
        if request.protect:
            self.protected.append((request.type, request.name))
        return super().RegisterResource(request)  # type: ignore[no-untyped-call]


class _Mocks(mocks.Mocks):
    def __init__(self) -> None:
        self.resources: list[tuple[str, str, dict[str, Any]]] = []

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        self.resources.append((args.typ, args.name, dict(args.inputs)))
        outputs = dict(args.inputs)
        if args.typ == "kubernetes:core/v1:Secret":
            outputs.setdefault("data", {"tls.crt": "Q0VSVElGSUNBVEU="})
        return f"{args.name}-id", outputs

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        raise AssertionError(f"the program calls {args.token}: nothing may be asked at build time")


def images() -> Images:
    """Every image that a rehearsal builds, with a digest made of its key."""
    found = {}
    for key, entry in versions.declared().items():
        repository, tag = entry.rehearsed
        digest = "sha256:" + hashlib.sha256(key.encode()).hexdigest()
        found[key] = Image(repository=repository, tag=tag, digest=digest)
    return Images(found)


def pulled(environment: str = "onprem") -> Images:
    """Every image of an environment that pulls; those without a digest as in a rehearsal of it."""
    config = load(ROOT / "configs" / f"Pulumi.{environment}.yaml").images
    found = versions.pulled(config.registry, config.digests)
    return Images({**found.images, **found.unpinned})


@functools.cache
def render(environment: str = "local") -> Rendered:
    """The environment's program, run once per test session."""
    return _rendered(environment, "")


def render_values(environment: str, values: dict[str, Any]) -> Rendered:
    """The program of an environment with other values than its file has."""
    return _rendered(environment, json.dumps(values))


def _rendered(environment: str, values: str) -> Rendered:
    done = subprocess.run(
        [sys.executable, "-m", "tests.rendering", environment],
        input=values,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return Rendered(**json.loads(done.stdout))


def _run(environment: str, given: str = "") -> dict[str, Any]:
    found = _Mocks()
    monitor = _Monitor(found)
    pulumi.runtime.set_mocks(
        found, project="estate", stack=environment, preview=False, monitor=monitor
    )
    values = load(json.loads(given) if given else ROOT / "configs" / f"Pulumi.{environment}.yaml")
    contexts: list[Context] = []
    with TemporaryDirectory() as folder:
        for _, ref in secret_refs(values):
            if ref.file is not None:
                file = Path(folder) / ref.file
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f"secret-of-{ref.file}\n", encoding="utf-8")

        @test  # type: ignore[untyped-decorator]
        def program() -> None:
            context = Context(
                environment=values,
                images=pulled(environment) if values.images.source == "upstream" else images(),
                stack=environment,
                config=pulumi.Config("estate"),
                sources=SecretSources(Path(folder)),
            )
            compose(context)
            contexts.append(context)

        program()
    return {
        "resources": found.resources,
        "checks": [check.json_object() for check in contexts[0].checks],
        "expected_pods": [pods.json_object() for pods in contexts[0].expected_pods],
        "protected": monitor.protected,
    }


if __name__ == "__main__":
    json.dump(_run(sys.argv[1], sys.stdin.read()), sys.stdout)
