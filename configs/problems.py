"""What a validation error says: one line per problem, with key, value and way out.

A password may stand wherever somebody mistook the form: so nothing is shown that could hold one.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from components.model import SecretRef

Models = list[type[BaseModel]]


def lines(detail: Mapping[str, Any], values: Any, root: type[BaseModel], name: str) -> list[str]:
    """The lines of one of pydantic's errors; `root` is the model of `values`, `name` their key."""
    keys = _keys(detail["loc"], values)
    path = ".".join(keys) or name
    if detail["type"] == "estate":
        prefix = f"{'.'.join(keys)}." if keys else ""
        return [
            f"{prefix}{p['key']}: {shown(p['value'])} is not allowed: {p['allowed']}"
            for p in detail["ctx"]["problems"]
        ]
    if detail["type"] == "extra_forbidden":
        return [f"{_shown_key(keys, root)}: unknown key; {_nearest(keys, root)}"]
    if detail["type"] == "missing":
        return [f"{path}: missing; required here{_description(keys, root)}"]
    message = str(detail["msg"]).removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    value = shown(detail["input"], hidden=_may_hold_secret(keys, root))
    return [f"{path}: {value} is not allowed: {message}{_description(keys, root)}"]


def shown(value: Any, *, hidden: bool = False) -> str:
    """A value as a message may have it; of a mapping or a list no more than what it is."""
    if isinstance(value, (Mapping, BaseModel)):
        return "a mapping"
    if isinstance(value, (list, tuple, set)):
        return "a list"
    if hidden and value is not None:
        return "(a hidden value)"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _may_hold_secret(keys: list[str], root: type[BaseModel]) -> bool:
    """Whether a reference to a secret may stand above, at or below this key path."""
    models: Models = [root]
    for key in keys:
        if SecretRef in models:
            return True
        fields = [model.model_fields[key] for model in models if key in model.model_fields]
        if fields:  # else an index, a key of a mapping or one that is unknown
            models = [below for field in fields for below in _models(field.annotation)]
    return any(SecretRef in _reached(model) for model in models)


def _reached(model: type[BaseModel]) -> Models:
    """A model and all that stand below it."""
    found: Models = []
    waiting = [model]
    while waiting:
        if (one := waiting.pop()) in found:
            continue
        found.append(one)
        for field in one.model_fields.values():
            waiting += _models(field.annotation)
    return found


def _shown_key(keys: list[str], root: type[BaseModel]) -> str:
    """The path of an unknown key. Inside a reference it may be the secret itself."""
    known = {field for model in _reached(SecretRef) for field in model.model_fields}
    inside = any(SecretRef in _model_at(keys[:depth], root) for depth in range(len(keys)))
    if inside and keys[-1] not in known:
        return ".".join([*keys[:-1], "(a hidden key)"])
    return ".".join(keys)


def _keys(location: tuple[Any, ...], values: Any) -> list[str]:
    """The location as the file writes it: without the tags that a union adds to it."""
    keys: list[str] = []
    for position, part in enumerate(location):
        last = position == len(location) - 1
        inside = (isinstance(values, Mapping) and part in values) or (
            isinstance(values, list) and isinstance(part, int)
        )
        if inside:
            values = values[part] if not isinstance(part, int) or part < len(values) else None
            keys.append(str(part))
        elif last:
            keys.append(str(part))
    return keys


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, list, dict, tuple, typing.Annotated):
        for argument in typing.get_args(annotation):
            yield from _models(argument)


def _model_at(keys: list[str], root: type[BaseModel]) -> Models:
    models: Models = [root]
    for key in keys:
        if key.isdigit():
            continue
        models = [
            below
            for model in models
            if key in model.model_fields
            for below in _models(model.model_fields[key].annotation)
        ] or models
    return models


def _nearest(keys: list[str], root: type[BaseModel]) -> str:
    allowed = sorted(
        {field for model in _model_at(keys[:-1], root) for field in model.model_fields}
    )
    match = difflib.get_close_matches(keys[-1], allowed, n=1, cutoff=0.6)
    listing = f"allowed here: {', '.join(allowed)}"
    return f"did you mean {'.'.join([*keys[:-1], match[0]])}? {listing}" if match else listing


def _description(keys: list[str], root: type[BaseModel]) -> str:
    for model in _model_at(keys[:-1], root):
        field = model.model_fields.get(keys[-1]) if keys else None
        if field is not None and field.description:
            return f" ({field.description})"
    return ""
