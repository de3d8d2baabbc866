"""Ports all of whose layers read other tokens than they should: one fault, not one a layer.

Z-Image fills up image and caption to multiples of 32 with learned tokens, which are read like all
others; texts of a batch are padded, and a mask hides what pads them. A port that leaves out these
tokens, or the mask, has other numbers in all layers; they are then compared with those of a network
without them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import replace

from ldmref.locate.findings import DIFFERS, WIRING, Row
from ldmref.models.model import LatentDiffusion
from ldmref.trace.calls import TraceCall

CAUSE = "the learned tokens that fill up what it reads are missing"
NO_MASK = "the padding mask is missing: from this layer on, tokens read the padding"
OF_ATTENTION = "the padding mask is missing"  # the cause of one layer
LESS = 2  # factor by which the network without them has fewer faults, to be that of the port


class UnfilledModels:
    """The models without learned tokens, which are made once.

    >>> import ldmref
    >>> model = ldmref.random_model("z-image-tiny")
    >>> [layers for layers, _ in UnfilledModels().find(model, TraceCall("transformer.000"))]
    [('noise_refiner.0', 'context_refiner.0'), ('noise_refiner.0',), ('context_refiner.0',)]
    """

    def __init__(self) -> None:
        self._made: dict[tuple[int, tuple[str, ...]], LatentDiffusion] = {}

    def find(
        self, model: LatentDiffusion, call: TraceCall
    ) -> Iterator[tuple[tuple[str, ...], LatentDiffusion]]:
        """Yield the models that a port may have instead of its own, for a call of its denoiser.

        Args:
            model: The model.
            call: The call.

        Yields:
            The layers that read too few tokens, and the model.
        """
        denoiser = model.config.denoiser
        for layers, config in denoiser.unfilled.items() if call.network == denoiser.network else ():
            key = id(model), layers
            if key not in self._made:
                other = self._made[key] = copy.copy(model)
                other.config = replace(model.config, denoiser=config)
            yield layers, self._made[key]


def describe_unfilled(call: TraceCall, layers: tuple[str, ...]) -> list[Row]:
    """Return the rows of the layers that read too few tokens."""
    return [
        Row(call, layer, WIRING, error=float("inf"), verdict=DIFFERS, cause=CAUSE)
        for layer in layers
    ]


def may_lack_mask(rows: Iterable[Row]) -> bool:
    """Return whether rows have faults without a cause, or several layers without their mask."""
    faults = [row for row in rows if row.verdict == DIFFERS]
    masks = sum(OF_ATTENTION in row.cause for row in faults)
    return masks > 1 or any(not row.cause for row in faults)


def describe_unmasked(call: TraceCall, rows: Iterable[Row]) -> list[Row]:
    """Return the row of a network whose layers read the padding: at the first of them.

    Args:
        call: The call.
        rows: The rows of the network with its mask, in the order of layers.
    """
    faults = [row for row in rows if row.verdict == DIFFERS and row.layer]
    masks = [row.layer for row in faults if OF_ATTENTION in row.cause]
    layer = next(iter([*masks, *(row.layer for row in faults)]), "")
    return [Row(call, layer, WIRING, error=float("inf"), verdict=DIFFERS, cause=NO_MASK)]
