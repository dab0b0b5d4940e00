"""Runs kubeconform, kube-score and checkov over manifests and says what they found, all alike."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.platform.namespaces import POD_SECURITY_VERSION
from policies.model import Object, Subject
from rehearsal import paths, wheels

KUBERNETES = POD_SECURITY_VERSION
"""`v1.35`, the release that is declared for."""

_LOCK = paths.root() / "rehearsal" / "toolchain" / "requirements-linters.lock"
_GRADE_OK = 10


@dataclass(frozen=True)
class Complaint:
    """A check of a tool that an object does not pass."""

    check: str
    where: str
    message: str = ""


def written(objects: Sequence[Object], folder: Path) -> Path:
    """The objects as one manifest."""
    file = folder / "rendered.yaml"
    file.write_text(yaml.safe_dump_all([dict(body) for body in objects]), encoding="utf-8")
    return file


def wheel_folder() -> Path:
    """Checkov and the schemas of Kubernetes, fetched once, in a folder of their own."""
    folder = paths.ensure(paths.cache() / "linters", "cache") / "wheels"
    return wheels.unpacked(
        _LOCK, folder, what="checkov", way_out="give pip a package index that has checkov"
    )


def on_path(name: str) -> str:
    """A Go tool; skips where there is none, as `./estate test` builds it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} on PATH: ./estate tools build {name}")
    return found


# -- kubeconform -----------------------------------------------------------------------------------


def schemas(definitions: Sequence[Object], folder: Path) -> Path:
    """JSON schemas, unknown fields refused: Kubernetes' own kinds, and those of definitions."""
    packaged = wheel_folder() / "kubernetes_validate" / "kubernetes-json-schema"
    for file in (packaged / f"{KUBERNETES}.0-local-strict").glob("*.json"):
        schema = json.loads(file.read_text(encoding="utf-8"))
        schema.pop("$id", None)  # an address to fetch from, which relative references would take
        text = json.dumps(schema).replace('"/api/_definitions.json#', '"_definitions.json#')
        (folder / file.name).write_text(text, encoding="utf-8")
    for body in definitions:
        group, kind = body["spec"]["group"], body["spec"]["names"]["kind"].lower()
        for version in body["spec"]["versions"]:
            schema = _strict(version["schema"]["openAPIV3Schema"])
            schema["properties"] |= {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"type": "object"},
            }
            name = f"{kind}-{group.partition('.')[0]}-{version['name']}.json"
            (folder / name).write_text(json.dumps(schema), encoding="utf-8")
    return folder


def _strict(schema: Any) -> Any:
    """An OpenAPI schema as JSON schema that takes declared fields alone, as the API server stores.

    Structural schemas name their fields once, outside of allOf, anyOf, oneOf and not.
    """
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    logic = ("allOf", "anyOf", "oneOf", "not")
    found = {
        key: item if key in logic or key in ("default", "enum", "example") else _strict(item)
        for key, item in schema.items()
    }
    if found.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
        found["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    is_schema = isinstance(found.get("properties"), dict) and found.get("type") == "object"
    open_ = found.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in found
    if is_schema and not open_:
        found["additionalProperties"] = False
    if found.pop("nullable", False) and isinstance(found.get("type"), str):
        found["type"] = [found["type"], "null"]
    return found


def kubeconform(file: Path, folder: Path) -> list[Complaint]:
    """What of a manifest its schemas in `folder` refuse; an object without a schema too."""
    done = subprocess.run(
        [
            *(on_path("kubeconform"), "-strict", "-output", "json"),
            *("-schema-location", f"{folder}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"),
            str(file),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    return [
        Complaint(one["status"], f"{one['kind']} {one['name']}", one["msg"])
        for one in json.loads(done.stdout)["resources"]
    ]


# -- kube-score ------------------------------------------------------------------------------------


def kube_score(file: Path) -> list[Complaint]:
    """Every check below grade 10 (warnings included)."""
    done = subprocess.run(
        [on_path("kube-score"), "score", "--kubernetes-version", KUBERNETES, "-o", "json", file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("["), done.stdout + done.stderr
    return [
        Complaint(
            check["check"]["id"],
            Subject({"kind": one["type_meta"]["kind"], "metadata": one["object_meta"]}).where,
            "; ".join(comment["summary"] for comment in check["comments"] or []),
        )
        for one in json.loads(done.stdout)
        for check in one["checks"]
        if not check["skipped"] and check["grade"] < _GRADE_OK
    ]


# -- checkov ---------------------------------------------------------------------------------------


def checkov(file: Path) -> list[Complaint]:
    """Every failed check of the Kubernetes framework; nothing is asked over the network."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "checkov.main", "-f", str(file), "--framework", "kubernetes"),
            *("--compact", "--quiet", "--skip-download", "-o", "json"),
        ],
        env={**os.environ, "PYTHONPATH": str(wheel_folder()), "CHECKOV_RUN_SCA_PACKAGE_SCAN": "0"},
        cwd=file.parent,  # a configuration file of its own in the repository would be read
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.lstrip().startswith("{"), done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["summary"]["passed"], report["summary"]
    assert not report["summary"]["parsing_errors"], report["summary"]
    return list(_of_checkov(report["results"]["failed_checks"]))


def _of_checkov(failed: Sequence[Mapping[str, Any]]) -> Iterator[Complaint]:
    for one in failed:
        # `Deployment.platform.cert-manager`; a pod of a graph check has its labels behind.
        kind, namespace, name = re.split(r"\.", one["resource"], maxsplit=2)
        where = f"{kind} {namespace}/{name}"
        if namespace == "default":  # what is of no namespace; the estate has none of this name
            where = f"{kind} {name}"
        yield Complaint(one["check_id"], where, one["check_name"])
