"""The rules as a Pulumi policy pack, all of them mandatory.

Rules over one object are asked before it is created or changed: Pulumi then refuses it. Rules over
the stack are asked when all objects are known, which is the end of a preview, or of an update.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pulumi.runtime import proto
from pulumi_policy import (
    EnforcementLevel,
    Policy,
    PolicyPack,
    PolicyResource,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy import policy as sdk
from pulumi_policy.deserialize import serialize_properties

from policies import model, pod_security
from policies.model import Finding, Level, Rule, StackRule, Subject
from policies.rules import RULES, STACK_RULES, WAIVERS

NAME = "estate"
CONFIGS = Path(__file__).resolve().parent.parent / "configs"
_DEFINITION = ":CustomResourceDefinition"


class _Servicer(sdk._PolicyAnalyzerServicer):
    """The SDK's own, without what no rule looks at.

    pulumi_policy 1.21 decodes a resource anew for every policy. Schemas of custom resource
    definitions are nine tenths of all bytes of a stack, and nothing in them is judged.
    """

    def Analyze(self, request: Any, context: Any) -> Any:
        if not request.type.startswith("kubernetes:"):
            return proto.AnalyzeResponse()
        _without_schema(request)
        return super().Analyze(request, context)  # type: ignore[no-untyped-call]

    def AnalyzeStack(self, request: Any, context: Any) -> Any:
        judged = [one for one in request.resources if one.type.startswith("kubernetes:")]
        for resource in judged:
            _without_schema(resource)
        kept = [one for one in judged if not one.type.endswith(_DEFINITION)]
        request = proto.AnalyzeStackRequest(resources=kept)
        return super().AnalyzeStack(request, context)  # type: ignore[no-untyped-call]


def _without_schema(resource: Any) -> None:
    if resource.type.endswith(_DEFINITION):
        for field in ("spec", "status"):
            resource.properties.fields.pop(field, None)


@functools.cache
def waived_everywhere(stack: str) -> Mapping[str, str]:
    """Rule -> reason of the environment's `waivers`; none where the file is somewhere else.

    What the file may say is checked by the program, which reads the same one.
    """
    try:
        text = (CONFIGS / f"Pulumi.{stack}.yaml").read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    values = (yaml.load(text, Loader=yaml.CSafeLoader) or {}).get("config") or {}
    return dict((values.get("estate:environment") or {}).get("waivers") or {})


class _Judge:
    """Judges what Pulumi hands over; remembers the level of each namespace that it saw."""

    def __init__(self) -> None:
        self._levels: dict[str, Level] = {}

    def subject(self, resource: ResourceValidationArgs | PolicyResource) -> Subject:
        """A resource as the rules see it."""
        kind = resource.resource_type.rpartition(":")[2]
        body = {"kind": kind, **serialize_properties(resource.props)}
        subject = Subject(body, resource.opts.protect, urn=resource.urn)
        if kind == "Namespace":
            # It comes before everything inside, which takes its name from it.
            self._levels[subject.name] = pod_security.level_of(subject)
        level = self._levels.get(subject.namespace, "restricted")
        return Subject(body, resource.opts.protect, level, resource.urn)

    def resource(self, rule: Rule) -> Policy:
        """The policy of a rule over one object."""

        def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
            if rule.name in waived_everywhere(_stack(args.urn)):
                return
            subject = self.subject(args)
            for finding in model.broken(rule, subject):
                report(message(rule, subject, finding), None)

        return _policy(ResourceValidationPolicy, rule.name, rule.description, validate)

    def stack(self, rule: StackRule) -> Policy:
        """The policy of a rule over all objects."""

        def validate(args: StackValidationArgs, report: ReportViolation) -> None:
            subjects = [self.subject(one) for one in args.resources]
            if not subjects or rule.name in waived_everywhere(_stack(subjects[0].urn)):
                return
            for subject, finding in model.broken_by_stack(rule, subjects):
                report(message(rule, subject, finding), subject.urn)

        return _policy(StackValidationPolicy, rule.name, rule.description, validate)

    def waivers(self) -> Policy:
        """The policy about waivers."""

        def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
            subject = self.subject(args)
            names = [rule.name for rule in (*RULES, *STACK_RULES)]
            for finding in model.bad_waivers(subject, names):
                report(f"{subject.where}: {finding.message}", None)

        description = "A waiver names a rule and a reason."
        return _policy(ResourceValidationPolicy, WAIVERS, description, validate)


def message(rule: Rule | StackRule, subject: Subject, finding: Finding) -> str:
    """What is wrong, and the ways out: mend it, or say in place why it may be so."""
    if not finding.waivable:
        return f"{subject.where}: {finding.message}; remove it"
    part = f", {finding.part}" if finding.part else ""
    key = f"{model.PREFIX}{rule.name}" + (f".{finding.part}" if finding.part else "")
    return (
        f"{subject.where}{part}: {finding.message}; {rule.way_out}; "
        f"or annotate it, {key}: <the reason>"
    )


def _policy(kind: Callable[..., Policy], name: str, description: str, validate: Any) -> Policy:
    return kind(name, description, validate, EnforcementLevel.MANDATORY)


def _stack(urn: str) -> str:
    return urn.removeprefix("urn:pulumi:").partition("::")[0]


def main() -> None:
    """Serve the pack until Pulumi ends it."""
    sdk._PolicyAnalyzerServicer = _Servicer  # type: ignore[misc]
    judge = _Judge()
    PolicyPack(
        NAME,
        [
            *(judge.resource(rule) for rule in RULES),
            judge.waivers(),
            *(judge.stack(rule) for rule in STACK_RULES),
        ],
        EnforcementLevel.MANDATORY,
    )
