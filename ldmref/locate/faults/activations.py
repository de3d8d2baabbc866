"""Known faults of activations and sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from ldmref.backends.named import LayerCall
from ldmref.locate.faults.variants import BACKWARDS, Inputs, Variant

ROUNDING = 1e-6  # of products, in float32


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Compute 1 / (1 + exp(-x)) without overflow."""
    return 0.5 * np.tanh(0.5 * x) + 0.5


def tanh_gelu(x: np.ndarray) -> np.ndarray:
    """Compute GELU by its approximation with tanh, `gelu_new` in transformers."""
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def exact_gelu(x: np.ndarray) -> np.ndarray:
    """Compute x Phi(x)."""
    from scipy.special import erf  # takes 0.3 s to import

    return 0.5 * x * (1.0 + erf(x / math.sqrt(2.0)))


FUNCTIONS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "gelu": ("exact GELU", exact_gelu),
    "tanh_gelu": ("tanh GELU", tanh_gelu),
    "quick_gelu": ("quick GELU", lambda x: x * sigmoid(1.702 * x)),
    "silu": ("SiLU", lambda x: x * sigmoid(x)),
    "sigmoid": ("sigmoid", sigmoid),
    "relu": ("ReLU", lambda x: np.maximum(x, 0.0)),
    "tanh": ("tanh", np.tanh),
    "none": ("no activation", lambda x: x),
}


def other_activation(call: LayerCall) -> Iterator[Variant]:
    """Yield the other activations."""
    right = FUNCTIONS[call.kind][0]
    for name, (text, function) in FUNCTIONS.items():
        if name != call.kind:
            yield Variant(f"{text} instead of {right}", lambda call, x, f=function: f(x["input"]))


def activation_twice(call: LayerCall) -> Iterator[Variant]:
    """Yield the activation of the activation."""

    def change(call: LayerCall, x: Inputs) -> np.ndarray:
        return call.compute({**x, "input": call.compute(x)})

    yield Variant("the activation is applied twice", change)


def missing_term(call: LayerCall) -> Iterator[Variant]:
    """Yield a sum without one of its terms, and with one of them negated."""
    first, second = call.inputs
    yield Variant("the residual is missing: only its second term", lambda c, x: x[second])
    yield Variant("the residual is missing: only its first term", lambda c, x: x[first])
    turns = is_rotation(call.inputs[first], call.inputs[second])
    text = BACKWARDS if turns else "the second term is subtracted"
    yield Variant(text, lambda c, x: x[first] - x[second])
    yield Variant("the second term is added twice", lambda c, x: x[first] + 2.0 * x[second])
    yield Variant(
        "the sum is divided by sqrt(2)", lambda c, x: (x[first] + x[second]) / math.sqrt(2.0)
    )


def is_rotation(first: np.ndarray, second: np.ndarray) -> bool:
    """Return whether two terms are x cos(a) and the pairs of x across, times sin(a).

    Their products then cancel in each pair, which is of neighbouring channels or of halves.

    >>> x, a = np.array([3.0, 4.0]), 0.1
    >>> is_rotation(x * np.cos(a), np.array([-4.0, 3.0]) * np.sin(a)), is_rotation(x, x)
    (True, False)
    """
    if first.shape != second.shape or first.ndim == 0 or first.shape[-1] % 2:
        return False
    products = first * second
    pairs = products[..., ::2] + products[..., 1::2], sum(np.split(products, 2, axis=-1))
    largest = np.abs(products).max(initial=0.0)
    return bool(largest) and any(np.abs(x).max() <= ROUNDING * largest for x in pairs)
