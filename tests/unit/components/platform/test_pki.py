"""Generations of the authority: what each of the three deployments of a rotation declares."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

import pytest
from pydantic import ValidationError

from components.platform.config import PkiConfig
from tests.rendering import ROOT, Rendered, render

PROGRAM = """
import json, sys
from tests import rendering
whole = rendering.load
def load(file):
    environment = whole(file)
    pki = type(environment.pki).model_validate({**environment.pki.model_dump(), **%s})
    return environment.model_copy(update={"pki": pki})
rendering.load = load
json.dump(rendering._run("local"), sys.stdout)
"""


def rendered(**pki: Any) -> Rendered:
    """The local environment with this `pki`; a program once for all tests."""
    return _rendered(repr(pki))


@cache
def _rendered(pki: str) -> Rendered:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM % pki],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Rendered(**json.loads(done.stdout))


def signers(program: Rendered) -> set[tuple[str, str]]:
    """(kind, name) of the issuers of all certificates that are no authorities."""
    return {
        (body["spec"]["issuerRef"]["kind"], body["spec"]["issuerRef"]["name"])
        for body in program.objects("Certificate")
        if not body["spec"].get("isCA")
    }


def authorities(program: Rendered) -> set[str]:
    return {
        body["metadata"]["name"]
        for body in program.objects("Certificate")
        if body["spec"].get("isCA")
    }


def bundle(program: Rendered) -> int:
    return str(program.object("ConfigMap", "estate-ca")["data"]["ca.crt"]).count("CERTIFICATE")


def test_the_first_generation_has_the_names_it_always_had() -> None:
    program = render("local")
    assert authorities(program) == {"estate-ca", "kafka-internal-ca"}
    assert signers(program) == {("ClusterIssuer", "estate-ca"), ("Issuer", "kafka-internal")}
    assert bundle(program) == 1


def test_the_next_generation_is_trusted_before_it_signs() -> None:
    program = rendered(also_trusted=[2])
    assert authorities(program) == {
        *("estate-ca", "estate-ca-2"),
        *("kafka-internal-ca", "kafka-internal-ca-2"),
    }
    assert signers(program) == signers(render("local"))
    assert bundle(program) == 2
    assert program.object("Certificate", "kafka-internal-ca-2")["spec"]["issuerRef"]["name"] == (
        "estate-ca-2"
    )
    volumes = program.object("StatefulSet", "kafka")["spec"]["template"]["spec"]["volumes"]
    trusted = next(one for one in volumes if one["name"] == "tls-internal-ca")
    assert [one["secret"]["name"] for one in trusted["projected"]["sources"]] == [
        "kafka-internal-ca",
        "kafka-internal-ca-2",
    ]


def test_the_former_one_is_trusted_while_the_next_signs_and_then_gone() -> None:
    signing = rendered(generation=2, also_trusted=[1])
    assert authorities(signing) == authorities(rendered(also_trusted=[2]))
    assert signers(signing) == {("ClusterIssuer", "estate-ca-2"), ("Issuer", "kafka-internal-2")}
    assert bundle(signing) == 2
    # Brokers take their new certificates in turns by themselves: not a second restart beside it.
    before = rendered(also_trusted=[2]).object("StatefulSet", "kafka")["spec"]
    assert signing.object("StatefulSet", "kafka")["spec"] == before
    alone = rendered(generation=2)
    assert authorities(alone) == {"estate-ca-2", "kafka-internal-ca-2"}
    assert signers(alone) == signers(signing)
    assert bundle(alone) == 1


def test_authorities_differ_in_name_and_share_the_rest() -> None:
    program = rendered(also_trusted=[2])
    first, second = (program.object("Certificate", f"estate-ca{n}")["spec"] for n in ("", "-2"))
    assert first["commonName"] != second["commonName"]
    assert first["privateKey"] == second["privateKey"]
    assert {first["secretName"], second["secretName"]} == {"estate-ca", "estate-ca-2"}


@pytest.mark.parametrize("also", [[1], [2, 2], [0]])
def test_a_generation_is_named_once(also: list[int]) -> None:
    with pytest.raises(ValidationError):
        PkiConfig(also_trusted=also)
