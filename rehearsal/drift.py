"""What was changed or deleted by hand: the declared objects against the live ones.

`pulumi refresh` reads objects one by one and reports what controllers fill in as well; this asks
for what a person did. Declared is what the stack's state says that the program gave. An object
whose declared fields are all there as given has not drifted; for any other the API server itself
says what applying the declaration would change (a dry run), since only it knows that 1000m is 1.
Fields that nobody declared and kubectl wrote are named too.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from rehearsal.kube import Api, ApiError, Object
from rehearsal.pulumi import is_secret, plain

# What the API server writes into any object.
_SERVERS = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp")
_NAMES = ("name", "namespace")
_MISSING = object()

Place = tuple[str | tuple[tuple[str, Any], ...], ...]
"""Where a field is: names of fields, and for an item of a list its keys and their values."""


@dataclass(frozen=True)
class Drift:
    """One object that is not as declared; `what` says how, with the properties' paths."""

    kind: str
    namespace: str
    name: str
    what: str
    path: str = ""
    added: tuple[Place, ...] = ()

    @property
    def where(self) -> str:
        """Kind and name, as kubectl users write it."""
        return f"{self.kind} {self.namespace + '/' if self.namespace else ''}{self.name}"


@dataclass(frozen=True)
class Declared:
    """One object of the stack; `secret`: it has values that must not be shown."""

    body: Object
    secret: bool
    values: frozenset[str] = field(default=frozenset(), repr=False)
    """The strings in `body` that are secret, as the API server keeps them."""

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name; the namespace of cluster-wide objects is empty."""
        metadata = self.body["metadata"]
        return metadata.get("namespace") or "", metadata["name"]


def declared(resources: Iterable[Mapping[str, Any]]) -> list[Declared]:
    """The Kubernetes objects among a stack's resources, secrets in plain text."""
    found = []
    for resource in resources:
        inputs = resource.get("inputs") or {}
        of_kubernetes = resource.get("type", "").startswith("kubernetes:")
        if not of_kubernetes or not resource.get("custom") or resource.get("delete"):
            continue
        body, secret = plain(inputs)
        if not {"apiVersion", "kind", "metadata"} <= set(body) or "name" not in body["metadata"]:
            continue
        stored = _as_stored(body)
        values = set(_secrets(inputs))
        if stored["kind"] == "Secret":
            values |= set(_strings(stored.get("data")))
        secret = secret or stored["kind"] == "Secret"
        found.append(Declared(stored, secret, frozenset(values)))
    return found


def _secrets(value: Any) -> Iterator[str]:
    """The strings within what Pulumi marks as secret."""
    if is_secret(value):
        yield from _strings(plain(value)[0])
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _secrets(item)


class Sealed(str):
    """What a secret's digest stands for: it equals the value that it was made of, and says nothing.

    A keyed digest, so that nobody without the key can try values.
    """

    PREFIX = "sealed:"
    _key: bytes

    def __new__(cls, text: str, key: bytes) -> Sealed:
        """Take a digest up again that `seal` made with this key."""
        made = super().__new__(cls, text)
        made._key = key
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and hmac.compare_digest(self, _digest(other, self._key))

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


def _digest(value: str, key: bytes) -> str:
    return Sealed.PREFIX + hmac.new(key, value.encode(), "sha256").hexdigest()


def seal(objects: Iterable[Declared], key: bytes) -> list[dict[str, Any]]:
    """The objects as JSON for a file, a digest in the place of each value that is secret."""
    return [{"secret": one.secret, "body": _sealed(one, key)} for one in objects]


def _sealed(item: Declared, key: bytes) -> Object:
    body = item.body
    sealed = _replaced(body, lambda text: _digest(text, key) if text in item.values else text)
    # Where an object is stays legible.
    names = {name: body["metadata"][name] for name in _NAMES if name in body["metadata"]}
    place = {"apiVersion": body["apiVersion"], "kind": body["kind"]}
    return {**sealed, **place, "metadata": {**sealed["metadata"], **names}}


def unseal(entries: Iterable[Mapping[str, Any]], key: bytes) -> list[Declared]:
    """What `seal` wrote: objects to compare with, their secrets as `Sealed`."""

    def again(text: str) -> str:
        return Sealed(text, key) if text.startswith(Sealed.PREFIX) else text

    return [Declared(_replaced(one["body"], again), one["secret"]) for one in entries]


def _replaced(value: Any, of_text: Callable[[str], str]) -> Any:
    """A JSON value with every string in it replaced; not the names of fields."""
    if isinstance(value, Mapping):
        return {key: _replaced(item, of_text) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, of_text) for item in value]
    return of_text(value) if isinstance(value, str) else value


