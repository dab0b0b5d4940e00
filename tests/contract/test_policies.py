"""Every environment keeps the policies, and a real engine refuses what does not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from configs import versions
from configs.schema import load
from policies import model
from policies.rules import RULES, STACK_RULES, by_name
from rehearsal import paths
from tests.contract.engine import Project, needs_pulumi
from tests.rendering import Rendered, render

CONFIGS = Path(versions.__file__).parent
ENVIRONMENTS = sorted(file.name.split(".")[1] for file in CONFIGS.glob("Pulumi.*.yaml"))
PACK = paths.root() / "policies"
DOCUMENT = paths.root() / "docs" / "policies.md"


@pytest.fixture(scope="module", params=ENVIRONMENTS)
def rendered(request: pytest.FixtureRequest) -> Rendered:
    return render(request.param)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_object_keeps_every_policy(environment: str) -> None:
    waived = load(CONFIGS / f"Pulumi.{environment}.yaml").waivers
    subjects = render(environment).subjects()
    found = [
        (rule.name, f"{rule.name}: {one.where} {finding.part}: {finding.message}")
        for one in subjects
        for rule in RULES
        for finding in model.broken(rule, one)
    ]
    found += [
        (rule.name, f"{rule.name}: {one.where} {finding.part}: {finding.message}")
        for rule in STACK_RULES
        for one, finding in model.broken_by_stack(rule, subjects)
    ]
    assert not [line for rule, line in found if rule not in waived]
    unused = set(waived) - {rule for rule, _ in found}
    assert not unused, f"waivers of {environment} that waive nothing: {unused}"


def test_every_waiver_names_a_policy_and_a_reason(rendered: Rendered) -> None:
    names = [rule.name for rule in (*RULES, *STACK_RULES)]
    for one in rendered.subjects():
        assert not [bad.message for bad in model.bad_waivers(one, names)], one.where


def listed() -> str:
    """The policies, and every waiver of every environment, as the document shows them."""
    rows = ["| policy | what |", "| --- | --- |"]
    rows += [f"| `{rule.name}` | {rule.description} |" for rule in (*RULES, *STACK_RULES)]
    rows += ["", "| waived | of | in | because |", "| --- | --- | --- | --- |"]
    where: dict[tuple[str, str, str], list[str]] = {}
    for environment in ENVIRONMENTS:
        for rule, reason in load(CONFIGS / f"Pulumi.{environment}.yaml").waivers.items():
            where.setdefault((rule, "everything", reason), []).append(environment)
        for one in render(environment).subjects():
            for waiver in one.waivers:
                key = (waiver.name, one.where, waiver.reason)
                where.setdefault(key, []).append(environment)
    rows += [
        f"| `{rule}` | {of} | {', '.join(environments)} | {reason} |"
        for (rule, of, reason), environments in sorted(where.items())
    ]
    return "\n".join(rows)


def test_the_document_lists_policies_and_waivers() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    found = re.search(r"<!-- policies:begin -->\n(.*)\n<!-- policies:end -->", text, re.DOTALL)
    assert found is not None
    assert found[1] == listed(), f"docs/policies.md must list:\n{listed()}"


# -- the real engine -------------------------------------------------------------------------------

PROGRAM = """
import pulumi, pulumi_kubernetes as k8s
to = pulumi.ResourceOptions(provider=k8s.Provider("render", render_yaml_to_directory="rendered"))
kept = pulumi.ResourceOptions.merge(to, pulumi.ResourceOptions(protect=PROTECT))
space = k8s.core.v1.Namespace("space", opts=kept, metadata={
    "name": "space", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}})
probe = {"exec_": {"command": ["true"]}}
for name, selector in {"default-deny": {}, "thing": {"match_labels": {"app": "OPEN"}}}.items():
    k8s.networking.v1.NetworkPolicy(name, opts=to,
        metadata={"name": name, "namespace": space.metadata.name},
        spec={"pod_selector": selector, "policy_types": ["Ingress", "Egress"]})
