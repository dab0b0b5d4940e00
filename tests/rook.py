"""What an environment does not have yet for want of digests, laid over it.

Ceph by Rook (`tests/onprem-ceph.yaml`), and the backup of Kafka (`tests/onprem-backup.yaml`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("onprem-ceph.yaml")
KAFKA_BACKUP = Path(__file__).with_name("onprem-backup.yaml")


def with_ceph(values: dict[str, Any]) -> dict[str, Any]:
    """The environment's values with Ceph, its nodes and its quota, and with Kafka's backup."""
    own = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    spaces = values.get("namespaces", {})
    quotas = {**spaces.get("quotas", {}), **own["namespaces"]["quotas"]}
    return {
        **values,
        **own,
        "nodes": [*values["nodes"], *own["nodes"]],
        "namespaces": {**spaces, "quotas": quotas},
        "backup": {**values["backup"], "kafka": yaml.safe_load(KAFKA_BACKUP.read_text())},
    }
