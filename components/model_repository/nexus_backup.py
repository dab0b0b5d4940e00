"""Nexus' blobs saved at night: rclone from its claim to the store outside."""

from __future__ import annotations

from collections.abc import Sequence

import pulumi
import pulumi_kubernetes as k8s

from components.datalake.backup_config import CopyBackup
from components.datalake.backup_job import StoreJob
from components.datalake.backup_store import REMOTE, BackupStore
from components.model import Image
from components.model_repository.config import NAMESPACE
from components.model_repository.nexus import UID, Nexus
from components.model_repository.nexus_files import DATA
from components.model_repository.registry import mount

PART = "models"
_VOLUME = "data"

COPY = """\
target="{remote}:$BUCKET/$PART"
stamp="$(date -u +%Y%m%dT%H%M%SZ)"
moment="$(date -u '+%Y-%m-%d %H:%M:%S+00')"
rclone sync --exclude '/*/content/tmp/**' --backup-dir "$target/deleted/$stamp" \\
  {data}/blobs "$target/blobs"
echo "$moment" | rclone rcat "$target/records-until"
rclone delete --use-server-modtime --min-age "${{KEEP_DAYS}}d" "$target/deleted"
"""
"""Records first, then blobs: the records that are restored must not be newer than the blobs.

Nexus writes a blob before its record, so a copy that begins at `records-until` has every blob of
the records of then: PostgreSQL's archive has any moment, and that is the last good one. Blobs that
are newer than the records harm nothing, and Sonatype's "Repair - Verify and repair data
consistency" finds them; a record without its blob is a version that is lost.

What Nexus deleted or wrote anew moves to `deleted` and stays there for KEEP_DAYS from then on:
the store's time is that of the move, the file's own is as old as the blob. `content/tmp` are
uploads under way.
"""


class NexusBackup(StoreJob):
    """The CronJob `model-registry-backup`, beside Nexus' pod: one node at a time has its claim."""

    def __init__(
        self,
        name: str,
        config: CopyBackup,
        *,
        namespace: pulumi.Input[str],
        nexus: Nexus,
        store: BackupStore,
        rclone: Image,
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__(
            "estate:serving:NexusBackup",
            name,
            PART,
            config,
            space=NAMESPACE,
            namespace=namespace,
            store=store,
            opts=opts,
        )
        upload = self._upload(
            rclone,
            COPY.format(remote=REMOTE, data=DATA),
            mount(name=_VOLUME, mount_path=DATA, read_only=True),
        )
        claim = k8s.core.v1.VolumeArgs(
            name=_VOLUME,
            persistent_volume_claim=k8s.core.v1.PersistentVolumeClaimVolumeSourceArgs(
                claim_name=nexus.claim
            ),
        )
        beside = k8s.core.v1.AffinityArgs(
            pod_affinity=k8s.core.v1.PodAffinityArgs(
                required_during_scheduling_ignored_during_execution=[
                    k8s.core.v1.PodAffinityTermArgs(
                        topology_key="kubernetes.io/hostname",
                        label_selector=k8s.meta.v1.LabelSelectorArgs(
                            match_labels=nexus.pods.selector
                        ),
                    )
                ]
            )
        )
        # Nexus' own user: blobs are readable to nobody else.
        pod = self._pod(UID, upload, [claim], affinity=beside)
        self._run(pod, config.upload_resources, nexus.repository.ready, monitors)
