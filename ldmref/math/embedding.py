"""Sinusoidal timestep embedding."""

from __future__ import annotations

import math

from array_api_compat import array_namespace, device

from ldmref.math.arrays import Array


def timestep_embedding(
    t: Array,
    dim: int,
    max_period: float = 10000.0,
    *,
    flip_sin_to_cos: bool = True,
    freq_shift: float = 0,
) -> Array:
    r"""Embed timesteps as cosines and sines of geometrically spaced frequencies.

    .. math:: \omega_i = P^{-i/(h - s)},\quad h = d/2,\qquad
              e(t) = [\cos(\omega_0 t), \dots, \cos(\omega_{h-1} t),
                      \sin(\omega_0 t), \dots, \sin(\omega_{h-1} t)]

    Latent diffusion puts cosines first and has s = 0; DDPM puts sines first and has s = 1, so
    its slowest frequency is 1/P itself.

    Args:
        t: timesteps, (n,), real floating; dimensionless, usually in [0, T).
        dim: width d of the embedding, even.
        max_period: P, the longest period divided by 2 pi.
        flip_sin_to_cos: cosines before sines (latent diffusion), or sines first (DDPM).
        freq_shift: s, less than dim / 2: 0 (latent diffusion) or 1 (DDPM).

    Returns:
        (n, dim), dtype of `t`.

    Raises:
        ValueError: `dim` is odd or not positive, or `freq_shift` is not less than half of it.

    Accuracy: that of the library's cos and sin; frequencies are computed in `t`'s dtype.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5; orders: `timestep_embedding` and
    `get_timestep_embedding` of CompVis/latent-diffusion; names of the options: diffusers.

    >>> import numpy as np
    >>> timestep_embedding(np.asarray([0.0]), 4)
    array([[1., 1., 0., 0.]])
    >>> timestep_embedding(np.asarray([0.0]), 4, flip_sin_to_cos=False, freq_shift=1)
    array([[0., 0., 1., 1.]])
    """
    if dim < 2 or dim % 2:
        raise ValueError(f"dim must be even and positive, not {dim}")
    xp = array_namespace(t)
    half = dim // 2
    if freq_shift >= half:
        raise ValueError(f"freq_shift must be less than {half}, half of dim, not {freq_shift}")
    i = xp.arange(half, dtype=t.dtype, device=device(t))
    angles = t[:, None] * xp.exp(i * (-math.log(max_period) / (half - freq_shift)))[None, :]
    waves = [xp.cos(angles), xp.sin(angles)]
    return xp.concat(waves if flip_sin_to_cos else waves[::-1], axis=1)
