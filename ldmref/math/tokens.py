"""Images as rows of tokens: patches, and positions as rotations."""

from __future__ import annotations

import math

from array_api_compat import array_namespace, device

from ldmref.math.arrays import Array

PATCH = 2  # rows and columns of cells in a token that is a patch, in all models


def patchify(x: Array, size: int = 2) -> Array:
    r"""Cut an image into square patches, each of which becomes one token.

    .. math:: y_{(i W/p + j),\; (c p^2 + k p + l)} = x_{c,\; p i + k,\; p j + l}

    Args:
        x: (n, c, h, w); h and w are multiples of `size`.
        size: p, the side of a patch, >= 1; 2 in all models.

    Returns:
        (n, h w / p^2, c p^2), dtype of `x`: patches row by row; within one the channel comes first,
        then its row, then its column, `n c (h p) (w q) -> n (h w) (c p q)`.

    Raises:
        ValueError: `size` does not divide h and w.

    Accuracy: exact.
    Source: Peebles and Xie 2023, arXiv:2212.09748, section 3.2, where a convolution of stride p
    does it together with the first linear layer; the order is that of its kernel, and of Flux.1.

    >>> import numpy as np
    >>> patchify(np.arange(8.0).reshape(1, 1, 2, 4))
    array([[[0., 1., 4., 5.],
            [2., 3., 6., 7.]]])
    """
    _, _, h, w = x.shape
    if size < 1 or h % size or w % size:
        raise ValueError(f"patches of {size} x {size} do not fill {h} x {w}")
    grid = cut_patches(x, size)
    n, rows, columns, width = grid.shape
    return array_namespace(x).reshape(grid, (n, rows * columns, width))


