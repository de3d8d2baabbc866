"""The sinusoidal embedding of a timestep."""

from __future__ import annotations

import math
from typing import Any

from array_api_compat import array_namespace, device

Array = Any


def timestep_embedding(t: Array, dim: int, max_period: float = 10000.0) -> Array:
    r"""Embed timesteps as cosines and sines of geometrically spaced frequencies.

    .. math:: \omega_i = P^{-i/h},\quad h = d/2,\qquad
              e(t) = [\cos(\omega_0 t), \dots, \cos(\omega_{h-1} t),
                      \sin(\omega_0 t), \dots, \sin(\omega_{h-1} t)]

    Args:
        t: timesteps, (n,), real floating; dimensionless, usually in [0, T).
        dim: width d of the embedding, even.
        max_period: P, the longest period divided by 2 pi.

    Returns:
        (n, dim), dtype of `t`: cosines first, as all latent diffusion models order them.

    Raises:
        ValueError: `dim` is odd or not positive.

    Accuracy: that of the library's cos and sin; frequencies are computed in `t`'s dtype.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5; order of latent-diffusion.

    >>> import numpy as np
    >>> timestep_embedding(np.asarray([0.0]), 4)
    array([[1., 1., 0., 0.]])
    """
    if dim < 2 or dim % 2:
        raise ValueError(f"dim must be even and positive, not {dim}")
    xp = array_namespace(t)
    half = dim // 2
    i = xp.arange(half, dtype=t.dtype, device=device(t))
    angles = t[:, None] * xp.exp(i * (-math.log(max_period) / half))[None, :]
    return xp.concat([xp.cos(angles), xp.sin(angles)], axis=1)
