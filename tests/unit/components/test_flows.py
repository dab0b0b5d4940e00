"""Flows and the network's configuration, before any policy is made of them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from components.flows import Flow, Pods, asks_api
from components.platform.config import NetworkConfig
from components.platform.network import workloads

SERVER = Pods(name="server", namespace="datalake", selector={"app": "server"})
CLIENT = Pods(name="client", namespace="realtime", selector={"app": "client"})


def test_workloads_are_the_pods_at_either_end_each_once() -> None:
    flows = [Flow(source=CLIENT, target=SERVER, ports=[80]), asks_api(SERVER), asks_api(CLIENT)]
    assert workloads(flows) == [SERVER, CLIENT]


def test_two_workloads_of_one_name_would_share_a_policy() -> None:
    other = SERVER.model_copy(update={"selector": {"app": "other"}})
    with pytest.raises(ValueError, match="datalake/server; give one another name"):
        workloads([asks_api(SERVER), asks_api(other)])


def test_pods_without_a_selector_would_be_all_of_the_namespace() -> None:
    with pytest.raises(ValidationError, match="selector"):
        Pods(name="all", namespace="datalake", selector={})


@pytest.mark.parametrize("value", ["10.0.0.1/8", "node", "300.0.0.0/8"])
def test_an_address_of_the_api_that_is_none_is_named(value: str) -> None:
    with pytest.raises(ValidationError, match=value):
        NetworkConfig(api_server_cidrs=[value])
