"""What Triton reads: the configuration, parsed by its own schema, and the folder of a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from model_repo.declared import DynamicBatching, RateLimit, Serving
from model_repo.oci import OciError
from model_repo.triton import CONFIG, PROGRAM, configuration, lay_out
from model_repo.version import ModelVersion, parse

IMAGE = {"name": "image", "datatype": "FP32", "shape": [-1, 8, 8]}
SCORES = {"name": "scores", "datatype": "FP32", "shape": [-1, 10]}


def version(**changes: Any) -> ModelVersion:
    about = {
        "name": "digits",
        "version": 3,
        "framework": "onnx",
        "inputs": [IMAGE],
        "outputs": [SCORES],
        "metrics": {"accuracy": 0.9},
        "training_data": {"dataset": "d", "version": "1", "digest": "sha256:" + "0" * 64},
        "licence": "CC0-1.0",
        "revision": "0" * 40,
    }
    return parse({**about, **changes}, "test")


def made(serving: Serving | None = None, /, *, native: bool = False, **changes: Any) -> Any:
    text = configuration(version(**changes), serving or Serving(), [3, 2, 3], native=native)
    return text_format.Parse(text, pb.ModelConfig())


def test_tensors_batches_and_versions() -> None:
    config = made(Serving(max_batch_size=16, instances=2))
    assert (config.name, config.backend, config.platform) == ("digits", "python", "")
    assert config.max_batch_size == 16
    (image,), (scores,) = config.input, config.output
    assert (image.name, image.data_type, list(image.dims)) == ("image", pb.TYPE_FP32, [8, 8])
    assert (scores.name, scores.data_type, list(scores.dims)) == ("scores", pb.TYPE_FP32, [10])
    assert list(config.version_policy.specific.versions) == [2, 3]
    (group,) = config.instance_group
    assert (group.count, group.kind) == (2, pb.ModelInstanceGroup.KIND_CPU)
    assert config.parameters["threads"].string_value == "1"
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    assert not config.dynamic_batching.priority_levels
    assert not config.response_cache.enable


def test_queue_priorities_cache_and_rate() -> None:
    batching = DynamicBatching(
        max_queue_delay_us=100,
        preferred_sizes=(8, 4),
        priority_levels=2,
        queue_size=50,
        timeout_us=20_000,
    )
    serving = Serving(
        dynamic_batching=batching,
        response_cache=True,
        rate_limit=RateLimit(resources={"memory": 4, "bus": 1}, priority=2),
    )
    config = made(serving)
    dynamic, policy = config.dynamic_batching, config.dynamic_batching.default_queue_policy
    assert list(dynamic.preferred_batch_size) == [4, 8]
    assert (dynamic.priority_levels, dynamic.default_priority_level) == (2, 2)
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (50, 20_000)
    assert policy.timeout_action == pb.ModelQueuePolicy.REJECT
    assert config.response_cache.enable
    limiter = config.instance_group[0].rate_limiter
    assert limiter.priority == 2
    assert [(one.name, one.count) for one in limiter.resources] == [("bus", 1), ("memory", 4)]


def test_without_batching_or_warm_up() -> None:
    config = made(Serving(dynamic_batching=None, warm_up=False))
    assert not config.HasField("dynamic_batching")
    assert not config.model_warmup and "warm_up" not in config.parameters


def test_the_python_backend_warms_up_by_itself() -> None:
    config = made(Serving())
    assert not config.model_warmup and config.parameters["warm_up"].string_value == "true"
    assert "warm_up" not in made(Serving(), native=True).parameters


def test_warm_up_has_zeros_where_a_dimension_is_open() -> None:
    words = {"name": "words", "datatype": "BYTES", "shape": [-1, -1]}
    (warm,) = made(native=True, inputs=[IMAGE, words]).model_warmup
    assert warm.batch_size == 1
    assert list(warm.inputs["image"].dims) == [8, 8]
    assert list(warm.inputs["words"].dims) == [1]
    assert warm.inputs["words"].data_type == pb.TYPE_STRING
    assert all(given.zero_data for given in warm.inputs.values())


@pytest.mark.parametrize(
    ("framework", "backend", "platform", "threads"),
    [
        ("onnx", "onnxruntime", "onnxruntime_onnx", "intra_op_thread_count"),
        ("tflite", "python", "", "threads"),
        ("tensorflow", "python", "", "threads"),
    ],
)
def test_native_where_there_is_a_backend(
    framework: str, backend: str, platform: str, threads: str
) -> None:
    config = made(native=True, framework=framework)
    assert (config.backend, config.platform) == (backend, platform)
    assert dict(config.parameters).keys() - {"warm_up"} == {threads}


def test_native_pytorch_wants_outputs_with_their_index() -> None:
    with pytest.raises(OciError, match=r"outputs: scores: .* scores__0"):
        made(native=True, framework="pytorch")
    config = made(native=True, framework="pytorch", outputs=[{**SCORES, "name": "scores__0"}])
    assert (config.backend, config.platform) == ("pytorch", "pytorch_libtorch")


def test_a_file_with_a_batch_of_one() -> None:
    one: Any = {
        "inputs": [{**IMAGE, "shape": [1, 8, 8]}],
        "outputs": [{**SCORES, "shape": [1, 10]}],
    }
    assert made(Serving(max_batch_size=32), **one).max_batch_size == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inputs": [{**IMAGE, "shape": [4, 8, 8]}]}, r"shape: .* not -1, 4"),
        ({"inputs": [{**IMAGE, "datatype": "BF16"}]}, r"image: BF16 .* write FP32"),
    ],
)
def test_what_cannot_be_served(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(OciError, match=said):
        made(**changes)


def test_no_version_at_all() -> None:
    with pytest.raises(OciError, match="versions: is empty"):
        configuration(version(), Serving(), [])


class Site:
    """A store of what was pulled, Triton's repository beside it, and the backend's file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.repository = root / "models"
        self.program = root / "backend.py"
        self.program.write_text("one")

    def pulled(self, digest: str, word: str) -> Path:
        folder = self.root / "models" / ".store" / digest
        (folder / "model.savedmodel").mkdir(parents=True)
        (folder / "model.savedmodel" / "saved_model.pb").write_text(word)
        return folder

    def lay_out(self, folders: dict[int, Path], *, native: bool = False) -> Path:
        program = None if native else self.program
        return lay_out(self.repository, "digits", f"# {sorted(folders)}", folders, program)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_versions_are_laid_out_and_taken_away(site: Site) -> None:
    one, two = site.pulled("aa", "first"), site.pulled("bb", "second")
    model = site.lay_out({1: one, 2: two})
    assert (model / CONFIG).read_text() == "# [1, 2]"
    assert (model / "2" / "model.savedmodel" / "saved_model.pb").read_text() == "second"
    assert (model / "2" / PROGRAM).read_text() == "one"
    before = (model / "2").stat().st_ino

    site.lay_out({2: two})
    assert sorted(os.listdir(model)) == ["2", CONFIG]
    assert (model / "2").stat().st_ino == before, "what is as it should be stays"
    assert one.exists(), "and what was pulled is not pulled again"


