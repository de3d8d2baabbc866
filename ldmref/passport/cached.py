"""One step of a denoiser that keeps keys and values of the text, against the full step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ldmref.backends.numpy import NumpyBackend
from ldmref.cases.golden_models import golden_model
from ldmref.models.conditioning import CachedContext
from ldmref.models.params import Params
from ldmref.passport.recorded import KitRun


class WholeCache(CachedContext):
    """Hidden states whose cache is visible where a network keeps something as a whole.

    Args:
        states: The hidden states.
        network: The parameters of the network.
    """

    def __init__(self, states: Any, network: Params):
        super().__init__(states)
        self.network = network
        self.kept: Any = None

    def keys_and_values(self, layer: Params, project: Callable[[Any], Any]) -> Any:
        """Return what the layer keeps; of the network, keep it in sight."""
        found = super().keys_and_values(layer, project)
        if layer is self.network:
            self.kept = found
        return found


def cached_step(run: KitRun) -> dict[str, np.ndarray]:
    """Return the second step of a run computed from the keys and values that the first one kept.

    Args:
        run: The run of a kit.

    Returns:
        `keys.N` and `values.N` of each block, (n, heads, l, d), and `output`, whose full step is
        the second call of the denoiser; {} for a denoiser that keeps nothing of the text as a
        whole.
    """
    ops = NumpyBackend(dtype="float64")
    model = golden_model(run.family, ops)
    network = model.denoiser
    params = model.params[network.params]
    context: WholeCache | None = None
    kept: Any = ()
    output = None
    for number in range(2):
        call = f"{network.name}.{number:03}//input"
        recorded = {x.argument: run.exact.tensors.get(f"{call}.{x.role}") for x in network.inputs}
        arguments: dict[str, Any] = {name: x for name, x in recorded.items() if x is not None}
        if "context" not in arguments:
            return {}
        context = context or WholeCache(arguments["context"], params)
        arguments["context"] = context
        output = network.function(ops, params, **network.settings, **arguments)
        kept = context.kept
        if kept is None:
            return {}
    found = {"output": np.asarray(output)}
    for i, (keys, values) in enumerate(kept):
        found |= {f"keys.{i}": np.asarray(keys), f"values.{i}": np.asarray(values)}
    return found