def unpatchify(tokens: Array, height: int, width: int, size: int = 2) -> Array:
    r"""Put patches back in their places: the inverse of `patchify`.

    .. math:: x_{c,\; p i + k,\; p j + l} = y_{(i W/p + j),\; (c p^2 + k p + l)}

    The last layer of Flux.1 returns such tokens, that of Stable Diffusion 3, DiT and Z-Image others
    of the same shape: row, column, channel, `n (h w) (p q c) -> n c (h p) (w q)`.

    Args:
        tokens: (n, h w / p^2, c p^2), within a token channel, row, column:
            `n (h w) (c p q) -> n c (h p) (w q)`.
        height: h of the image, a multiple of `size`.
        width: w of the image, a multiple of `size`.
        size: p, the side of a patch, >= 1.

    Returns:
        (n, c, h, w), dtype of `tokens`.

    Raises:
        ValueError: so many patches do not make an image of this size.

    Accuracy: exact.
    Source: the inverse of `patchify`; `unpack` of Flux.1. The decoder of Peebles and Xie 2023,
    arXiv:2212.09748, section 3.2, has the same places in another order.

    >>> import numpy as np
    >>> unpatchify(np.asarray([[[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]]]), 2, 4)
    array([[[[0., 1., 2., 3.],
             [4., 5., 6., 7.]]]])
    """
    _, length, _ = tokens.shape
    if size < 1 or height % size or width % size or length * size**2 != height * width:
        raise ValueError(f"{length} patches of {size} x {size} do not make {height} x {width}")
    return join_patches(tokens, height // size, width // size, size)


def cut_patches(x: Array, size: int = PATCH, channels_last: bool = False) -> Array:
    """Cut images or latents (n, c, h, w) into patches (n, h / size, w / size, c size^2).

    The numbers of a patch are ordered by channel, then row and column, as in the pattern
    `n c (h p) (w q) -> n (h w) (c p q)`, or with `channels_last` by row, column and channel,
    `n c (h p) (w q) -> n (h w) (p q c)`.

    >>> import numpy as np
    >>> cut_patches(np.arange(8.0).reshape(1, 2, 2, 2), channels_last=True)
    array([[[[0., 4., 1., 5., 2., 6., 3., 7.]]]])
    """
    xp = array_namespace(x)
    n, c, h, w = x.shape
    x = xp.reshape(x, (n, c, h // size, size, w // size, size))
    x = xp.permute_dims(x, (0, 2, 4, 3, 5, 1) if channels_last else (0, 2, 4, 1, 3, 5))
    return xp.reshape(x, (n, h // size, w // size, c * size**2))


def join_patches(
    x: Array, rows: int, columns: int, size: int = PATCH, channels_last: bool = False
) -> Array:
    """Join the first rows * columns patches of (n, l, c size^2), ordered as in `cut_patches`.

    Returns images or latents, (n, c, size rows, size columns).

    >>> import numpy as np
    >>> join_patches(np.arange(8.0).reshape(1, 1, 8), 1, 1, channels_last=True)[0, 1]
    array([[1., 3.],
           [5., 7.]])
    """
    xp = array_namespace(x)
    n, _, width = x.shape
    c = width // size**2
    inner = (size, size, c) if channels_last else (c, size, size)
    x = xp.reshape(x[:, : rows * columns, :], (n, rows, columns, *inner))
    x = xp.permute_dims(x, (0, 5, 1, 3, 2, 4) if channels_last else (0, 3, 1, 4, 2, 5))
    return xp.reshape(x, (n, c, rows * size, columns * size))


def rotary_embedding(
    x: Array, positions: Array, widths: tuple[int, ...], base: float = 10000.0
) -> Array:
    r"""Turn each pair of neighbouring channels by an angle that grows with the position.

    .. math:: (x_{2i} + \mathrm{i}\, x_{2i+1})\, e^{\mathrm{i}\, p\, \omega_i}, \qquad
              \omega_i = P^{-2 i / w}

    The product of a turned query and a turned key depends only on the difference of their
    positions. Each axis (sequence, row, column) has its own channels.

    Args:
        x: queries or keys of one head, (..., l, d), real floating.
        positions: of the tokens, (l, axes), real floating.
        widths: w, how many of the d channels belong to each axis, even; their sum is d. i counts
            the pairs of one axis.
        base: P, > 0; 10000 in Flux.1, 256 in Z-Image.

    Returns:
        shape and dtype of `x`; no pair changes its length.

    Raises:
        ValueError: `widths` do not sum to d, one is odd, or their number is not that of the axes.

    Accuracy: that of the library's cos and sin; angles are computed in the dtype of `positions`.
    Source: Su et al. 2021, arXiv:2104.09864, eq. 15 for one axis; axes as in Flux.1 (`rope`).

    >>> import numpy as np
    >>> quarter = np.asarray([[0.0], [np.pi / 2]])
    >>> rotary_embedding(np.asarray([[1.0, 0.0], [1.0, 0.0]]), quarter, (2,)).round(12)
    array([[1., 0.],
           [0., 1.]])
    """
    if sum(widths) != x.shape[-1] or any(w % 2 for w in widths):
        raise ValueError(f"widths {widths} must be even and sum to {x.shape[-1]}")
    if len(widths) != positions.shape[-1]:
        raise ValueError(f"{len(widths)} widths do not fit {positions.shape[-1]} axes")
    xp = array_namespace(x)
    angles = []
    for axis, width in enumerate(widths):
        i = xp.arange(width // 2, dtype=positions.dtype, device=device(positions))
        frequencies = xp.exp(i * (-2.0 * math.log(base) / width))
        angles.append(positions[:, axis : axis + 1] * frequencies[None, :])
    angle = xp.astype(xp.concat(angles, axis=1), x.dtype, copy=False)
    cosine, sine = xp.cos(angle), xp.sin(angle)
    first, second = x[..., 0::2], x[..., 1::2]
    turned = [first * cosine - second * sine, first * sine + second * cosine]
    return xp.reshape(xp.stack(turned, axis=-1), x.shape)
