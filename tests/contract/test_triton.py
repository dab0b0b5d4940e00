"""The real tritonserver, out of its image, with a reference model in all four formats."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient import grpc, http
from tritonclient.utils import InferenceServerException

from model_repo import triton, version
from model_repo.declared import DynamicBatching, RateLimit, Serving
from rehearsal import paths, training
from rehearsal.images import run
from rehearsal.images.build import Builder
from tests.loopback import free_port

FORMATS = ("onnx", "pytorch", "tensorflow", "tflite")
IMAGE = "estate_triton"
MODEL = "anomaly"
PROGRAM = paths.root() / "services" / "serving" / "backend" / "model.py"
SERVING = Serving(
    max_batch_size=16,
    response_cache=False,
    dynamic_batching=DynamicBatching(
        max_queue_delay_us=20_000, priority_levels=2, queue_size=100, timeout_us=5_000_000
    ),
    rate_limit=RateLimit(resources={"slot": 1}),
)
COMMIT = "0" * 40


@pytest.fixture(scope="module", autouse=True)
def namespaces() -> None:
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *user, "--mount", "--pid", "--fork", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a program of an image needs namespaces: {done.stderr.strip()}")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    training.train(MODEL, out)
    return out


def digests(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_trained_again_gives_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    training.train(MODEL, tmp_path)
    found = digests(tmp_path)
    assert found == digests(trained)
    assert {name.split("/")[0] for name in found} == {f"{MODEL}-{one}" for one in FORMATS}


@pytest.mark.parametrize("framework", FORMATS)
def test_each_format_agrees_with_the_reference(trained: Path, framework: str) -> None:
    found = version.read(trained / f"{MODEL}-{framework}", 1, COMMIT)
    assert found.metrics["golden_max_difference"] < 1e-5
    assert found.metrics["auc"] > 0.9


@dataclass
class Site:
    """A server, its repository, and what was trained."""

    trained: Path
    models: Path
    grpc: grpc.InferenceServerClient
    http: http.InferenceServerClient

    def lay_out(self, name: str, numbers: list[int], serving: Serving = SERVING) -> None:
        folders = {}
        for number in numbers:
            folders[number] = self.models / ".store" / f"{name}-{number}"
            if not folders[number].exists():
                shutil.copytree(self.trained / name, folders[number])
        about = version.read(self.trained / name, max(numbers), COMMIT)
        config = triton.configuration(about, serving, numbers)
        triton.lay_out(self.models, name, config, folders, PROGRAM)

    def load(self, name: str, numbers: list[int], serving: Serving = SERVING) -> None:
        self.lay_out(name, numbers, serving)
        self.grpc.load_model(name, client_timeout=60)

    def golden(self, name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        value = json.loads((self.trained / name / "golden.json").read_text())
        found = [
            np.array(one["data"], np.float32).reshape(one["shape"])
            for one in (value["inputs"][0], value["outputs"][0])
        ]
        return found[0], found[1]

    def ask(self, name: str, window: np.ndarray[Any, Any], number: str = "") -> Any:
        given = grpc.InferInput("window", list(window.shape), "FP32")
        given.set_data_from_numpy(window)
        made = self.grpc.infer(name, [given], model_version=number, client_timeout=30)
        return made.as_numpy("score")


@pytest.fixture(scope="module")
def site(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    builder = Builder(paths.cache() / "images")
    image = run.unpacked(builder.store, builder.build([IMAGE], tools={})[IMAGE].digest)
    models = tmp_path_factory.mktemp("models")
    ports = [free_port() for _ in range(3)]
    arguments = ["tritonserver", "--model-repository=/models", "--model-control-mode=explicit"]
    for name, port in zip(("http", "grpc", "metrics"), ports, strict=True):
        arguments += [f"--{name}-address=127.0.0.1", f"--{name}-port={port}"]
    arguments += ["--disable-auto-complete-config", "--rate-limit=execution_count"]
    arguments += ["--cache-config=local,size=1048576", "--strict-readiness=false"]
    arguments += ["--metrics-config=summary_latencies=true"]
    scratch = Path(tempfile.mkdtemp(dir=builder.root, prefix=".run-"))
    log = (models.parent / "tritonserver.log").open("w")
    command = run.command(
        image, arguments, scratch=scratch, binds={models: "/models"}, network=True
    )
    server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        made = Site(
            trained,
            models,
            grpc.InferenceServerClient(f"127.0.0.1:{ports[1]}"),
            http.InferenceServerClient(f"127.0.0.1:{ports[0]}"),
        )
        deadline = time.monotonic() + 60
        while not _ready(made):
            assert server.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < deadline, Path(log.name).read_text()
            time.sleep(0.1)
        yield made
    finally:
        # unshare's child is the server, PID 1 of its namespace: with unshare it is killed.
        server.send_signal(signal.SIGKILL)
        server.wait()
        log.close()
        shutil.rmtree(scratch, ignore_errors=True)


def _ready(site: Site) -> bool:
    try:
        return bool(site.http.is_server_ready())
    except OSError:
        return False


@pytest.mark.parametrize("framework", FORMATS)
def test_the_golden_set_by_grpc_and_by_http(site: Site, framework: str) -> None:
    name = f"{MODEL}-{framework}"
    site.load(name, [1])
    inputs, outputs = site.golden(name)
    np.testing.assert_allclose(site.ask(name, inputs), outputs, atol=1e-4, rtol=1e-3)
    given = http.InferInput("window", list(inputs.shape), "FP32")
    given.set_data_from_numpy(inputs)
    found = site.http.infer(name, [given]).as_numpy("score")
    np.testing.assert_allclose(found, outputs, atol=1e-4, rtol=1e-3)


def test_triton_has_the_configuration_that_was_written(site: Site) -> None:
    site.load("anomaly-tflite", [1])
    config = site.grpc.get_model_config("anomaly-tflite").config
    assert config.max_batch_size == 16
    assert config.dynamic_batching.priority_levels == 2
    assert config.dynamic_batching.default_queue_policy.default_timeout_microseconds == 5_000_000
    assert config.instance_group[0].rate_limiter.resources[0].name == "slot"
    assert list(config.version_policy.specific.versions) == [1]
    # The Python backend warms up by itself: Triton ends where its own warm-up fails.
    assert not config.model_warmup
    assert config.parameters["warm_up"].string_value == "true"


def test_requests_at_once_become_batches_and_keep_their_answers(site: Site) -> None:
    name = "anomaly-onnx"
    site.load(name, [1])
    inputs, outputs = site.golden(name)

    def one(index: int) -> None:
        row = index % len(inputs)
        found = site.ask(name, inputs[row : row + 1])
        np.testing.assert_allclose(found, outputs[row : row + 1], atol=1e-4, rtol=1e-3)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, range(160)))
    (found,) = site.grpc.get_inference_statistics(name, "1").model_stats
    assert found.inference_count >= 160
    assert found.execution_count < found.inference_count


@pytest.mark.parametrize(
    ("window", "said"),
    [
        (np.zeros((1, 31), np.float32), "unexpected shape"),
        (np.zeros((17, 32), np.float32), "batch-size must be <= 16"),
    ],
)
def test_a_wrong_request_is_refused_and_the_next_is_answered(
    site: Site, window: np.ndarray[Any, Any], said: str
) -> None:
    name = "anomaly-tflite"
    site.load(name, [1])
    with pytest.raises(InferenceServerException, match=said):
        site.ask(name, window)
    inputs, outputs = site.golden(name)
    np.testing.assert_allclose(site.ask(name, inputs), outputs, atol=1e-4, rtol=1e-3)


def test_versions_beside_each_other_and_one_that_goes(site: Site) -> None:
    name = "anomaly-tflite"
    inputs, outputs = site.golden(name)
    site.load(name, [1, 2])
    for number in ("1", "2"):
        found = site.ask(name, inputs, number)
        np.testing.assert_allclose(found, outputs, atol=1e-4, rtol=1e-3)
    site.load(name, [2])
    site.ask(name, inputs, "2")
    with pytest.raises(InferenceServerException, match=r"version 1 is not found|UNAVAILABLE"):
        site.ask(name, inputs, "1")


def test_a_file_that_is_damaged_is_not_served_and_what_was_served_stays(site: Site) -> None:
    name = "anomaly-onnx"
    inputs, _ = site.golden(name)
    site.load(name, [1])
    site.lay_out(name, [1, 2])
    (site.models / ".store" / f"{name}-2" / "model.onnx").write_bytes(b"none")
    with pytest.raises(InferenceServerException, match=r"INVALID_PROTOBUF|Protobuf parsing failed"):
        site.grpc.load_model(name, client_timeout=60)
    site.ask(name, inputs, "1")
    site.load(name, [1])


def test_a_cached_answer_is_not_computed_again(site: Site) -> None:
    name = "anomaly-onnx"
    site.load(name, [1], SERVING.model_copy(update={"response_cache": True}))
    inputs, _ = site.golden(name)
    site.ask(name, inputs[:1])
    site.ask(name, inputs[:1])
    (found,) = site.grpc.get_inference_statistics(name, "1").model_stats
    assert found.inference_stats.cache_hit.count == 1
