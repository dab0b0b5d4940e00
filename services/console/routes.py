"""The routes of /api/v1. Each names the role that may ask it; `security.Guarded` enforces it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Path, Query, Request, Security
from fastapi.responses import Response, StreamingResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from services import tokens
from services.console.backends.catalogue import DIGEST, Image, Search, Similar
from services.console.backends.documents import Collection
from services.console.backends.kafka import Group, GroupSummary, Topic, TopicSummary
from services.console.backends.objects import Bucket
from services.console.datasets import DatasetSummary, Entry, Verification, Version
from services.console.health import Health
from services.console.lake import Lake
from services.console.pages import Page, PageQuery, Text, cut, decoded, encoded
from services.console.problems import Away, responses
from services.console.security import Caller, Guarded, needs
from services.console.settings import Role, secret

PREFIX = "/api/v1"
_Route = TypeVar("_Route", bound=Callable[..., Any])
_ALWAYS = responses(401, 403, 422, 429, 503)

router = APIRouter(
    prefix=PREFIX,
    route_class=Guarded,
    # For the document: `Guarded` has looked at the token before.
    dependencies=[Security(HTTPBearer(auto_error=False, bearerFormat="JWT"))],
    responses=_ALWAYS,
)

_Name = Annotated[str, Path(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
_Digest = Annotated[str, Path(pattern=DIGEST)]
_Listed = Annotated[PageQuery, Query()]


def _lake(request: Request) -> Lake:
    lake: Lake = request.app.state.lake
    return lake


def _get(path: str, role: Role, tag: str, **more: Any) -> Callable[[_Route], _Route]:
    tags: list[str | Enum] = [tag]
    missing = responses(404) if "{" in path else {}
    return router.get(path, openapi_extra=needs(role), tags=tags, responses=missing, **more)


# -- the console itself ----------------------------------------------------------------------------


@_get("/health", "viewer", "console")
def health(request: Request) -> Health:
    """Which backends answer this replica."""
    found: Health = request.app.state.watch.health()
    return found


class Who(BaseModel):
    """The caller as the console knows him."""

    subject: str
    issuer: str
    role: Role


@_get("/whoami", "viewer", "console")
def whoami(request: Request) -> Who:
    """Who the token speaks for."""
    caller: Caller = request.state.caller
    return Who(subject=caller.subject, issuer=caller.issuer, role=caller.role)


class TrustedIssuer(BaseModel):
    """An issuer whose tokens are taken, and what its roles mean here."""

    issuer: str
    audience: str
    algorithms: list[str]
    keys: str
    role_claim: str
    roles: dict[str, Role]


@_get("/issuers", "admin", "console")
def issuers(request: Request) -> list[TrustedIssuer]:
    """Whose tokens are taken."""
    return [
        TrustedIssuer(
            issuer=one.issuer,
            audience=one.audience,
            algorithms=list(one.algorithms),
            keys=one.jwks_url or str(one.jwks_file or one.certificate),
            role_claim=one.role_claim,
            roles=one.roles,
        )
        for one, _ in request.app.state.authenticator.issuers.values()
    ]


# -- Kafka -----------------------------------------------------------------------------------------


@_get("/topics", "viewer", "kafka")
def topics(request: Request, asked: _Listed) -> Page[TopicSummary]:
    """The topics, by name."""
    return cut(_lake(request).kafka.topics(), lambda one: one.name, asked)


@_get("/topics/{topic}", "viewer", "kafka")
def topic(
    request: Request, topic: Annotated[str, Path(pattern=r"^[A-Za-z0-9._-]{1,249}$")]
) -> Topic:
    """A topic: partitions, offsets, retention."""
    return _lake(request).kafka.topic(topic)


@_get("/consumer-groups", "viewer", "kafka")
def groups(request: Request, asked: _Listed) -> Page[GroupSummary]:
    """The consumer groups, by name."""
    return cut(_lake(request).kafka.groups(), lambda one: one.id, asked)


@_get("/consumer-groups/{group}", "viewer", "kafka")
def group(
    request: Request, group: Annotated[str, Path(pattern=r"^[A-Za-z0-9._:@ -]{1,255}$")]
) -> Group:
    """A consumer group and how far it is behind in each partition."""
    return _lake(request).kafka.group(group)


# -- documents and buckets -------------------------------------------------------------------------


@_get("/collections", "viewer", "documents")
def collections(request: Request, asked: _Listed) -> Page[Collection]:
    """The collections of documents: counts, sizes, indexes."""
    lake = _lake(request).documents
    page = cut(lake.names(), lambda name: name, asked)
    return Page(items=[lake.collection(name) for name in page.items], next=page.next)


@_get("/collections/{collection}", "viewer", "documents")
def collection(
    request: Request,
    collection: Annotated[str, Path(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,119}$")],
) -> Collection:
    """A collection."""
    return _lake(request).documents.collection(collection)


@_get("/buckets", "viewer", "objects")
def buckets(request: Request, asked: _Listed) -> Page[Bucket]:
    """The declared buckets: usage and quotas, as far as the console's user is told."""
    store = _lake(request).objects
    page = cut(store.names(), lambda name: name, asked)
    return Page(items=[store.bucket(name) for name in page.items], next=page.next)


@_get("/buckets/{bucket}", "viewer", "objects")
def bucket(
    request: Request, bucket: Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
) -> Bucket:
    """A bucket."""
    return _lake(request).objects.bucket(bucket)


# -- datasets --------------------------------------------------------------------------------------


