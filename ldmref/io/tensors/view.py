"""Tensors of one or more files under other names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ldmref.io.tensors.safetensors import TensorFile, digest_of


class TensorView(Mapping[str, np.ndarray]):
    """The tensors of files, renamed; nothing is read before it is used.

    `shapes`: name -> shape; `files`: those that the tensors come from.
    """

    def __init__(
        self, files: Sequence[TensorFile], rename: Callable[[str], str] = str, prefix: str = ""
    ):
        """Rename the tensors; if any new name begins with `prefix`, keep only those, without it."""
        stored = {rename(name): (file, name) for file in files for name in file}
        if any(name.startswith(prefix) for name in stored):
            stored = {n.removeprefix(prefix): s for n, s in stored.items() if n.startswith(prefix)}
        shapes = {id(file): file.shapes for file in files}
        self.files, self._stored = tuple(files), stored
        self.shapes = {name: shapes[id(file)][old] for name, (file, old) in stored.items()}

    @property
    def name(self) -> str:
        """Name of the first file, for messages."""
        return self.files[0].path.name

    def sha256(self) -> str:
        """Digest of the files."""
        return digest_of(self.files)

    def __getitem__(self, name: str) -> np.ndarray:
        file, stored = self._stored[name]
        return file[stored]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)