def test_a_version_that_changed_is_replaced(site: Site) -> None:
    model = site.lay_out({1: site.pulled("aa", "first")})
    site.lay_out({1: site.pulled("bb", "other")})
    assert (model / "1" / "model.savedmodel" / "saved_model.pb").read_text() == "other"
    site.program.write_text("two")
    site.lay_out({1: site.repository / ".store" / "bb"})
    assert (model / "1" / PROGRAM).read_text() == "two"
    assert sorted(os.listdir(model)) == ["1", CONFIG]


def test_links_hold_where_the_repository_is_mounted_elsewhere(site: Site, tmp_path: Path) -> None:
    site.lay_out({1: site.pulled("aa", "first")})
    site.repository.rename(tmp_path / "elsewhere")
    found = tmp_path / "elsewhere" / "digits" / "1" / "model.savedmodel" / "saved_model.pb"
    assert found.read_text() == "first"


def test_a_native_model_has_no_program(site: Site) -> None:
    folder = site.pulled("aa", "first")
    model = site.lay_out({1: folder})
    site.lay_out({1: folder}, native=True)
    assert os.listdir(model / "1") == ["model.savedmodel"]


def test_what_an_interrupted_run_left_is_taken_away(site: Site) -> None:
    model = site.lay_out({1: site.pulled("aa", "first")})
    (model / ".1.abc.old").mkdir()
    (model / f".{CONFIG}").write_text("half")
    site.lay_out({1: site.repository / ".store" / "aa"})
    assert sorted(os.listdir(model)) == ["1", CONFIG]


@pytest.mark.parametrize(
    ("framework", "native", "gpu", "kind"),
    [
        ("onnx", True, True, pb.ModelInstanceGroup.KIND_GPU),
        ("onnx", True, False, pb.ModelInstanceGroup.KIND_CPU),
        # Triton's Python backend computes on the CPU, whatever the pod has.
        ("onnx", False, True, pb.ModelInstanceGroup.KIND_CPU),
        ("tflite", True, True, pb.ModelInstanceGroup.KIND_CPU),
    ],
)
def test_native_backends_alone_run_on_the_gpu(
    framework: str, native: bool, gpu: bool, kind: int
) -> None:
    told = version(framework=framework)
    text = configuration(told, Serving(), [3], native=native, gpu=gpu)
    (group,) = text_format.Parse(text, pb.ModelConfig()).instance_group
    assert group.kind == kind
