"""A model's golden set: requests made of its examples, and what an answer to them has to be.

`golden.json` lies in every artifact: tensors of KServe's v2 protocol, whose first dimension is the
examples', and a tolerance. A request carries one example.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_repo.golden import FILE

HEADER_LENGTH = "Inference-Header-Content-Length"
"""Where a body of the protocol's binary extension ends being JSON (Triton's HTTP API)."""
Array = NDArray[Any]

# fmt: off
_TYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1",
    "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}
# fmt: on


class Unusable(ValueError):
    """What is wrong with a golden set, or with an answer as a message."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of all examples."""

    name: str
    datatype: str
    values: Array

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Tensor:
        """From its JSON. Raises Unusable."""
        name, datatype = str(value.get("name")), str(value.get("datatype"))
        kind = _TYPES.get(datatype)
        if kind is None:
            raise Unusable(f"{name}: datatype {datatype}: is none of {', '.join(_TYPES)}")
        try:
            shape = [int(size) for size in value["shape"]]
            return cls(name, datatype, np.array(value["data"], dtype=kind).reshape(shape))
        except (KeyError, TypeError, ValueError) as error:
            raise Unusable(f"{name}: {error}") from None

    def example(self, number: int) -> Array:
        """That example alone, as a batch of one."""
        found: Array = self.values[number : number + 1]
        return found


@dataclass(frozen=True)
class Answer:
    """What the server said: which version answered on which track, and its outputs."""

    version: str
    track: str
    outputs: Mapping[str, Array]


@dataclass(frozen=True)
class Golden:
    """Examples and what a version answers to them."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    absolute: float
    relative: float

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Golden:
        """From `golden.json`. Raises Unusable that says what is wrong."""
        try:
            inputs = tuple(Tensor.of(one) for one in value["inputs"])
            outputs = tuple(Tensor.of(one) for one in value["outputs"])
            tolerance = value["tolerance"]
            made = cls(inputs, outputs, float(tolerance["absolute"]), float(tolerance["relative"]))
        except (KeyError, TypeError) as error:
            raise Unusable(f"{FILE}: {error!r}") from None
        counts = {len(one.values) if one.values.ndim else 0 for one in (*inputs, *outputs)}
        if not inputs or not outputs or len(counts) != 1 or 0 in counts:
            raise Unusable(f"{FILE}: its tensors have {sorted(counts)} examples, not one number")
        return made

    def __len__(self) -> int:
        return len(self.inputs[0].values)

    def asks_the_same(self, other: Golden) -> bool:
        """Whether the examples are the other's, so that one request suits both."""
        return [(one.name, one.datatype) for one in self.inputs] == [
            (one.name, one.datatype) for one in other.inputs
        ] and all(
            np.array_equal(one.values, their.values)
            for one, their in zip(self.inputs, other.inputs, strict=True)
        )

    def wrong(self, number: int, outputs: Mapping[str, Array]) -> str | None:
        """What is wrong with the outputs for an example, in words; None when nothing is."""
        for expected in self.outputs:
            found, wanted = outputs.get(expected.name), expected.example(number)
            if found is None:
                return f"{expected.name} is missing"
            if found.shape != wanted.shape:
                return f"{expected.name} has shape {list(found.shape)}, not {list(wanted.shape)}"
            near = np.isclose(found, wanted, rtol=self.relative, atol=self.absolute)
            if not near.all():
                away = np.abs(found.astype("f8") - wanted.astype("f8")).max()
                return f"{expected.name} is up to {away:.3g} away"
        return None

    # -- as bytes ---------------------------------------------------------------------------------

    def http(self, number: int) -> tuple[bytes, dict[str, str]]:
        """Body and headers of a request by HTTP, tensors as binary data both ways.

        No compression is taken: Triton would spend more on it than on the model.
        """
        tensors = [(one, one.example(number)) for one in self.inputs]
        head = json.dumps(
            {
                "inputs": [
                    {
                        "name": one.name,
                        "datatype": one.datatype,
                        "shape": list(values.shape),
                        "parameters": {"binary_data_size": values.nbytes},
                    }
                    for one, values in tensors
                ],
                "parameters": {"binary_data_output": True},
            }
        ).encode()
        headers = {
            HEADER_LENGTH: str(len(head)),
            "Content-Type": "application/octet-stream",
            "Accept-Encoding": "identity",
        }
        return head + b"".join(values.tobytes() for _, values in tensors), headers

    def grpc(self, number: int, model: str, make: Callable[..., Any]) -> bytes:
        """A request by gRPC; `make` is the class ModelInferRequest."""
        request = make(model_name=model)
        for one in self.inputs:
            values = one.example(number)
            request.inputs.add(name=one.name, datatype=one.datatype, shape=values.shape)
            request.raw_input_contents.append(values.tobytes())
        made: bytes = request.SerializeToString()
        return made


def http_answer(body: bytes, headers: Mapping[str, str], track: str) -> Answer:
    """The answer of an inference by HTTP. Raises Unusable."""
    try:
        length = int(headers.get(HEADER_LENGTH, len(body)))
        head, at, outputs = json.loads(body[:length]), length, {}
        for one in head["outputs"]:
            kind = _TYPES[one["datatype"]]
            size = one.get("parameters", {}).get("binary_data_size")
            if size is None:
                values = np.array(one["data"], dtype=kind)
            else:
                values = np.frombuffer(body[at : at + size], dtype=kind)
                at += size
            outputs[one["name"]] = values.reshape(one["shape"])
        return Answer(str(head["model_version"]), track, outputs)
    except (KeyError, TypeError, ValueError) as error:
        raise Unusable(f"an answer that cannot be read: {error!r}"[:160]) from None


def grpc_answer(response: Any, track: str) -> Answer:
    """The answer of an inference by gRPC, from a ModelInferResponse. Raises Unusable."""
    try:
        outputs = {
            one.name: np.frombuffer(content, dtype=_TYPES[one.datatype]).reshape(one.shape)
            for one, content in zip(response.outputs, response.raw_output_contents, strict=True)
        }
    except (KeyError, ValueError) as error:
        raise Unusable(f"an answer that cannot be read: {error!r}"[:160]) from None
    return Answer(str(response.model_version), track, outputs)
