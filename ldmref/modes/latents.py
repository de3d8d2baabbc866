"""The check of latents that callers bring."""

from __future__ import annotations

from array_api_compat import array_namespace

from ldmref.errors import UsageError
from ldmref.math.arrays import Array
from ldmref.models.config import ModelConfig


def check_latents(config: ModelConfig, x: Array, prompts: int) -> Array:
    """Check that a model can denoise the latents, and return them.

    Args:
        config: The model's configuration.
        x: An array.
        prompts: The number of prompts; a single one serves any number of latents.

    Raises:
        UsageError: They are not real numbers, or have another shape.
    """
    shape = tuple(x.shape)
    c = config.vae.latent_channels
    multiple = config.size_multiple // config.vae.factor
    fits = len(shape) == 4 and shape[1] == c and min(shape) > 0
    if not fits or shape[2] % multiple or shape[3] % multiple:
        halved = f", h and w multiples of {multiple}" if multiple > 1 else ""
        raise UsageError(
            f"x must have shape (n, {c}, h, w){halved}, not {shape}",
            code="E-LATENTS",
            hint="a batch of latents, not an image: model.encode_image makes them of images",
        )
    if not array_namespace(x).isdtype(x.dtype, "real floating"):
        raise UsageError(f"x must hold floating-point numbers, not {x.dtype}", code="E-LATENTS")
    if prompts not in (1, shape[0]):
        raise UsageError(
            f"{prompts} prompts for {shape[0]} latents",
            code="E-PROMPT",
            hint="one for each, or one",
        )
    return x
