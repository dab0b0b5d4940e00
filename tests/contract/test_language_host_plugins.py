"""The language host against the real engine: policy packs, providers, components."""

from __future__ import annotations

import json
import re
from pathlib import Path

import psutil
import pytest

from tests.contract.engine import Project, needs_pulumi

pytestmark = needs_pulumi

COMPONENT_PLUGIN = """
from typing import Optional, TypedDict
import pulumi
from pulumi.provider.experimental import component_provider_host

class Args(TypedDict):
    size: pulumi.Input[int]

class Box(pulumi.ComponentResource):
    def __init__(self, name: str, args: Args, opts: Optional[pulumi.ResourceOptions] = None):
        super().__init__("box:index:Box", name, {}, opts)
        self.register_outputs({})

component_provider_host(name="box", components=[Box])
"""

PROVIDER_PLUGIN = """
from concurrent import futures
import grpc
from pulumi.runtime.proto import plugin_pb2, provider_pb2 as p, provider_pb2_grpc

class Tiny(provider_pb2_grpc.ResourceProviderServicer):
    def GetPluginInfo(self, request, context):
        return plugin_pb2.PluginInfo(version="0.1.0")
    def CheckConfig(self, request, context):
        return p.CheckResponse(inputs=request.news)
    def DiffConfig(self, request, context):
        return p.DiffResponse()
    def Configure(self, request, context):
        return p.ConfigureResponse(acceptSecrets=True, acceptResources=True, supportsPreview=True)
    def Check(self, request, context):
        return p.CheckResponse(inputs=request.news)
    def Diff(self, request, context):
        return p.DiffResponse(changes=p.DiffResponse.DIFF_NONE)
    def Read(self, request, context):
        return p.ReadResponse(id=request.id, properties={"size": 3}, inputs={"size": 3})

server = grpc.server(futures.ThreadPoolExecutor(4))
provider_pb2_grpc.add_ResourceProviderServicer_to_server(Tiny(), server)
print(server.add_insecure_port("127.0.0.1:0"))
server.start()
server.wait_for_termination()
"""


def test_policy_pack_passes_and_denies(project: Project, tmp_path: Path) -> None:
    pack = tmp_path / "policy"
    pack.mkdir()
    (pack / "PulumiPolicy.yaml").write_text("runtime: python\nversion: 0.1.0\n")
    (pack / "__main__.py").write_text(
        "from pulumi_policy import EnforcementLevel, PolicyPack, ResourceValidationPolicy\n"
        "def check(args, report):\n"
        "    if args.name.startswith('bad'):\n"
        "        report(f'{args.name} is a bad name')\n"
        "PolicyPack('names', [ResourceValidationPolicy('name', 'Names are good.', check,\n"
        "    enforcement_level=EnforcementLevel.MANDATORY)])\n"
    )
    shown = project.pulumi("preview", "--policy-pack", str(pack))
    assert re.search(r"names@v0\.1\.0 \(local: ", shown), shown
    assert "Traceback" not in shown

    project.write("from components.thing import Thing\nThing('bad')\n")
    shown = project.pulumi("preview", "--policy-pack", str(pack), code=1)
    assert "bad is a bad name" in shown
    assert "Traceback" not in shown


def test_broken_policy_pack_is_said(project: Project, tmp_path: Path) -> None:
    pack = tmp_path / "policy"
    pack.mkdir()
    (pack / "PulumiPolicy.yaml").write_text("runtime: python\n")
    (pack / "__main__.py").write_text("raise ValueError('broken pack')\n")
    assert "broken pack" in project.pulumi("preview", "--policy-pack", str(pack), code=1)


def test_import_through_a_provider_plugin(project: Project) -> None:
    plugin = project.root / "tiny"
    plugin.mkdir()
    (plugin / "PulumiPlugin.yaml").write_text("runtime: python\n")
    (plugin / "__main__.py").write_text(PROVIDER_PLUGIN)
    with (project.root / "Pulumi.yaml").open("a") as file:
        file.write("plugins:\n  providers:\n    - name: tiny\n      path: tiny\n")
    project.pulumi("up", "--yes", "--skip-preview")
    shown = project.pulumi(
        "import", "tiny:index:Thing", "one", "id-1", "--yes", "--generate-code=false"
    )
    assert re.search(r"= 1 imported", shown)
    state = json.loads(project.pulumi("stack", "export"))
    found = {item.get("id"): item for item in state["deployment"]["resources"]}
    assert found["id-1"]["outputs"] == {"size": 3}
    assert not [one for one in psutil.process_iter(["cmdline"]) if str(plugin) in str(one.info)]


def test_dynamic_provider(project: Project) -> None:
    project.write(
        "import pulumi\n"
        "from pulumi.dynamic import CreateResult, Resource, ResourceProvider\n"
        "class Provider(ResourceProvider):\n"
        "    def create(self, props):\n"
        "        return CreateResult('id-1', {'size': 3})\n"
        "class Thing(Resource):\n"
        "    size: pulumi.Output[int]\n"
        "pulumi.export('size', Thing(Provider(), 'thing', {'size': None}).size)\n"
    )
    project.pulumi("up", "--yes", "--skip-preview")
    assert json.loads(project.pulumi("stack", "output", "size", "--json")) == 3


def test_kubernetes_provider_renders(project: Project, kubernetes: str, tmp_path: Path) -> None:
    rendered = tmp_path / "rendered"
    project.write(
        "import pulumi, pulumi_kubernetes as k8s\n"
        f"to = k8s.Provider('render', render_yaml_to_directory={str(rendered)!r})\n"
        "k8s.core.v1.ConfigMap('settings', metadata={'name': 'settings'}, data={'a': '1'},\n"
        "    opts=pulumi.ResourceOptions(provider=to))\n"
    )
    shown = project.pulumi("up", "--yes", "--skip-preview")
    assert "warning: using" not in shown
    (manifest,) = rendered.rglob("*configmap*settings*.yaml")
    assert "settings" in manifest.read_text()
    project.pulumi("destroy", "--yes", "--skip-preview")
    listed = json.loads(project.pulumi("plugin", "ls", "--json"))
    assert {(item["name"], item["version"]) for item in listed} == {("kubernetes", kubernetes)}


@pytest.mark.usefixtures("kubernetes")
def test_component_plugin_tells_its_schema(project: Project, tmp_path: Path) -> None:
    plugin = tmp_path / "box"
    plugin.mkdir()
    (plugin / "PulumiPlugin.yaml").write_text("runtime: python\n")
    (plugin / "__main__.py").write_text(COMPONENT_PLUGIN)
    shown = project.pulumi("package", "get-schema", str(plugin))
    assert "box:index:Box" in shown
    shown = project.pulumi("package", "add", str(plugin), code=1)
    assert "generating a package is done by the official pulumi-language-python" in shown
