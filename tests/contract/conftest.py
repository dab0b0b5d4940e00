"""Fixtures that the contract tests share."""

from __future__ import annotations

from tests.contract.engine import kubernetes, project, tools

__all__ = ["kubernetes", "project", "tools"]
