"""Guidance in attention, which all networks that read text by attention share."""

from __future__ import annotations

from collections.abc import Sequence

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.math.guidance_norms import normalized_attention_guidance

UNET_BLEND = 0.5  # weight of the result in published code for U-Nets


def guide_attention(
    ops: Backend,
    positive: Array,
    negative: Array,
    guide: Sequence[float],
    blend: float,
    order: int,
) -> Array:
    """Combine the attention of image tokens to prompts and to negative prompts, (n, l, d) each.

    Args:
        ops: The backend.
        positive, negative: The outputs of heads, merged and not yet projected.
        guide: Scale, largest norm and, unless it is the network's own, weight of the result.
        blend: The network's own weight.
        order: Order of the norms.
    """
    scale, largest, *own = guide
    arguments = scale, largest, own[0] if own else blend, order
    return ops.call_function("nag", normalized_attention_guidance, positive, negative, *arguments)
