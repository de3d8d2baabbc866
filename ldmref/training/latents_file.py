"""The encoded images on disk, so that they are encoded once.

folder/latents-DIGEST.npy holds mean and log-variance of every image, (n, 2, z, h, w) float16. The
digest is that of the autoencoder and of the images: with others, they are encoded again. What is
trained on is always what the file holds, so that a resumed training sees the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np

from ldmref.backends.torch import TorchBackend
from ldmref.errors import Cancelled
from ldmref.io.atomic import atomic_write
from ldmref.models.autoencoder import encode
from ldmref.models.config import AutoencoderConfig
from ldmref.models.params import Params, flatten
from ldmref.training.checkpoint import DataSummary
from ldmref.training.data import Dataset
from ldmref.training.distributed import first_rank_first
from ldmref.training.images import to_unit
from ldmref.training.latents import Latents

BATCH = 64
PATTERN = "latents-*.npy"


def stored_latents(
    folder: Path,
    data: Dataset,
    summary: DataSummary,
    params: Params,
    config: AutoencoderConfig,
    ops: TorchBackend,
    cancel: Event | None = None,
) -> Latents:
    """The posterior of every image, memory-mapped; where the folder lacks it, the first process
    encodes them.

    Raises:
        Cancelled: `cancel` was set while they were encoded; nothing is kept.
        OutputError: the file cannot be written.
    """
    path = folder / f"latents-{_digest(params, config, summary, ops)}.npy"
    with first_rank_first():
        moments = _open(path)
        if moments is None:
            _write(path, _encoded(data, params, config, ops, cancel), len(data.images))
            moments = np.load(path, mmap_mode="c")
    return Latents(moments[:, 0], moments[:, 1])


def _write(path: Path, batches: Iterator[np.ndarray], images: int) -> None:
    """Write the batches as one array, and remove those of other images or autoencoders."""
    with atomic_write(path, overwrite=True) as file:
        header = np.lib.format.header_data_from_array_1_0
        for first, batch in enumerate(batches):
            if first == 0:
                description = header(batch) | {"shape": (images, *batch.shape[1:])}
                np.lib.format.write_array_header_1_0(file, description)
            file.write(batch.data)
    for other in path.parent.glob(PATTERN):
        if other != path:
            other.unlink(missing_ok=True)


def _open(path: Path) -> np.ndarray | None:
    """The file, copied on writing; None without one, or if it is damaged."""
    try:
        return np.load(path, mmap_mode="c")
    except (OSError, ValueError, EOFError):
        return None


def _encoded(
    data: Dataset,
    params: Params,
    config: AutoencoderConfig,
    ops: TorchBackend,
    cancel: Event | None,
) -> Iterator[np.ndarray]:
    """Mean and log-variance of `BATCH` images after the other, unscaled, (k, 2, z, h, w)."""
    with ops.inference():
        for start in range(0, len(data.images), BATCH):
            if cancel is not None and cancel.is_set():
                message = f"stopped after encoding {start} of {len(data.images)} images"
                raise Cancelled(message, code="E-CANCELLED", hint="repeat the command to resume")
            x = to_unit(data.images[start : start + BATCH], ops)
            posterior = encode(ops, params, config, ops.asarray(x))
            moments = np.stack([ops.to_numpy(z) for z in posterior], axis=1)
            yield moments.astype(np.float16, order="C")


def _digest(
    params: Params, config: AutoencoderConfig, summary: DataSummary, ops: TorchBackend
) -> str:
    """Of all that the latents depend on."""
    images = replace(summary, classes="")
    digest = hashlib.sha256(repr((replace(config, scaling_factor=1.0), images)).encode())
    for name, array in sorted(flatten(params).items()):
        digest.update(name.encode() + np.ascontiguousarray(ops.to_numpy(array)).tobytes())
    return digest.hexdigest()[:16]