@_get("/datasets", "viewer", "datasets")
def datasets(request: Request, asked: _Listed) -> Page[DatasetSummary]:
    """The datasets, by name."""
    return cut(_lake(request).datasets.all(), lambda one: one.name, asked)


@_get("/datasets/{dataset}/versions", "viewer", "datasets")
def versions(request: Request, dataset: _Name, asked: _Listed) -> Page[Version]:
    """A dataset's versions, in order of their digests."""
    found = _lake(request).datasets
    page = cut(found.versions(dataset), lambda digest: digest, asked)
    return Page(items=[found.version(dataset, one) for one in page.items], next=page.next)


@_get("/datasets/{dataset}/versions/{digest}", "viewer", "datasets")
def version(request: Request, dataset: _Name, digest: _Digest) -> Version:
    """A version; 409 when its manifest is not what its name says."""
    return _lake(request).datasets.version(dataset, digest)


@_get("/datasets/{dataset}/versions/{digest}/images", "viewer", "datasets")
def entries(request: Request, dataset: _Name, digest: _Digest, asked: _Listed) -> Page[Entry]:
    """The images of a version, in order of their digests."""
    after = decoded(asked.cursor)
    found = _lake(request).datasets.entries(dataset, digest, after, asked.limit)
    more = len(found) > asked.limit
    page = found[: asked.limit]
    return Page(items=page, next=encoded(page[-1].sha256) if more else None)


@router.post(
    "/datasets/{dataset}/versions/{digest}/verification",
    openapi_extra=needs("operator"),
    tags=["datasets"],
    responses=responses(404),
)
def verification(request: Request, dataset: _Name, digest: _Digest) -> Verification:
    """Read and hash a version: its manifest, its annotations and its images."""
    lake = _lake(request)
    return lake.datasets.verify(dataset, digest, within_s=lake.limits.verify_s)


# -- images ----------------------------------------------------------------------------------------


class ImageQuery(Search, PageQuery):
    """A search, and the page of what it finds."""


@_get("/images", "viewer", "images")
def images(request: Request, asked: Annotated[ImageQuery, Query()]) -> Page[Image]:
    """Search the images of the catalogue, newest first."""
    found, following = _lake(request).catalogue.search(asked, asked.limit, asked.cursor)
    return Page(items=found, next=following)


@_get("/images/{digest}", "viewer", "images")
def image(request: Request, digest: _Digest) -> Image:
    """An image of the catalogue."""
    return _lake(request).catalogue.image(digest)


class SimilarQuery(BaseModel):
    """How near, and by what."""

    model_config = ConfigDict(extra="forbid")

    by: Literal["phash", "embedding"] = "embedding"
    most: float | None = Field(
        default=None, ge=0, le=64, description="bits (phash) or 1 - cosine (embedding)"
    )
    limit: int = Field(default=20, ge=1, le=100)


@_get("/images/{digest}/similar", "viewer", "images")
def similar(
    request: Request, digest: _Digest, asked: Annotated[SimilarQuery, Query()]
) -> Sequence[Similar]:
    """The images that look most like one, nearest first."""
    return _lake(request).catalogue.similar(digest, asked.by, asked.most, asked.limit)


@_get("/images/{digest}/content", "viewer", "images", response_class=Response)
def content(request: Request, digest: _Digest) -> Response:
    """The bytes of an image."""
    lake = _lake(request)
    found = lake.catalogue.image(digest)
    length, kind, chunks = lake.objects.stream(found.bucket, found.key)
    headers = {
        "Content-Length": str(length),
        "ETag": f'"{found.sha256}"',
        # By its digest it is the same for ever, but for nobody else's eyes.
        "Cache-Control": "private, max-age=86400, immutable",
    }
    return StreamingResponse(chunks, media_type=kind, headers=headers)


class Link(BaseModel):
    """An address that needs no token, for a while."""

    url: str
    expires_at: datetime


@_get("/images/{digest}/link", "viewer", "images")
def link(request: Request, digest: _Digest) -> Link:
    """An address of the object store from which an image can be had."""
    lake = _lake(request)
    found = lake.catalogue.image(digest)
    url = lake.objects.link(found.bucket, found.key, lake.limits.link_s)
    return Link(url=url, expires_at=_in(lake.limits.link_s))


# -- uploads ---------------------------------------------------------------------------------------


class UploadRequest(BaseModel):
    """What an upload token is for."""

    model_config = ConfigDict(extra="forbid")

    device: Annotated[Text, StringConstraints(min_length=1)] | None = Field(
        default=None, description="is written into every image that is sent with the token"
    )
    lifetime_s: int = Field(default=900, ge=60, le=86_400)


class UploadToken(BaseModel):
    """A token of the image-transfer server, and where it is good."""

    token: str
    url: str
    expires_at: datetime


@router.post(
    "/upload-tokens",
    openapi_extra=needs("operator"),
    tags=["uploads"],
    status_code=201,
    responses=responses(400, 413),
)
def upload_token(request: Request, asked: UploadRequest) -> UploadToken:
    """Make a short-lived token for the image-transfer server; it speaks for the caller."""
    lake, caller = _lake(request), request.state.caller
    if lake.uploads is None:
        raise Away("transfer", "this environment has no image transfer")
    lifetime = min(asked.lifetime_s, lake.limits.upload_token_s)
    made = tokens.issue(
        secret(lake.uploads.key).encode(),
        caller.subject,
        device=asked.device,
        lifetime_s=lifetime,
    )
    return UploadToken(token=made, url=lake.uploads.url, expires_at=_in(lifetime))


def _in(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(time.time() + seconds), UTC)
