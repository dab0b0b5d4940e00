"""PostgreSQL's further databases: CloudNativePG makes them, a Job says who may read them.

CloudNativePG's `Database` has an owner and no grants, so a Job logs in to each database as its
owner, who alone may give away what he owns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.apiextensions import CustomResource

from components.checks import Check, Fault, ObjectRef, SecretKeyRef
from components.datalake.postgres import Postgres
from components.datalake.postgres_config import (
    MONITOR_ROLE,
    NAMESPACE,
    PORT,
    PostgresConfig,
    PostgresDatabase,
)
from components.flows import Flow, Pods
from components.model import Image, Resources
from components.workload import (
    TRUST_CONFIG_MAP,
    Component,
    checksum,
    config_map_volume,
    container_security,
    labels,
    memory_volume,
    meta,
    passwords_volume,
    pod_security,
    requirements,
    service_account,
)

UID = 26
"""`postgres` in the image of the instances, whose psql the Job runs."""
JOB_RESOURCES = Resources(cpu_request_m=10, memory_request_mib=16, memory_limit_mib=64)
_FOLDER, _RUN = "/grants", "/run/grants"

GRANT = f"""\
#!/bin/sh
set -eu
umask 077
while read -r database owner; do
  # libpq takes a password file only if nobody else may read it, which a mounted secret never is;
  # a backslash stands in it before `:` and itself.
  password=$(sed 's/[\\\\:]/\\\\&/g' < {_FOLDER}/users/"$owner")
  printf '*:*:*:%s:%s\\n' "$owner" "$password" > "$PGPASSFILE"
  psql --no-psqlrc --no-password --quiet --set ON_ERROR_STOP=1 --single-transaction \\
    --file {_FOLDER}/sql/"$database".sql \\
    "host=$PGHOST port={PORT} dbname=$database user=$owner connect_timeout=5 \\
sslmode=verify-full sslrootcert={_FOLDER}/trust/ca.crt"
  echo "$database: granted"
done < {_FOLDER}/sql/databases
"""


def grants(database: PostgresDatabase) -> str:
    """SQL that its owner runs: readers as declared, and nobody else may connect.

    Names are identifiers by the configuration's pattern, so quoting them is all they need.
    """
    readers = ", ".join(f"'{reader}'" for reader in database.readers)
    lines = [f'REVOKE ALL ON DATABASE "{database.name}" FROM PUBLIC;', _withdraw(readers)]
    for reader in database.readers:
        lines += [
            f'GRANT CONNECT ON DATABASE "{database.name}" TO "{reader}";',
            f'GRANT USAGE ON SCHEMA public TO "{reader}";',
            f'GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{reader}";',
            # Of tables that the owner will make.
            f'ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO "{reader}";',
        ]
    return "\n".join(lines) + "\n"


def _withdraw(readers: str) -> str:
    """Whoever was a reader and is none any more."""
    return f"""\
DO $$
DECLARE former name;
BEGIN
  FOR former IN
    SELECT DISTINCT rolname FROM pg_database, aclexplode(datacl) JOIN pg_roles ON oid = grantee
    WHERE datname = current_database() AND grantee <> datdba
      AND rolname <> ALL (ARRAY[{readers}]::name[])
  LOOP
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM %I', current_database(), former);
    EXECUTE format('REVOKE ALL ON SCHEMA public FROM %I', former);
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA public FROM %I', former);
    EXECUTE format(
      'ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE ALL ON TABLES FROM %I', former);
  END LOOP;
