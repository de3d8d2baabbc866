"""Known faults of embeddings: of timesteps, and of tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from ldmref.backends.named import AGAIN, LayerCall
from ldmref.locate.faults.variants import Inputs, Variant
from ldmref.locate.recorded.precision import round_to
from ldmref.math.embedding import timestep_embedding

PERIOD = 10000.0  # of the slowest frequency
NOUNS = {"1": "guidance", "2": "target timestep"}  # by the number of a later embedding
ROUNDED: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # times in another number format
    "rounded to bfloat16": lambda t: round_to(t, "bfloat16"),
    "rounded to float16": lambda t: round_to(t, "float16"),
    "rounded to bfloat16 in 0..1": lambda t: 1000 * round_to(t / 1000, "bfloat16"),
}
ANGLE = 4000.0  # whose cosine has an error of 0.001 in float32


def sine_first(call: LayerCall) -> Iterator[Variant]:
    """Yield [sin, cos] instead of [cos, sin]."""
    yield Variant(
        "[sin, cos] instead of [cos, sin]",
        lambda c, x: timestep_embedding(x["input"], _dim(c), flip_sin_to_cos=False),
    )


def frequency_shift(call: LayerCall) -> Iterator[Variant]:
    """Yield frequencies with exponents k / (d/2 - 1), also with [sin, cos]."""
    text = "frequency shift 1 instead of 0 (exponents k / (d/2 - 1))"
    yield Variant(text, lambda c, x: timestep_embedding(x["input"], _dim(c), freq_shift=1))
    yield Variant(
        f"{text}, and [sin, cos]",
        lambda c, x: timestep_embedding(x["input"], _dim(c), flip_sin_to_cos=False, freq_shift=1),
    )


def other_period(call: LayerCall) -> Iterator[Variant]:
    """Yield other lowest frequencies."""
    for period in (1000.0, 100.0, 100000.0):
        text = f"max_period {period:g} instead of 10000"
        yield Variant(text, lambda c, x, p=period: timestep_embedding(x["input"], _dim(c), p))


def scaled_timestep(call: LayerCall) -> Iterator[Variant]:
    """Yield the embedding of scaled, shifted and projected timesteps.

    A network that embeds the guidance scale as well embeds it after the timestep; one that embeds
    the time to which a step leads embeds it after the timestep and the time of the text.
    """
    noun = NOUNS.get(call.name.partition(AGAIN)[2], "timestep")
    for text, change in changed_times(noun).items():
        yield Variant(text, lambda c, x, f=change: _embed_known(c, {**x, "input": f(x["input"])}))
    yield Variant(f"the {noun} is projected twice", _projected_twice)
    for form in ("bfloat16", "float16"):
        text = f"the angles of the {noun} are rounded to {form}"
        yield Variant(text, lambda c, x, form=form: _with_angles(c, x, form, ""))
        text = f"the {noun}, its frequencies and its angles are rounded to {form}"
        yield Variant(text, lambda c, x, form=form: _with_angles(c, x, form, form))


def changed_times(noun: str) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return, by words, functions of times (n,) that ports embed instead of them."""
    return {
        f"the {noun} is scaled by 1000": lambda t: 1000.0 * t,
        f"the {noun} is scaled by 1/1000": lambda t: t / 1000.0,
        f"the {noun} is scaled by 1e6": lambda t: 1e6 * t,
        f"the sign of the {noun} is reversed": lambda t: -t,
        f"the {noun} is larger by 1": lambda t: t + 1.0,
        f"the {noun} is smaller by 1": lambda t: t - 1.0,
        "the timestep t is 999 - t": lambda t: 999.0 - t,
        "the timestep t is 1000 - t": lambda t: 1000.0 - t,
        f"the {noun} is 0": np.zeros_like,
    } | {f"the {noun} is {words}": change for words, change in ROUNDED.items()}


def _with_angles(call: LayerCall, x: Inputs, angles: str, factors: str) -> np.ndarray:
    """Return the embedding with angles, and perhaps their factors, in a narrower format."""
    half = _dim(call) // 2
    frequencies = np.exp(-math.log(PERIOD) * np.arange(half) / half)
    numbers = np.asarray(x["input"], np.float64).reshape(-1, 1)
    if factors:
        numbers, frequencies = round_to(numbers, factors), round_to(frequencies, factors)
    turned = round_to(numbers * frequencies, angles)
    return np.concatenate([np.cos(turned), np.sin(turned)], axis=1)


def _embed_known(call: LayerCall, x: Inputs) -> np.ndarray:
    """Return the embedding; NaN where float32 does not hold the angle, of large inputs.

    An angle has a relative error of 2^-22 at most: that of its frequency, and of the product.
    """
    y = call.compute(x)
    half = y.shape[-1] // 2
    frequencies = np.exp(-math.log(PERIOD) * np.arange(half) / half)
    angles = np.abs(np.asarray(x["input"], np.float64)).reshape(-1, 1) * frequencies
    unknown = np.tile(angles > ANGLE, (1, 2))
    return np.where(unknown, np.nan, y) if y.shape == unknown.shape else y


def _projected_twice(call: LayerCall, x: Inputs) -> np.ndarray:
    """Embed the first value of the embedding."""
    once = call.compute(x)
    return timestep_embedding(once[:, 0], once.shape[1])


def shifted_ids(call: LayerCall) -> Iterator[Variant]:
    """Yield rows of other ids: off by one, or one token earlier or later."""
    rows = call.parameters["table"].shape[0]

    def change(call: LayerCall, x: Inputs, offset: int) -> np.ndarray:
        return call.compute({**x, "input": (x["input"] + offset) % rows})

    yield Variant("ids are larger by one", lambda c, x: change(c, x, 1))
    yield Variant("ids are smaller by one", lambda c, x: change(c, x, -1))


def _dim(call: LayerCall) -> int:
    return int(next(v for v in call.attributes.values() if isinstance(v, int)))
