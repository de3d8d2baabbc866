"""A recorded run is followed: it is made again, and what it computes is compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ldmref.locate.run.causes import RunCauses
from ldmref.locate.run.levels import RecordedLevels
from ldmref.locate.run.repeated import SINGLE, RepeatedRun
from ldmref.locate.run.request import RecordedRequest
from ldmref.locate.run.rows import RunComparison
from ldmref.locate.run.unrecorded import (
    with_fitted_scale,
    with_found_sampler,
    with_recorded_levels,
)
from ldmref.locate.run.views import RunView
from ldmref.models.control import ControlNet
from ldmref.models.model import LatentDiffusion
from ldmref.modes.registry import MODES
from ldmref.samplers.parts import STEP
from ldmref.trace.calls import REQUESTED
from ldmref.trace.model import Trace

SHOWN = ("words", "image", REQUESTED, "truth", "low_resolution")  # what was given, or is shown


def follow_run(
    port: Trace,
    model: LatentDiffusion,
    nets: Sequence[ControlNet] = (),
    guide: LatentDiffusion | None = None,
    epsilon: float = SINGLE,
) -> RunComparison | str:
    """Follow a recorded run of ldmref.

    Args:
        port: The recorded run.
        model: The model that ran.
        nets: The ControlNets of the run, in their order.
        guide: The weaker model of autoguidance. None: there is none.
        epsilon: The unit of rounding of the port's number format.

    Returns:
        What was compared, or in words why the run cannot be followed.
    """
    found = _follow(port, model, nets, guide, epsilon)
    return found if isinstance(found, str) else _only_recorded(found)


def follow_view(
    view: RunView, model: LatentDiffusion, epsilon: float = SINGLE
) -> RunComparison | str:
    """Follow a recorded run of another program, under the names of a run of ldmref.

    Args:
        view: The recorded run.
        model: The model that ran, with the scheduler of the run.
        epsilon: The unit of rounding of the port's number format.

    Returns:
        What was compared of the recorded arrays, or in words why the run cannot be followed.
    """
    found = _follow(view.trace(), model, (), None, epsilon)
    return found if isinstance(found, str) else _as_recorded(found, view)


def _only_recorded(found: RunComparison) -> RunComparison:
    """Return what was compared of a run without arrays that were not recorded."""
    port, levels = found.port, found.levels
    recorded = {k: x for k, x in found.computed.items() if k.tensor_name_in(port) is not None}
    levels = None if levels is None else _only_recorded(levels)
    return replace(found, computed=recorded, levels=levels)


def _as_recorded(found: RunComparison, view: RunView) -> RunComparison:
    """Return what was compared of a run, by the names of the recorded arrays."""
    return replace(
        found,
        port=view.port,
        least=view.least,
        assumed=view.assumed | view.as_recorded_names(found.assumed),
        changeable=view.changeable,
        computed=view.as_recorded(found.computed),
        round_again=lambda: [view.as_recorded(run) for run in found.round_again()],
        implied=view.as_recorded_names(found.implied),
        causes=_as_recorded_causes(found.causes, view),
        without_noise=_as_recorded_causes(found.without_noise, view),
        levels=None if found.levels is None else _as_recorded(found.levels, view),
        of_levels=None if found.of_levels is None else _as_read(found.of_levels, view),
    )


def _as_recorded_causes(causes: RunCauses, view: RunView) -> RunCauses:
    """Return what finds causes of arrays by the names of the recorded ones."""
    return replace(causes, port=view.port, as_recorded=view.as_recorded, own_name=view.own_name)


def _as_read(levels: RecordedLevels, view: RunView) -> RecordedLevels:
    """Return levels with the names of the recorded arrays from which they were read."""
    names = view.as_recorded_names(dict.fromkeys(levels.names, ""))
    return levels._replace(names=frozenset(names))


def _follow(
    port: Trace,
    model: LatentDiffusion,
    nets: Sequence[ControlNet],
    guide: LatentDiffusion | None,
    epsilon: float,
) -> RunComparison | str:
    """Return what was compared of a run, or why it cannot be followed."""
    request = RecordedRequest(port, model, nets, guide)
    found = request.read()
    if isinstance(found, str):
        return found
    mode, values = found
    if "batch_size" in MODES[mode].parameters:
        values |= _batch_size(port)
    run = with_fitted_scale(RepeatedRun(port, model, nets, mode, values), request)
    made = run.compare(epsilon, request.assumed)
    made = with_found_sampler(made, run, request, epsilon)
    return made if isinstance(made, str) else with_recorded_levels(made, run, request, epsilon)


def _batch_size(port: Trace) -> dict[str, int]:
    """Return the parameter of the images that were made together, which no image records."""
    entry = port.find(f"{STEP.call}.000")
    name = None if entry is None else entry.inputs.get("x")
    shape = () if name is None else np.shape(port.tensors[name])
    return {"batch_size": shape[0]} if shape and shape[0] else {}
