"""What Triton reads: a model's configuration, and the folder of its versions.

In the estate's own image every framework runs in Triton's Python backend
(services/serving/backend). NVIDIA's images have native backends, which `native` chooses where
there is one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from model_repo.declared import DynamicBatching, Serving
from model_repo.oci import OciError
from model_repo.version import Framework, ModelVersion, Tensor

CONFIG = "config.pbtxt"
PROGRAM = "model.py"
WARM_UP = "warm_up"
"""Parameter of the Python backend: it answers zeros before the version is ready."""
_NATIVE: dict[Framework, tuple[str, str]] = {
    "onnx": ("onnxruntime", "onnxruntime_onnx"),
    "pytorch": ("pytorch", "pytorch_libtorch"),
}
"""Backend and platform. There is none for TFLite; that for TensorFlow ended with release 25.02."""
_THREADS: dict[Framework, str] = {
    "onnx": "intra_op_thread_count",
    "pytorch": "INTRA_OP_THREAD_COUNT",
}
_DATA_TYPES = {"BYTES": "TYPE_STRING"}


def configuration(
    version: ModelVersion,
    serving: Serving,
    versions: Sequence[int],
    *,
    native: bool = False,
    gpu: bool = False,
    threads: int = 1,
) -> str:
    """`config.pbtxt` of a model.

    Args:
        version: the version whose tensors are the model's.
        serving: how it is served.
        versions: which versions Triton loads; the others in the folder stay where they are.
        native: Triton's own backend of the framework, where there is one.
        gpu: a native backend's instances are on the GPU; the Python backend's stay on the CPU.
        threads: of each instance.

    Raises:
        OciError: the tensors can't be served so; with what would.
    """
    thing = f"{version.name} version {version.version}"
    if not versions:
        raise OciError(thing, "versions: is empty, and Triton would load none")
    config = pb.ModelConfig(name=version.name, max_batch_size=_batch(version, serving, thing))
    if is_native(version.framework, native=native):
        config.backend, config.platform = _NATIVE[version.framework]
        _named_for_libtorch(version, thing)
    else:
        config.backend = "python"
    for tensor in version.inputs:
        config.input.add(name=tensor.name, data_type=_type(tensor, thing), dims=tensor.shape[1:])
    for tensor in version.outputs:
        config.output.add(name=tensor.name, data_type=_type(tensor, thing), dims=tensor.shape[1:])
    config.version_policy.specific.versions.extend(sorted(set(versions)))
    on_gpu = gpu and is_native(version.framework, native=native)
    kind = pb.ModelInstanceGroup.KIND_GPU if on_gpu else pb.ModelInstanceGroup.KIND_CPU
    group = config.instance_group.add(kind=kind, count=serving.instances)
    if limit := serving.rate_limit:
        group.rate_limiter.priority = limit.priority
        for name, count in sorted(limit.resources.items()):
            group.rate_limiter.resources.add(name=name, count=count)
    if serving.dynamic_batching:
        _batching(config, serving.dynamic_batching)
    if serving.response_cache:
        config.response_cache.enable = True
    in_triton = is_native(version.framework, native=native)
    if serving.warm_up and not in_triton:
        # By the backend itself: Triton 2.51 crashes (signal 11) where its own warm-up fails.
        config.parameters[WARM_UP].string_value = "true"
    elif serving.warm_up:
        warm = config.model_warmup.add(name="zeros", batch_size=1)
        for tensor in version.inputs:
            given = warm.inputs[tensor.name]
            given.data_type, given.zero_data = _type(tensor, thing), True
            given.dims.extend(abs(size) for size in tensor.shape[1:])
    key = _THREADS[version.framework] if in_triton else "threads"
    config.parameters[key].string_value = str(threads)
    return str(text_format.MessageToString(config))


def is_native(framework: Framework, *, native: bool) -> bool:
    """Whether Triton's own backend runs it: where that is wanted, and there is one."""
    return native and framework in _NATIVE


