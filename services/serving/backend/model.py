"""A model of Triton's Python backend for ONNX, TorchScript, TensorFlow's SavedModel and TFLite.

Which one it is, the files of the version say. A stub process of Triton runs each instance, so it
imports its own framework and no other. The requests of a batch become one inference; whatever
is wrong with one request is that request's answer and nobody else's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Arrays = Sequence[Array]
Run = Callable[[Arrays], Arrays]
"""One inference: arrays in the order of the configuration's inputs, and of its outputs."""


def _triton() -> Any:
    """What exists only in a stub process of Triton: the functions above run without it."""
    import triton_python_backend_utils

    return triton_python_backend_utils


def _match(inputs: list[str], outputs: list[str], takes: list[str], gives: list[str]) -> None:
    """Refuse to load a file with other tensors than the configuration has."""
    if set(inputs) != set(takes) or not set(outputs) <= set(gives):
        raise ValueError(
            f"the model's file takes {', '.join(sorted(takes))} and gives "
            f"{', '.join(sorted(gives))}: declared are {', '.join(inputs)} and {', '.join(outputs)}"
        )


def _onnx(file: Path, inputs: list[str], outputs: list[str], threads: int) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # A thread that spins takes the core from the other instances.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    takes, gives = session.get_inputs(), session.get_outputs()
    _match(inputs, outputs, [one.name for one in takes], [one.name for one in gives])

    def run(arrays: Arrays) -> Arrays:
        made: Arrays = session.run(outputs, dict(zip(inputs, arrays, strict=True)))
        return made

    return run


def _pytorch(file: Path, inputs: list[str], outputs: list[str], threads: int) -> Run:
    """TorchScript has no names: arguments and results come in the configuration's order."""
    import torch

    torch.set_num_threads(threads)
    model = torch.jit.load(str(file), map_location="cpu").eval()

    def run(arrays: Arrays) -> Arrays:
        with torch.inference_mode():
            # Triton's memory may not be written to, and torch would warn of that.
            made = model(*(torch.from_numpy(np.require(one, requirements="W")) for one in arrays))
        if isinstance(made, dict):
            made = [made[name] for name in outputs]
        elif not isinstance(made, (tuple, list)):
            made = [made]
        return [one.numpy() for one in made]

    return run


def _tensorflow(folder: Path, inputs: list[str], outputs: list[str], threads: int) -> Run:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    loaded = tf.saved_model.load(str(folder))
    if "serving_default" not in loaded.signatures:
        raise ValueError("the SavedModel has no signature 'serving_default'")
    signature = loaded.signatures["serving_default"]
    takes, gives = signature.structured_input_signature[1], signature.structured_outputs
    _match(inputs, outputs, list(takes), list(gives))

    # Bound to the function: the variables live as long as what was loaded.
    def run(arrays: Arrays, model: object = loaded) -> Arrays:
        given = {name: tf.constant(one) for name, one in zip(inputs, arrays, strict=True)}
        made = signature(**given)
        return [made[name].numpy() for name in outputs]

    return run


def _tflite(file: Path, inputs: list[str], outputs: list[str], threads: int) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    model = Interpreter(model_path=str(file), num_threads=threads)
    if model.get_signature_list():
        signature = model.get_signature_runner()
        into, out = signature.get_input_details(), signature.get_output_details()
    else:
        into = {one["name"]: one for one in model.get_input_details()}
        out = {one["name"]: one for one in model.get_output_details()}
    _match(inputs, outputs, list(into), list(out))
    places = [into[name]["index"] for name in inputs]
    results = [out[name]["index"] for name in outputs]
    shapes: list[tuple[int, ...]] = []

    def run(arrays: Arrays) -> Arrays:
        wanted = [one.shape for one in arrays]
        if wanted != shapes:
            shapes.clear()  # what fails below leaves the model without a valid shape
            for place, shape in zip(places, wanted, strict=True):
                # Strict: only what the file leaves open (the batch) may change.
                model.resize_tensor_input(place, shape, strict=True)
            model.allocate_tensors()
            shapes[:] = wanted
        for place, one in zip(places, arrays, strict=True):
            model.set_tensor(place, one)
        model.invoke()
        return [model.get_tensor(place) for place in results]

    return run