k8s.apps.v1.Deployment("thing", opts=to,
    metadata={"name": "thing", "namespace": space.metadata.name, "annotations": ANNOTATIONS},
    spec={"replicas": REPLICAS, "selector": {"match_labels": {"app": "thing"}}, "template": {
        "metadata": {"labels": {"app": "thing"}},
        "spec": {"security_context": {
                "run_as_non_root": True, "seccomp_profile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "main", "image": "IMAGE", "env": ENV,
                "resources": {"requests": {"cpu": "1m", "memory": "1Mi"},
                              "limits": {"memory": "1Mi"}},
                "liveness_probe": probe, "readiness_probe": probe,
                "security_context": {"allow_privilege_escalation": False,
                    "read_only_root_filesystem": True, "capabilities": {"drop": ["ALL"]}}}]}}})
"""
GOOD = {
    "PROTECT": "True",
    "ANNOTATIONS": "{}",
    "OPEN": "thing",
    "REPLICAS": "1",
    "IMAGE": "a/b:1@sha256:" + "0" * 64,
    "ENV": "[]",
}


def program(**changes: str) -> str:
    text = PROGRAM
    for name, value in (GOOD | changes).items():
        text = text.replace(name, value)
    return text


@pytest.fixture
def judged(project: Project, kubernetes: str) -> Project:
    """A project whose commands ask the pack, told by environment as `./estate env` does."""
    project.environment["PULUMI_OPTION_POLICY_PACK"] = str(PACK)
    return project


@needs_pulumi
def test_the_engine_takes_what_keeps_the_policies(judged: Project) -> None:
    judged.write(program())
    shown = judged.pulumi("preview")
    assert re.search(r"estate@v1\.0\.0 \(local: ", shown), shown
    assert "mandatory" not in shown
    shown = judged.pulumi("up", "--yes", "--skip-preview")
    assert re.search(r"\+ 6 created", shown), shown
    assert list((judged.root / "stacks" / "rendered").rglob("*deployment*thing*.yaml"))


@needs_pulumi
@pytest.mark.parametrize(
    ("policy", "changes", "where", "way_out"),
    [
        ("images", {"IMAGE": "a/b:1"}, "Deployment space/thing, main: a/b:1", "versions.toml"),
        (
            "no-secret",
            {"ENV": '[{"name": "DB_PASSWORD", "value": "hunter2"}]'},
            "Deployment space/thing, main: environment variable DB_PASSWORD",
            "mount that as a file",
        ),
        ("protected-data", {"PROTECT": "False"}, "Namespace space", "set protect: true"),
        ("network-policy", {"OPEN": "other"}, "Deployment space/thing: its pods", "flows"),
        ("disruption-budget", {"REPLICAS": "2"}, "Deployment space/thing: 2 replicas", "budget()"),
        (
            "probes",
            {"ANNOTATIONS": '{"policy.estate.dev/waive.probes": "a reason, but no need"}'},
            "Deployment space/thing: waiver probes waives nothing",
            "remove it",
        ),
    ],
)
def test_preview_and_up_are_refused_with_policy_resource_and_way_out(
    judged: Project, policy: str, changes: dict[str, str], where: str, way_out: str
) -> None:
    judged.write(program(**changes))
    over_one_object = policy in {rule.name for rule in RULES}
    for command in (["preview"], ["up", "--yes", "--skip-preview"]):
        shown = judged.pulumi(*command, code=1)
        flat = " ".join(shown.split())
        assert re.search(rf"\[mandatory\]\s+{policy}\b", shown), shown
        assert by_name(policy).description in flat
        assert where in flat
        assert way_out in flat
        assert "Traceback" not in shown
    made = list((judged.root / "stacks" / "rendered").rglob("*deployment*thing*.yaml"))
    if policy == "protected-data":
        return  # the Deployment itself keeps the policies
    assert bool(made) != over_one_object, "an object that is refused is not made"


@needs_pulumi
def test_a_waiver_in_place_is_taken(judged: Project) -> None:
    reason = '{"policy.estate.dev/waive.disruption-budget": "it may be gone for minutes"}'
    judged.write(program(REPLICAS="2", ANNOTATIONS=reason))
    assert "mandatory" not in judged.pulumi("up", "--yes", "--skip-preview")


@needs_pulumi
def test_json_of_a_preview_stays_json(judged: Project) -> None:
    judged.write(program())
    steps = json.loads(judged.pulumi("preview", "--json"))["steps"]
    assert any(step["urn"].endswith("::thing") for step in steps)
