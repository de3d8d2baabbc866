"""The models inside the package, and the published SHA-256 of each of their files."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import numpy as np

from ldmref.errors import CorruptModelError, InputError
from ldmref.io.native import CONFIG, TOKENIZER, WEIGHTS, NativeFolder, hash_file

PUBLISHED = {
    "emoji": {
        CONFIG: "0c9c747fee72930a9a725c7607d1f4ab099a3e54083a19d99db9c4a3bfbe6fd1",
        WEIGHTS: "1cbc0411324daf2cf833aee939dc20c04dfe32de4b36959c6ca7ff2646d0482f",
        TOKENIZER: "ebf3c744cf19a3510ca30f605917134036f8719e5d2fb6eadc6fd707ef36252a",
    }
}
EMBEDDED = tuple(PUBLISHED)


def embedded_folder(name: str) -> Path:
    """Return the folder of an embedded model."""
    return Path(str(files("ldmref") / "assets" / name))


class EmbeddedFolder(NativeFolder):
    """The folder of an embedded model, whose files are the published ones."""

    @classmethod
    def is_at(cls, path: Path) -> bool:
        return path in map(embedded_folder, EMBEDDED)

    def read(self) -> dict[str, np.ndarray]:
        tensors = super().read()
        require_published(self.path, self.digest)
        return tensors


def require_published(folder: Path, weights: str = "") -> None:
    """Refuse an embedded model whose files are not the published ones; others pass.

    Args:
        folder: The model's folder.
        weights: SHA-256 of the file of the weights; "": compute it.

    Raises:
        CorruptModelError: Names the first file that differs.
        InputError: A file is missing.
    """
    for name, digests in PUBLISHED.items():
        if folder == embedded_folder(name):
            _require_digests(name, folder, digests, {WEIGHTS: weights} if weights else {})


def _require_digests(
    model: str, folder: Path, digests: Mapping[str, str], known: Mapping[str, str]
) -> None:
    hint = "install ldmref again; in a checkout, restore ldmref/assets"
    for name, published in digests.items():
        if not (folder / name).is_file():
            message = f"{name} of the embedded model {model!r} is missing"
            raise InputError(message, code="E-MODEL", hint=hint)
        actual = known.get(name) or hash_file(folder / name)
        if actual != published:
            message = f"{name} of the embedded model {model!r} is not the published file: its "
            message += f"SHA-256 is {actual}, not {published}"
            raise CorruptModelError(message, code="E-DIGEST", hint=hint)
