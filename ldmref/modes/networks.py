"""The model's networks as the modes call them: host pictures and latents in, and out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ldmref.backends.base import Backend
from ldmref.errors import NumericError
from ldmref.io.pictures.images import to_array, to_images
from ldmref.math.arrays import Array
from ldmref.models.conditioning import Conditioning, join, lasting
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.control import Guide, residuals_of
from ldmref.modes.draws import Posterior


class Decoder(Protocol):
    """What makes pictures of latents: a `LatentDiffusion`, a `TinyAutoencoder`."""

    backend: Backend

    def decode(self, latents: Array, /, tile: int | None = None) -> Array: ...


def decode_images(
    decoder: Decoder, latents: np.ndarray, tile: int | None = None
) -> list[Image.Image]:
    """Pictures of host latents (n, c, h, w)."""
    tiling = {} if tile is None else {"tile": tile}
    pixels = decoder.backend.to_numpy(decoder.decode(decoder.backend.asarray(latents), **tiling))
    if not np.isfinite(pixels).all():
        raise NumericError(
            "the decoder gave NaN or infinity", code="E-NAN", hint="try --dtype float32"
        )
    return to_images(pixels)


def encode_picture(model: LatentDiffusion, image: Image.Image) -> Posterior:
    """The scaled latents that an RGB picture may have."""
    return encode_array(model, to_array([image]))


def encode_array(model: LatentDiffusion, pixels: np.ndarray) -> Posterior:
    """The scaled latents that pictures (n, 3, H, W) in [-1, 1] may have."""
    ops = model.backend
    mean, std = model.encode_posterior(ops.asarray(pixels))
    return Posterior(*(np.array(ops.to_numpy(part), np.float32) for part in (mean, std)))


def concat(ops: Backend, parts: list) -> Any:
    """Arrays or conditionings of two batches as one batch."""
    if isinstance(parts[0], Conditioning):
        return join(ops, parts)
    return ops.xp.concat(parts, axis=0)


def image_channels(
    model: LatentDiffusion,
    mask: np.ndarray | None,
    masked: np.ndarray | None,
    shape: tuple[int, int, int],
    channels: np.ndarray | None = None,
) -> Array | None:
    """What is joined to the latents, (n or 1, k, h, w), for a U-Net that has channels for it.

    `channels` as they are; else mask and masked latents. Without a mask, everything is to be
    repainted, and the masked picture shows nothing but `hole_of`. With concat "masked_image", the
    masked latents come first and the mask runs from -1 to 1.
    """
    config = model.config
    if not config.image_channels:
        return None
    if channels is not None:
        return model.backend.asarray(channels)
    _, h, w = shape
    if mask is None or masked is None:
        size = (1, 3, h * config.vae.factor, w * config.vae.factor)
        hole = model.backend.asarray(np.full(size, hole_of(config)))
        masked = np.asarray(model.backend.to_numpy(model.encode_image(hole)))
        mask = np.ones((1, 1, h, w))
    mask = np.broadcast_to(mask, (masked.shape[0], 1, h, w))
    parts = [masked, 2.0 * mask - 1.0] if config.concat == "masked_image" else [mask, masked]
    return model.backend.asarray(np.concatenate(parts, axis=1).astype(np.float32))


def hole_of(config: ModelConfig) -> float:
    """What a masked picture shows where it is masked: black in latent diffusion, else grey."""
    return -1.0 if config.concat == "masked_image" else 0.0


def network_of(
    model: LatentDiffusion, extra: Array | None = None, guides: Sequence[Guide] = ()
) -> Callable[[Array, float, Conditioning], Array]:
    """The U-Net as `(x_t, t, context) -> prediction`, in and out in the sampler's precision.

    `extra`: (n or 1, k, h, w), joined to the latents as further channels; `guides`: ControlNets,
    which see the latents alone.
    """
    ops: Backend = model.backend
    last: tuple[Any, Any] = (None, None)

    def network(xt: Array, t: float, context: Conditioning) -> Array:
        nonlocal last
        if last[0] is not context:  # one conditioning for many steps: keys and values are kept
            last = context, lasting(context)
        n, context = xt.shape[0], last[1]
        time, x = ops.asarray(np.full(n, t), ops.state_dtype), ops.cast(xt, ops.dtype)
        steering = {"control": residuals_of(guides, x, time, context)} if guides else {}
        if extra is not None:
            repeated = ops.xp.concat([extra] * (n // extra.shape[0]), axis=0)
            x = ops.xp.concat([x, repeated], axis=1)
        return ops.cast(model.unet(x, time, context, **steering), ops.state_dtype)

    return network
