"""Judge the residuals that the denoiser adds, from the outputs of its ControlNets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ldmref.locate.findings import Row
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.coverage import RecordedArray
from ldmref.locate.pipeline.hints import controls_asked, definition_of, number_of
from ldmref.trace.model import TraceEntry

RESIDUAL = "control."  # the beginning of the denoiser's roles for residuals
ByName = Mapping[str, np.ndarray]  # as `blocks.0`


def judge_residuals(
    context: PipelineContext, network: TraceEntry, nets: list[TraceEntry]
) -> Iterator[Row]:
    """Yield a row for the residuals that the denoiser adds: the sum of its ControlNets' outputs."""
    roles = [role for role in network.inputs if role.startswith(RESIDUAL)]
    names = {role: role.removeprefix(RESIDUAL) for role in roles}
    terms = [_added_by(context, net, list(names.values())) for net in nets]
    found: list[RecordedArray] = []
    sums: list[np.ndarray] = []
    for role, name in names.items():
        got = context.recorded(network, role)
        assert got is not None
        total = _sum_of(context, terms, name, got.array)
        if isinstance(total, str):
            context.coverage.explain(got.names, total)
        else:
            found.append(got)
            sums.append(total.ravel())
    if found:
        first, *others = found
        right = np.concatenate(sums)
        yield context.judge(
            first.made(np.concatenate([x.array.ravel() for x in found]), *others),
            "residuals",
            right,
            variants=[("the residuals are not added", np.zeros_like(right))],
            segment="from the ControlNets to the denoiser",
        )


def _sum_of(
    context: PipelineContext, terms: Sequence[ByName | None], name: str, got: np.ndarray
) -> np.ndarray | str:
    """Return the sum of what ControlNets return as a residual, or why it is not known."""
    returned = [term for term in terms if term is not None]
    if len(returned) < len(terms):
        return "the weights of its ControlNets are not known"
    known = [term[name] for term in returned if name in term]
    if not known or any(x.shape[1:] != got.shape[1:] for x in known):
        return "no ControlNet that returns it was recorded"
    if any(_lacks(context, term, name) for term in returned):
        return "an output of a ControlNet was not recorded"
    return np.sum([_padded(x, len(got)) for x in known], axis=0)


def _added_by(context: PipelineContext, net: TraceEntry, names: list[str]) -> ByName | None:
    """Return what the denoiser adds of one ControlNet; None: its weight is not known.

    diffusers passes residuals as they are, and its denoisers place them. ldmref records the outputs
    of ControlNets without their weights, and passes residuals that have their places.
    """
    outputs = {name: context.read_output(net, name) for name in net.outputs}
    found = {name: x for name, x in outputs.items() if x is not None}
    weight = _weight(context, net)
    if weight is None:
        return None
    if _has_gaps(found):
        return {}
    if any(name not in found for name in names):
        found = _placed(context, net, found)
    return {name: weight * x for name, x in found.items()}


def _lacks(context: PipelineContext, term: ByName, name: str) -> bool:
    """Return whether a residual that one ControlNet returns is missing among those of it."""
    if name in term:
        return False
    field = name.partition(".")[0]
    declared = context.model.family.control
    kind: Any = None if declared is None else declared.residuals
    always = kind is not None and field in {*kind._fields} - {*kind._field_defaults}
    return always or not term or any(x.partition(".")[0] == field for x in term)


def _has_gaps(found: ByName) -> bool:
    """Return whether the recorded outputs of a ControlNet have a gap in their numbers."""
    numbers: dict[str, list[int]] = {}
    for name in found:
        field, _, number = name.partition(".")
        if number.isdecimal():
            numbers.setdefault(field, []).append(int(number))
    return any(sorted(x) != [*range(len(x))] for x in numbers.values())


def _weight(context: PipelineContext, net: TraceEntry) -> float | None:
    """Return the factor of the recorded output of a ControlNet; None: it is not known."""
    asked = controls_asked(context)
    if context.is_diffusers or not asked:
        return 1.0
    weights = {float(x.get("weight", 1.0)) for x in asked}
    if len(weights) == 1:
        return weights.pop()
    number = number_of(context, net)
    return None if number is None else float(asked[number].get("weight", 1.0))


def _placed(context: PipelineContext, net: TraceEntry, found: ByName) -> dict[str, np.ndarray]:
    """Return residuals by the names of the places at which the denoiser adds them."""
    declared = context.model.family.control
    if declared is None:
        return dict(found)
    definition = definition_of(context, net)
    fields: dict[str, Any] = {}
    for name, x in found.items():  # in the order of their numbers
        field, dot, _ = name.partition(".")
        fields[field] = (*fields.get(field, ()), x) if dot else x
    kind: Any = declared.residuals
    if set(fields) - {*kind._fields} or set(kind._fields) - {*fields, *kind._field_defaults}:
        return dict(found)
    config = None if definition is None else definition.config
    placed: dict[str, np.ndarray] = {}
    residuals = declared.place(context.model.config, config, kind(**fields))
    for field, value in residuals._asdict().items():
        if isinstance(value, tuple):
            placed |= {f"{field}.{i}": x for i, x in enumerate(value)}
        else:
            placed[field] = value
    return placed


def _padded(x: np.ndarray, n: int) -> np.ndarray:
    """Return residuals of the positive half alone with zeros for the negative one."""
    return np.concatenate([np.zeros_like(x), x]) if n == 2 * len(x) else x