END $$;"""


class PostgresDatabases(Component):
    """`postgres.databases` of a cluster. `ready` holds what a client of one of them waits for."""

    ready: Sequence[pulumi.Resource]

    def __init__(
        self,
        name: str,
        config: PostgresConfig,
        *,
        postgres: Postgres,
        namespace: pulumi.Input[str],
        namespace_name: str = NAMESPACE,
        image: Image,
        passwords: Mapping[str, pulumi.Input[str]],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:datalake:PostgresDatabases", name, opts)
        self._config, self._postgres = config, postgres
        self._namespace, self._namespace_name = namespace, namespace_name
        self._name = f"{name}-grants"
        made = [self._database(one) for one in config.databases]
        job = self._job(image, passwords, made)
        pods = Pods(
            name=self._name, namespace=namespace_name, selector=labels(self._name), lasting=False
        )
        self.flows.append(Flow(source=pods, target=postgres.pods, ports=[PORT]))
        self.ready = [job]
        self._declare_checks()
        self.register_outputs({"databases": [one.name for one in config.databases]})

    def _object(self, database: PostgresDatabase) -> str:
        return self._postgres.secret_name(database.name)

    def _database(self, database: PostgresDatabase) -> CustomResource:
        name = self._object(database)
        return CustomResource(
            f"{name}-database",
            api_version="postgresql.cnpg.io/v1",
            kind="Database",
            metadata=meta(
                name,
                self._namespace,
                labels(self._name),
                {"pulumi.com/waitFor": "jsonpath={.status.applied}=true"},
            ),
            spec={
                "cluster": {"name": self._postgres.cluster},
                "name": database.name,
                "owner": database.owner,
                # What is not declared any more keeps its data.
                "databaseReclaimPolicy": "retain",
                # Said, because the operator leaves as it is what is not.
                "connectionLimit": -1,
                **(
                    {"extensions": [{"name": one, "ensure": "present"} for one in extensions]}
                    if (extensions := database.extensions)
                    else {}
                ),
            },
            opts=self.child(depends_on=[*self._postgres.ready]),
        )

    def _job(
        self,
        image: Image,
        passwords: Mapping[str, pulumi.Input[str]],
        databases: Sequence[pulumi.Resource],
    ) -> k8s.batch.v1.Job:
        name, selector = self._name, labels(self._name)
        owners = sorted({one.owner for one in self._config.databases})
        pairs = "".join(f"{one.name} {one.owner}\n" for one in self._config.databases)
        files = {f"{one.name}.sql": grants(one) for one in self._config.databases}
        script = k8s.core.v1.ConfigMap(
            name,
            metadata=meta(name, self._namespace, selector),
            data={"grant.sh": GRANT, "databases": pairs, **files},
            opts=self.child(),
        )
        account = service_account(name, self._namespace, self.child())
        mount, variable = k8s.core.v1.VolumeMountArgs, k8s.core.v1.EnvVarArgs
        volumes = [
            config_map_volume("sql", name),
            config_map_volume("trust", TRUST_CONFIG_MAP),
            passwords_volume(
                "users", {owner: self._postgres.secret_name(owner) for owner in owners}
            ),
            memory_volume("run", 1),
        ]
        container = k8s.core.v1.ContainerArgs(
            name="grant",
            image=image.ref,
            image_pull_policy="IfNotPresent",
            command=["/bin/sh", f"{_FOLDER}/sql/grant.sh"],
            env=[
                variable(name="HOME", value=_RUN),
                variable(name="PGPASSFILE", value=f"{_RUN}/pgpass"),
                variable(name="PGHOST", value=self._postgres.host("rw")),
            ],
            security_context=container_security(),
            resources=requirements(JOB_RESOURCES),
            volume_mounts=[
                *(
                    mount(name=volume, mount_path=f"{_FOLDER}/{volume}", read_only=True)
                    for volume in ("sql", "trust", "users")
                ),
                mount(name="run", mount_path=_RUN),
            ],
        )
        return k8s.batch.v1.Job(
            name,
            metadata=meta(name, self._namespace, selector),
            spec=k8s.batch.v1.JobSpecArgs(
                # A password that was just changed reaches PostgreSQL a moment later.
                backoff_limit=6,
                active_deadline_seconds=600,
                template=k8s.core.v1.PodTemplateSpecArgs(
                    metadata=k8s.meta.v1.ObjectMetaArgs(
                        labels=selector,
                        # A Job's template cannot change: what changes here makes a new one.
                        annotations={
                            "estate.dev/grants": checksum(script.data),
                            "estate.dev/passwords": checksum(*(passwords[one] for one in owners)),
                        },
                    ),
                    spec=k8s.core.v1.PodSpecArgs(
                        restart_policy="OnFailure",
                        service_account_name=name,
                        automount_service_account_token=False,
                        enable_service_links=False,
                        security_context=pod_security(UID),
                        containers=[container],
                        volumes=volumes,
                    ),
                ),
            ),
            opts=self.child(depends_on=[*databases, account], delete_before_replace=True),
        )

    def _declare_checks(self) -> None:
        cluster, namespace = self._postgres.cluster, self._namespace_name

        def login(role: str) -> dict[str, Any]:
            secret = self._postgres.secret_name(role)
            found = SecretKeyRef(namespace=namespace, secret=secret, key="password")
            return {"user": role, "password": found.arg()}

        def fault(database: PostgresDatabase, patch: dict[str, Any]) -> Fault:
            target = ObjectRef(
                api_version="postgresql.cnpg.io/v1",
                kind="Database",
                namespace=namespace,
                name=self._object(database),
            )
            return Fault(target=target, patch={"spec": patch})

        ca = SecretKeyRef(namespace=namespace, secret=self._postgres.ca, key="ca.crt").arg()
        server: dict[str, Any] = {"host": self._postgres.host("rw"), "port": PORT, "ca": ca}
        databases = self._config.databases
        last = databases[-1]
        self.checks.append(
            Check(
                id=f"{cluster}.databases",
                title="each database has its owner, and lets in its readers only",
                probe="postgres_databases",
                args={
                    **server,
                    **login(MONITOR_ROLE),
                    "database": self._config.database,
                    "databases": [one.model_dump() for one in databases],
                    "roles": [one.name for one in (self._config.owner, *self._config.roles)],
                },
                # Not one of the readers: PostgreSQL would merge his grants into the owner's.
                fault=fault(last, {"owner": self._config.owner.name}),
            )
        )
        if (read := next((one for one in databases if one.readers), None)) is not None:
            self.checks.append(
                Check(
                    id=f"{cluster}.readers",
                    title=f"a reader of {read.name} reads what its owner makes, and no more",
                    probe="postgres_reader",
                    args={
                        **server,
                        "database": read.name,
                        "owner": login(read.owner),
                        "reader": login(read.readers[0]),
                    },
                    fault=fault(read, {"connectionLimit": 0}),
                )
            )
