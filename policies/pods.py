"""Rules over pods, wherever they are declared: Pod Security, resources, probes, images."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from policies.model import Finding, Object, Subject, texts

Pod = Mapping[str, Any]

DIGEST = re.compile(r"^[a-z0-9._/:-]+:[A-Za-z0-9._-]+@sha256:[0-9a-f]{64}$")
"""`repository:tag@sha256:...`; the tag is for people."""

LONG_RUNNING = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet")
WORKLOADS = (*LONG_RUNNING, "Job")


@dataclass(frozen=True)
class Custom:
    """What a custom resource says of the pods that its operator makes: names of fields of `.spec`.

    What an operator sets by itself (probes, the rest of the security context) cannot be read here.
    """

    images: tuple[str, ...]
    labels: Object
    replicas: str = "replicas"
    security: str | None = None

    def pod_labels(self, name: str) -> dict[str, str]:
        """The labels that the operator gives to the pods of the resource `name`."""
        return {key: str(value).replace("NAME", name) for key, value in self.labels.items()}


CUSTOM = {
    "Prometheus": Custom(
        ("image",),
        {"app.kubernetes.io/name": "prometheus", "prometheus": "NAME"},
        security="securityContext",
    ),
    "Alertmanager": Custom(
        ("image",),
        {"app.kubernetes.io/name": "alertmanager", "alertmanager": "NAME"},
        security="securityContext",
    ),
    "Cluster": Custom(
        ("imageName",),
        {"cnpg.io/cluster": "NAME", "cnpg.io/podRole": "instance"},
        replicas="instances",
    ),
}


def pod_spec(subject: Subject) -> Pod | None:
    """The pod that an object makes; None when it makes none."""
    spec = subject.body.get("spec") or {}
    if subject.kind == "Pod":
        return dict(spec)
    if subject.kind == "CronJob":
        spec = (spec.get("jobTemplate") or {}).get("spec") or {}
    elif subject.kind not in WORKLOADS:
        return None
    return dict((spec.get("template") or {}).get("spec") or {})


def pod_labels(subject: Subject) -> Object | None:
    """The labels of the pods that an object makes; None when it makes none."""
    if subject.kind == "Pod":
        return subject.metadata.get("labels") or {}
    spec = subject.body.get("spec") or {}
    if subject.kind == "CronJob":
        spec = (spec.get("jobTemplate") or {}).get("spec") or {}
    elif subject.kind in CUSTOM:
        return CUSTOM[subject.kind].pod_labels(subject.name)
    elif subject.kind not in WORKLOADS:
        return None
    return ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}


def containers(pod: Pod) -> list[Mapping[str, Any]]:
    """All containers, those that run before the others first."""
    return [*(pod.get("initContainers") or []), *(pod.get("containers") or [])]


# -- resources, probes -----------------------------------------------------------------------------


def resources(subject: Subject) -> Iterator[Finding]:
    """Requests of CPU and memory, a limit of memory. A CPU limit would throttle what is free."""
    pod = pod_spec(subject)
    asked = [(one["name"], one.get("resources")) for one in containers(pod)] if pod else []
    if subject.kind in CUSTOM:
        asked.append(("", (subject.body.get("spec") or {}).get("resources")))
    for name, found in asked:
        for part, quantities in (("requests", ("cpu", "memory")), ("limits", ("memory",))):
            given = (found or {}).get(part) or {}
            for quantity in quantities:
                if not given.get(quantity):
                    yield Finding(f"no {part}.{quantity}", name)


def probes(subject: Subject) -> Iterator[Finding]:
    """Whatever runs on is asked whether it lives and whether it can serve."""
    pod = pod_spec(subject)
    if pod is None or subject.kind not in (*LONG_RUNNING, "Pod"):
        return
    sidecars = [
        one for one in pod.get("initContainers") or [] if one.get("restartPolicy") == "Always"
    ]
    for container in [*sidecars, *(pod.get("containers") or [])]:
        for probe in ("liveness", "readiness"):
            if not container.get(f"{probe}Probe"):
                yield Finding(f"no {probe} probe", f"{container['name']}.{probe}")


# -- images ----------------------------------------------------------------------------------------

_IMAGE_FLAG = re.compile(r"^--?[a-z0-9-]*(?:image|config-reloader)=(.+)$")
_IMAGE_VARIABLE = re.compile(r"(?:^|_)IMAGE(?:_NAME)?$")


def images(subject: Subject) -> Iterator[Finding]:
    """Every image by digest, also those that are handed on by argument or environment."""
    for part, image in _images(subject):
        if not DIGEST.match(image):
            yield Finding(f"{image}: not repository:tag@sha256:<digest>", part)


def _images(subject: Subject) -> Iterator[tuple[str, str]]:
    pod = pod_spec(subject)
    for container in containers(pod) if pod else []:
        name = str(container["name"])
        yield name, str(container.get("image") or "none")
        for argument in [*(container.get("command") or []), *(container.get("args") or [])]:
            if (match := _IMAGE_FLAG.match(argument)) is not None:
                yield name, match[1]
        for variable in container.get("env") or []:
            if _IMAGE_VARIABLE.search(variable["name"]) and variable.get("value"):
                yield name, variable["value"]
    if pod:
        for volume in pod.get("volumes") or []:
            if "image" in volume:
                yield volume["name"], str(volume["image"].get("reference"))
    if (custom := CUSTOM.get(subject.kind)) is not None:
        spec = subject.body.get("spec") or {}
        for key in custom.images:
            yield key, str(spec.get(key) or "none")
    if subject.kind == "CephCluster":
        version = (subject.body.get("spec") or {}).get("cephVersion") or {}
        yield "cephVersion", str(version.get("image") or "none")
    if subject.kind == "ConfigMap":  # what an operator is told to run
        for key, value in (subject.body.get("data") or {}).items():
            if _IMAGE_VARIABLE.search(key):
                yield key, str(value)


# -- in clear --------------------------------------------------------------------------------------

_SECRET_WORD = (
    r"(?:pass(?:word|wd|phrase)|(?<![a-z0-9])pass(?![a-z0-9])|secret|token|api[-_]?key|"
    r"private[-_]?key|credential)"
)
# What ends so names a place, not a value.
_PLACE = r"(?![-_a-z]*[-_](?:name|namespace|file|path|dir|folder|ref|key|url|uri|ttl|seconds)s?\b)"
_SECRET_NAME = re.compile(rf"(?i)^{_PLACE}[a-z0-9_]*{_SECRET_WORD}[a-z0-9_]*$")
_SECRET_FLAG = re.compile(rf"(?i)^(--?{_PLACE}[a-z0-9-]*{_SECRET_WORD}[a-z0-9-]*)(?:=([^/$].*))?$")
_SECRET_FILE = re.compile(rf"(?i)^[a-z0-9_]*{_SECRET_WORD}[a-z0-9_]*_(?:file|path)$")
# Nothing, a place, a variable, a placeholder or the next line.
_NO_VALUE = r"[\"']?(?:[/$<{%(\[|>#]|null\b|none\b|true\b|false\b|file:|\s|$)"
_IN_SHELL = re.compile(rf"(?i)(?<![\w$.-])(\w*(?:{_SECRET_WORD}|_pass))=(?!{_NO_VALUE})")
_IN_FILE = re.compile(
    rf"(?im)^[ \t]*[\"']?((?:[\w.-]*[_.-])?(?:{_SECRET_WORD}|pass))[\"']?"
    rf"[ \t]*[=:][ \t]*(?!{_NO_VALUE})"
)
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_USER_INFO = re.compile(r"[a-z][a-z0-9+]*://[^/\s:@]+:[^/\s@$]+@")


def no_secret(subject: Subject) -> Iterator[Finding]:
    """No password where it can be read: environment, command line, anything but a Secret.

    By names and forms alone; that no value of a Secret is elsewhere is a rule over the stack.
    """
    if subject.kind in ("Secret", "CustomResourceDefinition"):
        return
    pod = pod_spec(subject)
    for container in containers(pod) if pod else []:
        name = str(container["name"])
        for variable in container.get("env") or []:
            value = variable.get("value")
            if value and not value.startswith("/") and _SECRET_NAME.match(variable["name"]):
                yield Finding(f"environment variable {variable['name']} has a value", name)
            if value and "/" not in value and _SECRET_FILE.match(variable["name"]):
                yield Finding(f"environment variable {variable['name']} names no path", name)
        words = [*(container.get("command") or []), *(container.get("args") or [])]
        for word, following in zip(words, [*words[1:], "-"], strict=False):
            flag = _SECRET_FLAG.match(word)
            if flag is not None and (flag[2] or ("=" not in word and following[:1] not in "-/$")):
                yield Finding(f"argument {flag[1]} has a value", name)
            for assigned in _IN_SHELL.findall(word) if flag is None else ():
                yield Finding(f"an argument gives {assigned} a value", name)
    if subject.kind == "ConfigMap":
        for key, text in (subject.body.get("data") or {}).items():
            found = _IN_FILE.findall(str(text))
            if _SECRET_NAME.match(key.replace("-", "_")) and not str(text).startswith("/"):
                found.append(key)
            for named in found:
                yield Finding(f"{named} has a value", key)
    for path, text in texts(subject.body):
        if _PRIVATE_KEY.search(text):
            yield Finding(f"{path} holds a private key")
        if _USER_INFO.search(text):
            yield Finding(f"{path} holds a URL with a password")
