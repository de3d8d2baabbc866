"""Recorded runs built by hand: contexts of the judges between the networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

import ldmref
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.models.declared import CallSize, NetworkInput
from ldmref.trace import build_trace

model_of = cache(ldmref.random_model)
Calls = Mapping[str, Mapping[str, Any]]  # by call: arrays as "input.NAME" and "output.NAME"


def context_of(calls: Calls, model="tiny", dtype="float32", attributes=None, **manifest):
    """Return the context of whole calls, in their order.

    Args:
        calls: The arrays of each call, or "CALL/LAYER"; the role "output" or "input" alone has no
            name.
        model: The name of a random model.
        dtype: The port's number format.
        attributes: Those of each call.
        **manifest: More of the manifest, such as `params`.
    """
    tensors, entries = {}, []
    for name, arrays in calls.items():
        call, _, layer = name.partition("/")
        sides: dict[str, dict[str, str]] = {"inputs": {}, "outputs": {}}
        for key, x in arrays.items():
            side, _, role = key.partition(".")
            tensor = f"{call}/{layer}/{key}"
            tensors[tensor] = np.asarray(x)
            sides[f"{side}s"][role or side] = tensor
        more = (attributes or {}).get(name, {})
        entries.append({"call": call, "layer": layer, **sides, "attributes": more})
    trace = build_trace(tensors, {"entries": entries, **manifest})
    return PipelineContext(trace, model_of(model), dtype, [])


def entry_of(context, call):
    found = context.port.find(call)
    assert found is not None
    return found


def recorded_of(context, call, key="output"):
    """Return a recorded array, of which a judge makes a row: "output" or "input.NAME"."""
    side, _, role = key.partition(".")
    read = context.recorded if side == "input" else context.recorded_output
    found = read(entry_of(context, call), role or side)
    assert found is not None
    return found


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


class Sized:
    """A model whose denoiser reads sizes."""

    def __init__(self):
        self.own = model_of("tiny")
        sizes = NetworkInput("sizes", "time_ids", (CallSize("batch"), 6), "sizes")
        self.denoiser = replace(self.own.denoiser, inputs=(*self.own.denoiser.inputs, sizes))

    def __getattr__(self, name):
        return getattr(self.own, name)
