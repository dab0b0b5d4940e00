"""`golden.json`: what a version answers to a few inputs, written when it was made.

Whoever serves a version asks it the inputs and compares the answers, before anybody else is served.
Tensors are those of KServe's v2 protocol, their data flat; the first dimension counts examples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model_repo.oci import OciError, parsed
from model_repo.version import ModelVersion, Tensor

FILE = "golden.json"
MOST = 1 << 20
"""Bytes."""
EXAMPLES_MOST = 32
_LARGEST = {"FP16": 65504.0, "BF16": 3.3895313892515355e38, "FP32": 3.4028234663852886e38}
Scalar = bool | int | float | str
_Limit = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Tolerance(_Strict):
    """How far an answer may be from `expected`: `absolute + relative * |expected|`."""

    absolute: _Limit
    relative: _Limit

    def allowed(self, expected: float) -> float:
        """The distance that is still the same."""
        return self.absolute + self.relative * abs(expected)


class GoldenTensor(Tensor):
    """A tensor with its values."""

    data: tuple[Scalar, ...] = Field(strict=False)

    @model_validator(mode="after")
    def _values(self) -> GoldenTensor:
        if -1 in self.shape:
            raise ValueError(f"shape {list(self.shape)}: every dimension has a size here")
        if len(self.data) != math.prod(self.shape):
            raise ValueError(
                f"data: {len(self.data)} values are there, shape {list(self.shape)} has "
                f"{math.prod(self.shape)}"
            )
        for index, value in enumerate(self.data):
            if not _is(value, self.datatype):
                shown = str(value)[:40]
                raise ValueError(f"data.{index} ({shown}): is no value of {self.datatype}")
        return self

    def _part(self, begin: int, end: int) -> GoldenTensor:
        each = len(self.data) // self.shape[0]
        shape = (end - begin, *self.shape[1:])
        data = self.data[begin * each : end * each]
        return GoldenTensor(name=self.name, datatype=self.datatype, shape=shape, data=data)


class Golden(_Strict):
    """Inputs, and the outputs that they have within the tolerance."""

    inputs: tuple[GoldenTensor, ...] = Field(min_length=1, strict=False)
    outputs: tuple[GoldenTensor, ...] = Field(min_length=1, strict=False)
    tolerance: Tolerance

    @model_validator(mode="after")
    def _examples(self) -> Golden:
        counts = sorted({one.shape[0] for one in (*self.inputs, *self.outputs)})
        if len(counts) != 1:
            raise ValueError(f"the first dimensions are {counts}: all count the same examples")
        if counts[0] > EXAMPLES_MOST:
            raise ValueError(f"{counts[0]} examples are there, {EXAMPLES_MOST} is the most")
        return self

    @property
    def examples(self) -> int:
        """How many there are."""
        return self.inputs[0].shape[0]

    def request(self) -> dict[str, Any]:
        """The body of KServe's inference request."""
        return {"inputs": [one.model_dump(mode="json") for one in self.inputs]}

    def batches(self, most: int) -> list[Golden]:
        """The same in parts of at most so many examples: a model's `max_batch_size`."""
        cuts = range(0, self.examples, most)
        return [
            Golden(
                inputs=tuple(one._part(at, min(at + most, self.examples)) for one in self.inputs),
                outputs=tuple(one._part(at, min(at + most, self.examples)) for one in self.outputs),
                tolerance=self.tolerance,
            )
            for at in cuts
        ]


def read(content: bytes, version: ModelVersion, thing: str) -> Golden:
    """A version's golden set. Raises OciError that names the key, the value and what is wrong."""
    if len(content) > MOST:
        raise OciError(thing, f"has {len(content)} bytes, {MOST} is the most")
    try:
        golden = Golden.model_validate(parsed(content, thing))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        words = first["msg"].removeprefix("Value error, ")
        raise OciError(thing, f"{place}: {words}" if place else words) from None
    for what, given, declared in (
        ("inputs", golden.inputs, version.inputs),
        ("outputs", golden.outputs, version.outputs),
    ):
        _agree(thing, what, given, declared)
    return golden


def compare(golden: Golden, answer: Sequence[Mapping[str, Any]]) -> list[str]:
    """How outputs, as KServe's answer has them, differ; a line for each tensor that does.

    An answer is no more than what somebody sent: whatever it is, this returns.
    """
    got = {str(one.get("name")): one for one in answer}
    wanted = {one.name for one in golden.outputs}
    found = [f"{name}: is no output of the model" for name in got if name not in wanted]
    for tensor in golden.outputs:
        if tensor.name not in got:
            found.append(f"{tensor.name}: is not in the answer")
        elif words := _differs(tensor, got[tensor.name], golden.tolerance):
            found.append(f"{tensor.name}: {words}")
    return found


def _is(value: object, datatype: str) -> bool:
    if datatype == "BOOL":
        return isinstance(value, bool)
    if datatype == "BYTES":
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if datatype.startswith(("INT", "UINT")):
        if not isinstance(value, int):
            return False
        bits = int(datatype.lstrip("UINT"))
        low, high = (0, 1 << bits) if datatype[0] == "U" else (-1 << bits - 1, 1 << bits - 1)
        return low <= value < high
    return _finite(value) and abs(value) <= _LARGEST.get(datatype, math.inf)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def _agree(
    thing: str, what: str, given: Sequence[GoldenTensor], declared: Sequence[Tensor]
) -> None:
    names, wanted = sorted(one.name for one in given), sorted(one.name for one in declared)
    if names != wanted:
        raise OciError(thing, f"{what}: {names} are there, the model has {wanted}")
    by_name = {one.name: one for one in declared}
    for one in given:
        model = by_name[one.name]
        if one.datatype != model.datatype:
            raise OciError(thing, f"{what}.{one.name}: {one.datatype}, it is {model.datatype}")
        if len(one.shape) != len(model.shape) or any(
            size not in (-1, own) for own, size in zip(one.shape, model.shape, strict=True)
        ):
            raise OciError(
                thing, f"{what}.{one.name}: shape {list(one.shape)}, it is {list(model.shape)}"
            )


def _differs(expected: GoldenTensor, got: Mapping[str, Any], tolerance: Tolerance) -> str:
    """What is wrong with an output, or nothing."""
    if got.get("datatype") != expected.datatype:
        return f"is {str(got.get('datatype'))[:20]}, not {expected.datatype}"
    if got.get("shape") != list(expected.shape):
        return f"has shape {str(got.get('shape'))[:60]}, not {list(expected.shape)}"
    data = got.get("data")
    if not isinstance(data, list) or len(data) != len(expected.data):
        count = len(data) if isinstance(data, list) else "no"
        return f"has {count} values, not {len(expected.data)}"
    wrong = [
        (index, one, value)
        for index, (one, value) in enumerate(zip(expected.data, data, strict=True))
        if not _same(one, value, expected.datatype, tolerance)
    ]
    if not wrong:
        return ""
    index, one, value = wrong[0]
    return f"{len(wrong)} of {len(data)} differ; value {index} is {str(value)[:40]}, not {one}"


def _same(expected: Scalar, got: Any, datatype: str, tolerance: Tolerance) -> bool:
    if not _is(got, datatype):
        return False
    if isinstance(expected, bool | str):
        return bool(expected == got)
    return bool(abs(got - expected) <= tolerance.allowed(expected))
