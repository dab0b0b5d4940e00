"""What travels or lies unprotected, as far as the objects themselves show it.

Not visible here, and so not judged: whether a storage class encrypts its disks, whether the network
between nodes is encrypted, what a program does with a configuration that it reads elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from policies.model import Finding, Subject
from policies.pods import containers, pod_spec

_HERE = r"(?:localhost|127\.\d|\[::1\])"
_CLEAR_URL = re.compile(rf"\b(?:http|mqtt|amqp|redis|ldap|ftp)://(?!{_HERE})[^\s\"']+")

_CLEAR_POSTGRES = re.compile(r"\bsslmode\s*[=:]\s*[\"']?(?:disable|allow|prefer)\b")


def encryption(subject: Subject) -> Iterator[Finding]:
    """TLS wherever a port, a client or a scrape is declared."""
    spec = subject.body.get("spec") or {}
    match subject.kind:
        case "PodMonitor" | "ServiceMonitor":
            for endpoint in spec.get("podMetricsEndpoints") or spec.get("endpoints") or []:
                if endpoint.get("scheme") != "https":
                    port = str(endpoint.get("port") or endpoint.get("targetPort") or "")
                    yield Finding("scraped without TLS (scheme is not https)", port)
        case "Prometheus" | "Alertmanager":
            if not (spec.get("web") or {}).get("tlsConfig"):
                yield Finding("spec.web.tlsConfig is missing", "web")
            for one in (spec.get("alerting") or {}).get("alertmanagers") or []:
                if one.get("scheme") != "https":
                    yield Finding("alerts are sent without TLS (scheme is not https)", "alerting")
            for one in spec.get("remoteWrite") or []:
                if _CLEAR_URL.match(str(one.get("url"))):
                    yield Finding("spec.remoteWrite has a URL without TLS", "remoteWrite")
        case "Cluster":
            yield from _host_based(
                "\n".join((spec.get("postgresql") or {}).get("pg_hba") or []), must_reject=True
            )
        case "Kafka":
            for listener in (spec.get("kafka") or {}).get("listeners") or []:
                if listener.get("tls") is not True:
                    yield Finding("listener without TLS", str(listener.get("name")))
        case "MongoDBCommunity":
            tls = (spec.get("security") or {}).get("tls") or {}
            if tls.get("enabled") is not True or tls.get("optional"):
                yield Finding("clients without TLS are taken", "tls")
            if not (spec.get("prometheus") or {"tlsSecretKeyRef": True}).get("tlsSecretKeyRef"):
                yield Finding("its exporter answers without TLS", "prometheus")
        case "CephCluster":
            network = (spec.get("network") or {}).get("connections") or {}
            if not (network.get("encryption") or {}).get("enabled"):
                yield Finding("spec.network.connections.encryption is not enabled", "network")
            if network.get("requireMsgr2") is not True:
                yield Finding("clients of messenger v1, which has no encryption", "network")
            dashboard = spec.get("dashboard") or {}
            if dashboard.get("enabled") and dashboard.get("ssl") is not True:
                yield Finding("spec.dashboard.ssl is not true", "dashboard")
        case "CephObjectStore":
            gateway = spec.get("gateway") or {}
            if gateway.get("port") or not gateway.get("securePort"):
                yield Finding("spec.gateway serves without TLS (port, not securePort)", "gateway")
        case "Ingress":
            if not spec.get("tls"):
                yield Finding("spec.tls is missing")
        case "ConfigMap":
            for file, text in (subject.body.get("data") or {}).items():
                for message in _FILES[file](text) if file in _FILES else ():
                    yield Finding(message, file)
                # FerretDB's environment.
                if file == "FERRETDB_LISTEN_ADDR" and text:
                    yield Finding(f"listens without TLS at {text}", file)
                for message in _calls(str(text)):
                    yield Finding(message, file)
        case _:
            yield from _clients(subject)


def _clients(subject: Subject) -> Iterator[Finding]:
    pod = pod_spec(subject)
    for container in containers(pod) if pod else []:
        words = [*(container.get("command") or []), *(container.get("args") or [])]
        words += [str(one.get("value") or "") for one in container.get("env") or []]
        for word in words:
            for message in _calls(word):
                yield Finding(message, container["name"])


def _calls(text: str) -> Iterator[str]:
    if (match := _CLEAR_URL.search(text)) is not None:
        yield f"{match[0].split('?')[0]}: a URL without TLS"
    if _CLEAR_POSTGRES.search(text):
        yield "sslmode lets PostgreSQL be called without TLS"


# -- configuration files, by their names -----------------------------------------------------------


def _host_based(text: str, *, must_reject: bool) -> Iterator[Finding]:
    """pg_hba: CloudNativePG ends it with a `host` line, so clear text must be refused before."""
    lines = [line.split() for line in text.splitlines() if line.strip() and line[0] != "#"]
    for line in lines:
        if line[0] in ("host", "hostnossl") and line[-1] != "reject":
            yield Finding(f"pg_hba takes clients without TLS: {' '.join(line)}", "pg_hba")
    if must_reject and not any(line[:4] == ["hostnossl", "all", "all", "all"] for line in lines):
        yield Finding(
            "pg_hba refuses nobody without TLS: add hostnossl all all all reject", "pg_hba"
        )


def _pool_hba(text: str) -> Iterator[str]:
    return (finding.message for finding in _host_based(text, must_reject=False))


def _pgpool(text: str) -> Iterator[str]:
    if not re.search(r"^ssl\s*=\s*on\b", text, re.MULTILINE):
        yield "ssl is not on"


def _kafka(text: str) -> Iterator[str]:
    settings = dict(
        line.partition("=")[::2] for line in text.splitlines() if "=" in line and line[0] != "#"
    )
    protocols = dict(
        pair.partition(":")[::2]
        for pair in settings.get("listener.security.protocol.map", "").split(",")
    )
    for listener in settings.get("listeners", "").split(","):
        name = listener.partition("://")[0]
        if protocols.get(name) not in ("SSL", "SASL_SSL"):
            yield f"listener {name} is {protocols.get(name) or 'PLAINTEXT'}"


def _mosquitto(text: str) -> Iterator[str]:
    listener, address, secured = "", "", True
    for line in [*text.splitlines(), "listener"]:
        words = line.split()
        if words[:1] == ["listener"]:
            if listener and not secured and not re.match(_HERE, address):
                yield f"listener {listener} has no certfile"
            listener, address = (*words[1:], "", "")[:2]
            secured = False
        elif words[:1] == ["certfile"]:
            secured = True


_FILES: Mapping[str, Callable[[str], Iterator[str]]] = {
    "server.properties": _kafka,
    "mosquitto.conf": _mosquitto,
    "pgpool.conf": _pgpool,
    "pool_hba.conf": _pool_hba,
}
