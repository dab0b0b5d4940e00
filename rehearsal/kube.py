"""The few calls on a rehearsal's Kubernetes API that take any kind of object.

The official client has a class per kind; what is declared, broken and restored here is whatever the
program declares, so objects stay plain JSON and their path comes from the API's own discovery.
"""

from __future__ import annotations

import calendar
import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import requests
import yaml
from urllib3.util import Retry

from rehearsal.errors import EstateError

Object = dict[str, Any]
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
# "Try again": an API server that has just started says so while its caches fill (Retry-After: 1),
# and has not looked at the request, so any method may be sent again; client-go does the same.
_BUSY = Retry(
    total=20,
    connect=0,
    read=0,
    other=0,
    status_forcelist=(429,),
    allowed_methods=None,
    raise_on_status=False,
    backoff_factor=0.2,
    backoff_max=1,
)
_CHUNK = 64 * 1024
_GRACE_S = 5  # enough to end in order; programs that ignore SIGTERM are not waited for


class ApiError(Exception):
    """The API's answer was an error; `status` is the HTTP status, 0 when nothing answered."""

    def __init__(self, status: int, message: str) -> None:
        """Keep the status; the text is the API's own."""
        super().__init__(message)
        self.status = status


class Api:
    """The API behind a kubeconfig with client certificate files; usable by several threads."""

    def __init__(self, kubeconfig: Path, *, manager: str = "estate", timeout_s: float = 20) -> None:
        try:
            document = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
            cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
        except (OSError, TypeError, KeyError, IndexError, yaml.YAMLError) as error:
            raise EstateError(f"kubeconfig {kubeconfig}", error, "run: ./estate up") from None
        self._server = str(cluster["server"])
        self._manager = manager
        self._timeout_s = timeout_s
        self._kinds: dict[str, dict[str, Object]] = {}
        self._lock = threading.Lock()
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy of the user's leads away from loopback
        self._session.verify = cluster["certificate-authority"]
        self._session.cert = (user["client-certificate"], user["client-key"])
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=32, max_retries=_BUSY)
        self._session.mount(self._server, adapter)

    def request(
        self,
        method: Literal["GET", "POST", "PATCH", "DELETE"],
        path: str,
        body: object = None,
        *,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Any:
        """One request; returns the answer's JSON. Raises ApiError."""
        try:
            answer = self._session.request(
                method,
                self._server + path,
                params=dict(query or {}),
                data=None if body is None else json.dumps(body),
                headers={"Content-Type": content_type, "Accept": "application/json"},
                timeout=self._timeout_s,
            )
        except requests.RequestException as error:
            raise ApiError(0, f"the Kubernetes API does not answer: {error}") from None
        if answer.status_code >= 400:
            try:
                message = str(answer.json()["message"])
            except (ValueError, KeyError, TypeError):
                message = answer.text[:300]
            raise ApiError(answer.status_code, message)
        return answer.json()

    def path(
        self, api_version: str, kind: str, namespace: str | None = None, name: str | None = None
    ) -> str:
        """The path of an object, or of a kind's collection. Raises ApiError for an unknown kind."""
        base = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
        with self._lock:
            known = self._kinds.get(api_version)
        if known is None:
            found = self.request("GET", base)["resources"]
            known = {entry["kind"]: entry for entry in found if "/" not in entry["name"]}
            with self._lock:
                self._kinds[api_version] = known
        if kind not in known:
            raise ApiError(404, f"the API has no {kind} in {api_version}")
        entry = known[kind]
        within = f"/namespaces/{quote(namespace)}" if namespace and entry["namespaced"] else ""
        return f"{base}{within}/{entry['name']}" + (f"/{quote(name)}" if name else "")

    def path_of(self, body: Mapping[str, Any]) -> str:
        """The path of the object that `body` describes."""
        metadata = body["metadata"]
        namespace = metadata.get("namespace", "default")
        return self.path(body["apiVersion"], body["kind"], namespace, metadata["name"])

    def get(self, path: str) -> Object | None:
        """The object at a path, None when there is none."""
        try:
            found: Object = self.request("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return found

    def items(self, api_version: str, kind: str, **query: str) -> list[Object]:
        """All objects of a kind in every namespace; none where the kind itself is unknown."""
        try:
            found = self.request("GET", self.path(api_version, kind), query=query)
        except ApiError as error:
            if error.status == 404:
                return []
            raise
        return [{"apiVersion": api_version, "kind": kind, **item} for item in found["items"]]

    @contextlib.contextmanager
    def watching(self, path: str, seconds: int, **query: str) -> Iterator[Iterator[Object]]:
        """A collection's watch events, from those that make its present state on.

        It is open when the context is entered, and ends by itself after `seconds`. Raises ApiError.
        """
        asked = {**query, "watch": "1", "timeoutSeconds": str(seconds)}
        try:
            with self._session.get(
                self._server + path,
                params=asked,
                stream=True,
                timeout=(self._timeout_s, seconds + self._timeout_s),
            ) as answer:
                if answer.status_code >= 400:
                    raise ApiError(answer.status_code, answer.text[:300])
                yield (json.loads(line) for line in answer.iter_lines(_CHUNK) if line)
        except requests.RequestException as error:
            raise ApiError(0, f"the Kubernetes API does not answer: {error}") from None

    def merge(self, path: str, patch: object) -> Object:
        """Apply a JSON merge patch."""
        query = {"fieldManager": self._manager}
        done: Object = self.request("PATCH", path, patch, content_type=MERGE_PATCH, query=query)
        return done

    def dry_apply(self, body: Mapping[str, Any]) -> Object:
        """What the object would be after a server-side apply of `body`; nothing is changed."""
        query = {"fieldManager": self._manager, "force": "true", "dryRun": "All"}
        path = self.path_of(body)
        done: Object = self.request("PATCH", path, body, content_type=APPLY_PATCH, query=query)
        return done

    def restart(self, namespace: str, selector: str) -> None:
        """Delete the pods that a label selector names; their controller makes new ones."""
        path = self.path("v1", "Pod", namespace)
        query = {"labelSelector": selector, "gracePeriodSeconds": str(_GRACE_S)}
        self.request("DELETE", path, query=query)

    def pods_ready(self, namespace: str, selector: str, not_before: float) -> bool:
        """Whether pods of a selector exist, all made after `not_before` (Unix time) and Ready."""
        query = {"labelSelector": selector}
        pods = self.request("GET", self.path("v1", "Pod", namespace), query=query)["items"]
        return bool(pods) and all(_made(pod) >= not_before - 1.5 and ready(pod) for pod in pods)


def has_condition(body: Mapping[str, Any], kind: str) -> bool:
    """Whether an object's condition of this type is true."""
    conditions = body.get("status", {}).get("conditions", [])
    return any(entry["type"] == kind and entry["status"] == "True" for entry in conditions)


def ready(pod: Mapping[str, Any]) -> bool:
    """Whether a pod is Ready and not about to go."""
    return has_condition(pod, "Ready") and "deletionTimestamp" not in pod["metadata"]


def _made(pod: Mapping[str, Any]) -> float:
    # Whole seconds, UTC, in the one format that the API writes.
    stamp = time.strptime(pod["metadata"]["creationTimestamp"], "%Y-%m-%dT%H:%M:%SZ")
    return float(calendar.timegm(stamp))
