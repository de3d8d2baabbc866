"""The conditioning of the U-Net: text, pooled text and image sizes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar
from weakref import ref

import numpy as np
from array_api_compat import array_namespace, device

from ldmref.backends.base import Backend
from ldmref.errors import UsageError
from ldmref.math.arrays import Array
from ldmref.models.params import Params

Kept = TypeVar("Kept")


class CachedContext:
    """Hidden states (n, l, d) of the text, with a cache of the keys and values made from them.

    Keys and values of a cross-attention layer do not change from step to step.
    """

    def __init__(self, states: Array):
        self.states = states
        # by the layer's id, as long as it lives: a released network comes back with new layers
        self._cache: dict[int, tuple[ref[Params], Any]] = {}

    def keys_and_values(self, layer: Params, project: Callable[[Array], Kept]) -> Kept:
        """Return `project(states)`, computed at the first call for a layer, or for a network."""
        key = id(layer)
        cache = self._cache
        if key not in cache:
            cache[key] = ref(layer, lambda _: cache.pop(key, None)), project(self.states)
        return cache[key][1]


def get_hidden_states(context: Array | CachedContext | None) -> Any:
    """Return the hidden states, whether or not they are cached.

    Args:
        context: The argument `context` of a denoiser: hidden states (n, l, d), which some backends
            hand over with a cache of the keys and values made from them.

    Returns:
        The hidden states, (n, l, d).

    >>> import numpy as np
    >>> get_hidden_states(CachedContext(np.zeros((1, 77, 8)))).shape
    (1, 77, 8)
    """
    return context.states if isinstance(context, CachedContext) else context


INTERPOLATED = ("context", "pooled")  # fields of `Conditioning` that come from the text


class Conditioning(NamedTuple):
    """The conditioning arrays of one batch; the first axis is the batch.

    Attributes:
        context: Hidden states for cross-attention, (n, l, cross_attention_dim); None for a U-Net
            without cross-attention.
        pooled: Pooled text, (n, d), for `addition_embed_type` "text_time"; None otherwise.
        sizes: The six image sizes, (n, 6), for "text_time"; None otherwise.
        more: Arrays of other families, by the argument of the denoiser that takes them.

    >>> import numpy as np
    >>> from ldmref.models import Conditioning
    >>> conditioning = Conditioning(np.zeros((1, 77, 768)))
    >>> conditioning.pooled is None
    True
    """

    context: Array | CachedContext | None
    pooled: Array | None = None
    sizes: Array | None = None
    more: Mapping[str, Array] = MappingProxyType({})


def convert_conditioning(
    ops: Backend, context: Array | CachedContext | Conditioning | None
) -> dict[str, Any]:
    """Return a conditioning, or bare hidden states, as arrays of a backend.

    They are named by the argument of the denoiser that takes them; None for those that it lacks.
    """
    parts = context if isinstance(context, Conditioning) else Conditioning(context)
    named = {"context": parts.context, "pooled": parts.pooled, "sizes": parts.sizes, **parts.more}
    return {
        name: part if part is None or isinstance(part, CachedContext) else ops.own(name, part)
        for name, part in named.items()
    }


def add_cache(ops: Backend, conditioning: Conditioning) -> Conditioning:
    """Return a conditioning for many steps, with a `CachedContext`.

    Compiled networks do not accept one, and a backend that observes layers would see only the first
    step, so their conditioning is returned unchanged.
    """
    if conditioning.context is None or ops.compiles or ops.observes_layers:
        return conditioning
    return conditioning._replace(context=CachedContext(get_hidden_states(conditioning.context)))


def join(ops: Backend, parts: Sequence[Conditioning]) -> Conditioning:
    """Concatenate the batches of several conditionings."""

    def concat(arrays: Sequence[Array | None]) -> Array | None:
        return None if arrays[0] is None else ops.xp.concat(arrays, axis=0)

    states = [get_hidden_states(part.context) for part in parts]
    pooled = concat([part.pooled for part in parts])
    sizes = concat([part.sizes for part in parts])
    more = {name: concat([part.more[name] for part in parts]) for name in parts[0].more}
    return add_cache(ops, Conditioning(concat(states), pooled, sizes, more))


def select_rows(conditioning: Conditioning, rows: object) -> Conditioning:
    """Return some rows of a conditioning without what it caches; `rows` indexes a first axis."""

    def select(x: Array | None) -> Array | None:
        return None if x is None else x[rows]

    return Conditioning(
        select(get_hidden_states(conditioning.context)),
        select(conditioning.pooled),
        select(conditioning.sizes),
        {name: x[rows] for name, x in conditioning.more.items()},
    )


def interpolate(
    start: Conditioning,
    end: Conditioning,
    t: Array,
    between: Callable[[Array, Array, Array], Array],
) -> Conditioning:
    """Return the conditioning at positions between two, field by field.

    Arrays of floats are interpolated. The image sizes are those of the start. Between the
    ends, the `mask` of the tokens has 1 where either end has; other arrays of booleans or integers
    have nothing between their values, so they must be the same at both ends.

    Args:
        start, end: Conditionings of as many examples.
        t: Positions, (n,): 0 at `start`, 1 at `end`.
        between: `between(a, b, t)`, such as `ldmref.math.lerp`.

    Raises:
        UsageError: Arrays of the two differ in shape, or such a mask differs.
    """

    def of(name: str, first: Array | CachedContext | None, last: Any) -> Array | None:
        if first is None:
            return None
        a, b = get_hidden_states(first), get_hidden_states(last)
        xp = array_namespace(a)
        if a.shape == b.shape and xp.isdtype(a.dtype, "real floating"):
            return between(a, b, t)
        if name == "mask" and a.shape == b.shape:
            at = t[:, None]
            return xp.where(at == 0, a, xp.where(at == 1, b, xp.where(a != 0, a, b)))
        if a.shape != b.shape or bool(xp.any(a != b)):
            raise UsageError(
                f"the prompts cannot be interpolated: their {name} differ",
                code="E-PROMPT",
                hint="take prompts of the same number of tokens",
            )
        return a

    more = {name: of(name, start.more[name], end.more[name]) for name in start.more}
    fields = {name: of(name, getattr(start, name), getattr(end, name)) for name in INTERPOLATED}
    return start._replace(more=more, **fields)


def add_scale(ops: Backend, conditioning: Conditioning, scale: float) -> Conditioning:
    """Add the guidance scale to the conditioning of a denoiser that reads it."""
    n = get_hidden_states(conditioning.context).shape[0]
    scales = ops.asarray(np.full(n, scale), ops.state_dtype)
    return conditioning._replace(more={**conditioning.more, "guidance": scales})


def add_next_time(conditioning: Conditioning, t_next: Array) -> Conditioning:
    """Add the times to which the steps lead, (n,), to the conditioning of a flow map."""
    return conditioning._replace(more={**conditioning.more, "t_next": t_next})


def add_arrays(conditioning: Conditioning, more: Mapping[str, Array]) -> Conditioning:
    """Return a conditioning with further arrays of the text, by the denoiser's argument."""
    return conditioning._replace(more={**conditioning.more, **more}) if more else conditioning


