"""Probe of the dashboards: asks Prometheus what Grafana would ask it for each panel."""

from __future__ import annotations

import http.client
import json
import math
import re
import ssl
import urllib.parse
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from tests.promql import queries, resolved
from tests.state.probes import ProbeContext, probe

_RATE_INTERVAL = "1m"
"""Grafana's `$__rate_interval` at the usual zoom: four scrapes of 15 s."""
_CHOICES = re.compile(r"label_values\((?P<source>.+), (?P<label>\w+)\)")


class _Prometheus:
    """Prometheus' API over one connection: a dashboard has a dozen queries and more."""

    def __init__(self, url: str, ca: bytes) -> None:
        parts = urllib.parse.urlsplit(url)
        assert parts.hostname, url
        context = ssl.create_default_context(cadata=ca.decode())
        self._url = url
        self._connection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=10, context=context
        )

    def close(self) -> None:
        self._connection.close()

    def get(self, path: str, **parameters: str) -> Any:
        """`data` of an answer; AssertionError with what Prometheus says against it."""
        names = {key.replace("match", "match[]"): value for key, value in parameters.items()}
        try:
            self._connection.request("GET", f"/api/v1/{path}?{urllib.parse.urlencode(names)}")
            answer = json.loads(self._connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise AssertionError(f"{self._url}: {type(error).__name__}: {error}") from None
        assert answer["status"] == "success", f"{parameters}: {answer.get('error')}"
        return answer["data"]

    def has_value(self, query: str) -> bool:
        """Whether the query gives one number or more."""
        found = self.get("query", query=query)["result"]
        return any(not math.isnan(float(one["value"][1])) for one in found)


@probe("prometheus_dashboards")
def prometheus_dashboards(
    ctx: ProbeContext,
    *,
    url: str,
    ca: Mapping[str, Any],
    labels: dict[str, str],
    dashboards: dict[str, str],
) -> str:
    """Every dashboard (uid -> namespace) is there, its variables have values, its queries too."""
    stored = _stored(ctx, labels, sorted(set(dashboards.values())))
    missing = sorted(set(dashboards) - set(stored))
    assert not missing, f"no ConfigMap with {labels} holds {', '.join(missing)}"
    count = 0
    empty = []
    with closing(_Prometheus(url, ctx.secret(ca))) as prometheus:
        for uid in sorted(dashboards):
            values = _variables(prometheus, stored[uid])
            for title, query in queries(stored[uid]):
                count += 1
                if not prometheus.has_value(resolved(query, values)):
                    empty.append(f"{uid}, {title!r}: {query}")
    assert not empty, f"{len(empty)} of {count} queries have no value: {'; '.join(empty[:5])}"
    return f"{count} queries of {len(dashboards)} dashboards have values"


def _stored(
    ctx: ProbeContext, labels: Mapping[str, str], namespaces: list[str]
) -> dict[str, dict[str, Any]]:
    """The dashboards as Grafana's sidecar finds them, by their uid."""
    selector = ",".join(f"{key}={value}" for key, value in labels.items())
    bodies = [
        json.loads(text)
        for namespace in namespaces
        for item in ctx.api.request(
            "GET",
            f"/api/v1/namespaces/{namespace}/configmaps",
            query={"labelSelector": selector},
        )["items"]
        for text in (item.get("data") or {}).values()
    ]
    return {body["uid"]: body for body in bodies}


def _variables(prometheus: _Prometheus, dashboard: Mapping[str, Any]) -> dict[str, str]:
    """The value of each variable when a reader chooses all that it offers."""
    values = {"__rate_interval": _RATE_INTERVAL}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] != "query":
            continue
        choices = _CHOICES.fullmatch(variable["query"])
        assert choices, f"{dashboard['uid']}: {variable['query']} is no label_values(series, label)"
        source = resolved(choices["source"], values)
        found = prometheus.get(f"label/{choices['label']}/values", match=source)
        assert found, f"{dashboard['uid']}: nothing to choose for ${variable['name']}: {source}"
        values[variable["name"]] = "|".join(found)
    return values
