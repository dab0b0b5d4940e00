"""How the release manifests beside this file were made: `python -m components.manifests.vendor`.

    python -m components.manifests.vendor <module cache> [<manifest> ...]

`<module cache>` is a Go module cache (`go env GOMODCACHE`) that holds the modules named in
SOURCES; their content is what the committed go.sum files of rehearsal/toolchain verify. Schema
descriptions are stripped (they are two thirds of the text and no part of the contract), as are
resources that the estate does not use; nothing else is changed. Output is deterministic.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

HERE = Path(__file__).parent


class Source(NamedTuple):
    """Where one manifest comes from and which resources of it are left out."""

    module: str
    file: str
    omit: frozenset[str]


SOURCES = {
    "cloudnative-pg-1.30.0": Source(
        "github.com/cloudnative-pg/cloudnative-pg@v1.30.0",
        "releases/cnpg-1.30.0.yaml",
        # The estate makes its own namespaces, with Pod Security labels.
        frozenset({"Namespace/cnpg-system"}),
    ),
    "prometheus-operator-0.93.1": Source(
        "github.com/prometheus-operator/prometheus-operator@v0.93.1",
        "bundle.yaml",
        # 20,000 lines for what no environment runs; the operator starts without them.
        frozenset(
            {
                "CustomResourceDefinition/prometheusagents.monitoring.coreos.com",
                "CustomResourceDefinition/scrapeconfigs.monitoring.coreos.com",
                "CustomResourceDefinition/thanosrulers.monitoring.coreos.com",
            }
        ),
    ),
}


class _Loader(yaml.CSafeLoader):
    """YAML as Kubernetes reads it: `=` is a string, not YAML 1.1's value tag."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:value"]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


def strip(schema: Any) -> Any:
    """Remove `description` texts from a CRD's schema, but no property called description."""
    if isinstance(schema, list):
        return [strip(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: (
            {name: strip(value) for name, value in item.items()}
            if key == "properties" and isinstance(item, dict)
            else strip(item)
        )
        for key, item in schema.items()
        if not (key == "description" and isinstance(item, str))
    }


def convert(text: str, omit: frozenset[str]) -> Iterator[dict[str, Any]]:
    """The objects of a manifest, stripped, without those named `Kind/name` in `omit`."""
    for item in yaml.load_all(text, Loader=_Loader):
        if item and f"{item['kind']}/{item['metadata']['name']}" not in omit:
            yield strip(item) if item["kind"] == "CustomResourceDefinition" else item


def render(name: str, cache: Path) -> str:
    """The text of `<name>.yaml`; OSError when the module is not in the cache."""
    source = SOURCES[name]
    text = (cache / source.module / source.file).read_text()
    head = (
        f"# {name}: {source.file} of Go module {source.module}, schema descriptions stripped.\n"
        "# Made by components/manifests/vendor.py; do not edit.\n---\n"
    )
    body = yaml.dump_all(
        convert(text, source.omit), Dumper=yaml.CSafeDumper, sort_keys=False, width=100
    )
    return head + body


def main(arguments: list[str]) -> int:
    """Write the named manifests, by default all of them."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    for name in arguments[1:] or list(SOURCES):
        if name not in SOURCES:
            print(f"manifest {name!r} is unknown; known: {', '.join(SOURCES)}", file=sys.stderr)
            return 2
        (HERE / f"{name}.yaml").write_text(render(name, Path(arguments[0])))
        print(f"{name}.yaml")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
