from __future__ import annotations

from typing import Any

from components.model import Image
from components.platform.cert_manager import vendored
from components.platform.config import CertManagerConfig
from components.platform.release import annotate, logical_name

IMAGES = {
    f"cert_manager_{program}": Image(
        repository=f"quay.io/jetstack/cert-manager-{program}",
        tag="v1.11.5",
        digest="sha256:" + "0" * 64,
    )
    for program in ("controller", "webhook", "cainjector")
}


def _deployment(name: str) -> dict[str, Any]:
    container = {"name": "c", "image": "x", "securityContext": {}}
    pod = {"securityContext": {}, "containers": [container]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "platform"},
        "spec": {"template": {"spec": pod}},
    }


def test_names_are_unique_by_kind_and_namespace() -> None:
    assert logical_name(_deployment("a")) == "deployment-platform-a"


def test_annotations_are_added_and_the_original_is_kept() -> None:
    body = {"metadata": {"name": "a", "annotations": {"x": "1"}}}
    assert annotate(body, {"y": "2"})["metadata"]["annotations"] == {"x": "1", "y": "2"}
    assert body["metadata"]["annotations"] == {"x": "1"}


def test_a_deployment_gets_digest_resources_and_a_command() -> None:
    original = _deployment("cert-manager")
    own = original["spec"]["template"]["spec"]["containers"][0]
    own |= {"ports": [{"name": "http-metrics"}], "livenessProbe": {"periodSeconds": 7}}
    body = vendored(original, CertManagerConfig(), IMAGES)
    container = body["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == IMAGES["cert_manager_controller"].ref
    assert container["command"] == ["/app/cmd/controller/controller"]
    assert container["resources"]["limits"] == {"memory": "192Mi"}
    assert container["readinessProbe"]["httpGet"]["port"] == 9402
    assert container["livenessProbe"] == {"periodSeconds": 7}, "the release's own probe is kept"
    assert original["spec"]["template"]["spec"]["containers"][0]["image"] == "x"


def test_a_webhook_counts_as_made_only_when_its_authority_is_injected() -> None:
    body = {"kind": "ValidatingWebhookConfiguration", "metadata": {"name": "w"}}
    found = vendored(body, CertManagerConfig(), IMAGES)["metadata"]["annotations"]
    assert found["pulumi.com/waitFor"] == "jsonpath={.webhooks[0].clientConfig.caBundle}"
