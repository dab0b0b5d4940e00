"""kubeconform, kube-score and checkov over what every environment renders, waivers justified."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from configs import versions
from policies.model import SHORTEST_REASON, Finding, Object, Subject
from rehearsal import paths
from tests import linters
from tests.linters import Complaint
from tests.rendering import render

CONFIGS = Path(versions.__file__).parent
ENVIRONMENTS = sorted(file.name.split(".")[1] for file in CONFIGS.glob("Pulumi.*.yaml"))
NOWHERE: Mapping[str, Mapping[str, str]] = tomllib.loads(
    (paths.root() / "policies" / "linters.toml").read_text(encoding="utf-8")
)
TOOLS: Mapping[str, Callable[[Path], list[Complaint]]] = {
    "kube-score": linters.kube_score,
    "checkov": linters.checkov,
}


def objects(environment: str) -> list[Object]:
    return [one.body for one in render(environment).subjects()]


# -- kubeconform -----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=ENVIRONMENTS)
def conform(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Sequence[Object]], list[Complaint]]:
    """Kubeconform with the schemas of one environment's definitions."""
    found = objects(request.param)
    definitions = [body for body in found if body["kind"] == "CustomResourceDefinition"]
    folder = linters.schemas(definitions, tmp_path_factory.mktemp("schemas"))

    def run(bodies: Sequence[Object]) -> list[Complaint]:
        return linters.kubeconform(linters.written(bodies, folder.parent), folder)

    run.environment = request.param  # type: ignore[attr-defined]
    return run


def test_every_object_keeps_its_schema(conform: Any) -> None:
    assert not conform(objects(conform.environment))


def test_a_mistyped_field_of_every_kind_is_refused(conform: Any) -> None:
    """One object of each kind, with one field more and, where it has a spec, one more in there."""
    kinds = {body["kind"]: body for body in objects(conform.environment)}
    bad, expected = [], set()
    for kind, body in kinds.items():
        for where in ("top", "spec"):
            wrong: Any = copy.deepcopy(dict(body))
            wrong["metadata"] = {**wrong["metadata"], "name": f"{where}-{kind}".lower()}
            if where == "top":
                wrong["mistyped"] = True
            elif isinstance(wrong.get("spec"), dict):
                wrong["spec"]["mistyped"] = True
            else:
                continue
            bad.append(wrong)
            expected.add(wrong["metadata"]["name"])
    found = {one.where.split()[1] for one in conform(bad) if "mistyped" in one.message}
    assert expected - found == set()


def test_an_object_without_a_schema_is_refused(conform: Any) -> None:
    stranger = {"apiVersion": "example.org/v1", "kind": "Stranger", "metadata": {"name": "s"}}
    assert "could not find schema" in conform([stranger])[0].message


# -- kube-score and checkov ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Any]]:
    """Tool -> (subject, complaint) of every environment; each tool runs once."""
    kept: dict[str, list[Any]] = {}

    def ask(tool: str) -> list[Any]:
        if tool not in kept:
            kept[tool] = []
            for environment in ENVIRONMENTS:
                file = linters.written(objects(environment), tmp_path_factory.mktemp(environment))
                of = {one.where: one for one in render(environment).subjects()}
                kept[tool] += [(of, one) for one in TOOLS[tool](file)]
        return kept[tool]

    return ask


def waived_in_place(tool: str, of: Mapping[str, Subject], one: Complaint) -> bool:
    subject = of.get(one.where)
    finding = Finding(one.message, one.check)
    return subject is not None and any(w.covers(tool, finding) for w in subject.waivers)


@pytest.mark.parametrize("tool", TOOLS)
def test_every_complaint_is_mended_or_waived(
    tool: str, complaints: Callable[[str], list[Any]]
) -> None:
    left = {
        f"{one.check} {one.where}: {one.message}"
        for of, one in complaints(tool)
        if one.check not in NOWHERE[tool] and not waived_in_place(tool, of, one)
    }
    assert not left, f"mend it, or annotate: policy.estate.dev/waive.{tool}.<check>: <the reason>"


@pytest.mark.parametrize("tool", TOOLS)
def test_every_waiver_is_needed(tool: str, complaints: Callable[[str], list[Any]]) -> None:
    found = complaints(tool)
    unused = set(NOWHERE[tool]) - {one.check for _, one in found}
    assert not unused, f"policies/linters.toml, {tool}: waives nothing; remove it"
    for environment in ENVIRONMENTS:
        for subject in render(environment).subjects():
            for waiver in subject.waivers:
                if waiver.rule != tool:
                    continue
                assert waiver.part not in NOWHERE[tool], f"{subject.where}: {waiver.name} twice"
                assert any(
                    one.where == subject.where and one.check == waiver.part for _, one in found
                ), f"{subject.where}: {waiver.name} waives nothing; remove it"


def test_every_waiver_has_a_reason() -> None:
    assert set(NOWHERE) == set(TOOLS)
    for checks in NOWHERE.values():
        assert all(len(reason) >= SHORTEST_REASON for reason in checks.values())


@pytest.mark.parametrize("tool", TOOLS)
def test_the_tool_finds_a_privileged_container(tool: str, tmp_path: Path) -> None:
    body: Any = copy.deepcopy(dict(render("onprem").object("Deployment", "cert-manager")))
    container = body["spec"]["template"]["spec"]["containers"][0]
    container["securityContext"] |= {"privileged": True}
    before = TOOLS[tool](
        linters.written([render("onprem").object("Deployment", "cert-manager")], tmp_path)
    )
    after = TOOLS[tool](linters.written([body], tmp_path))
    assert {one.check for one in after} - {one.check for one in before}
