"""What the U-Net is told besides the noisy latents and the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.models.params import Params

Made = dict[int, tuple[Params, tuple[Array, Array]]]  # by the layer's identity


class Context:
    """Hidden states (n, l, d) that do not change from step to step, and what is made of them.

    Each attention layer's keys and values depend on nothing else, so they are made once.
    """

    def __init__(self, states: Array, made: Made):
        self.states, self._made = states, made

    def keys_and_values(
        self, layer: Params, make: Callable[[Array], tuple[Array, Array]]
    ) -> tuple[Array, Array]:
        """`make(states)` at the first call for a layer, and the same arrays ever after."""
        if id(layer) not in self._made:
            self._made[id(layer)] = layer, make(self.states)
        return self._made[id(layer)][1]


def states_of(context: Array | Context) -> Array:
    """The hidden states of either kind."""
    return context.states if isinstance(context, Context) else context


class Conditioning(NamedTuple):
    """Arrays of one batch, the first axis being the batch's.

    `context`: (n, l, cross_attention_dim), what cross-attention reads, None without; `pooled`:
    (n, d) and `sizes`: (n, 6), where the U-Net has `addition_embed_type` "text_time", else None.
    `made`: see `lasting`.
    """

    context: Array | None
    pooled: Array | None = None
    sizes: Array | None = None
    made: Made | None = None

    def of_network(self) -> tuple[Array | Context | None, Array | None, Array | None]:
        """Context, pooled and sizes as the networks take them."""
        if self.context is None or self.made is None:
            return self[:3]
        return Context(self.context, self.made), self.pooled, self.sizes


def lasting(told: Conditioning) -> Conditioning:
    """The same for many steps, in which its arrays do not change: see `Context`."""
    return told._replace(made={})


def join(ops: Backend, parts: Sequence[Conditioning]) -> Conditioning:
    """One conditioning for the batches of several, one after the other."""

    def along(field: str) -> Array | None:
        arrays = [getattr(part, field) for part in parts]
        return None if arrays[0] is None else ops.xp.concat(arrays, axis=0)

    return Conditioning(along("context"), along("pooled"), along("sizes"))