def _batch(version: ModelVersion, serving: Serving, thing: str) -> int:
    """Triton's max_batch_size. A model whose file has a batch of 1 takes one request at a time."""
    firsts = {tensor.shape[0] for tensor in (*version.inputs, *version.outputs)}
    if firsts == {-1}:
        return serving.max_batch_size
    if firsts == {1}:
        return 1
    raise OciError(
        thing,
        f"shape: the first dimension is the batch's, -1 or 1 in all tensors, and not "
        f"{', '.join(map(str, sorted(firsts)))}",
    )


def _named_for_libtorch(version: ModelVersion, thing: str) -> None:
    """Triton's PyTorch backend knows an output by the index in its name."""
    if version.framework != "pytorch":
        return
    for index, tensor in enumerate(version.outputs):
        if not tensor.name.endswith(f"__{index}"):
            raise OciError(
                thing,
                f"outputs: {tensor.name}: Triton's PyTorch backend wants a name with its index, "
                f"{tensor.name}__{index}, or is not to be native",
            )


def _type(tensor: Tensor, thing: str) -> int:
    if tensor.datatype == "BF16":
        raise OciError(
            thing, f"{tensor.name}: BF16 has no type in NumPy, which answers: write FP32 or FP16"
        )
    named = _DATA_TYPES.get(tensor.datatype, f"TYPE_{tensor.datatype}")
    return int(pb.DataType.Value(named))


def _batching(config: pb.ModelConfig, batching: DynamicBatching) -> None:
    made = config.dynamic_batching
    made.max_queue_delay_microseconds = batching.max_queue_delay_us
    made.preferred_batch_size.extend(sorted(set(batching.preferred_sizes)))
    if batching.priority_levels:
        made.priority_levels = batching.priority_levels
        # Whoever does not say how urgent it is waits behind those who do.
        made.default_priority_level = batching.priority_levels
    policy = made.default_queue_policy
    if batching.queue_size:
        policy.max_queue_size = batching.queue_size
    if batching.timeout_us:
        policy.timeout_action = pb.ModelQueuePolicy.REJECT
        policy.default_timeout_microseconds = batching.timeout_us
        policy.allow_timeout_override = True  # a client's shorter one


def lay_out(
    repository: Path, name: str, config: str, folders: Mapping[int, Path], program: Path | None
) -> Path:
    """Make a model's folder in Triton's repository: these versions, and no others.

    A version is a folder of links to the files that were pulled, so that one that comes back is
    not pulled again. Each is there whole or not at all, and one that is as it should be stays
    untouched. The configuration comes last: until then Triton loads what it had.

    Args:
        repository: Triton's; links are relative, so it may be mounted elsewhere with the folders.
        name: the model's.
        config: of :func:`configuration`.
        folders: number of each version, and where it was pulled to.
        program: `model.py` of the Python backend; None for a native one.
    """
    model = repository / name
    model.mkdir(parents=True, exist_ok=True)
    for number, folder in folders.items():
        _version(model / str(number), folder, program)
    fresh = model / f".{CONFIG}"
    fresh.write_text(config, encoding="utf-8")
    fresh.replace(model / CONFIG)
    for entry in model.iterdir():
        if entry.name not in {CONFIG, *map(str, folders)}:
            shutil.rmtree(entry)
    return model


def _version(target: Path, folder: Path, program: Path | None) -> None:
    wanted = {
        entry.name: Path(os.path.relpath(entry, target))
        for entry in folder.iterdir()
        if entry.name != PROGRAM
    }
    text = program.read_bytes() if program else None
    if _is(target, wanted, text):
        return
    fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    fresh.chmod(0o755)
    for name, place in wanted.items():
        (fresh / name).symlink_to(place)
    if text is not None:
        (fresh / PROGRAM).write_bytes(text)
    if target.exists():
        target.rename(fresh.with_name(f"{fresh.name}.old"))
    fresh.rename(target)


def _is(target: Path, wanted: Mapping[str, Path], program: bytes | None) -> bool:
    """Whether a version's folder is as it should be."""
    if not target.is_dir():
        return False
    entries = {entry.name: entry for entry in target.iterdir()}
    held = entries.pop(PROGRAM, None)
    if (held.read_bytes() if held else None) != program:
        return False
    links = {
        name: entry.readlink() if entry.is_symlink() else None for name, entry in entries.items()
    }
    return links == dict(wanted)
