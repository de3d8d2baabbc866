"""What a mode draws from its streams before the first step, and in which order.

The order belongs to the seed's meaning: `rng="torch"` gives diffusers' picture only if every array
is drawn when diffusers' pipelines draw it. docs/random.md lists their orders.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ldmref.modes.request import Request
from ldmref.samplers.noise import Streams


class Posterior(NamedTuple):
    """The latents that one picture may have: normal, (1, c, h, w) float32, scaled."""

    mean: np.ndarray
    std: np.ndarray


class First(NamedTuple):
    """What a batch starts from: `noise` (n, c, h, w); latents of the given picture and of its
    masked form, (n or 1, c, h, w), None without them."""

    noise: np.ndarray
    known: np.ndarray | None = None
    masked: np.ndarray | None = None


def first_draws(
    request: Request,
    picture: Posterior | None,
    streams: Streams,
    given: np.ndarray | None,
    masked: Posterior | None = None,
) -> First:
    """The latents of the given picture, if any, and the noise to start from.

    Under `rng="torch"`, in the order of diffusers: a sample of the picture's posterior (an
    inpainting U-Net that starts from pure noise does without); the noise; and for inpainting a
    sample of the masked picture's posterior, which a U-Net without channels for it never sees, but
    which moves the stream on. Otherwise nothing but the noise is drawn, and latents are the mean.

    Args:
        picture: None without one.
        streams: one per image of the batch.
        given: noise in place of the draw.
        masked: the picture without what is to be repainted, for U-Nets that have channels for it.
    """
    if picture is None or request.rng != "torch":
        noise = streams() if given is None else given
        means = (None if part is None else part.mean for part in (picture, masked))
        return First(noise, *means)

    def sample(posterior: Posterior) -> np.ndarray:
        return posterior.mean + posterior.std * streams()

    known = None if masked is not None and request.first_step == 0 else sample(picture)
    noise = streams() if given is None else given
    if request.mode != "inpaint":
        return First(noise, known)
    last = sample(picture if masked is None else masked)
    return First(noise, known, None if masked is None else last)
