"""Load weights into models of Keras, by the names that their layers have in a recording."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from ldmref.trace.frameworks.keras import KERAS
from ldmref.trace.name_maps import make_renamer, names_of

ORDERS = {2: (1, 0), 4: (2, 3, 1, 0)}  # of PyTorch's axes in a kernel of Keras
KINDS = {
    "kernel": "weight", "bias": "bias", "scale": "weight", "gamma": "weight", "beta": "bias",
    "embeddings": "pos_embed",
}  # fmt: skip
PLAIN = keras.layers.LayerNormalization  # has no weights in what is ported: ones and zeros


def load_weights(model: keras.Model, names: Any, weights: Mapping[str, np.ndarray]) -> None:
    """Load weights by their published names into a model.

    Args:
        model: A built model.
        names: The map from the paths of layers to their published names, as `recording` takes it.
        weights: The weights.

    Raises:
        SystemExit: There is no weight for a layer.
    """
    rename = make_renamer(names)
    for path, layer in KERAS.list_modules(model):
        new = rename(path) if path else None
        for variable in () if isinstance(layer, PLAIN) else vars(layer)["_trainable_variables"]:
            kind = KINDS.get(variable.name)
            if new is None or kind is None:
                sys.exit(f"not loaded: {path} {variable.name}")
            x = np.concatenate([weights[f"{name}.{kind}"] for name in names_of(new)])
            order = ORDERS.get(x.ndim, range(x.ndim))
            variable.assign(x.transpose(order).reshape(variable.shape))
