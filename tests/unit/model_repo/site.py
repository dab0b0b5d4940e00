"""A clone with models, a registry in memory, and versions in it: for promote, rollback and gc."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from model_repo.repository import Repository
from tests.unit.model_repo.test_golden import values
from tests.unit.model_repo.test_repository import ABOUT, COMMIT, KEY

MODEL = """\
# Digits.
serving: {max_batch_size: 32}
environments:
  local: {version: 1}  # of the rehearsal
"""


class Site:
    """`folder` holds the models, in a Git repository."""

    def __init__(self, root: Path, repository: Repository) -> None:
        self.root, self.repository = root, repository
        self.folder = root / "models"
        self.file = self.folder / "digits" / "model.yaml"
        self.file.parent.mkdir(parents=True)
        self.git("init", "--initial-branch=main")
        self.commit(MODEL)

    def git(self, *arguments: str, folder: Path | None = None) -> str:
        who = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
        done = subprocess.run(
            ["git", "-C", str(folder or self.root), *who, *arguments],
            capture_output=True,
            text=True,
            check=True,
            env={
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "GIT_CONFIG_GLOBAL": "/dev/null",
                "GIT_CONFIG_SYSTEM": "/dev/null",
            },
        )
        return done.stdout.strip()

    def commit(self, text: str | None = None) -> str:
        """Commit the file, with another text if one is given; the commit."""
        if text is not None:
            self.file.write_text(text)
        self.git("add", "-A")
        self.git("commit", "--allow-empty", "-m", "digits")
        return self.git("rev-parse", "HEAD")

    def add(self, number: int, *, golden: bool = True, **about: Any) -> str:
        """A signed version in the registry; its digest."""
        folder = self.root.with_name(f"version-{number}")
        folder.mkdir()
        (folder / "version.yaml").write_text(yaml.safe_dump({**ABOUT, **about}))
        (folder / "model.onnx").write_bytes(b"graph %d" % number)
        if golden:
            (folder / "golden.json").write_text(json.dumps(values()))
        return self.repository.add(folder, number, COMMIT, KEY)[0].digest

    @property
    def text(self) -> str:
        """What the file holds now."""
        return self.file.read_text()