def _opened(want: Any, have: Any) -> Any:
    """A declaration with the live values in the place of its seals, where they are the same."""
    if isinstance(want, Mapping):
        live = have if isinstance(have, Mapping) else {}
        return {key: _opened(item, live.get(key)) for key, item in want.items()}
    if isinstance(want, list):
        items = have if isinstance(have, list) and len(have) == len(want) else [None] * len(want)
        return [_opened(item, other) for item, other in zip(want, items, strict=True)]
    return have if isinstance(want, Sealed) and want == have else want


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(item)
    elif isinstance(value, str):
        yield value


def given(objects: Iterable[Object]) -> list[Declared]:
    """Objects of manifests, which hold no secrets."""
    return [Declared(_as_stored(body), False) for body in objects]


def find(api: Api, objects: Sequence[Declared]) -> list[Drift]:
    """Compare with the live objects. Raises ApiError when the API does not answer."""
    kinds = defaultdict(list)
    for item in objects:
        kinds[item.body["apiVersion"], item.body["kind"]].append(item)
    with ThreadPoolExecutor(8) as pool:
        groups = pool.map(lambda kind: _of_kind(api, kind, kinds[kind]), kinds)
        return sorted((drift for group in groups for drift in group), key=lambda drift: drift.where)


def _of_kind(api: Api, kind_of: tuple[str, str], objects: Sequence[Declared]) -> list[Drift]:
    api_version, kind = kind_of
    if len(objects) == 1 and objects[0].body["metadata"].get("namespace"):
        # One object: a list over all namespaces could bring thousands.
        found = api.get(api.path_of(objects[0].body))
        bodies = [found] if found else []
    else:
        bodies = api.items(api_version, kind)
    live = {(b["metadata"].get("namespace", ""), b["metadata"]["name"]): b for b in bodies}
    by_name = {key[1]: body for key, body in live.items() if not key[0]}
    drifted = []
    for item in objects:
        namespace, name = item.key
        # A provider may note a namespace for cluster-wide kinds too.
        body = live.get((namespace or "default", name)) or by_name.get(name)
        if body is None:
            body = live.get((namespace, name))
        what = compare(api, item, body)
        if what:
            added = tuple(_added_by_kubectl(item.body, body)) if body else ()
            drifted.append(Drift(kind, namespace, name, what, api.path_of(item.body), added))
    return drifted


def take_away(api: Api, drift: Drift) -> None:
    """Remove what a hand added to an object, which an apply would leave. Raises ApiError."""
    if not drift.added or (live := api.get(drift.path)) is None:
        return
    pointers = [pointer for place in drift.added if (pointer := _pointer(live, place))]
    # The last items of a list first, so that the others keep their numbers.
    pointers.sort(key=lambda pointer: [_order(part) for part in pointer], reverse=True)
    patch = [{"op": "remove", "path": "/" + "/".join(map(_escaped, one))} for one in pointers]
    if patch:
        api.request("PATCH", drift.path, patch, content_type="application/json-patch+json")


def _order(part: str | int) -> tuple[int, str]:
    return (part, "") if isinstance(part, int) else (0, part)


def _escaped(part: str | int) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")


def _pointer(value: Any, place: Place) -> list[str | int] | None:
    """The JSON pointer of a place in a live object; None when it is gone."""
    found: list[str | int] = []
    for step in place:
        if isinstance(step, str):
            if not isinstance(value, Mapping) or step not in value:
                return None
            found.append(step)
            value = value[step]
        else:
            items = value if isinstance(value, list) else []
            at = next((i for i, item in enumerate(items) if _has_keys(item, dict(step))), None)
            if at is None:
                return None
            found.append(at)
            value = items[at]
    return found


def compare(api: Api, item: Declared, live: Object | None) -> str:
    """What is different about one object; empty when nothing is."""
    if live is None:
        return "deleted by hand"
    if "deletionTimestamp" in live["metadata"]:
        return "is being deleted"
    changed: list[str] = []
    if list(differences(item.body, live, subset=True)):
        try:
            wanted = api.dry_apply(_opened(item.body, live))
        except ApiError as error:
            if error.status != 400:
                raise  # no answer, or a webhook that does not answer: nobody can say
            wanted = item.body  # a webhook that knows no dry run: then by the letter
        subset = wanted is item.body
        for path, want, have in differences(_bare(wanted), _bare(live), subset=subset):
            changed.append(_worded(path, want, have, show=not item.secret))
    added = [f"{_named(place)} added" for place in _added_by_kubectl(item.body, live)]
    words = changed + [line for line in added if line not in changed]
    return "changed by hand: " + ", ".join(words) if words else ""


