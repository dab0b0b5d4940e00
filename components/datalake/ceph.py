"""Ceph without an operator: monitors, a manager, OSDs on files in claims, S3 gateways."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence

import pulumi
import pulumi_kubernetes as k8s

from components.authority import Authority
from components.checks import ExpectedPods
from components.datalake import ceph_buckets, ceph_files, ceph_pods, ceph_users
from components.datalake.ceph_checks import checks, statefulset
from components.datalake.ceph_config import REGION, CephConfig
from components.datalake.ceph_dashboard import ceph_dashboard
from components.datalake.ceph_rules import alerts
from components.datalake.object_store import ObjectStore
from components.flows import Flow, Pods, scraped
from components.model import Image, Resources, Storage
from components.workload import (
    Component,
    certificate,
    checksum,
    disruption_budget,
    labels,
    meta,
    pod_monitor,
    prometheus_rule,
    service_account,
    service_dns,
    waive,
)

SERVICE = "s3"
PORT = 443
_SKIP_AWAIT = {"pulumi.com/skipAwait": "true"}
_ONE_POD = waive(
    {"kube-score.service-targets-pod": "selects one pod by the name that its StatefulSet gives it"}
)


class Ceph(Component):
    """The cluster, and what its S3 clients need as `store`.

    Each declared user has the Secret `s3-<user>` (keys `access-key`, `secret-key`); users and
    buckets exist once everything in `store.ready` is made.
    """

    store: ObjectStore

    def __init__(
        self,
        name: str,
        config: CephConfig,
        *,
        namespace: pulumi.Input[str],
        namespace_name: str = "datalake",
        image: Image,
        admin_image: Image,
        seed: pulumi.Input[str],
        secret_keys: Mapping[str, pulumi.Input[str]],
        authority: Authority,
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:datalake:Ceph", name, opts)
        self._name, self._config, self._namespace = name, config, namespace
        self._image, self._admin_image = image, admin_image
        self._space = namespace_name
        host = f"{SERVICE}.{namespace_name}.svc.cluster.local"
        names = [
            f"{name}-mon-{i}.{namespace_name}.svc.cluster.local" for i in range(config.monitors)
        ]
        tls = certificate(
            f"{name}-gateway-tls",
            namespace,
            service_dns(SERVICE, namespace_name),
            self.child(),
            issuer=authority.issuer,
        )
        self._settings = self._config_maps(names, host)
        self._keys = self._secrets(seed)
        users = self._user_secrets(secret_keys)
        before = [*self._settings.values(), *self._keys.values()]
        mons = self._daemons("mon", config.monitors, before, storage=config.monitor_storage)
        manager = self._daemons("mgr", 1, [mons])
        osds = self._daemons("osd", config.osds, [mons], storage=config.storage)
        gateways = self._daemons("gateway", config.gateways, [osds, manager, tls])
        service = self._services(names)
        made = self._job("users", image, ceph_users, secret_keys, [gateways, *users.values()], host)
        buckets = self._job(
            "buckets", admin_image, ceph_buckets, secret_keys, [made, service], host
        )
        self._declare_flows()
        if monitors is not None:
            self._monitor(monitors)
        self.store = ObjectStore(
            host=host,
            port=PORT,
            target_port=ceph_files.S3_PORT,
            region=REGION,
            secrets={user: f"{SERVICE}-{user}" for user in users},
            pods=self._pods("gateway"),
            ready=[buckets],
        )
        run = statefulset(name, namespace_name, config)
        self.checks = checks(name, namespace_name, config, self.store.endpoint, run)
        self.register_outputs({"endpoint": self.store.endpoint})

    # -- what it is made of --------------------------------------------------------------------

    def _part(self, part: str) -> str:
        return f"{self._name}-{part}"

    def _selector(self, part: str) -> dict[str, str]:
        return labels(self._part(part))

    def _pods(self, part: str, *, lasting: bool = True) -> Pods:
        return Pods(
            name=self._part(part),
            namespace=self._space,
            selector=self._selector(part),
            lasting=lasting,
        )

    def _config_maps(self, monitors: Sequence[str], host: str) -> dict[str, k8s.core.v1.ConfigMap]:
        config = self._config
        assert config.fsid is not None  # of this implementation: CephConfig sees to it
        uuids = [ceph_files.osd_uuid(config.fsid, i) for i in range(config.osds)]
        contents = {
            "config": {"ceph.conf": ceph_files.settings(config, monitors)},
            "scripts": {
                "mon.sh": ceph_files.MONITOR,
                "mgr.sh": ceph_files.MANAGER,
                "prepare-osd.sh": ceph_files.PREPARE_OSD,
                "osd.sh": ceph_files.OSD,
                "gateway.sh": ceph_files.GATEWAY,
                "osd-uuids": "\n".join(uuids) + "\n",
            },
            "declaration": {"declaration.json": json.dumps(config.declaration(), indent=1)},
            "jobs": {
                "users.py": inspect.getsource(ceph_users),
                "buckets.py": inspect.getsource(ceph_buckets),
            },
        }
        return {
            part: k8s.core.v1.ConfigMap(
                self._part(part),
                metadata=meta(self._part(part), self._namespace, labels(self._name)),
                data=data,
                opts=self.child(),
            )
            for part, data in contents.items()
        }

    def _secrets(self, seed: pulumi.Input[str]) -> dict[str, k8s.core.v1.Secret]:
        """The keyrings, each daemon's in a Secret of its own: none can speak as another."""
        config = self._config
        rings = pulumi.Output.secret(seed).apply(lambda s: ceph_files.keyrings(config, s))
        osds = [f"osd.{i}.{end}" for i in range(config.osds) for end in ("keyring", "json")]
        files = {
            "mon": ["all.keyring"],
            "mgr": ["mgr.a.keyring"],
            "osd": ["client.bootstrap-osd.keyring", *osds],
            "gateway": ["client.rgw.keyring"],
        }
        return {
            part: k8s.core.v1.Secret(
                f"{self._part(part)}-keys",
                metadata=meta(f"{self._part(part)}-keys", self._namespace, self._selector(part)),
                string_data={file: rings[file] for file in names},
                opts=self.child(),
            )
            for part, names in files.items()
        }

    def _user_secrets(
        self, secret_keys: Mapping[str, pulumi.Input[str]]
    ) -> dict[str, k8s.core.v1.Secret]:
        return {
            user.name: k8s.core.v1.Secret(
                f"{SERVICE}-{user.name}",
                metadata=meta(f"{SERVICE}-{user.name}", self._namespace, labels(self._name)),
                string_data={"access-key": user.name, "secret-key": secret_keys[user.name]},
                opts=self.child(),
            )
            for user in self._config.users
        }

    def _daemons(
        self,
        part: ceph_pods.Part,
        count: int,
        depends_on: Sequence[pulumi.Resource],
        *,
        storage: Storage | None = None,
    ) -> k8s.apps.v1.StatefulSet:
        name, selector = self._part(part), self._selector(part)
        account = service_account(name, self._namespace, self.child())
        if count > 1:
            disruption_budget(name, self._namespace, selector, self.child())
        self.expected_pods.append(
            ExpectedPods(
                name=name,
                namespace=self._space,
                selector=selector,
                count=count,
                resources=self._resources(part),
                spread=self._config.spread,
                claims=[storage.size_gib] if storage is not None else [],
            )
        )
        return k8s.apps.v1.StatefulSet(
            name,
            metadata=meta(name, self._namespace, selector, ceph_pods.WAIVED[part]),
            spec=ceph_pods.stateful_set(
                part,
                name,
                count,
                image=self._image,
                selector=selector,
                resources=self._resources(part),
                spread=self._config.spread,
                storage=storage,
                settings=self._name,
                annotations={
                    "estate.dev/settings": checksum(
                        self._settings["config"].data, self._settings["scripts"].data
                    ),
                    "estate.dev/keys": checksum(self._keys[part].string_data),
                },
            ),
            opts=self.child(
                depends_on=[*depends_on, account],
                protect=self._config.protect and storage is not None,
            ),
        )

    def _resources(self, part: ceph_pods.Part) -> Resources:
        config = self._config
        return {
            "mon": config.monitor_resources,
            "mgr": config.manager_resources,
            "osd": config.osd_resources,
            "gateway": config.gateway_resources,
        }[part]

    def _services(self, monitors: Sequence[str]) -> k8s.core.v1.Service:
        """One Service for S3, and one per monitor, whose address is the monitor's for good."""
        port = k8s.core.v1.ServicePortArgs
        for host in monitors:
            pod = host.partition(".")[0]
            k8s.core.v1.Service(
                pod,
                metadata=meta(
                    pod, self._namespace, self._selector("mon"), {**_SKIP_AWAIT, **_ONE_POD}
                ),
                spec=k8s.core.v1.ServiceSpecArgs(
                    selector={"statefulset.kubernetes.io/pod-name": pod},
                    # The quorum is formed by monitors that are not ready yet.
                    publish_not_ready_addresses=True,
                    ports=[
                        port(name="msgr2", port=ceph_files.MONITOR_PORT, target_port="msgr2"),
                    ],
                ),
                opts=self.child(),
            )
        return k8s.core.v1.Service(
            SERVICE,
            metadata=meta(SERVICE, self._namespace, self._selector("gateway"), _SKIP_AWAIT),
            spec=k8s.core.v1.ServiceSpecArgs(
                selector=self._selector("gateway"),
                ports=[port(name="https", port=PORT, target_port="https")],
            ),
            opts=self.child(),
        )

    def _job(
        self,
        part: str,
        image: Image,
        code: object,
        secret_keys: Mapping[str, pulumi.Input[str]],
        depends_on: Sequence[pulumi.Resource],
        host: str,
    ) -> k8s.batch.v1.Job:
        """A Job that makes the declaration true: another one makes another Job."""
        config, name = self._config, self._part(part)
        users = [user.name for user in config.users]
        account = service_account(name, self._namespace, self.child())
        arguments = [f"/etc/ceph/jobs/{part}.py", "/etc/ceph/declaration/declaration.json"]
        arguments.append("/etc/ceph/users")
        if part == "buckets":
            arguments += [f"https://{host}:{PORT}", REGION, "/etc/ceph/trust/ca.crt"]
        annotations = {
            "estate.dev/declaration": checksum(config.declaration(), inspect.getsource(code)),  # type: ignore[arg-type]
            "estate.dev/keys": checksum(*(secret_keys[user] for user in users)),
        }
        return k8s.batch.v1.Job(
            name,
            metadata=meta(name, self._namespace, labels(name)),
            spec=ceph_pods.job(
                name,
                image,
                arguments,
                resources=config.job_resources,
                settings=self._name,
                users=[(user, f"{SERVICE}-{user}") for user in users],
                with_keys=part == "users",
                annotations=annotations,
            ),
            opts=self.child(depends_on=[*depends_on, account], delete_before_replace=True),
        )

    # -- what it declares ----------------------------------------------------------------------

    def _declare_flows(self) -> None:
        mon, mgr, osd = self._pods("mon"), self._pods("mgr"), self._pods("osd")
        gateway, users = self._pods("gateway"), self._pods("users", lasting=False)
        buckets = self._pods("buckets", lasting=False)
        msgr, ports = [ceph_files.MONITOR_PORT], list(ceph_files.OSD_PORTS)

        def to(target: Pods, listens: int, *sources: Pods) -> list[Flow]:
            """A daemon listens at so many ports; restarted in its place, it takes the next ones."""
            used, spare = ports[:listens], ports[listens:]
            return [Flow(source=one, target=target, ports=used, spare=spare) for one in sources]

        self.flows += [
            *(Flow(source=one, target=mon, ports=msgr) for one in (mon, mgr, osd, gateway, users)),
            *to(osd, 4, osd, mgr, gateway, users),
            *to(mgr, 1, osd, mon, gateway, users),
            Flow(source=buckets, target=gateway, ports=[ceph_files.S3_PORT]),
        ]

    def _monitor(self, monitors: Sequence[pulumi.Resource]) -> None:
        opts = self.child(depends_on=list(monitors))
        pod_monitor(
            self._name,
            self._namespace,
            self._selector("mgr"),
            [{"port": "metrics"}],
            opts,
            waived={"encryption": "counters of daemons and pools, no objects and no keys"},
        )
        prometheus_rule(self._name, self._namespace, alerts(self._config), opts)
        self.dashboards.append(ceph_dashboard(self._name, self._space, self._config))
        self.flows.append(scraped(self._pods("mgr"), ceph_files.METRICS_PORT))
