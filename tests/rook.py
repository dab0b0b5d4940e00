"""Ceph by Rook over an environment that does not have it yet: `tests/onprem-ceph.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("onprem-ceph.yaml")


def with_ceph(values: dict[str, Any]) -> dict[str, Any]:
    """The environment's values with Ceph, its nodes and its quota."""
    own = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    spaces = values.get("namespaces", {})
    quotas = {**spaces.get("quotas", {}), **own["namespaces"]["quotas"]}
    return {
        **values,
        **own,
        "nodes": [*values["nodes"], *own["nodes"]],
        "namespaces": {**spaces, "quotas": quotas},
    }
