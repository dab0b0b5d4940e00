from __future__ import annotations

import datetime
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fastapi.testclient import TestClient
from moto import mock_aws

from services.console import app, tokens
from services.console.health import Watch
from services.console.lake import Lake
from services.console.settings import Role, Settings
from tests.loopback import free_port

TABLES = Path(__file__).parents[4] / "services" / "pipeline" / "migrations" / "0001_catalogue.sql"


@dataclass
class KeyPair:
    """A private key, and a certificate with its public half."""

    key: bytes
    certificate: Path


def key_pair(folder: Path, name: str) -> KeyPair:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{name}.crt"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return KeyPair(private, file)


@pytest.fixture(scope="session")
def estate_key(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return key_pair(tmp_path_factory.mktemp("issuer"), "estate")


@pytest.fixture(scope="session")
def bearer(estate_key: KeyPair) -> Callable[[Role], dict[str, str]]:
    def made(role: Role) -> dict[str, str]:
        # A subject of its own for each test: allowances are per subject.
        subject = secrets.token_hex(4)
        return {"Authorization": f"Bearer {tokens.issue(estate_key.key, subject, role)}"}

    return made


@pytest.fixture
def settings(tmp_path: Path, estate_key: KeyPair) -> dict[str, Any]:
    """Settings without any backend."""
    return {
        "tls_certificate": "unused",
        "tls_key": "unused",
        "trust": "unused",
        "issuers": [
            {
                "issuer": tokens.ISSUER,
                "audience": tokens.AUDIENCE,
                "algorithms": [tokens.ALGORITHM],
                "certificate": str(estate_key.certificate),
            }
        ],
    }


@pytest.fixture
def client(settings: dict[str, Any]) -> Iterator[TestClient]:
    yield from opened(settings)


def opened(
    settings: dict[str, Any], lake: Callable[[Settings], Lake] = Lake
) -> Iterator[TestClient]:
    read = Settings.model_validate(settings)
    made = lake(read)
    watch = Watch(made.declared, every_s=0.5)
    with TestClient(app.api(read, made, watch), raise_server_exceptions=False) as client:
        yield client


# -- real servers ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A PostgreSQL of its own with the catalogue's tables; it does not run as root."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("no PostgreSQL on this machine")
    # Below the folder of this session nobody else may look.
    folder = Path("/tmp") / f"estate-console-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o700)
    user: dict[str, Any] = {}
    if os.getuid() == 0:
        shutil.chown(folder, "nobody")
        user = {"user": "nobody"}
    port = free_port()
    initdb: list[str | Path] = [
        found[-1] / "initdb",
        "-D",
        folder / "data",
        "-U",
        "owner",
        "-A",
        "trust",
        "--no-sync",
    ]
    subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **user)
    options = ["-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1"]
    server = subprocess.Popen(
        [found[-1] / "postgres", "-D", folder / "data", *options, "-c", "fsync=off"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **user,
    )
    try:
        ready: list[str | Path] = [
            found[-1] / "pg_isready",
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "-t",
            "5",
        ]
        for _ in range(100):
            if subprocess.run(ready, check=False, capture_output=True).returncode == 0:
                break
            server.poll()
        owner = f"host=127.0.0.1 port={port} user=owner dbname=postgres"
        with psycopg.connect(owner, autocommit=True) as session:
            session.execute("CREATE DATABASE catalogue")
            session.execute("CREATE ROLE console LOGIN")
        with psycopg.connect(f"{owner[:-8]}catalogue", autocommit=True) as session:
            session.execute(TABLES.read_bytes())
            session.execute("GRANT SELECT ON images TO console")
        yield {"port": port, "owner": f"host=127.0.0.1 port={port} user=owner dbname=catalogue"}
    finally:
        server.terminate()
        server.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def s3() -> Iterator[str]:
    """The endpoint of moto's S3."""
    with mock_aws():
        yield "https://s3.us-east-1.amazonaws.com"
