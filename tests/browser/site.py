"""Image transfer as one of its pods runs it, on the loopback, and moto for the object store.

HAProxy, tusd, their configuration, their start scripts and the service's parts are the real ones;
only addresses and folders are changed. Kafka is a list.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from components.datalake import transfer_config as ports
from components.datalake import transfer_files as files
from components.datalake import transfer_proxy as proxy
from components.datalake.object_store import ObjectStore
from components.datalake.transfer_config import TransferConfig
from components.flows import Pods
from rehearsal import paths
from services import tokens
from services.transfer.server import Server
from services.transfer.settings import Settings
from services.transfer.store import connect
from services.transfer.worker import Worker
from tests.browser.programs import Debian
from tests.loopback import free_port
from tests.unit.rehearsal.authority import authority
from tests.unit.services.transfer.test_worker import Told

PAGE = paths.root() / "services" / "transfer" / "page"
CONFIG = TransferConfig(
    replicas=1, upload_mib=64, image_mib=32, megapixels=10, part_mib=5, sweep_s=5
)


class Site:
    """One origin at `url`, whose tusd can be killed."""

    def __init__(
        self, folder: Path, tusd: Path, debian: Debian, packages: Path, from_npm: Path
    ) -> None:
        self._folder, self._processes = folder, dict[str, subprocess.Popen[bytes]]()
        self._path = f"{debian.path}:{tusd.parent}:{os.environ['PATH']}"
        self._port, self._tusd_port, self._s3_port = free_port(), free_port(), free_port()
        self.url = f"https://127.0.0.1:{self._port}/"
        for name in ("tls", "tokens", "s3", "run", "buffer", "page", "proxy"):
            (folder / name).mkdir()
        self._key_pairs()
        for source in (PAGE, from_npm):
            shutil.copytree(source, folder / "page", dirs_exist_ok=True)
        self._store = ObjectStore(
            host="127.0.0.1",
            port=self._s3_port,
            target_port=self._s3_port,
            region="us-east-1",
            secrets={},
            pods=Pods(name="s3", namespace="datalake", selector={"app": "s3"}),
            ready=(),
        )
        self.told = Told()
        try:
            self._start(packages)
        except BaseException:
            self.close()
            raise

    def _key_pairs(self) -> None:
        """The server's, which signs itself, and that of the tokens, as Secrets have them."""
        for name in ("tls", "tokens"):
            folder = self._folder / name
            authority(folder, "127.0.0.1")
            (folder / "tls.crt").write_bytes((folder / "ca.crt").read_bytes())
            # As the proxy finds it: beside the certificate.
            (folder / "ca.key").rename(folder / "tls.key")
        for name in ("access-key", "secret-key"):
            (self._folder / "s3" / name).write_text("transfer")

    def token(self, lifetime_s: float = tokens.LIFETIME_S) -> str:
        """A token for the door; with a lifetime below 0 it has expired."""
        key = (self._folder / "tokens" / "tls.key").read_bytes()
        return tokens.issue(key, "test", lifetime_s=lifetime_s)

    # -- its parts ---------------------------------------------------------------------------------

    def _start(self, packages: Path) -> None:
        tls = self._folder / "tls"
        self._run(
            "moto",
            *(sys.executable, "-P", "-m", "moto.server", "-H", "127.0.0.1"),
            *("-p", str(self._s3_port), "-c", str(tls / "tls.crt"), "-k", str(tls / "tls.key")),
            environment={"PYTHONPATH": str(packages), "PATH": os.environ["PATH"]},
        )
        self._listens(self._s3_port, "moto")
        settings = Settings.model_validate_json(self._here(files.settings(CONFIG, self._store, "")))
        self.store = connect(settings)
        self.s3 = self.store._client
        self.s3.create_bucket(Bucket=ports.BUCKET)
        self._worker = Worker(self.store, self.told, settings.limits, sweep_s=settings.sweep_s)
        self._worker.start()
        self._server = Server(
            0,
            limits=settings.limits,
            page=settings.page,
            finished=self._worker.add,
            receipt=self.store.receipt,
        )
        threading.Thread(target=self._server.serve, daemon=True).start()
        self.start_tusd()
        configuration = self._folder / "proxy" / "haproxy.cfg"
        configuration.write_text(self._here(proxy.haproxy_cfg(CONFIG, "transfer", "pods", "lake")))
        self._run(
            *("proxy", "sh", "-c", self._here(proxy.SERVE)),
            environment={"PATH": self._path, "HOSTNAME": "transfer-0"},
        )
        self._listens(self._port, "proxy")

    def _here(self, text: str) -> str:
        """A text of the pod with this machine's folders and ports."""
        folder = self._folder
        changes = {
            proxy.TLS: folder / "tls",
            proxy.TRUST: folder / "tls",
            proxy.TOKENS: folder / "tokens",
            proxy.CONFIG: folder / "proxy",
            proxy.RUN: folder / "proxy",
            files.S3: folder / "s3",
            files.KAFKA: folder / "s3",
            files.TRUST: folder / "tls",
            files.RUN: folder / "run",
            files.BUFFER: folder / "buffer",
            files.PAGE: folder / "page",
            f"bind :{ports.CLIENTS_PORT} ": f"bind 127.0.0.1:{self._port} ",
            f"bind :{ports.PEERS_PORT} ": f"bind 127.0.0.1:{free_port()} ",
            f"bind :{ports.METRICS_PORT} ": f"bind 127.0.0.1:{free_port()} ",
            f":{ports.TUSD_PORT}": f":{self._tusd_port}",
            f"-port {ports.TUSD_PORT} ": f"-port {self._tusd_port} ",
        }
        if hasattr(self, "_server"):
            changes[f":{ports.SERVICE_PORT}"] = f":{self._server.port}"
        any_of = "|".join(map(re.escape, changes))
        return re.sub(any_of, lambda found: str(changes[found[0]]), text)

    def start_tusd(self) -> None:
        """Start tusd as its container does."""
        variables = files.tusd_environment(self._store)
        self._run(
            *("tusd", "bash", "-c", self._here(files.tusd_start(CONFIG, self._store))),
            environment={
                **{key: self._here(value) for key, value in variables.items()},
                "PATH": self._path,
            },
        )
        self._listens(self._tusd_port, "tusd")

    def kill_tusd(self) -> None:
        """End tusd, and the script that would start it again, by kill -9."""
        self._kill("tusd")

    def _run(self, name: str, *command: str, environment: Mapping[str, str]) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def _kill(self, name: str) -> None:
        process = self._processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _listens(self, port: int, name: str) -> None:
        def answers() -> bool:
            if self._processes[name].poll() is not None:
                raise AssertionError(f"{name} has ended: {self.log(name)}")
            with socket.socket() as one:
                return one.connect_ex(("127.0.0.1", port)) == 0

        until(answers, lambda: f"{name}: {self.log(name)}", seconds=60)

    def log(self, name: str) -> str:
        """The end of what a part has written."""
        return (self._folder / f"{name}.log").read_text()[-3000:]

    def close(self) -> None:
        """End every part."""
        if hasattr(self, "_server"):
            self._server.stop()
        if hasattr(self, "_worker"):
            self._worker.stop()
        for name in list(self._processes):
            self._kill(name)

    # -- what it has stored ------------------------------------------------------------------------

    def parts(self) -> int:
        """How many parts of unfinished uploads the store has."""
        found = self.s3.list_multipart_uploads(Bucket=ports.BUCKET).get("Uploads", [])
        return sum(
            len(self.s3.list_parts(Bucket=ports.BUCKET, **of).get("Parts", []))
            for of in ({"Key": one["Key"], "UploadId": one["UploadId"]} for one in found)
        )

    def stored(self) -> list[bytes]:
        """The content of all finished uploads, oldest first."""
        finished, _ = self.store.uploads("")
        keys = (f"uploads/{one.id}" for one in finished)
        return [self.store.open(key).read() for key in keys]


def until(
    true: Callable[[], bool],
    what: Callable[[], str],
    *,
    seconds: float = 30,
    wait: Callable[[float], object] = time.sleep,
) -> None:
    """Wait for something; `wait` is how, where others must go on meanwhile."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what()}"
        wait(0.1)
