"""Folders of diffusers as configuration and tensors."""

from __future__ import annotations

from ldmref.io.diffusers.folder import DiffusersFolder


def load_diffusers(folder, variant=None):
    """Return the configuration, the tensors by our names, and a function that hashes the files."""
    opened = DiffusersFolder(folder, variant)
    return opened.config, opened.read(), opened.digest
