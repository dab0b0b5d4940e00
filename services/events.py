"""What happened to images, as messages of Kafka: the contract between the estate's services.

The key of a message is the SHA-256 of the image. Delivery is at least once: a consumer tells
repetitions by (`upload_id`, `member`), and the same image sent twice by the key.
"""

from __future__ import annotations

import mimetypes
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

RECEIVED_TOPIC = "images.received"
QUARANTINED_TOPIC = "images.quarantined"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

Reason = Literal[
    "empty",
    "too-large",
    "truncated",
    "checksum-mismatch",
    "unknown-type",
    "wrong-type",
    "corrupt",
    "too-many-pixels",
    "bad-metadata",
    "bad-batch",
    "member-missing",
    "member-undeclared",
]
"""Why something was quarantined:

`empty`: no bytes; `too-large`: more bytes than an image may have; `truncated`: the file ends
before the image does; `checksum-mismatch`: not the bytes that the sender declared; `unknown-type`:
no image of a type that is taken; `wrong-type`: another type than declared; `corrupt`: does not
decode; `too-many-pixels`: it could decode to more than a service can hold; `bad-metadata`: the
upload says nothing usable about itself; `bad-batch`: the archive cannot be read from here on;
`member-missing`, `member-undeclared`: the archive and its manifest differ.
"""


class Image(BaseModel):
    """Some bytes of an object, and what is known of them.

    A single upload is all of its object; a member of a batch is the range of `length` bytes from
    `offset` of the archive, which is never unpacked into objects.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: Literal[1] = 1
    upload_id: str = Field(min_length=1)
    member: str | None = Field(default=None, description="path in the archive; None: single")
    bucket: str = Field(min_length=1)
    key: str = Field(min_length=1)
    offset: int = Field(ge=0)
    length: int = Field(ge=0)
    sha256: Sha256
    content_type: str
    name: str
    device: str | None = None
    received_at: datetime = Field(description="with its time zone; UTC as it is made here")

    def message_key(self) -> bytes:
        """The key of its message."""
        return self.sha256.encode()

    def to_message(self) -> bytes:
        """The value of its message: UTF-8 JSON."""
        return self.model_dump_json().encode()

    @classmethod
    def from_message(cls, value: bytes | str) -> Self:
        """The inverse of `to_message`. Raises pydantic.ValidationError, a ValueError."""
        return cls.model_validate_json(value)


class ImageReceived(Image):
    """The bytes are the ones that were sent, and decode as an image of `content_type`."""


class ImageQuarantined(Image):
    """What arrived and is no good; it stays where it is, marked, until somebody looks.

    `content_type` is the declared one; `sha256` that of the bytes that are there (of none, for a
    member that is missing).
    """

    reason: Reason
    detail: str


def content_type_of(name: str) -> str:
    """The content type that a file's name shows; Python before 3.13 knows no WebP by itself."""
    if name.lower().endswith(".webp"):
        return "image/webp"
    return mimetypes.guess_type(name)[0] or "application/octet-stream"
