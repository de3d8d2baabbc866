"""Prefixes that frameworks put before the names of all tensors of a network.

| prefix             | put by                                                     |
|--------------------|------------------------------------------------------------|
| `module.`          | DataParallel and DistributedDataParallel of torch          |
| `_orig_mod.`       | `torch.compile`, before a network or before one of a block |
| `diffusion_model.` | ComfyUI and trainers, before a denoiser alone              |

They say nothing of the network. A prefix counts if all tensors of a file have it; `_orig_mod.`,
which is the name of no layer, wherever it is.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np

from ldmref.io.tensors.model_file import ModelFile

COMPILED = re.compile(r"(^|\.)_orig_mod\.")
WRAPPERS = ("module.", "diffusion_model.")


class UnwrappedFile(ModelFile):
    """The tensors of a file under names without the prefixes of frameworks."""

    def __init__(self, file: ModelFile, stored: dict[str, str]):
        self.path = file.path
        self.kinds = {name: file.kinds[old] for name, old in stored.items()}
        self.shapes = {name: file.shapes[old] for name, old in stored.items()}
        self.metadata = file.metadata
        self.identity = file.identity
        self.warnings = file.warnings
        self.squeezed = file.squeezed
        self._file = file
        self._stored = stored

    def __getitem__(self, name: str) -> np.ndarray:
        return self._file[self._stored[name]]

    def sha256(self) -> str:
        """Return the SHA-256 of the whole file, in hexadecimal."""
        return self._file.sha256()


def unwrap_names(names: Collection[str]) -> dict[str, str]:
    """Return the stored name by name without prefixes; {} if no name has one.

    >>> unwrap_names(["module._orig_mod.a.weight", "module._orig_mod.a.bias"])
    {'a.weight': 'module._orig_mod.a.weight', 'a.bias': 'module._orig_mod.a.bias'}
    >>> unwrap_names(["module.a", "b"])
    {}
    """
    bare = {COMPILED.sub(r"\1", name): name for name in names}
    prefix = next((x for x in WRAPPERS if bare and all(n.startswith(x) for n in bare)), "")
    while prefix:
        bare = {name.removeprefix(prefix): old for name, old in bare.items()}
        prefix = next((x for x in WRAPPERS if all(n.startswith(x) for n in bare)), "")
    changed = any(name != old for name, old in bare.items())
    return bare if changed and len(bare) == len(names) else {}


def unwrap_file(file: ModelFile) -> ModelFile:
    """Return a file under names without the prefixes of frameworks; itself if it has none."""
    stored = unwrap_names(file.shapes)
    return UnwrappedFile(file, stored) if stored else file
