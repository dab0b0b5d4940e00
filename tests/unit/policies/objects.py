"""Objects that keep every policy, and ways to change one thing of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Body = dict[str, Any]
Change = Callable[[Body], object]

DIGEST = "@sha256:" + "a" * 64
NAMESPACE: Body = {
    "kind": "Namespace",
    "metadata": {
        "name": "space",
        "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
    },
}
PROBE = {"httpGet": {"path": "/healthz", "port": 8080}}
DEPLOYMENT: Body = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "thing", "namespace": "space"},
    "spec": {
        "replicas": 2,
        "template": {
            "metadata": {"labels": {"app": "thing"}},
            "spec": {
                "securityContext": {
                    "runAsNonRoot": True,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "initContainers": [],
                "containers": [
                    {
                        "name": "main",
                        "image": f"registry.example:5000/a/b:1.0{DIGEST}",
                        "args": ["--listen=:8080", f"--image=c/d:2{DIGEST}", "--secret-name=x"],
                        "env": [
                            {"name": "PASSWORD_FILE", "value": "/run/password"},
                            {"name": "URL", "value": "http://localhost:8080"},
                        ],
                        "resources": {
                            "requests": {"cpu": "1m", "memory": "1Mi"},
                            "limits": {"memory": "1Mi"},
                        },
                        "livenessProbe": PROBE,
                        "readinessProbe": PROBE,
                        "securityContext": {
                            "allowPrivilegeEscalation": False,
                            "readOnlyRootFilesystem": True,
                            "capabilities": {"drop": ["ALL"]},
                        },
                    }
                ],
                "volumes": [{"name": "scratch", "emptyDir": {}}],
            },
        },
    },
}
BUDGET: Body = {
    "kind": "PodDisruptionBudget",
    "metadata": {"name": "thing", "namespace": "space"},
    "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "thing"}}},
}
DENY: Body = {
    "kind": "NetworkPolicy",
    "metadata": {"name": "default-deny", "namespace": "space"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
}
ALLOW: Body = {
    "kind": "NetworkPolicy",
    "metadata": {"name": "thing", "namespace": "space"},
    "spec": {
        "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["thing"]}]}
    },
}
MONITOR: Body = {
    "kind": "PodMonitor",
    "metadata": {"name": "thing", "namespace": "space"},
    "spec": {"podMetricsEndpoints": [{"port": "metrics", "scheme": "https"}]},
}
PROMETHEUS: Body = {
    "kind": "Prometheus",
    "metadata": {"name": "prometheus", "namespace": "space"},
    "spec": {
        "replicas": 2,
        "image": f"p/p:1{DIGEST}",
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "web": {"tlsConfig": {"minVersion": "TLS12"}},
        "alerting": {"alertmanagers": [{"scheme": "https"}]},
    },
}
CLUSTER: Body = {
    "kind": "Cluster",
    "metadata": {"name": "postgres", "namespace": "space"},
    "spec": {
        "instances": 3,
        "imageName": f"p/p:1{DIGEST}",
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
        "postgresql": {
            "pg_hba": ["hostssl all all all scram-sha-256", "hostnossl all all all reject"]
        },
    },
}
STRIMZI: Body = {
    "kind": "Kafka",
    "metadata": {"name": "kafka", "namespace": "space"},
    "spec": {"kafka": {"listeners": [{"name": "tls", "tls": True}]}},
}
CEPH: Body = {
    "kind": "CephCluster",
    "metadata": {"name": "ceph", "namespace": "space"},
    "spec": {
        "cephVersion": {"image": f"c/c:1{DIGEST}"},
        "network": {"connections": {"encryption": {"enabled": True}, "requireMsgr2": True}},
        "dashboard": {"enabled": True, "ssl": True},
    },
}
OBJECT_STORE: Body = {
    "kind": "CephObjectStore",
    "metadata": {"name": "s3", "namespace": "space"},
    "spec": {"gateway": {"securePort": 443}},
}
MONGODB: Body = {
    "kind": "MongoDBCommunity",
    "metadata": {"name": "mongodb", "namespace": "space"},
    "spec": {
        "security": {"tls": {"enabled": True}},
        "prometheus": {"username": "a", "tlsSecretKeyRef": {"name": "mongodb-tls"}},
    },
}
FILES: Body = {
    "kind": "ConfigMap",
    "metadata": {"name": "files", "namespace": "space"},
    "data": {
        "server.properties": "listeners=A://:1,B://:2\n"
        "listener.security.protocol.map=A:SSL,B:SASL_SSL\n",
        "mosquitto.conf": "listener 1883 127.0.0.1\nlistener 8883\ncertfile /tls.crt\n",
        "FERRETDB_LISTEN_ADDR": "",
        "pgpool.conf": "ssl = on\n",
        "pool_hba.conf": "# who\nhostssl all all 0.0.0.0/0 scram-sha-256\n",
        "CSI_IMAGE": f"c/c:1{DIGEST}",
        "other": "https://example.org/?user=a:b@c",
    },
}
STATEFUL: Body = {
    **DEPLOYMENT,
    "kind": "StatefulSet",
    "spec": {**DEPLOYMENT["spec"], "volumeClaimTemplates": [{"metadata": {"name": "data"}}]},
}
GOOD = (
    *(NAMESPACE, DEPLOYMENT, BUDGET, DENY, ALLOW, MONITOR, CLUSTER, STRIMZI, MONGODB),
    *(FILES, STATEFUL, PROMETHEUS, CEPH, OBJECT_STORE),
)


def pod(body: Body) -> Body:
    found: Body = body["spec"]["template"]["spec"]
    return found


def main(body: Body) -> Body:
    found: Body = pod(body)["containers"][0]
    return found


def put(*path: str | int, to: Any) -> Change:
    """A change of what lies at a path of an object, or of its first container."""

    def change(body: Body) -> None:
        at: Any = main(body) if path[0] == "main" else body
        for key in path[path[0] == "main" : -1]:
            at = at.setdefault(key, {}) if isinstance(at, dict) else at[key]
        at[path[-1]] = to

    return change
