"""Triton's protocol: what its answers and metrics mean."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from services.serving import triton as module
from services.serving.triton import (
    Triton,
    TritonError,
    TritonSilent,
    TritonTimeout,
    failures,
)
from tests.unit.services.serving.site import Site

# Lines of Triton 2.51's own /metrics, with numbers of the test's.
METRICS = """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="digits-onnx",version="2"} 61018
# HELP nv_inference_request_failure Number of failed inference requests, all batch sizes
# TYPE nv_inference_request_failure counter
nv_inference_request_failure{model="digits-plain",reason="BACKEND",version="1"} 9
nv_inference_request_failure{model="digits-onnx",reason="CANCELED",version="2"} 100
nv_inference_request_failure{model="digits-onnx",reason="BACKEND",version="1"} 0
nv_inference_request_failure{model="digits-onnx",reason="REJECTED",version="2"} 1
nv_inference_request_failure{model="digits-onnx",reason="OTHER",version="2"} 2
nv_inference_request_failure{model="digits-onnx",reason="BACKEND",version="2"} 4
# HELP nv_inference_request_summary_us Summary of inference request duration in microseconds \
(includes cached requests)
# TYPE nv_inference_request_summary_us summary
nv_inference_request_summary_us_count{model="digits-onnx",version="2"} 22
nv_inference_request_summary_us_sum{model="digits-onnx",version="2"} 170624
nv_inference_request_summary_us{model="digits-onnx",version="2",quantile="0.5"} 1187
nv_inference_request_summary_us{model="digits-onnx",version="2",quantile="0.99"} 2156
nv_inference_request_summary_us_count{model="digits-onnx",version="1"} 0
nv_inference_request_summary_us_sum{model="digits-onnx",version="1"} 0
nv_inference_request_summary_us{model="digits-onnx",version="1",quantile="0.5"} Nan
nv_inference_request_summary_us{model="digits-onnx",version="1",quantile="0.99"} Nan
# HELP nv_inference_queue_summary_us Summary of inference queuing duration in microseconds \
(includes cached requests)
# TYPE nv_inference_queue_summary_us summary
nv_inference_queue_summary_us{model="digits-onnx",version="2",quantile="0.99"} 684
# HELP nv_cpu_utilization CPU utilization rate [0.0 - 1.0]
# TYPE nv_cpu_utilization gauge
nv_cpu_utilization 1
"""


def test_failures_are_counted_by_version_whatever_their_reason() -> None:
    assert failures(METRICS) == {
        ("digits-plain", "1"): 9,
        ("digits-onnx", "1"): 0,
        # Without those whose client went away.
        ("digits-onnx", "2"): 7,
    }
    assert failures("") == {}


def test_metrics_that_are_none() -> None:
    with pytest.raises(ValueError):
        failures('nv_inference_request_failure{model="a')


@pytest.fixture
def triton(site: Site) -> Triton:
    return Triton(site.triton.url)


def test_what_triton_refuses_is_said_in_its_words(site: Site, triton: Triton) -> None:
    with pytest.raises(TritonError, match="failed to poll from model repository") as caught:
        triton.load("nothing")
    assert not isinstance(caught.value, TritonSilent)
    triton.unload("nothing")  # as Triton does


def test_an_error_without_words(site: Site, triton: Triton) -> None:
    site.triton.infer = lambda _: (500, "<html>\n\n  oh</html>")
    with pytest.raises(TritonError, match=r"^<html> oh</html>$"):
        triton.infer("digits", 1, {})
    site.triton.infer = lambda _: (503, "")
    with pytest.raises(TritonError, match="Service Unavailable"):
        triton.infer("digits", 1, {})


@pytest.mark.parametrize("answer", ["{", [], {}, {"outputs": None}, {"outputs": [1]}])
def test_an_answer_without_outputs(site: Site, triton: Triton, answer: Any) -> None:
    site.triton.infer = lambda _: (200, answer)
    with pytest.raises(TritonError, match="the answer has no outputs"):
        triton.infer("digits", 1, {})


def test_what_is_ready(site: Site, triton: Triton) -> None:
    site.triton.index = [
        {"name": "a", "version": "1", "state": "READY"},
        {"name": "a", "version": "2", "state": "READY"},
        {"name": "a", "version": "3", "state": "UNAVAILABLE", "reason": "no such op"},
        {"name": "b", "version": "1", "state": "UNLOADING"},
        {"name": "c"},
    ]
    assert triton.ready() == {"a": {1, 2}}


def test_who_does_not_answer(site: Site, triton: Triton) -> None:
    assert triton.live()
    site.triton.stop()
    assert not triton.live()
    with pytest.raises(TritonSilent, match="does not answer"):
        triton.ready()


@pytest.fixture
def deaf() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_who_answers_too_late(deaf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOAD_S", 0.1)
    with pytest.raises(TritonTimeout, match=r"not answer within 0\.1 s"):
        Triton(deaf).load("digits")
