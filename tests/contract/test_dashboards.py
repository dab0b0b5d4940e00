from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from components.monitoring.grafana import LABEL
from tests.promql import queries, resolved
from tests.rendering import render

VALUES = {"namespace": "datalake|platform", "pod": "a-0|a-1", "__rate_interval": "1m"}


def dashboards() -> Iterator[dict[str, Any]]:
    for environment in ("local", "onprem"):
        for body in render(environment).objects("ConfigMap"):
            if LABEL.items() <= (body["metadata"].get("labels") or {}).items():
                yield from map(json.loads, body["data"].values())


def test_promtool_takes_every_query_and_variable(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on PATH: ./estate tools builds it, source <(./estate env)")
    found = {resolved(query, VALUES) for one in dashboards() for _, query in queries(one)}
    for one in dashboards():
        for variable in one["templating"]["list"]:
            if variable["type"] == "query":
                source, _, label = variable["query"].rpartition(", ")
                assert label.removesuffix(")").isidentifier()
                found.add(resolved(source.removeprefix("label_values("), VALUES))
    assert len(found) > 100
    rules = [{"record": f"query:{i}", "expr": query} for i, query in enumerate(sorted(found))]
    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps({"groups": [{"name": "dashboards", "rules": rules}]}))
    done = subprocess.run(
        [promtool, "check", "rules", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout + done.stderr


def test_grafanas_own_types_read_every_dashboard_and_lose_nothing() -> None:
    register_default_plugins()  # the types of panels and of Prometheus' queries
    for one in dashboards():
        again = json.loads(json.dumps(Dashboard.from_json(one), cls=JSONEncoder))
        assert again == one, one["uid"]
