"""The parts of the package's metadata that depend on the address of the repository.

hatchling calls this when it builds (`[tool.hatch.metadata.hooks.custom]`). On a package index, the
links and images of README.md need absolute addresses. They are made from the address of the
repository: that of the table in pyproject.toml or, in a release job, of the variable
LDMREF_REPOSITORY. Without an address the README stays as it is, and the package names no URLs.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"(^ *```.*?^ *```$)", re.DOTALL | re.MULTILINE)
PATH = r"\]\((?!#|[a-z]+:)(?P<path>[^)\s]+)\)"
IMAGE = re.compile(rf"(?P<text>!\[[^\[\]]*){PATH}")
LINK = re.compile(PATH)


def absolute_links(text: str, repository: str, version: str) -> str:
    """Return a page with the relative links replaced by those of a released version.

    Args:
        text: The page, as Markdown.
        repository: The address of the repository, without a slash at its end.
        version: The version, whose tag is `v` and the version.
    """

    raw = rf"\g<text>]({repository}/raw/v{version}/\g<path>)"
    blob = rf"]({repository}/blob/v{version}/\g<path>)"
    parts = FENCE.split(text)
    parts[::2] = [LINK.sub(blob, IMAGE.sub(raw, part)) for part in parts[::2]]
    return "".join(parts)


def project_urls(repository: str, version: str) -> dict[str, str]:
    """Return the addresses that a package index shows."""
    return {
        "Repository": repository,
        "Documentation": f"{repository}/blob/v{version}/docs/README.md",
        "Changelog": f"{repository}/blob/v{version}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }


class RepositoryHook(MetadataHookInterface):
    """Fill in `readme` and `urls`."""

    def update(self, metadata: dict[str, Any]) -> None:
        repository = os.environ.get("LDMREF_REPOSITORY") or self.config.get("repository", "")
        repository = repository.rstrip("/")
        text = (ROOT / "README.md").read_text("utf-8")
        version = read_version()
        if repository:
            text = absolute_links(text, repository, version)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        metadata["urls"] = project_urls(repository, version) if repository else {}


def read_version() -> str:
    """Return the version that `ldmref/support/version.py` declares."""
    text = (ROOT / "ldmref" / "support" / "version.py").read_text("utf-8")
    match = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    assert match, "ldmref/support/version.py declares no version"
    return match[1]


def get_metadata_hook() -> type[MetadataHookInterface]:
    return RepositoryHook
