"""The bill of materials beside an image: SPDX 2.3 as JSON."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote


@dataclass(frozen=True, order=True)
class Component:
    """Something that an image was made of."""

    kind: str
    """``deb``, ``maven``, ``pypi``, ``npm`` or ``golang``, as in a package URL."""
    name: str
    """As its registry names it; ``group:artifact`` for Maven."""
    version: str
    sha256: str
    """Of the file that was taken; empty for a module inside a Go binary, which has none."""
    architecture: str = ""
    sha512: str = ""
    """npm's registries give this one instead."""

    @property
    def purl(self) -> str:
        """The package URL."""
        name = "/".join(quote(part, safe="") for part in self.name.replace(":", "/").split("/"))
        if self.kind == "deb":
            return f"pkg:deb/debian/{name}@{quote(self.version, safe='')}?arch={self.architecture}"
        return f"pkg:{self.kind}/{name}@{quote(self.version, safe='')}"


def _spdx_id(component: Component) -> str:
    text = f"{component.kind}-{component.name}-{component.version}"
    return "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", text)


def spdx(
    reference: str, digest: str, components: Iterable[Component], *, epoch: int
) -> dict[str, Any]:
    """The SPDX 2.3 document of an image.

    :param reference: ``repository:tag``.
    :param digest: of the image's manifest, ``sha256:...``.
    :param epoch: seconds since 1970, the document's date: equal images have equal documents.
    """
    repository, _, tag = reference.rpartition(":")
    packages: list[dict[str, Any]] = [
        {
            "SPDXID": "SPDXRef-image",
            "name": repository,
            "versionInfo": tag,
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": False,
            "primaryPackagePurpose": "CONTAINER",
            "checksums": [{"algorithm": "SHA256", "checksumValue": digest.removeprefix("sha256:")}],
        }
    ]
    relationships = [
        {
            "spdxElementId": "SPDXRef-DOCUMENT",
            "relationshipType": "DESCRIBES",
            "relatedSpdxElement": "SPDXRef-image",
        }
    ]
    for component in sorted(set(components)):
        package: dict[str, Any] = {
            "SPDXID": _spdx_id(component),
            "name": component.name,
            "versionInfo": component.version,
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": False,
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": "NOASSERTION",
            "copyrightText": "NOASSERTION",
            "externalRefs": [
                {
                    "referenceCategory": "PACKAGE-MANAGER",
                    "referenceType": "purl",
                    "referenceLocator": component.purl,
                }
            ],
        }
        checksums = {"SHA256": component.sha256, "SHA512": component.sha512}
        if any(checksums.values()):
            package["checksums"] = [
                {"algorithm": name, "checksumValue": value}
                for name, value in checksums.items()
                if value
            ]
        packages.append(package)
        relationships.append(
            {
                "spdxElementId": "SPDXRef-image",
                "relationshipType": "CONTAINS",
                "relatedSpdxElement": package["SPDXID"],
            }
        )
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": reference,
        "documentNamespace": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, f'{reference}@{digest}')}",
        "creationInfo": {
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch)),
            "creators": ["Tool: estate-images"],
        },
        "packages": packages,
        "relationships": relationships,
    }
