"""Triton's own protocol as far as it is needed here: model control, the golden set, metrics."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from prometheus_client.parser import text_string_to_metric_families

_TIMEOUT_S = (3.0, 20.0)
LOAD_S = 170.0


class TritonError(Exception):
    """What Triton said, or that it said nothing."""


class TritonSilent(TritonError):
    """It did not answer: what it was asked is not known to be done, nor to be refused."""


class TritonTimeout(TritonSilent):
    """It did not answer in time."""


class Triton:
    """One server by its HTTP address."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = requests.Session()
        self._session.trust_env = False

    def live(self) -> bool:
        """Whether it answers."""
        try:
            return self._ask("GET", "/v2/health/live").ok
        except TritonError:
            return False

    def witness(self) -> socket.socket:
        """A connection that ends with this server: who only asks does not see one begin anew.

        Raises OSError.
        """
        place = urlsplit(self._url)
        made = socket.create_connection((place.hostname, place.port), _TIMEOUT_S[0])
        made.setblocking(False)
        return made

    def load(self, model: str) -> None:
        """Read the model's folder and configuration again; in its place until the new is there."""
        self._said(self._ask("POST", f"/v2/repository/models/{model}/load", LOAD_S, json={}))

    def unload(self, model: str) -> None:
        """Serve it no more."""
        self._said(self._ask("POST", f"/v2/repository/models/{model}/unload", json={}))

    def ready(self) -> dict[str, set[int]]:
        """Which versions of which models it serves."""
        answer = self._said(self._ask("POST", "/v2/repository/index", json={"ready": True}))
        found: dict[str, set[int]] = {}
        try:
            for one in answer.json():
                if one.get("state") == "READY" and str(one.get("version", "")).isdigit():
                    found.setdefault(one["name"], set()).add(int(one["version"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise TritonError("the index of models is none") from None
        return found

    def infer(
        self, model: str, version: int, request: Mapping[str, Any]
    ) -> tuple[list[Mapping[str, Any]], float]:
        """The outputs of one request, and after how many milliseconds they came."""
        began = time.monotonic()
        path = f"/v2/models/{model}/versions/{version}/infer"
        answer = self._said(self._ask("POST", path, json=request))
        took = (time.monotonic() - began) * 1000
        try:
            outputs = answer.json()["outputs"]
        except (ValueError, KeyError, TypeError):
            outputs = None
        if not isinstance(outputs, list) or not all(isinstance(one, dict) for one in outputs):
            raise TritonError("the answer has no outputs")
        return outputs, took

    def _ask(
        self, method: str, path: str, timeout_s: float = _TIMEOUT_S[1], json: Any = None
    ) -> requests.Response:
        try:
            return self._session.request(
                method, self._url + path, json=json, timeout=(_TIMEOUT_S[0], timeout_s)
            )
        except requests.ReadTimeout:
            raise TritonTimeout(f"Triton does not answer within {timeout_s:g} s") from None
        except requests.RequestException as error:
            raise TritonSilent(f"Triton does not answer: {type(error).__name__}") from None

    def _said(self, answer: requests.Response) -> requests.Response:
        if answer.ok:
            return answer
        try:
            words = str(answer.json()["error"])
        except (ValueError, KeyError, TypeError):
            words = answer.text
        raise TritonError(f"{' '.join(words.split())[:400] or answer.reason}")


def ended(witness: socket.socket) -> bool:
    """Whether the server that it was made to is gone."""
    try:
        return not witness.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def failures(metrics: str) -> dict[tuple[str, str], int]:
    """(model, version) -> requests that Triton could not answer. Raises ValueError.

    Who went away without an answer (CANCELED) is no failure of the version.
    """
    found: dict[tuple[str, str], int] = {}
    for sample in _samples(metrics, "nv_inference_request_failure"):
        key = sample.labels.get("model", ""), sample.labels.get("version", "")
        counts = sample.labels.get("reason") != "CANCELED"
        found[key] = found.get(key, 0) + (int(sample.value) if counts else 0)
    return found


def _samples(metrics: str, name: str) -> list[Any]:
    wanted = "\n".join(
        line for line in metrics.splitlines() if re.match(rf"(# (HELP|TYPE) )?{name}\b", line)
    )
    families = text_string_to_metric_families(wanted + "\n")
    return [sample for family in families for sample in family.samples]
