"""A variant of an operation: the operation with a fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ldmref.backends.named import LayerCall

Inputs = Mapping[str, Any]
Given = tuple[str, np.ndarray]  # words, and the array that a fault would have given
BACKWARDS = "the rotation has the other direction"


class Variant(NamedTuple):
    """A fault with its constants.

    Attributes:
        text: The fault in words: "eps 1e-06 instead of 1e-05".
        change: `change(call, inputs)` computes the operation with this fault; `inputs` are the
            arrays and the parameters by role. It returns an array, or a tuple as the operation.
    """

    text: str
    change: Callable[[LayerCall, Inputs], Any]


def with_changes(text: str, **changes: object) -> Variant:
    """Return a variant that replaces arguments of the operation by constants."""
    return Variant(text, lambda call, x: call.compute({**x, **changes}))
