from __future__ import annotations

import json
import re
from typing import Any, get_args

import pulumi
import pytest
from grafana_foundation_sdk.models import units
from pydantic import ValidationError

from components.dashboards import Panel, Unit, quiet, stat
from components.model import Images
from components.monitoring.config import MonitoringConfig
from components.monitoring.dashboard import monitoring_dashboard
from components.monitoring.grafana import LABEL, config_map, render
from components.platform.pki import Pki
from configs.schema import Environment
from stacks.context import Context
from stacks.foundation import Platform
from stacks.monitoring import deploy_dashboards
from stacks.secret_sources import SecretSources
from tests import rendering
from tests.exporters import exported, unknown_dcgm_fields, unmade_kafka_series
from tests.promql import queries, resolved, series

ENVIRONMENTS = ("local", "onprem")
ALWAYS = {"Watchdog"}


def dashboards(environment: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Namespace and part -> dashboard."""
    found = {}
    for body in rendering.render(environment).objects("ConfigMap"):
        meta = body["metadata"]
        if LABEL.items() <= (meta.get("labels") or {}).items():
            ((file, text),) = body["data"].items()
            dashboard = json.loads(text)
            assert file == f"{dashboard['uid']}.json"
            part = meta["name"].removeprefix("dashboard-")
            assert meta["name"] == config_map(part)
            found[meta["namespace"], part] = dashboard
    return found


def alerts(environment: str) -> dict[tuple[str, str], dict[str, str]]:
    """Namespace and part -> name of the alert -> its expression."""
    return {
        (body["metadata"]["namespace"], body["metadata"]["name"]): {
            rule["alert"]: rule["expr"]
            for group in body["spec"]["groups"]
            for rule in group["rules"]
        }
        for body in rendering.render(environment).objects("PrometheusRule")
    }


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


@pytest.fixture(params=ENVIRONMENTS)
def environment(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


def test_every_part_with_alerts_has_a_dashboard_of_its_own(environment: str) -> None:
    found = dashboards(environment)
    assert set(found) == set(alerts(environment))
    uids = [dashboard["uid"] for dashboard in found.values()]
    assert len(set(uids)) == len(uids)
    titles = [dashboard["title"] for dashboard in found.values()]
    assert len(set(titles)) == len(titles)


def test_the_check_asks_for_every_dashboard(environment: str) -> None:
    (check,) = (
        one
        for one in rendering.render(environment).checks
        if one["probe"] == "prometheus_dashboards"
    )
    assert check["args"]["dashboards"] == {
        dashboard["uid"]: namespace for (namespace, _), dashboard in dashboards(environment).items()
    }
    assert check["args"]["labels"] == LABEL


def test_what_proves_the_check_breaks_a_dashboard_that_is_there() -> None:
    rendered = rendering.render("local")
    (check,) = (one for one in rendered.checks if one["id"] == "monitoring.dashboards")
    target, patch = check["fault"]["target"], check["fault"]["patch"]
    stored = rendered.object("ConfigMap", target["name"])
    assert stored["metadata"]["namespace"] == target["namespace"]
    assert set(patch["data"]) == set(stored["data"])
    ((file, broken),) = patch["data"].items()
    asked = {name for _, query in queries(json.loads(broken)) for name in series(query)}
    assert asked - exported("monitoring") == {"prometheus_config_last_reload_successful_before"}
    assert stored["data"][file] != broken


def test_health_comes_first_and_the_rows_are_the_same_everywhere(environment: str) -> None:
    for dashboard in dashboards(environment).values():
        rows = [one["title"] for one in dashboard["panels"] if one["type"] == "row"]
        assert rows == ["Health", "Traffic", "Saturation", "Errors"]
        assert dashboard["panels"][1]["title"] == "Firing alerts"
        assert not dashboard["editable"]


def test_panels_say_what_they_show_in_which_unit_and_lie_beside_each_other(
    environment: str,
) -> None:
    for dashboard in dashboards(environment).values():
        places: set[tuple[int, int]] = set()
        for panel in panels(dashboard):
            where = f"{dashboard['uid']}: {panel['title']}"
            assert panel["description"].endswith((".", "?")), where
            assert panel["fieldConfig"]["defaults"]["unit"] in get_args(Unit), where
            assert panel["datasource"]["uid"] == "${datasource}", where
            assert panel["targets"], where
            assert all(one["legendFormat"] for one in panel["targets"]), where
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24, where
            cells = {
                (place["x"] + x, place["y"] + y)
                for x in range(place["w"])
                for y in range(place["h"])
            }
            assert not cells & places, where
            places |= cells


def test_units_are_grafanas() -> None:
    assert set(get_args(Unit)) <= {value for value in vars(units).values() if type(value) is str}


def test_a_variable_that_is_used_is_declared(environment: str) -> None:
    for dashboard in dashboards(environment).values():
        names = [one["name"] for one in dashboard["templating"]["list"]]
        assert names[:2] == ["datasource", "namespace"]
        values = dict.fromkeys([*names, "__rate_interval"], "1m")
        used = " ".join(query for _, query in queries(dashboard))
        assert "$" not in resolved(used, values), dashboard["uid"]
        assert all(f"${name}" in used for name in names[1:]), dashboard["uid"]


def test_every_series_that_an_alert_judges_is_on_the_dashboard_of_its_part(
    environment: str,
) -> None:
    found = dashboards(environment)
    for part, rules in alerts(environment).items():
        shown = {name for _, query in queries(found[part]) for name in series(query)}
        judged = {name for expression in rules.values() for name in series(expression)}
        assert judged <= shown, f"{part} shows no {sorted(judged - shown)}"


def test_the_first_panel_counts_the_alerts_of_its_part_and_no_others(environment: str) -> None:
    declared = alerts(environment)
    every = {name for rules in declared.values() for name in rules} - ALWAYS
    for part, dashboard in dashboards(environment).items():
        query = next(query for _, query in queries(dashboard))
        pattern = re.search(r'alertname=~"([^"]+)"', query)
        assert pattern
        counted = {name for name in every if re.fullmatch(pattern[1], name)}
        assert counted == set(declared[part]) - ALWAYS, part


def test_dashboards_ask_only_for_what_exporters_have(environment: str) -> None:
    for (_, part), dashboard in dashboards(environment).items():
        asked = {name for _, query in queries(dashboard) for name in series(query)}
        sources = [
            one["query"] for one in dashboard["templating"]["list"] if one["type"] == "query"
        ]
        for source in sources:
            inner = source.removeprefix("label_values(").rpartition(",")[0]
            asked |= series(inner)
        assert asked <= exported(part), f"{part}: nobody has {sorted(asked - exported(part))}"


def test_kafkas_series_are_made_by_the_rules_of_its_agent() -> None:
    assert unmade_kafka_series() == set()


def test_fields_that_dcgm_is_asked_for_exist() -> None:
    assert unknown_dcgm_fields() == set()


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ('sum by (pod) (rate(a_total{x="b_total"}[5m])) > 1e9', {"a_total"}),
        ("time() - max(a) or on () vector(0)", {"a"}),
        ("a * on (id) group_left (name) max by (id, name) (b:c)", {"a", "b:c"}),
        ("(count(up == 1) or vector(0)) < 2 and on() c unless d", {"up", "c", "d"}),
        ("rate(a[$__rate_interval])", {"a"}),
    ],
)
def test_series_of_a_query(query: str, names: set[str]) -> None:
    assert series(query) == names


def test_the_same_dashboard_gives_the_same_text() -> None:
    made = monitoring_dashboard("monitoring", "monitoring")
    assert render(made) == render(made.model_copy(deep=True))


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(ValidationError, match="unit"):
        Panel.model_validate(
            {"title": "a", "description": "b.", "unit": "furlongs", "queries": {"c": "d"}}
        )


def test_what_is_red_is_said_by_thresholds() -> None:
    made = monitoring_dashboard("monitoring", "monitoring")
    both = stat("Leaders", "One leads.", quiet("sum(up)"), red_below=1, red_from=2)
    dashboard = json.loads(render(made.model_copy(update={"health": [both]})))
    steps = panels(dashboard)[1]["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert [(one["value"], one["color"]) for one in steps] == [
        (None, "red"),
        (1, "green"),
        (2, "red"),
    ]


@pytest.mark.parametrize("config", [None, MonitoringConfig(dashboards=False)])
def test_an_environment_may_do_without(config: MonitoringConfig | None) -> None:
    context = Context(
        environment=Environment(monitoring=config),
        images=Images({}),
        stack="test",
        config=pulumi.Config("estate"),
        sources=SecretSources(None),
    )
    context.dashboards.append(monitoring_dashboard("monitoring", "monitoring"))
    deploy_dashboards(context, Platform(namespaces={}, pki=Pki.__new__(Pki)))
    assert context.checks == []
