"""ConfigMaps and pods of the namespace, by the Kubernetes API."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import urllib3
from kubernetes import client, config, watch

from services.serving.model import POOL_LABEL, TRACK_LABEL

_log = logging.getLogger("serving")
_WATCH_S = 240
_TIMEOUT_S = 10
FAILURES = (client.ApiException, urllib3.exceptions.HTTPError, OSError)
"""What asking the API can raise; it is asked again."""


@dataclass(frozen=True)
class Pod:
    """A pod that runs and is not about to end."""

    name: str
    address: str
    ready: bool
    pool: str
    track: str


class Cluster:
    """One namespace, as the pod's service account may see it."""

    def __init__(self, namespace: str) -> None:
        config.load_incluster_config()  # type: ignore[no-untyped-call]
        self._namespace = namespace
        # Its types say that everything may be missing.
        self._api: Any = client.CoreV1Api()

    def config_map(self, name: str) -> dict[str, str] | None:
        """Its data; None when it is not there. Raises one of FAILURES."""
        try:
            found = self._api.read_namespaced_config_map(
                name, self._namespace, _request_timeout=_TIMEOUT_S
            )
        except client.ApiException as error:
            if error.status == 404:
                return None
            raise
        return dict(found.data or {})

    def write_config_map(self, name: str, data: Mapping[str, str]) -> None:
        """Make it, or replace its data. Raises one of FAILURES."""
        body = {
            "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "estate"}},
            "data": dict(data),
        }
        try:
            self._api.replace_namespaced_config_map(
                name, self._namespace, body, _request_timeout=_TIMEOUT_S
            )
        except client.ApiException as error:
            if error.status != 404:
                raise
            self._api.create_namespaced_config_map(
                self._namespace, body, _request_timeout=_TIMEOUT_S
            )

    def labelled(self, label: str) -> dict[str, dict[str, str]]:
        """The data of every ConfigMap that has a label, by name. Raises one of FAILURES."""
        found = self._api.list_namespaced_config_map(
            self._namespace, label_selector=label, _request_timeout=_TIMEOUT_S
        )
        return {one.metadata.name: dict(one.data or {}) for one in found.items}

    def pods(self, selector: str) -> list[Pod]:
        """Those with an address, by name. Raises one of FAILURES."""
        found = self._api.list_namespaced_pod(
            self._namespace, label_selector=selector, _request_timeout=_TIMEOUT_S
        )
        return sorted(
            (
                _pod(one)
                for one in found.items
                if one.status.pod_ip
                and one.metadata.deletion_timestamp is None
                and one.status.phase == "Running"
            ),
            key=lambda pod: pod.name,
        )

    def watching(self, changed: Callable[[], None], **selector: str) -> None:
        """Call `changed` whenever a ConfigMap of a selector may have: from a thread, for ever."""

        def follow() -> None:
            while True:
                try:
                    # Without a version of its own each begins with what is there: whatever
                    # came between two of them (410 Gone, too) is told of.
                    for _ in watch.Watch().stream(  # type: ignore[no-untyped-call]
                        self._api.list_namespaced_config_map,
                        self._namespace,
                        timeout_seconds=_WATCH_S,
                        _request_timeout=(_TIMEOUT_S, _WATCH_S + 30),
                        **selector,
                    ):
                        changed()
                except Exception as error:  # the watch makes it quicker; nobody depends on it
                    _log.warning("watching ConfigMaps: %s", " ".join(str(error).split())[:200])
                threading.Event().wait(1)

        threading.Thread(target=follow, name="watch", daemon=True).start()


def _pod(found: Any) -> Pod:
    conditions = found.status.conditions or []
    labels = found.metadata.labels or {}
    return Pod(
        name=found.metadata.name,
        address=found.status.pod_ip,
        ready=any(one.type == "Ready" and one.status == "True" for one in conditions),
        pool=labels.get(POOL_LABEL, ""),
        track=labels.get(TRACK_LABEL, ""),
    )
