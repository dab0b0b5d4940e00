"""Ceph run by Rook on the disks of nodes: S3, block volumes and a file system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.apiextensions import CustomResource

from components.authority import Authority
from components.datalake import rook_operator
from components.datalake import rook_spec as spec
from components.datalake.ceph_config import REGION, CephConfig
from components.datalake.ceph_rules import alerts
from components.datalake.object_store import ObjectStore
from components.flows import OUTSIDE, Flow, Pods, asks_api, scraped
from components.model import Image
from components.platform.namespaces import STORAGE
from components.workload import (
    Component,
    certificate,
    labels,
    meta,
    pod_monitor,
    prometheus_rule,
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
    left, neither the operator nor the namespace is touched.
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
        secret_keys: Mapping[str, pulumi.Input[str]],
        authority: Authority,
        operator: Sequence[pulumi.Resource] = (),
        issuer: Sequence[pulumi.Resource] = (),
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:datalake:RookCeph", name, opts)
        self._name, self._config, self._namespace = name, config, namespace
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
        block = self._custom("CephBlockPool", spec.BLOCK_POOL, spec.pool(config), [cluster], protect)
        store = self._custom(
            "CephObjectStore",
            spec.STORE,
            spec.store_spec(config, f"{name}-gateway-tls"),
            [cluster, tls],
            protect,
        )
        files = self._custom(
            "CephFilesystem", spec.FILESYSTEM, spec.filesystem_spec(config), [cluster], protect
        )
        group = self._custom(
            "CephFilesystemSubVolumeGroup", spec.GROUP, spec.group_spec(), [files], protect
        )
        users = self._users(store, secret_keys, clients_namespace)
        service = self._service(clients_namespace)
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
            ready=[*users, service],
        )
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

    def _users(
        self,
        store: CustomResource,
        secret_keys: Mapping[str, pulumi.Input[str]],
        clients: pulumi.Input[str],
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
                for place, namespace in (("clients", clients), ("rook", self._namespace))
            ]
            body = spec.user_spec(user, name)
            made.append(self._custom("CephObjectStoreUser", user.name, body, [store, *secrets]))
        return made

    def _service(self, clients: pulumi.Input[str]) -> k8s.core.v1.Service:
        """The name that clients know leads to the Service that Rook makes."""
        return k8s.core.v1.Service(
            SERVICE,
            metadata=meta(SERVICE, clients, labels(self._name)),
            spec=k8s.core.v1.ServiceSpecArgs(
                type="ExternalName",
                external_name=f"{spec.GATEWAY_SERVICE}.{STORAGE}.svc.cluster.local",
            ),
            opts=self.child(),
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

    def _pods(self, part: str, *, lasting: bool = True) -> Pods:
        return Pods(
            name=spec.APPS[part], namespace=STORAGE, selector=spec.selector(part), lasting=lasting
        )

    def _declare_flows(self) -> None:
        mon, mgr, osd, mds, rgw = (
            self._pods(part) for part in ("mon", "mgr", "osd", "mds", "rgw")
        )
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
        self.flows += to(rgw, [spec.GATEWAY_PORT], [operator])
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
