"""What the U-Net is told besides the noisy latents and the time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ldmref.backends.base import Array, Backend


class Conditioning(NamedTuple):
    """Arrays of one batch, the first axis being the batch's.

    `context`: (n, l, cross_attention_dim), what cross-attention reads, None without; `pooled`:
    (n, d) and `sizes`: (n, 6), where the U-Net has `addition_embed_type` "text_time", else None.
    """

    context: Array | None
    pooled: Array | None = None
    sizes: Array | None = None


def join(ops: Backend, parts: Sequence[Conditioning]) -> Conditioning:
    """One conditioning for the batches of several, one after the other."""

    def along(field: str) -> Array | None:
        arrays = [getattr(part, field) for part in parts]
        return None if arrays[0] is None else ops.xp.concat(arrays, axis=0)

    return Conditioning(*(along(field) for field in Conditioning._fields))  # type: ignore[arg-type]
