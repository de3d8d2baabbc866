"""The encoded images, in memory and on disk, and noisy batches of them.

folder/latents-DIGEST.npy holds mean and log-variance of every image, (n, 2, z, h, w) float16, so
that images are encoded once. The digest identifies the autoencoder and the images. Training always
reads the file, so a resumed training sees the same numbers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

import numpy as np
import torch

from ldmref.backends.torch import TorchBackend
from ldmref.datasets.base import Dataset
from ldmref.datasets.config import DataSummary
from ldmref.errors import Cancelled
from ldmref.io.atomic import atomic_write
from ldmref.math.divergence import reparameterize
from ldmref.models.autoencoder_config import AutoencoderConfig, BaseAutoencoderConfig
from ldmref.models.autoencoder_kind import LatentScale, add_alpha, autoencoder_of
from ldmref.models.params import Params, flatten
from ldmref.training.batches import Part, step_noise, to_unit
from ldmref.training.distributed import first_rank_first
from ldmref.training.recipes.schema import recipe_error

BATCH = 64  # images that are encoded at a time
PATTERN = "latents-*.npy"
CHUNK = 1024  # images whose moments are read at a time
SHARE_OF_MEMORY = 0.25  # of the free memory of a device, which latents may fill


@dataclass(frozen=True)
class Latents:
    """The encoded data set: posterior mean and log-variance, unscaled, (n, z, h, w) floats."""

    mean: np.ndarray
    logvar: np.ndarray

    @property
    def scaling_factor(self) -> float:
        """1 / standard deviation of the latents: scaled latents have unit variance."""
        first, second = self._moments()
        return float(1.0 / math.sqrt(second - first**2))

    @property
    def shift_factor(self) -> float:
        """The mean of the latents."""
        return float(self._moments()[0])

    def _moments(self) -> tuple[float, float]:
        """Return the means of the latents and of their squares."""
        first = second = 0.0
        for start in range(0, len(self.mean), CHUNK):
            mean, logvar = (
                moment[start : start + CHUNK].astype(np.float64)
                for moment in (self.mean, self.logvar)
            )
            first += mean.sum()
            second += (mean**2 + np.exp(logvar)).sum()
        return first / self.mean.size, second / self.mean.size


class NoisyLatents:
    """Batches of an encoded data set for training.

    Args:
        latents: The encoded images, unscaled.
        weights: Relative sampling frequencies, (n,).
        scale: How the latents of the denoiser follow from them.
        ops: The backend of the batches, which are float32, or float64 if it computes in float64.
    """

    def __init__(
        self,
        latents: Latents,
        weights: np.ndarray,
        scale: LatentScale,
        ops: TorchBackend,
    ):
        place = _place(latents, ops)
        self.mean = torch.as_tensor(latents.mean).to(place)
        self.logvar = torch.as_tensor(latents.logvar).to(place)
        self.probabilities = weights / weights.sum()
        self.scale = scale
        self.ops = ops

    def sample_indices(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Return the indices of n random images."""
        return rng.choice(len(self.mean), n, p=self.probabilities)

    def noise(
        self, batch: np.ndarray, seed: int, step: int, part: Part
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scaled latents sampled from the posterior, and noise, for a part of the batch."""
        ops = self.ops
        index = torch.as_tensor(part.slice(batch)).to(self.mean.device)
        mean, logvar = (
            ops.asarray(moment[index], ops.state_dtype) for moment in (self.mean, self.logvar)
        )
        shape = (2, len(batch), *self.mean.shape[1:])
        posterior_noise, eps = (
            part.slice(z).to(mean.dtype) for z in step_noise(shape, seed, step, ops)
        )
        z = reparameterize(mean, logvar, posterior_noise)
        return self.scale.normalize(z), self.scale.fold(eps)


def _place(latents: Latents, ops: TorchBackend) -> torch.device:
    """Return where latents are kept: on the device if they fill a part of its free memory."""
    device = torch.device(ops.device)
    if device.type != "cuda":
        return torch.device("cpu")
    free, _ = torch.cuda.mem_get_info(device)
    size = 2 * latents.mean.size * latents.mean.itemsize
    return device if size < SHARE_OF_MEMORY * free else torch.device("cpu")


def random_quantiles(rng: np.random.Generator, n: int, stratified: bool) -> np.ndarray:
    """Return n uniform numbers in [0, 1); with `stratified`, one in each n-th of it, in order."""
    u = rng.random(n)
    return (np.arange(n) + u) / n if stratified else u


def random_timesteps(
    rng: np.random.Generator, n: int, total: int, power: float, stratified: bool = True
) -> np.ndarray:
    """Return n timesteps below `total` with the density power * u^(power - 1) of u = t / total.

    With `stratified` there is one in each n-th of the density, in order; otherwise they are
    independent.
    """
    u = random_quantiles(rng, n, stratified)
    return np.minimum((total * u ** (1.0 / power)).astype(np.int64), total - 1)


def known_latents(data: Dataset, config: BaseAutoencoderConfig, size: int) -> Latents | None:
    """Return the latents of a data set that has them, `moments`; None if it has images only.

    Args:
        data: The data set.
        config: The autoencoder, which says what shape latents have.
        size: Width and height of the images in pixels.

    Raises:
        UsageError: They have another shape.
    """
    moments = getattr(data, "moments", None)
    if moments is None:
        return None
    cells = size // config.factor * config.patch
    shape = (len(data.images), 2, config.latent_channels // config.patch**2, cells, cells)
    if moments.shape != shape:
        message = f"the data set has latents of shape {moments.shape[2:]}, the model {shape[2:]}"
        raise recipe_error(message, hint="set model.vae.latent_channels and data.size to fit")
    return Latents(moments[:, 0], moments[:, 1])


# -- on disk --------------------------------------------------------------------------------------


def stored_latents(
    folder: Path,
    data: Dataset,
    summary: DataSummary,
    params: Params,
    config: BaseAutoencoderConfig,
    ops: TorchBackend,
    cancel: Event | None = None,
) -> Latents:
    """Return the posterior of every image, memory-mapped.

    If the folder does not have the file, the first process encodes the images.

    Raises:
        Cancelled: `cancel` was set while they were encoded; nothing is kept.
        OutputError: The file cannot be written.
    """
    path = folder / f"latents-{_digest(params, config, summary, ops)}.npy"
    with first_rank_first():
        moments = _open(path)
        if moments is None:
            _write(path, _encoded(data, params, config, ops, cancel), len(data.images))
            moments = np.load(path, mmap_mode="c")
    return Latents(moments[:, 0], moments[:, 1])


def _write(path: Path, batches: Iterator[np.ndarray], images: int) -> None:
    """Write the batches as one array, and remove files of other images or autoencoders."""
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
    """Open the file, copied on writing; None if there is no file or it is damaged."""
    try:
        return np.load(path, mmap_mode="c")
    except (OSError, ValueError, EOFError):
        return None


def _encoded(
    data: Dataset,
    params: Params,
    config: BaseAutoencoderConfig,
    ops: TorchBackend,
    cancel: Event | None,
) -> Iterator[np.ndarray]:
    """Yield mean and log-variance, unscaled, (k, 2, z, h, w), in batches of `BATCH` images."""
    with ops.inference():
        for start in range(0, len(data.images), BATCH):
            if cancel is not None and cancel.is_set():
                message = f"stopped after encoding {start} of {len(data.images)} images"
                raise Cancelled(message, code="E-CANCELLED", hint="repeat the command to resume")
            x = to_unit(data.images[start : start + BATCH], ops)
            images = add_alpha(ops, ops.asarray(x), config)
            posterior = autoencoder_of(config).encode(ops, params, config, images)
            moments = np.stack([ops.to_numpy(z) for z in posterior], axis=1)
            yield moments.astype(np.float16, order="C")


def _digest(
    params: Params, config: BaseAutoencoderConfig, summary: DataSummary, ops: TorchBackend
) -> str:
    """Return the digest of everything that the latents depend on."""
    images = replace(summary, classes="")
    unscaled = config
    if type(config) is AutoencoderConfig:
        unscaled = replace(config, scaling_factor=1.0, shift_factor=0.0)
    digest = hashlib.sha256(repr((unscaled, images)).encode())
    for name, array in sorted(flatten(params).items()):
        digest.update(name.encode() + np.ascontiguousarray(ops.to_numpy(array)).tobytes())
    return digest.hexdigest()[:16]
