"""What leads to the layers of a port of a kit's modules: their inputs beside those of the kit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from ldmref.locate.findings import DIFFERS, WIRING, Row
from ldmref.locate.law import allowed_error, noise_floor
from ldmref.locate.layouts import relative_error
from ldmref.locate.precision import EPSILONS
from ldmref.trace.model import Trace, tensor_name

NOT_THE_INPUT = "its {} is not the kit's: what leads to the layer is wrong, or what came before"


def wrong_inputs(port: Trace, run: Trace, floors: Mapping[str, float], dtype: str) -> Iterator[Row]:
    """Yield a row for each layer's input of a port that is not the kit's.

    Args:
        port: The port's run.
        run: The kit's run, with the inputs of layers.
        floors: The error of each array in the port's format.
        dtype: The port's number format.
    """
    for entry in port.entries:
        own = run.find(entry.call, entry.layer)
        for role, stored in {} if own is None or not entry.layer else own.inputs.items():
            floor = floors.get(tensor_name(entry.call, entry.layer, "input", role))
            if role not in entry.inputs or floor is None:
                continue
            got, expected = np.asarray(port.tensors[entry.inputs[role]]), run.tensors[stored]
            error = relative_error(got, np.asarray(expected))
            floor = noise_floor(floor, EPSILONS[dtype])
            allowed = allowed_error(floor)
            if got.size == np.size(expected) and error > allowed:
                note = NOT_THE_INPUT.format("input" if role == "input" else f"input {role}")
                row = Row(entry.call, entry.layer, WIRING, error, allowed, floor, verdict=DIFFERS)
                yield replace(row, inherited=error, note=note)