def differences(
    want: object, have: object, *, subset: bool, path: str = ""
) -> Iterator[tuple[str, object, object]]:
    """Paths at which two JSON values differ; with `subset` only for what `want` has."""
    if isinstance(want, Mapping) and isinstance(have, Mapping):
        for key in want if subset else sorted({*want, *have}):
            yield from differences(
                want.get(key, _MISSING),
                have.get(key, _MISSING),
                subset=subset,
                path=f"{path}.{key}" if path else str(key),
            )
    elif isinstance(want, list) and isinstance(have, list) and len(want) == len(have):
        for index, (one, other) in enumerate(zip(want, have, strict=True)):
            name = one.get("name", index) if isinstance(one, Mapping) else index
            yield from differences(one, other, subset=subset, path=f"{path}[{name}]")
    elif want != have:
        yield path, want, have


def _worded(path: str, want: object, have: object, *, show: bool) -> str:
    if have is _MISSING:
        return f"{path} removed"
    if want is _MISSING:
        return f"{path} added"
    short = all(isinstance(value, str | int | float) for value in (want, have))
    if not show or not short or len(f"{want}{have}") > 80:
        return path
    return f"{path} is {json.dumps(have)}, declared {json.dumps(want)}"


def _bare(body: Mapping[str, Any]) -> Object:
    """An object without its status and what the server notes about it."""
    rest = {key: value for key, value in body.items() if key not in ("status", "metadata")}
    metadata = {key: value for key, value in body["metadata"].items() if key not in _SERVERS}
    return {**rest, "metadata": metadata}


def _as_stored(body: Object) -> Object:
    """As the API server keeps it: secrets in base64, no fields without a value."""
    body = {key: value for key, value in _without_null(body).items() if key != "status"}
    metadata = body["metadata"]
    notes = metadata.get("annotations", {})
    kept = {key: value for key, value in notes.items() if not key.startswith("pulumi.com/")}
    body["metadata"] = {key: v for key, v in metadata.items() if key != "annotations"}
    if kept:
        body["metadata"]["annotations"] = kept
    if body["kind"] == "Secret" and "stringData" in body:
        texts = body.pop("stringData")
        coded = {key: base64.b64encode(str(v).encode()).decode() for key, v in texts.items()}
        body["data"] = {**body.get("data", {}), **coded}
    return body


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(item) for key, item in value.items() if item is not None}
    return [_without_null(item) for item in value] if isinstance(value, list) else value


def _named(place: Place) -> str:
    """A place as a message names it: `spec.ports[8080].protocol`."""
    return "".join(
        f".{step}" if isinstance(step, str) else f"[{step[0][1]}]" for step in place
    ).removeprefix(".")


def _added_by_kubectl(want: Object, live: Object) -> list[Place]:
    """Places that kubectl owns in a live object and that are not declared."""
    found: list[Place] = []
    for entry in live["metadata"].get("managedFields", []):
        by_person = entry.get("manager", "").startswith("kubectl")
        if by_person and not entry.get("subresource"):
            found += _undeclared(entry.get("fieldsV1", {}), want, ())
    return sorted(set(found), key=_named)


def _undeclared(fields: Mapping[str, Any], want: object, place: Place) -> Iterator[Place]:
    # The notation: structured-merge-diff's fieldpath, `f:` a field, `k:` a list's item by keys.
    for key, below in fields.items():
        if key.startswith("f:"):
            name = key[2:]
            here: Place = (*place, name)
            value = want.get(name, _MISSING) if isinstance(want, Mapping) else _MISSING
        elif key.startswith("k:"):
            keys = json.loads(key[2:])
            here = (*place, tuple(keys.items()))
            items = want if isinstance(want, list) else []
            value = next((item for item in items if _has_keys(item, keys)), _MISSING)
        else:  # `.`: the list's or map's own existence; `v:` a value of a set
            continue
        if _named(here).startswith(("status", "metadata.annotations.pulumi.com/")):
            continue
        if value is _MISSING and (key.startswith("k:") or not any(k != "." for k in below)):
            yield here
        else:  # of a map that is not declared, only what kubectl owns: others write there too
            yield from _undeclared(below, value, here)


def _has_keys(item: object, keys: Mapping[str, Any]) -> bool:
    # A key that the declaration leaves out has its default (a port's protocol, for one).
    return isinstance(item, Mapping) and all(item.get(k, v) == v for k, v in keys.items())
