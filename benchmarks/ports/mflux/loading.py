"""Load weights into modules of mflux, by its own mapping of names."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
from mflux.models.common.config.model_config import ModelConfig
from mflux.models.common.weights.mapping.weight_mapper import WeightMapper
from mlx.utils import tree_flatten

ModelConfig.precision = mx.float32
COMPUTED = "inv_freq"  # what a module computes itself


def load_weights(module: Any, weights: Mapping[str, Any], mapping: Any, **options: Any) -> None:
    """Load weights by their published names into a module of MLX.

    Raises:
        SystemExit: There is no weight for a parameter of the module.
    """
    arrays = {name: mx.array(x) for name, x in weights.items()}
    mapped = WeightMapper.apply_mapping(arrays, mapping, **options)
    module.update(mapped)
    lacking = dict(tree_flatten(module.parameters())).keys() - dict(tree_flatten(mapped)).keys()
    lacking = {name for name in lacking if not name.endswith(COMPUTED)}
    if lacking:
        sys.exit(f"not loaded: {sorted(lacking)}")
