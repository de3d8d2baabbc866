"""Judge what ControlNets are given, and what the denoiser is given of their outputs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile

import numpy as np

from ldmref.locate.findings import Row
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.coverage import names_of
from ldmref.locate.pipeline.hints import definition_of, judge_hint, judge_mode
from ldmref.locate.pipeline.residuals import judge_residuals
from ldmref.locate.pipeline.roles import roles_of
from ldmref.locate.run.calls import INPUT
from ldmref.trace.model import TraceEntry

NET = re.compile(r"controlnet(_\d+)?([.~]\d+)+")


def judge_controls(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for the wires to and from ControlNets."""
    networks = context.calls(context.denoiser)
    entries = [e for e in context.port.entries if not e.layer]
    for network in networks:
        nets = _nets_before(context, entries, network)
        for net in nets:
            yield from _judge_net(context, net, network)
        yield from judge_residuals(context, network, nets)
    if not networks or not context.calls("sampler"):
        for entry in entries:
            if NET.fullmatch(entry.call):  # alone
                context.coverage.give(names_of(entry, INPUT))


def _nets_before(
    context: PipelineContext, entries: list[TraceEntry], network: TraceEntry
) -> list[TraceEntry]:
    """Return the calls of ControlNets since the call of the denoiser before."""
    before = entries[: entries.index(network)][::-1]
    kinds = (context.denoiser + ".", "sampler.")
    found = takewhile(lambda e: not e.call.startswith(kinds), before)
    return [e for e in found if NET.fullmatch(e.call)][::-1]


def _judge_net(context: PipelineContext, net: TraceEntry, network: TraceEntry) -> Iterator[Row]:
    """Yield rows for what a ControlNet is given: as the denoiser, and the control image."""
    definition = definition_of(context, net)
    zeroed = () if definition is None else definition.declared.zeroed(definition.config)
    for argument in ("x", "t", "context", "pooled", "sizes", "guidance", "img_ids", "txt_ids"):
        roles = roles_of(context, argument)
        recorded, right = context.recorded(net, *roles), context.read(network, *roles)
        if recorded is None or right is None:
            continue
        got, right = np.atleast_1d(recorded.array, right)  # a time may be one for all images
        right = right[:, : got.shape[1]] if got.ndim == 4 == right.ndim else right
        if len(right) == 2 * len(got):
            right = right[len(got) :]  # without the negative half
        kind = f"ControlNet's {roles[0]}"
        if got.shape != right.shape:
            context.coverage.explain(recorded.names, "it has another shape than the denoiser's")
            continue
        if definition is None and argument == "pooled" and not got.any():
            why = "whether this ControlNet reads it is not known"
            context.coverage.explain(recorded.names, why)
            continue
        if argument in zeroed and not got.any():
            right = np.zeros_like(right)
        segment = f"what {network.call} is given too"
        yield context.judge(recorded.made(got), kind, right, segment=segment)
    yield from judge_hint(context, net)
    yield from judge_mode(context, net)
