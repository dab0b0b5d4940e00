"""Alert rules about the documents; promtool checks them in tests/contract."""

from __future__ import annotations

from typing import Any

from components.datalake.mongodb_config import MongodbConfig
from components.workload import alert


def mongodb_rules(name: str, namespace: str, config: MongodbConfig) -> list[dict[str, Any]]:
    """Rules of every implementation, and those of what FerretDB's own metrics tell."""
    pods = f'namespace="{namespace}", pod=~"{name}-.*"'
    # A majority for a replica set; FerretDB's replicas stand for one another.
    enough = config.replicas // 2 + 1 if config.implementation == "community" else 1
    answering = f"(count(up{{{pods}}} == 1) or vector(0))"
    found = [
        alert(
            "MongodbReplicasMissing",
            f"{answering} < {config.replicas}",
            f"fewer than {config.replicas} replicas of {name} answer",
            for_s=120,
            severity="warning",
        ),
        alert(
            "MongodbDown",
            f"{answering} < {enough}",
            f"too few replicas of {name} answer: documents are not stored",
            # Longer than the first scrapes of a new estate.
            for_s=90,
        ),
    ]
    if config.implementation == "ferretdb":
        # What is not the client's mistake; FerretDB calls it so when PostgreSQL fails it.
        failed = f'ferretdb_client_responses_total{{{pods}, result="InternalError"}}'
        found.append(
            alert(
                "MongodbRequestsFail",
                f"sum by (pod) (rate({failed}[5m])) > 0.1",
                "{{ $labels.pod }} cannot do what clients ask; see its log and PostgreSQL",
                for_s=120,
                severity="warning",
            )
        )
    return found
