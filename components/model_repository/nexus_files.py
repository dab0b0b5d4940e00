"""What Nexus is started with, and what its Job makes true there."""

from __future__ import annotations

import json

from components.model_repository.config import PUBLISHER, READER, NexusConfig

ROOT, DATA = "/nexus", "/nexus-data"
CONFIG, STORE, ADMIN, TRUST = (f"{ROOT}/{part}" for part in ("config", "store", "admin", "trust"))
SETUP = "/setup"
CONSOLE, CONSOLE_PORT = "console", 8443
API_PORT, DOCKER_PORT = 8081, 5080
"""On the pod's loopback: pages and REST API, and the repository of models."""
STATUS = "/service/rest/v1/status"
CLEANUP = "models-unused"

PROPERTIES = f"""\
application-host=127.0.0.1
application-port={API_PORT}
nexus.onboarding.enabled=false
nexus.skipDefaultRepositories=true
nexus.scripts.allowCreation=false
"""

START = f"""\
#!/bin/sh
set -eu
umask 027
mkdir -p {DATA}/etc/fabric
cp {CONFIG}/nexus.properties {DATA}/etc/nexus.properties
# A link: the database's password stays in its Secret, off the claim.
ln -sfn {STORE}/nexus-store.properties {DATA}/etc/fabric/nexus-store.properties
# Where Nexus takes the first password of `admin` from, and from nowhere else; once it has users of
# its own, this is not read any more.
NEXUS_SECURITY_INITIAL_PASSWORD=$(cat {ADMIN}/password)
export NEXUS_SECURITY_INITIAL_PASSWORD
exec /opt/sonatype/nexus/bin/nexus run
"""


def java_options(config: NexusConfig) -> str:
    """As much direct memory as heap, which is how Sonatype divides it."""
    heap = config.heap_mib
    return (
        f"-Xms{heap}m -Xmx{heap}m -XX:MaxDirectMemorySize={heap}m "
        f"-Djava.util.prefs.userRoot={DATA}/javaprefs"
    )


def store_properties(host: str, port: int, database: str, user: str, password: str) -> str:
    """nexus-store.properties: where the records are, and the database's password."""
    url = (
        f"jdbc:postgresql://{host}:{port}/{database}?sslmode=verify-full&sslrootcert={TRUST}/ca.crt"
    )
    return f"jdbcUrl={url}\nusername={user}\npassword={_escaped(password)}\nschema=public\n"


def _escaped(value: str) -> str:
    """As the value of a key of Java's properties."""
    escaped = value.replace("\\", "\\\\")
    return f"\\{escaped}" if escaped.startswith((" ", "\t")) else escaped


def settings(config: NexusConfig, url: str) -> str:
    """settings.json of the Job (nexus_setup.py)."""
    view = f"nx-repository-view-docker-{config.repository}"
    rights = {
        PUBLISHER: [f"{view}-{action}" for action in ("add", "browse", "edit", "read")],
        READER: [f"{view}-{action}" for action in ("browse", "read")],
    }
    return json.dumps(
        {
            "url": url,
            "accept_eula": config.accept_eula,
            "cleanup": (
                {
                    "name": CLEANUP,
                    "format": "docker",
                    "notes": "declared by the estate",
                    "criteriaLastDownloaded": config.keep_days,
                }
                if config.keep_days
                else None
            ),
            "repository": {
                "name": config.repository,
                "online": True,
                "storage": {
                    "blobStoreName": "default",
                    "strictContentTypeValidation": True,
                    # "Disable redeploy": a tag is given once.
                    "writePolicy": "ALLOW_ONCE",
                },
                "cleanup": {"policyNames": [CLEANUP] if config.keep_days else []},
                "docker": {"v1Enabled": False, "forceBasicAuth": True, "httpPort": DOCKER_PORT},
            },
            "users": {
                user: {
                    "role": {
                        "id": f"models-{user}",
                        "name": f"models-{user}",
                        "description": "declared by the estate",
                        "privileges": privileges,
                        "roles": [],
                    },
                    "first": "Estate",
                    "last": user.capitalize(),
                }
                for user, privileges in rights.items()
            },
        },
        indent=1,
    )
