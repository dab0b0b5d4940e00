"""What ECR is told about one repository: who may do what, and what goes by itself."""

from __future__ import annotations

from typing import Any

from components.model_repository.config import EcrConfig

READ = (
    "ecr:BatchCheckLayerAvailability",
    "ecr:BatchGetImage",
    "ecr:GetDownloadUrlForLayer",
)
"""Manifests by tag or digest, and blobs. No list of tags: what is served is asked for by digest."""
WRITE = (
    "ecr:CompleteLayerUpload",
    "ecr:InitiateLayerUpload",
    "ecr:ListImages",
    "ecr:PutImage",
    "ecr:UploadLayerPart",
)
"""A push, and the list of tags, by which `./estate model list` tells the numbers. No deletion: what
`./estate model gc` would delete is for somebody who is allowed it on purpose.
"""
SIGNATURES = "sha256-*.sig"
"""Tags of signatures (`model_repo.signing.tag_of`) as ECR's wildcard."""


def repository_policy(config: EcrConfig) -> dict[str, Any]:
    """Who may do what with a repository, beside what IAM allows to the account's own principals.

    It grants; only its denial binds others: an administrator of the account stays one.
    """
    return {
        "Version": "2012-10-17",
        "Statement": [
            _allow("Read", config.reader, READ),
            _allow("Publish", config.publisher, (*READ, *WRITE)),
            {
                # ECR listens with TLS alone, today.
                "Sid": "NothingInClear",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "ecr:*",
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            },
        ],
    }


def _allow(sid: str, principal: str, actions: tuple[str, ...]) -> dict[str, Any]:
    return {
        "Sid": sid,
        "Effect": "Allow",
        "Principal": {"AWS": principal},
        "Action": sorted(actions),
    }


def lifecycle_policy(expire_untagged_days: int) -> dict[str, Any]:
    """Manifests go that have had no tag for so long: pushes that were broken off, and signatures'
    former manifests. Versions and signatures have one.
    """
    return {
        "rules": [
            {
                "rulePriority": 1,
                "description": f"without a tag, and pushed {expire_untagged_days} days ago",
                "selection": {
                    "tagStatus": "untagged",
                    "countType": "sinceImagePushed",
                    "countUnit": "days",
                    "countNumber": expire_untagged_days,
                },
                "action": {"type": "expire"},
            }
        ]
    }
