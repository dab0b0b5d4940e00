"""Edits of `model.yaml` that leave every other character of it as it was.

PyYAML, which reads the file, says where each value begins and ends; those spans are replaced. A
library that writes YAML anew (ruamel.yaml) keeps comments, but not line breaks, blanks and widths,
and the diff of a promotion is to show the promotion alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from model_repo.declared import Place, Served, composed, parse
from model_repo.oci import OciError


def edited(content: bytes, changes: Mapping[Place, Served], thing: str) -> bytes:
    """The file with other versions at these places. Raises OciError.

    A digest that is written is never taken away: where one is there, or wanted, it is set.
    """
    before = parse(content, thing)
    for place, served in changes.items():
        content = _with(content, place, served, thing)
    after = parse(content, thing)
    expected = before.model_copy(
        update={
            kind: {**getattr(before, kind), **_of(kind, changes)}
            for kind in ("environments", "edge_groups")
        }
    )
    if after != expected:
        # Whatever layout this does not foresee: the file is not touched.
        raise OciError(thing, "has a layout that cannot be edited in place: write it by hand")
    return content


def _of(kind: str, changes: Mapping[Place, Served]) -> dict[str, Served]:
    return {place.name: served for place, served in changes.items() if place.kind == kind}


def _with(content: bytes, place: Place, served: Served, thing: str) -> bytes:
    root, text = composed(content, thing), content.decode()
    kind = _value(root, place.kind)
    if kind is None:
        return _put(text, root, place.kind, {place.name: served}).encode()
    assert isinstance(kind, yaml.MappingNode)  # the file was parsed
    entry = _value(kind, place.name)
    if entry is None:
        return _put(text, kind, place.name, served).encode()
    assert isinstance(entry, yaml.MappingNode)
    version, digest = _value(entry, "version"), _value(entry, "digest")
    assert version is not None
    if served.digest is not None and digest is None:
        text = _put(text, entry, "digest", served.digest)
    # From the end on: a span that is replaced moves what comes after it.
    spans = [(version, str(served.version))]
    if served.digest is not None and digest is not None:
        spans.append((digest, served.digest))
    for node, value in sorted(spans, key=lambda one: -one[0].start_mark.index):
        text = text[: node.start_mark.index] + value + text[node.end_mark.index :]
    return text.encode()


def _value(mapping: yaml.MappingNode, key: str) -> yaml.Node | None:
    for name, value in mapping.value:
        if name.value == key:
            assert isinstance(value, yaml.Node)
            return value
    return None


def _put(
    text: str, mapping: yaml.MappingNode, key: str, value: str | Served | dict[str, Served]
) -> str:
    """The text with a further key at a mapping's end, in the mapping's own style."""
    if mapping.flow_style:
        if not mapping.value:
            at = mapping.end_mark.index - 1
            return f"{text[:at]}{key}: {_flow(value)}{text[at:]}"
        at = mapping.value[-1][1].end_mark.index
        return f"{text[:at]}, {key}: {_flow(value)}{text[at:]}"
    # A block's own end lies behind the comments and blank lines that follow it.
    at = _end(mapping)
    line = text.find("\n", at)
    at = len(text) if line < 0 else line
    new = "\n"
    if "\r\n" in text:
        new = "\r\n"
        at -= text[:at].endswith("\r")
    indent = " " * mapping.value[0][0].start_mark.column
    if isinstance(value, dict):
        lines = [f"{indent}{key}:", *(f"{indent}  {name}: {_flow(value[name])}" for name in value)]
    else:
        lines = [f"{indent}{key}: {_flow(value)}"]
    ending = new if line < 0 else ""
    return f"{text[:at]}{new}{new.join(lines)}{ending}{text[at:]}"


def _end(node: yaml.Node) -> int:
    """Where the last character of a node is."""
    while isinstance(node, yaml.MappingNode | yaml.SequenceNode) and not node.flow_style:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    return int(node.end_mark.index)


def _flow(value: str | Served | dict[str, Served]) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(one)}" for key, one in value.items()) + "}"
    digest = "" if value.digest is None else f", digest: {value.digest}"
    return f"{{version: {value.version}{digest}}}"
