"""How the release manifests beside this file were made: `python -m components.manifests.vendor`.

    python -m components.manifests.vendor <module cache> [<manifest> ...]

`<module cache>` is a Go module cache (`go env GOMODCACHE`) that holds the modules named in
SOURCES, verified by the committed go.sum files of rehearsal/toolchain or by `go mod download`. A
release that is a chart is rendered by Helm (`helm` on PATH, else built by `go run`). Strimzi's is
made by its generator (components/manifests/strimzi.py; Maven and PyPI, no Go module). Schema
descriptions are stripped (they are two thirds of the text and no part of the contract), as are
resources that the estate does not use; nothing else is changed. Output is deterministic.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml

from components.manifests import strimzi

HERE = Path(__file__).parent


HELM = "helm.sh/helm/v3/cmd/helm@v3.18.6"
KUBERNETES = "1.35.0"
"""The version that charts are rendered for."""


class Source(NamedTuple):
    """Where one manifest comes from and which resources of it are left out.

    `file` is a manifest, with `more` beside it where a release has several, or a chart's folder that
    is rendered with `values` (`--set`). `patches` (JSON patches, object -> file) are the release's
    own, which its kustomization applies. Without a `module` there is nothing to find: `file` is the
    release of Strimzi whose definitions are made.
    """

    module: str
    file: str
    omit: frozenset[str]
    values: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    patches: Mapping[str, str] = MappingProxyType({})


# Prometheus is told by the estate's own PodMonitor: no annotations, no services to scrape by.
_SCRAPED = frozenset(
    {"ServiceMonitor/cert-manager", "Service/cert-manager", "Service/cert-manager-cainjector"}
)
_CERT_MANAGER = (
    "startupapicheck.enabled=false",
    "global.leaderElection.namespace=platform",
    "prometheus.servicemonitor.enabled=true",
    # Ready two seconds after it answers: every certificate waits for it.
    "webhook.readinessProbe.initialDelaySeconds=1",
    "webhook.readinessProbe.periodSeconds=2",
    "webhook.livenessProbe.initialDelaySeconds=10",
    "webhook.livenessProbe.failureThreshold=6",
)

SOURCES = {
    "cert-manager-1.11.5": Source(
        "github.com/cert-manager/cert-manager@v1.11.5",
        "deploy/charts/cert-manager",
        _SCRAPED,
        (*_CERT_MANAGER, "installCRDs=true"),
    ),
    "cert-manager-1.21.2": Source(
        "github.com/cert-manager/cert-manager@v1.21.2",
        "deploy/charts/cert-manager",
        _SCRAPED,
        (*_CERT_MANAGER, "crds.enabled=true"),
    ),
    "cloudnative-pg-1.30.0": Source(
        "github.com/cloudnative-pg/cloudnative-pg@v1.30.0",
        "releases/cnpg-1.30.0.yaml",
        # The estate makes its own namespaces, with Pod Security labels.
        frozenset({"Namespace/cnpg-system"}),
    ),
    "plugin-barman-cloud-0.15.0": Source(
        "github.com/cloudnative-pg/plugin-barman-cloud@v0.15.0",
        "manifest.yaml",
        frozenset(
            {
                # The estate's own authority issues both certificates (barman_cloud.py).
                "Issuer/selfsigned-issuer",
                "Certificate/barman-cloud-client",
                "Certificate/barman-cloud-server",
                # The name of the sidecar's image, which is no secret and pinned in versions.toml.
                "Secret/plugin-barman-cloud-8tfddg42gf",
                # Metrics behind the API server's judgement: nobody reads them here.
                "ClusterRole/barman-plugin-metrics-auth-role",
                "ClusterRole/barman-plugin-metrics-reader",
                "ClusterRoleBinding/barman-plugin-metrics-auth-rolebinding",
                # For people; nobody is bound to them.
                "ClusterRole/barman-plugin-objectstore-editor-role",
                "ClusterRole/barman-plugin-objectstore-viewer-role",
            }
        ),
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
    # 2.20.2: of the releases that the proxy has, the newest but one, whose images' digests are public.
    "keda-2.20.2": Source(
        "github.com/kedacore/keda/v2@v2.20.2",
        "config/crd/bases/keda.sh_scaledobjects.yaml",
        # Its rights are declared in keda.py, for the namespaces that are scaled alone.
        frozenset(),
        more=(
            "config/crd/bases/keda.sh_scaledjobs.yaml",
            "config/crd/bases/keda.sh_triggerauthentications.yaml",
            "config/crd/bases/keda.sh_clustertriggerauthentications.yaml",
            "config/crd/bases/eventing.keda.sh_cloudeventsources.yaml",
            "config/crd/bases/eventing.keda.sh_clustercloudeventsources.yaml",
            "config/manager/manager.yaml",
            "config/manager/service.yaml",
            "config/metrics-server/deployment.yaml",
            "config/metrics-server/service.yaml",
            "config/metrics-server/api_service.yaml",
        ),
        patches={
            "CustomResourceDefinition/scaledobjects.keda.sh": (
                "config/crd/patches/scaledobject_patch.yaml"
            ),
            "CustomResourceDefinition/scaledjobs.keda.sh": "config/crd/patches/scaledjob_patch.yaml",
        },
    ),
    # The definition alone; the operator and its rights are declared in mongodb_operator.py.
    "mongodb-community-0.13.0": Source(
        "github.com/mongodb/mongodb-kubernetes-operator@v0.13.0",
        "config/crd/bases/mongodbcommunity.mongodb.com_mongodbcommunity.yaml",
        frozenset(),
    ),
    # 1.18.8: of the releases that the proxy has, the newest that the checksum database knows.
    "rook-1.18.8": Source(
        "github.com/rook/rook@v1.18.8",
        "deploy/examples/crds.yaml",
        frozenset(
            {
                # The estate makes its own namespaces, with Pod Security labels.
                "Namespace/rook-ceph",
                # COSI: the estate declares its buckets itself.
                "ClusterRole/objectstorage-provisioner-role",
                "ClusterRoleBinding/objectstorage-provisioner-role-binding",
                "ServiceAccount/objectstorage-provisioner",
            }
        ),
        more=("deploy/examples/common.yaml", "deploy/examples/operator.yaml"),
    ),
    "strimzi-1.2.0": Source("", "1.2.0", frozenset()),
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


def patched(item: Any, patch: list[dict[str, Any]]) -> Any:
    """The object after a JSON patch (RFC 6902) of `add` and `remove`; KeyError where it differs."""
    for step in patch:
        *parents, last = step["path"].lstrip("/").split("/")
        at = item
        for name in parents:
            at = at[int(name)] if isinstance(at, list) else at[name]
        if step["op"] == "remove":
            del at[last]
        elif step["op"] != "add":
            raise KeyError(f"{step['op']} at {step['path']}: only add and remove are known here")
        elif last == "-":
            at.append(step["value"])
        else:
            at[last] = step["value"]
    return item


def convert(
    text: str, omit: frozenset[str], patches: Mapping[str, list[dict[str, Any]]]
) -> Iterator[dict[str, Any]]:
    """The objects of a manifest, patched and stripped, without those of `omit` (`Kind/name`)."""
    for item in yaml.load_all(text, Loader=_Loader):
        name = f"{item['kind']}/{item['metadata']['name']}" if item else ""
        if item and name not in omit:
            item = patched(item, patches.get(name, []))
            yield strip(item) if item["kind"] == "CustomResourceDefinition" else item


def chart(name: str, source: Source, cache: Path) -> str:
    """A chart of a module, rendered; its version is the module's, as at its release."""
    version = source.module.rpartition("@")[2]
    folder = cache / source.module / source.file
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, folder.name)
        shutil.copytree(folder, copy)
        (copy / "templates").chmod(0o755)
        if not (copy / "Chart.yaml").exists():  # before 1.15: completed when it was released
            shutil.copyfile(copy / "Chart.template.yaml", copy / "Chart.yaml")
            for definition in (folder.parents[1] / "crds").glob("*.yaml"):
                shutil.copy(definition, copy / "templates")
        text = (copy / "Chart.yaml").read_text().replace("v0.1.0", version)
        (copy / "Chart.yaml").chmod(0o644)
        (copy / "Chart.yaml").write_text(text.replace("v0.0.0", version))
        helm = ["helm"] if shutil.which("helm") else ["go", "run", HELM]
        release = name.rpartition("-")[0]
        command = [*helm, "template", release, str(copy), "--namespace", "platform"]
        command += ["--kube-version", KUBERNETES, "--api-versions", "monitoring.coreos.com/v1"]
        command += [word for value in source.values for word in ("--set", value)]
        return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def render(name: str, cache: Path) -> str:
    """The text of `<name>.yaml`; OSError when the module is not in the cache."""
    source = SOURCES[name]
    origin, made = f"{source.file} of Go module {source.module}", ""
    if not source.module:
        text = strimzi.definitions(source.file)
        origin = f"the kinds of io.strimzi:api:{source.file}"
        made = f"made by io.strimzi:crd-generator:{source.file}, "
    elif source.values:
        text = chart(name, source, cache)
        made = "rendered by Helm, "
    else:
        files = [cache / source.module / file for file in (source.file, *source.more)]
        text = "\n---\n".join(file.read_text() for file in files)
        origin = f"{', '.join((source.file, *source.more))} of Go module {source.module}"
    head = (
        f"# {name}: {origin},\n"
        f"# {made}schema descriptions stripped.\n"
        "# Made by components/manifests/vendor.py; do not edit.\n---\n"
    )
    patches = {
        name: yaml.load((cache / source.module / file).read_text(), Loader=_Loader)
        for name, file in source.patches.items()
    }
    body = yaml.dump_all(
        convert(text, source.omit, patches), Dumper=yaml.CSafeDumper, sort_keys=False, width=100
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
