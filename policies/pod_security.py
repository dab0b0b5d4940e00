"""Pod Security Standards (kubernetes.io/docs/concepts/security/pod-security-standards), 1.35.

The API server of every cluster judges by the same standards: here it is said before anything is
created, with the container's name, and also for the pods that operators make.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from policies.model import Finding, Level, Subject
from policies.pods import CUSTOM, Pod, containers, pod_spec

LABEL = "pod-security.kubernetes.io/enforce"
_LEVELS: tuple[Level, ...] = ("privileged", "baseline", "restricted")

_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image"),
    *("persistentVolumeClaim", "projected", "secret"),
}
_CAPABILITIES = {
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD"),
    *("NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
}
_SYSCTLS = {
    *("kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies"),
    *("net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start"),
    *("net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time"),
    *("net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes"),
    *("net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"),
}
_SELINUX = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}


def level_of(namespace: Subject) -> Level:
    """The level that a Namespace enforces; `privileged` without the label, as the API server."""
    label = (namespace.metadata.get("labels") or {}).get(LABEL)
    return next((level for level in _LEVELS if level == label), "privileged")


def pod_security(subject: Subject) -> Iterator[Finding]:
    """Namespaces enforce `restricted`; pods keep the level of their namespace."""
    if subject.kind == "Namespace":
        if (level := level_of(subject)) != "restricted":
            yield Finding(f"label {LABEL} is {level}, not restricted")
    elif subject.level == "privileged":
        return
    elif (pod := pod_spec(subject)) is not None:
        yield from _baseline(pod)
        if subject.level == "restricted":
            yield from _restricted(pod)
    elif (custom := CUSTOM.get(subject.kind)) is not None and custom.security:
        # The operator sets the containers' half.
        context = (subject.body.get("spec") or {}).get(custom.security) or {}
        if context.get("runAsNonRoot") is not True:
            yield Finding("runAsNonRoot is not true")
        if not _seccomp(context):
            yield Finding("seccompProfile is neither RuntimeDefault nor Localhost")


def read_only(subject: Subject) -> Iterator[Finding]:
    """What a program writes goes to a declared volume: an intruder leaves nothing behind."""
    pod = pod_spec(subject)
    for container in containers(pod) if pod else []:
        if (container.get("securityContext") or {}).get("readOnlyRootFilesystem") is not True:
            yield Finding("readOnlyRootFilesystem is not true", container["name"])


def _baseline(pod: Pod) -> Iterator[Finding]:
    context = pod.get("securityContext") or {}
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield Finding(f"{key} is true")
    for volume in pod.get("volumes") or []:
        if "hostPath" in volume:
            yield Finding("volume of type hostPath", volume["name"])
    for sysctl in context.get("sysctls") or []:
        if sysctl["name"] not in _SYSCTLS:
            yield Finding(f"sysctl {sysctl['name']} is not a safe one")
    yield from _profiles(context, "")
    for container in containers(pod):
        name, own = container["name"], container.get("securityContext") or {}
        yield from _profiles(own, name)
        if own.get("privileged"):
            yield Finding("privileged is true", name)
        if own.get("procMount") not in (None, "Default"):
            yield Finding(f"procMount is {own['procMount']}", name)
        added = set((own.get("capabilities") or {}).get("add") or [])
        for capability in sorted(added - _CAPABILITIES):
            yield Finding(f"capability {capability} is added", name)
        for port in container.get("ports") or []:
            if port.get("hostPort"):
                yield Finding(f"hostPort {port['hostPort']}", name)
        for key in ("livenessProbe", "readinessProbe", "startupProbe"):
            probe = container.get(key) or {}
            if any((probe.get(way) or {}).get("host") for way in ("httpGet", "tcpSocket")):
                yield Finding(f"{key} asks another host", name)


def _profiles(context: Mapping[str, Any], part: str) -> Iterator[Finding]:
    """seccomp, AppArmor, SELinux and Windows of a pod or container."""
    for key, allowed in (
        ("seccompProfile", ("RuntimeDefault", "Localhost")),
        ("appArmorProfile", ("RuntimeDefault", "Localhost")),
    ):
        found = context.get(key)
        if found and found.get("type") not in allowed:
            yield Finding(f"{key} is {found.get('type')}", part)
    selinux = context.get("seLinuxOptions") or {}
    if (selinux.get("type") or "") not in _SELINUX or selinux.get("user") or selinux.get("role"):
        yield Finding("seLinuxOptions sets a user, a role or a type of its own", part)
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield Finding("hostProcess is true", part)


def _restricted(pod: Pod) -> Iterator[Finding]:
    context = pod.get("securityContext") or {}
    for volume in pod.get("volumes") or []:
        kinds = set(volume) - {"name", "hostPath"}
        if kinds - _VOLUMES:
            yield Finding(f"volume of type {', '.join(sorted(kinds))}", volume["name"])
    if context.get("runAsUser") == 0:
        yield Finding("runAsUser is 0")
    for container in containers(pod):
        name, own = container["name"], container.get("securityContext") or {}
        if own.get("allowPrivilegeEscalation") is not False:
            yield Finding("allowPrivilegeEscalation is not false", name)
        if own.get("runAsNonRoot", context.get("runAsNonRoot")) is not True:
            yield Finding("runAsNonRoot is not true", name)
        if own.get("runAsUser") == 0:
            yield Finding("runAsUser is 0", name)
        if not (_seccomp(own) or (not own.get("seccompProfile") and _seccomp(context))):
            yield Finding("seccompProfile is neither RuntimeDefault nor Localhost", name)
        capabilities = own.get("capabilities") or {}
        if "ALL" not in (capabilities.get("drop") or []):
            yield Finding("capabilities.drop lacks ALL", name)
        for capability in set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}:
            if capability in _CAPABILITIES:  # the others are baseline's findings
                yield Finding(f"capability {capability} is added", name)


def _seccomp(context: Mapping[str, Any]) -> bool:
    return (context.get("seccompProfile") or {}).get("type") in ("RuntimeDefault", "Localhost")
