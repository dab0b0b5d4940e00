"""Ceph run by Rook on the disks of nodes: S3, block volumes and a file system."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.apiextensions import CustomResource

from components.authority import Authority
from components.checks import Fault, ObjectRef
from components.datalake import ceph_buckets, ceph_pods, rook_operator
from components.datalake import rook_spec as spec
from components.datalake.ceph_checks import Run, checks
from components.datalake.ceph_config import REGION, CephConfig
from components.datalake.ceph_dashboard import ceph_dashboard
from components.datalake.ceph_rules import alerts
from components.datalake.object_store import ObjectStore
from components.flows import OUTSIDE, Flow, Pods, asks_api, scraped
from components.model import Image
from components.platform.namespaces import STORAGE
from components.workload import (
    Component,
    certificate,
    checksum,
    labels,
    meta,
    pod_monitor,
    prometheus_rule,
    service_account,
    service_dns,
)

SERVICE = "s3"
PORT = 443
_READY = {"pulumi.com/waitFor": "jsonpath={.status.phase}=Ready"}


class RookCeph(Component):
    """A `CephCluster` with its pools, object store, file system and users, in namespace `storage`.

    Clients see what they see of the other implementation: Service `s3` and the Secrets `s3-<user>`
    in the data lake's namespace. `operator` holds what must exist before Rook's kinds are accepted
    and acted on; Pulumi deletes it last. Rook holds each of its objects by a finalizer until it has
    taken down what it made, so whoever deletes them needs the operator alive: while one of them is
    left, neither the operator nor the namespace is touched. `realm_keys` are those of
    `rook.replication`, access key and secret key.
    """

    store: ObjectStore

    def __init__(
        self,
        name: str,
        config: CephConfig,
        *,
        namespace: pulumi.Input[str],
        clients_namespace: pulumi.Input[str],
        clients_namespace_name: str = "datalake",
        image: Image,
        admin_image: Image,
        secret_keys: Mapping[str, pulumi.Input[str]],
        realm_keys: Sequence[pulumi.Input[str]] = (),
        authority: Authority,
        operator: Sequence[pulumi.Resource] = (),
        issuer: Sequence[pulumi.Resource] = (),
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:datalake:RookCeph", name, opts)
        self._name, self._config, self._namespace = name, config, namespace
        self._clients, self._space = clients_namespace, clients_namespace_name
        self._operator = list(operator)
        protect = config.protect
        names = [
            *service_dns(SERVICE, clients_namespace_name),
            *service_dns(spec.GATEWAY_SERVICE, STORAGE)[:2],
        ]
        tls = certificate(
            f"{name}-gateway-tls",
            namespace,
            names,
            self.child(depends_on=list(issuer)),
            issuer=authority.issuer,
        )
        cluster = self._custom("CephCluster", name, spec.cluster_spec(config, image), [], protect)
        block = self._custom(
            "CephBlockPool", spec.BLOCK_POOL, spec.pool(config), [cluster], protect
        )
        store = self._custom(
            "CephObjectStore",
            spec.STORE,
            spec.store_spec(config, f"{name}-gateway-tls"),
            [cluster, tls, *self._sites(cluster, realm_keys)],
            protect,
        )
        files = self._custom(
            "CephFilesystem", spec.FILESYSTEM, spec.filesystem_spec(config), [cluster], protect
        )
        group = self._custom(
            "CephFilesystemSubVolumeGroup", spec.GROUP, spec.group_spec(), [files], protect
        )
        users = self._users(store, secret_keys)
        service = self._service()
        buckets = self._buckets(admin_image, secret_keys, [*users, service])
        self._storage_classes([block, store, group])
        self._declare_flows()
        if monitors is not None:
            self._monitor(monitors)
        self.expected_pods = spec.expected(config)
        self.store = ObjectStore(
            host=f"{SERVICE}.{clients_namespace_name}.svc.cluster.local",
            port=PORT,
            target_port=spec.GATEWAY_PORT,
            region=REGION,
            secrets={user.name: f"{SERVICE}-{user.name}" for user in config.users},
            pods=self._pods("rgw"),
            ready=[*users, buckets],
        )
        self.checks = checks(name, clients_namespace_name, config, self.store.endpoint, self._run())
        self.register_outputs({"endpoint": self.store.endpoint})

    def _custom(
        self,
        kind: str,
        name: str,
        body: Mapping[str, Any],
        depends_on: Sequence[pulumi.Resource],
        protect: bool = False,
    ) -> CustomResource:
        # The kind tells an object store from a user of the same name.
        return CustomResource(
            f"{self._name}-{kind.lower()}-{name}",
            api_version=spec.API_VERSION,
            kind=kind,
            metadata=meta(name, self._namespace, labels(self._name), _READY),
            spec=dict(body),
            opts=self.child(
                depends_on=[*self._operator, *depends_on],
                protect=protect,
                custom_timeouts=pulumi.CustomTimeouts(create="45m", update="60m", delete="15m"),
            ),
        )

    def _sites(
        self, cluster: CustomResource, keys: Sequence[pulumi.Input[str]]
    ) -> list[pulumi.Resource]:
        """What makes this site one of several; nothing where it is the only one."""
        several = spec.settings(self._config).replication
        if several is None:
            return []
        access_key, secret_key = keys
        # Named so that Rook takes these rather than make its own.
        contents: dict[str, dict[str, pulumi.Input[str]]] = {
            f"{several.realm}-keys": {"access-key": access_key, "secret-key": secret_key}
        }
        if several.ca is not None:
            contents[spec.SITES_CA] = {"cabundle": several.ca}
        made: list[pulumi.Resource] = [
            k8s.core.v1.Secret(
                name,
                metadata=meta(name, self._namespace, labels(self._name)),
                string_data=content,
                opts=self.child(),
            )
            for name, content in contents.items()
        ]
        before = [cluster, *made]
        for kind, (name, body) in spec.sites(self._config).items():
            before.append(self._custom(kind, name, body, list(before), self._config.protect))
        return before

    def _users(
        self, store: CustomResource, secret_keys: Mapping[str, pulumi.Input[str]]
    ) -> list[CustomResource]:
        """Rook reads keys beside itself, clients beside themselves: each has a Secret."""
        made = []
        for user in self._config.users:
            name = f"{SERVICE}-{user.name}"
            secrets = [
                k8s.core.v1.Secret(
                    f"{name}-{place}",
                    metadata=meta(name, namespace, labels(self._name)),
                    string_data={"access-key": user.name, "secret-key": secret_keys[user.name]},
                    opts=self.child(),
                )
                for place, namespace in (("clients", self._clients), ("rook", self._namespace))
            ]
            body = spec.user_spec(user, name)
            made.append(self._custom("CephObjectStoreUser", user.name, body, [store, *secrets]))
        return made

    def _service(self) -> k8s.core.v1.Service:
        """The name that clients know leads to the Service that Rook makes."""
        return k8s.core.v1.Service(
            SERVICE,
            metadata=meta(SERVICE, self._clients, labels(self._name)),
            spec=k8s.core.v1.ServiceSpecArgs(
                type="ExternalName",
                external_name=f"{spec.GATEWAY_SERVICE}.{STORAGE}.svc.cluster.local",
            ),
            opts=self.child(),
        )

    def _buckets(
        self,
        image: Image,
        secret_keys: Mapping[str, pulumi.Input[str]],
        depends_on: Sequence[pulumi.Resource],
    ) -> k8s.batch.v1.Job:
        """Buckets are made over S3, as under the other implementation, and by the same Job."""
        config, name = self._config, f"{self._name}-buckets"
        code = inspect.getsource(ceph_buckets)
        declaration = config.declaration()
        for part, data in (
            ("declaration", {"declaration.json": json.dumps(declaration, indent=1)}),
            ("jobs", {"buckets.py": code}),
        ):
            k8s.core.v1.ConfigMap(
                f"{self._name}-{part}",
                metadata=meta(f"{self._name}-{part}", self._clients, labels(self._name)),
                data=data,
                opts=self.child(),
            )
        account = service_account(name, self._clients, self.child())
        users = [user.name for user in config.users]
        host = f"{SERVICE}.{self._space}.svc.cluster.local"
        arguments = [
            *("/etc/ceph/jobs/buckets.py", "/etc/ceph/declaration/declaration.json"),
            *("/etc/ceph/users", f"https://{host}:{PORT}", REGION, "/etc/ceph/trust/ca.crt"),
        ]
        return k8s.batch.v1.Job(
            name,
            metadata=meta(name, self._clients, labels(name)),
            spec=ceph_pods.job(
                name,
                image,
                arguments,
                resources=config.job_resources,
                settings=self._name,
                users=[(user, f"{SERVICE}-{user}") for user in users],
                with_keys=False,
                annotations={
                    "estate.dev/declaration": checksum(declaration, code),
                    "estate.dev/keys": checksum(*(secret_keys[user] for user in users)),
                },
            ),
            opts=self.child(depends_on=[*depends_on, account], delete_before_replace=True),
        )

    def _storage_classes(self, depends_on: Sequence[pulumi.Resource]) -> None:
        for name, fields in spec.storage_classes().items():
            k8s.storage.v1.StorageClass(
                name,
                metadata=meta(name, None, labels(self._name)),
                **fields,
                opts=self.child(depends_on=list(depends_on)),
            )

    # -- what it declares ----------------------------------------------------------------------

    def _run(self) -> Run:
        # What Rook makes it mends at once, so every fault is in what it is told: no gateway runs,
        # and a warning that comes with disks of monitors that are not all empty.
        def fault(kind: str, name: str, patch: dict[str, Any]) -> Fault:
            target = ObjectRef(
                api_version=spec.API_VERSION, kind=kind, namespace=STORAGE, name=name
            )
            return Fault(target=target, patch={"spec": patch})

        warned = {"cephConfig": {"global": {"mon_data_avail_warn": "100"}}}
        return Run(
            namespace=STORAGE,
            manager=f"app={spec.APPS['mgr']},mgr_role=active",
            port=spec.METRICS_PORT,
            no_gateway=fault("CephObjectStore", spec.STORE, {"gateway": {"instances": 0}}),
            not_healthy=fault("CephCluster", self._name, warned),
        )

    def _pods(self, part: str, *, lasting: bool = True) -> Pods:
        return Pods(
            name=spec.APPS[part], namespace=STORAGE, selector=spec.selector(part), lasting=lasting
        )

    def _declare_flows(self) -> None:
        mon, mgr, osd, mds, rgw = (self._pods(part) for part in ("mon", "mgr", "osd", "mds", "rgw"))
        beside = [self._pods("exporter"), self._pods("crashcollector")]
        prepare = self._pods("prepare", lasting=False)
        operator = rook_operator.PODS
        drivers = [rook_operator.provisioner(driver) for driver in rook_operator.DRIVERS]
        daemons = [mon, mgr, osd, mds, rgw]
        clients = [*daemons, *beside, prepare, operator, *drivers]

        def to(target: Pods, ports: list[int], sources: Sequence[Pods]) -> list[Flow]:
            return [Flow(source=one, target=target, ports=ports) for one in sources]

        self.flows += to(mon, [spec.MONITOR_PORT], clients)
        self.flows += to(osd, spec.DAEMON_PORTS, [osd, mgr, mds, rgw, operator, *drivers])
        self.flows += to(mgr, spec.DAEMON_PORTS, clients)
        self.flows += to(mds, spec.DAEMON_PORTS, [mds, mgr, operator, drivers[1]])
        buckets = Pods(
            name=f"{self._name}-buckets",
            namespace=self._space,
            selector=labels(f"{self._name}-buckets"),
            lasting=False,
        )
        self.flows += to(rgw, [spec.GATEWAY_PORT], [operator, buckets])
        several = spec.settings(self._config).replication
        if several is not None:
            self.flows.append(Flow(source=OUTSIDE, target=rgw, ports=[spec.GATEWAY_PORT]))
            if several.peer_ports:
                # The operator asks the first site for its realm.
                self.flows += [
                    Flow(source=one, target=OUTSIDE, ports=several.peer_ports)
                    for one in (rgw, operator)
                ]
        # Volumes are mounted by the nodes' kernels, which no selector names; they have keys.
        self.flows += [
            Flow(source=OUTSIDE, target=target, ports=ports)
            for target, ports in (
                (mon, [spec.MONITOR_PORT]),
                (osd, spec.DAEMON_PORTS),
                (mds, spec.DAEMON_PORTS),
            )
        ]
        versions = [self._pods(part, lasting=False) for part in ("version", "csi-version")]
        self.flows += [asks_api(one) for one in (mgr, osd, prepare, *versions)]

    def _monitor(self, monitors: Sequence[pulumi.Resource]) -> None:
        opts = self.child(depends_on=list(monitors))
        # In clear: neither the manager's module nor the exporter speaks TLS.
        waived = {"encryption": "counters of the cluster, no data and no keys of it"}
        for part, port, number in (
            ("mgr", "http-metrics", spec.METRICS_PORT),
            ("exporter", "http-metrics", spec.EXPORTER_PORT),
        ):
            name = f"{self._name}-{part}"
            selector = spec.selector(part)
            pod_monitor(name, self._namespace, selector, [{"port": port}], opts, waived=waived)
            self.flows.append(scraped(self._pods(part), number))
        prometheus_rule(self._name, self._namespace, alerts(self._config), opts)
        self.dashboards.append(ceph_dashboard(self._name, STORAGE, self._config))
