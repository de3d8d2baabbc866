"""The models inside the package, and the published SHA-256 of each of their files."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from ldmref.errors import CorruptModelError, InputError
from ldmref.io.native import CONFIG, TOKENIZER, WEIGHTS, digest

PUBLISHED = {
    "emoji": {
        CONFIG: "480cda38515dcaf83c25648aa44461443e4a53714d8caa2f7b157d41362a5ecd",
        WEIGHTS: "2ba65477ff67acfb6c1835dfe81b17bde6aa50624e0b1dc72d259c6175925cab",
        TOKENIZER: "ac8dfab490c57ba1226b44208eed0924efa2a5165a4913082f0181074a2ef7c5",
    }
}
EMBEDDED = tuple(PUBLISHED)


def embedded_folder(name: str) -> Path:
    """The folder of an embedded model."""
    return Path(str(files("ldmref") / "assets" / name))


def require_published(folder: Path, weights: str = "") -> None:
    """Refuse an embedded model whose files are not the published ones; others pass.

    `weights`: SHA-256 of the weights' file, if it is known.

    Raises:
        CorruptModelError: names the first file that differs.
        InputError: a file is missing.
    """
    for name, digests in PUBLISHED.items():
        if folder == embedded_folder(name):
            _require_digests(name, folder, digests, {WEIGHTS: weights} if weights else {})


def _require_digests(
    model: str, folder: Path, digests: Mapping[str, str], known: Mapping[str, str]
) -> None:
    hint = "install ldmref again; of a checkout, restore ldmref/assets"
    for name, published in digests.items():
        if not (folder / name).is_file():
            message = f"{name} of the embedded model {model!r} is missing"
            raise InputError(message, code="E-MODEL", hint=hint)
        actual = known.get(name) or digest(folder / name)
        if actual != published:
            message = f"{name} of the embedded model {model!r} is not the published one: its "
            message += f"SHA-256 is {actual}, not {published}"
            raise CorruptModelError(message, code="E-DIGEST", hint=hint)