FRAMEWORKS: dict[str, Callable[[Path, list[str], list[str], int], Run]] = {
    "model.onnx": _onnx,
    "model.pt": _pytorch,
    "model.savedmodel": _tensorflow,
    "model.tflite": _tflite,
}


def load(folder: Path, inputs: list[str], outputs: list[str], threads: int) -> Run:
    """The model in a version's folder. Raises ValueError when it is not what is declared."""
    found = [name for name in FRAMEWORKS if (folder / name).exists()]
    if len(found) != 1:
        raise ValueError(
            f"{folder} has {', '.join(found) or 'no model'}: it must have exactly one of "
            + ", ".join(FRAMEWORKS)
        )
    return FRAMEWORKS[found[0]](folder / found[0], inputs, outputs, threads)


class TritonPythonModel:
    """What Triton's stub calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the version's file. What it raises is why Triton does not serve the version."""
        self.pb = _triton()
        config = json.loads(args["model_config"])
        self.inputs = [one["name"] for one in config["input"]]
        self.outputs = [one["name"] for one in config["output"]]
        self.types = [
            np.dtype(self.pb.triton_string_to_numpy(one["data_type"])) for one in config["output"]
        ]
        parameters = config.get("parameters", {})
        threads = int(parameters.get("threads", {}).get("string_value", "1"))
        folder = Path(args["model_repository"]) / args["model_version"]
        self.run = load(folder, self.inputs, self.outputs, threads)
        if parameters.get("warm_up", {}).get("string_value") == "true":
            self._checked([self._zeros(one) for one in config["input"]])

    def _zeros(self, declared: dict[str, Any]) -> Array:
        """One row of an input; a dimension of any length has one place."""
        dtype = np.dtype(self.pb.triton_string_to_numpy(declared["data_type"]))
        shape = [1, *(abs(int(size)) for size in declared["dims"])]
        return np.full(shape, b"", dtype) if dtype == np.object_ else np.zeros(shape, dtype)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests of a batch, in their order."""
        given = [self._arrays(request) for request in requests]
        if len(given) == 1:
            return [self._alone(given[0])]
        try:
            joined = [np.concatenate(parts) for parts in zip(*given, strict=True)]
            made = self._checked(joined)
        except Exception:
            # One of them, or their shapes together: each has its own answer.
            return [self._alone(arrays) for arrays in given]
        responses, first = [], 0
        for arrays in given:
            last = first + len(arrays[0])
            responses.append(self._response([one[first:last] for one in made]))
            first = last
        return responses

    def _arrays(self, request: Any) -> list[Array]:
        return [self.pb.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs]

    def _alone(self, arrays: Arrays) -> Any:
        try:
            return self._response(self._checked(arrays))
        except Exception as error:
            words = " ".join(str(error).split())[:500]
            reason = self.pb.TritonError(f"{type(error).__name__}: {words}")
            return self.pb.InferenceResponse(error=reason)

    def _checked(self, arrays: Arrays) -> Arrays:
        """One inference, whose results are as the configuration says."""
        made = self.run(arrays)
        rows = len(arrays[0])
        if len(made) != len(self.outputs):
            raise ValueError(f"the model has {len(made)} outputs, declared are {self.outputs}")
        for name, one, dtype in zip(self.outputs, made, self.types, strict=True):
            if one.dtype != dtype or not one.ndim or len(one) != rows:
                raise ValueError(
                    f"output {name} is {one.dtype} of shape {list(one.shape)}: it must be {dtype} "
                    f"with {rows} rows"
                )
        return made

    def _response(self, made: Arrays) -> Any:
        tensors = [self.pb.Tensor(name, one) for name, one in zip(self.outputs, made, strict=True)]
        return self.pb.InferenceResponse(output_tensors=tensors)
