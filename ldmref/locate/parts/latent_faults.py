"""Known faults of what leads from latents to an autoencoder, and from it to latents."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ldmref.models.autoencoder_kind import LatentScale

FaultyArray = tuple[str, np.ndarray]
KNOWN_SCALES = (0.18215, 0.13025, 0.3611, 1.5305, 1.0)


def encoding_faults(scale: LatentScale, x: np.ndarray) -> Iterator[FaultyArray]:
    """Yield latents as known faults would scale them: in words, and the latents.

    Args:
        scale: How the model scales its latents.
        x: The latents (n, c, h, w), scaled.
    """
    steps = scale.ops, scale.params, scale.config
    if scale.kind.scales is None:
        folded = scale.fold(scale.denormalize(x))
        yield "the latents are not normalised", folded
        yield "denormalised instead of normalised", scale.kind.denormalize(*steps, folded)
        yield "normalised twice", scale.kind.normalize(*steps, x)
        return
    factor, shift = scale.kind.scales(scale.config)
    z = x / factor + shift
    yield "the scaling factor is missing", z - shift
    yield "divided by the scaling factor instead of multiplied", (z - shift) / factor
    if shift:
        yield "scale and shift are missing", z
        yield "the shift factor is missing", z * factor
        yield "the shift factor is added instead of subtracted", (z + shift) * factor
        yield "shifted after the scaling", z * factor - shift


def decoding_faults(scale: LatentScale, z: np.ndarray) -> Iterator[FaultyArray]:
    """Yield what known faults would give a decoder: in words, and its input.

    Args:
        scale: How the model scales its latents.
        z: What the decoder should be given, (n, c, h, w).
    """
    x = scale.normalize(z)
    if scale.kind.scales is None:
        yield from _denormalization_faults(scale, x)
        return
    factor, shift = scale.kind.scales(scale.config)
    yield "the scaling factor is missing", x + shift
    yield "multiplied by the scaling factor instead of divided", x * factor + shift
    if shift:
        yield "scale and shift are missing", x
        yield "the shift factor is missing", x / factor
        yield "the shift factor is subtracted instead of added", x / factor - shift
        yield "shifted before the scaling", (x + shift) / factor
    for other in KNOWN_SCALES:
        if other != factor:
            yield f"scaling factor {other:g} instead of {factor:g}", x / other + shift


def _denormalization_faults(scale: LatentScale, x: np.ndarray) -> Iterator[FaultyArray]:
    """Yield what a decoder is given, if latents are normalised by more than two numbers."""
    steps = scale.ops, scale.params, scale.config
    expected = scale.kind.denormalize(*steps, x)
    yield "the latents are not denormalised", scale.unfold(x)
    yield "normalised instead of denormalised", scale.unfold(scale.kind.normalize(*steps, x))
    twice = scale.kind.denormalize(*steps, expected)
    yield "denormalised twice", scale.unfold(twice)
    patch = scale.config.patch
    if patch > 1:
        n, channels, h, w = expected.shape
        c = channels // patch**2
        rows_first = expected.reshape(n, patch, patch, c, h, w).transpose(0, 3, 4, 1, 5, 2)
        columns_first = expected.reshape(n, c, patch, patch, h, w).transpose(0, 1, 4, 3, 5, 2)
        for text, patches in (
            ("channels are read as row, column, channel", rows_first),
            ("rows and columns of a patch are exchanged", columns_first),
        ):
            yield text, patches.reshape(n, c, h * patch, w * patch)


def unpacking_faults(x: np.ndarray) -> Iterator[FaultyArray]:
    """Yield latents (n, c, h, w) that were unpacked from tokens in another order.

    >>> x = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> [words for words, _ in unpacking_faults(x)][-2:]
    ['tokens run down the columns', 'rows and columns are exchanged']
    """
    n, c, h, w = x.shape
    if h % 2 or w % 2:
        return
    rows, columns = h // 2, w // 2
    tokens = x.reshape(n, c, rows, 2, columns, 2).transpose(0, 2, 4, 1, 3, 5)  # n, r, k, c, y, x
    by_row = tokens.reshape(n, rows, columns, 2, 2, c).transpose(0, 5, 1, 3, 2, 4)
    yield "a patch is read as row, column, channel", by_row.reshape(x.shape)
    turned = tokens.transpose(0, 3, 1, 5, 2, 4)
    yield "rows and columns of a patch are exchanged", turned.reshape(x.shape)
    down = tokens.reshape(n, columns, rows, c, 2, 2).transpose(0, 3, 2, 4, 1, 5)
    yield "tokens run down the columns", down.reshape(x.shape)
    if h == w:
        yield "rows and columns are exchanged", x.swapaxes(2, 3)


def clamp_of(got: np.ndarray, right: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the clamping that might have changed an array: in words, and as it would be.

    Its range contains 0, as those of programs do: otherwise it would be the cause of every change
    of the smallest of positive values.

    Args:
        got: The recorded array.
        right: What it should be.
    """
    limits = float(np.min(got, initial=0.0)), float(np.max(got, initial=0.0))
    clamped = np.clip(right, *limits)
    if limits[0] == limits[1]:  # all are zero
        return
    if np.isfinite(limits).all() and not np.array_equal(clamped, right):
        yield f"it is clamped to [{limits[0]:.5g}, {limits[1]:.5g}]", clamped
