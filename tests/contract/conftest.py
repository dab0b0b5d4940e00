"""Fixtures that the contract tests share."""

from __future__ import annotations

from tests.contract.engine import project, tools

__all__ = ["project", "tools"]
