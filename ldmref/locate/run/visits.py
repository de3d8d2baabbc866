"""Guidance of a recording that is no run which can be followed: each call is computed by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ldmref.locate.parts.rules import NUMBERS, guidance_rule
from ldmref.locate.parts.visit import Visit
from ldmref.locate.run.calls import OUTPUT, ArrayName
from ldmref.locate.run.causes import RunCauses
from ldmref.locate.run.rows import ROUNDINGS, RunComparison
from ldmref.locate.run.steps import SeenParts
from ldmref.models.model import LatentDiffusion
from ldmref.samplers.parts import COMBINE
from ldmref.samplers.path import NoisePath
from ldmref.trace.model import Trace, TraceEntry


def visit_guidances(
    port: Trace, model: LatentDiffusion, path: NoisePath, epsilon: float
) -> RunComparison:
    """Compute every recorded guidance again from its recorded predictions.

    Args:
        port: The trace.
        model: The model that ran.
        path: The path of its states.
        epsilon: The unit of rounding of the port's number format.
    """
    visits: dict[str, Visit] = {}
    before: Visit | None = None
    for entry in port.entries:
        visit = _visit_of(port, entry, path) if entry.call.kind == COMBINE.call else None
        if visit is None:
            continue
        if visit.rule.remembers and before is not None:
            visit = visit.with_inputs(memory=before.memory() or ())
        visits[entry.call] = before = visit

    def round_again() -> list[dict[ArrayName, np.ndarray]]:
        random = np.random.default_rng(0)
        return [
            dict(_outputs({call: _rounded(x, epsilon, random) for call, x in visits.items()}))
            for _ in range(ROUNDINGS)
        ]

    causes = RunCauses(port, model, SeenParts(visits), [], [], lambda change, until: {})
    return RunComparison(port, dict(_outputs(visits)), round_again, epsilon, causes, causes)


def _visit_of(port: Trace, entry: TraceEntry, path: NoisePath) -> Visit | None:
    """Return the visit of a recorded guidance; None: its rule or an input of it is not known."""
    if entry.layer:
        return None
    read = {role: np.asarray(port.tensors[name]) for role, name in entry.inputs.items()}
    numbers = {role: float(x.flat[0]) for role, x in read.items() if x.size == 1}
    rule = guidance_rule(entry.attributes, read, {role: numbers.get(role) for role in NUMBERS})
    if isinstance(rule, str) or "scale" not in numbers:
        return None
    sigma, scale = numbers.get("sigma", 1.0), numbers["scale"]
    arrays = {rule.arrays.get(role, role): x.astype(np.float64) for role, x in read.items()}
    needed = rule.guidance.needs(sigma, scale)
    known = {str(name): arrays[str(name)] for name in needed if str(name) in arrays}
    if len(known) < len(needed) or len({x.shape for x in known.values()}) > 1:
        return None
    inputs: dict[str, Any] = {"predictions": known, "scale": scale, "sigma": sigma, "path": path}
    return Visit(COMBINE, rule.guidance, inputs)


def _rounded(visit: Visit, epsilon: float, random: np.random.Generator) -> Visit:
    """Return a visit whose predictions are rounded another way."""
    signs = {name: random.choice((-1.0, 1.0), x.shape) for name, x in visit.arrays.items()}
    arrays = {name: x * (1.0 + epsilon * signs[name]) for name, x in visit.arrays.items()}
    return visit.with_arrays(**arrays)


def _outputs(visits: dict[str, Visit]) -> Iterator[tuple[ArrayName, np.ndarray]]:
    for call, visit in visits.items():
        output = visit.output()
        if output is not None:
            yield ArrayName(f"{call}/", OUTPUT, OUTPUT), output