def fit_lengths(
    ops: Backend,
    parts: Mapping[str, Conditioning],
    of_tokens: Collection[str] = (),
    multiple: int = 0,
) -> dict[str, Conditioning]:
    """Return the conditionings of one run with equally many hidden states.

    It cuts padding that no prompt needs and fills up shorter texts with zeros: a denoiser that
    reads the `mask` of the tokens does not look at either.

    Args:
        ops: The backend.
        parts: The conditionings of the predictions, by name. Without a `mask`, (n, l), they stay as
            they are.
        of_tokens: The arguments of the denoiser, besides `context`, whose arrays have a row for
            each token, (n, l, ...).
        multiple: The number of hidden states is the smallest multiple of it in which all tokens
            have room; padding before a token is cut, too. 0: that of the longest text, with its
            padding.
    """
    masks = [part.more["mask"] for part in parts.values() if "mask" in part.more]
    if not masks or len(masks) < len(parts):
        return dict(parts)
    used = np.zeros(max(mask.shape[1] for mask in masks), bool)
    for mask in masks:
        used[: mask.shape[1]] |= ops.to_numpy(mask).any(axis=0)
    length = max(int(used.sum()), 1) if multiple else len(used)
    length += -length % multiple if multiple else 0
    columns = choose_columns(used, length)
    return {
        name: _fit_length(ops, part, of_tokens, columns, length) for name, part in parts.items()
    }


def choose_columns(used: np.ndarray, length: int) -> np.ndarray:
    """Return which hidden states are kept if there is room for `length`, in their order.

    These are those that are `used`, (l,), and of the others the first ones.

    >>> choose_columns(np.array([True, True, False, False, False, True]), 4).tolist()
    [0, 1, 2, 5]
    """
    return np.sort(np.argsort(~used, kind="stable")[:length])


def _fit_length(
    ops: Backend, part: Conditioning, of_tokens: Collection[str], columns: np.ndarray, length: int
) -> Conditioning:
    """Return a conditioning with another number of hidden states, of which it has `columns`."""
    context = get_hidden_states(part.context)
    whole = context.shape[1]
    if whole == length:
        return part
    kept = columns[columns < whole]
    is_start = bool(np.array_equal(kept, np.arange(len(kept))))

    def fit(x: Array) -> Array:
        if len(kept) < whole:
            x = x[:, : len(kept), ...] if is_start else ops.xp.take(x, ops.asarray(kept), axis=1)
        if len(kept) == length:
            return x
        shape = (x.shape[0], length - len(kept), *x.shape[2:])
        return ops.xp.concat([x, ops.xp.zeros(shape, dtype=x.dtype, device=device(x))], axis=1)

    more = {name: fit(x) if name in of_tokens else x for name, x in part.more.items()}
    return part._replace(context=fit(context), more=more)


def zero_empty(
    ops: Backend, prompts: Sequence[str], states: Array, pooled: Array | None
) -> tuple[Array, Array | None]:
    """Return hidden states (n, l, d) and pooled outputs (n, k) that are 0 for empty prompts."""
    kept = ops.asarray(np.asarray([float(prompt != "") for prompt in prompts]))
    return states * kept[:, None, None], None if pooled is None else pooled * kept[:, None]


def repeat(ops: Backend, x: Array, n: int) -> Array:
    """Repeat an array of k examples to n of them."""
    return x if x.shape[0] == n else ops.xp.concat([x] * (n // x.shape[0]), axis=0)
