"""Judge what ControlNets are given, and what the denoiser is given of their outputs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import takewhile

import numpy as np

from ldmref.locate.findings import Row
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.hints import definition_of, judge_hint, judge_mode
from ldmref.locate.pipeline.prompt_arrays import NotKnown, arrays_of_side
from ldmref.locate.pipeline.residuals import judge_residuals
from ldmref.locate.pipeline.roles import roles_of
from ldmref.trace.calls import GUIDE_CALLS
from ldmref.trace.model import TraceEntry

NET = re.compile(r"controlnet(_\d+)?([.~]\d+)+")


def judge_controls(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for the wires to and from ControlNets, and to a weaker model."""
    networks = context.calls(context.denoiser)
    entries = [e for e in context.port.entries if not e.layer]
    for network in networks:
        nets = _nets_before(context, entries, network)
        for net in nets:
            yield from _judge_net(context, net, network)
        yield from judge_residuals(context, network, nets)
    if not networks or not context.calls("sampler"):
        for entry in entries:
            if NET.fullmatch(entry.call):  # alone: what they read is given
                context.compared(entry, *entry.inputs)
    for entry in context.calls("controlnet.hint"):  # the control image is what was given
        context.compared(entry, *entry.inputs)
    yield from _judge_guides(context)


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
        got, right = context.read(net, *roles), context.read(network, *roles)
        if got is None or right is None:
            continue
        got, right = np.atleast_1d(got, right)  # a time may be one for all images
        right = right[:, : got.shape[1]] if got.ndim == 4 == right.ndim else right
        if len(right) == 2 * len(got):
            right = right[len(got) :]  # without the negative half
        kind = f"ControlNet's {roles[0]}"
        if got.shape != right.shape:
            context.ledger.explain(net, "it has another shape than the denoiser's", *roles)
            continue
        if definition is None and argument == "pooled" and not got.any():
            context.ledger.explain(net, "whether this ControlNet reads it is not known", *roles)
            continue
        if argument in zeroed and not got.any():
            right = np.zeros_like(right)
        context.compared(net, *roles)
        yield context.judge(net, kind, got, right, segment=f"what {network.call} is given too")
    yield from judge_hint(context, net)
    yield from judge_mode(context, net)


def _judge_guides(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for the inputs of a weaker model: the state and the time of the denoiser."""
    networks = context.calls(context.denoiser)
    guides = context.calls(GUIDE_CALLS + context.denoiser)
    if not guides or not networks or len(networks) % len(guides):
        return
    each = len(networks) // len(guides)
    for i, guide in enumerate(guides):
        network = networks[i * each]
        yield from _judge_guide_text(context, guide)
        for argument in ("x", "t", "sizes", "guidance"):
            roles = roles_of(context, argument)
            got, right = context.read(guide, *roles), context.read(network, *roles)
            if got is None or right is None or got.shape[1:] != right.shape[1:]:
                continue
            got, right = np.atleast_1d(got, right)
            right = right[-len(got) :]
            context.compared(guide, *roles)
            kind = f"weaker model's {roles[0]}"
            yield context.judge(guide, kind, got, right, segment=f"what {network.call} is given")


def _judge_guide_text(context: PipelineContext, guide: TraceEntry) -> Iterator[Row]:
    """Yield rows for the text of a weaker model, from its own text encoders: the prompt's."""
    own = replace(context, prefix=GUIDE_CALLS)
    for kind in ("context", "pooled"):
        names = roles_of(context, kind)
        got = context.read(guide, *names)
        if got is None:
            continue
        length = got.shape[1] if got.ndim == 3 else 0
        try:
            arrays = arrays_of_side(own, context.request, "cond", len(got), length)
        except NotKnown as error:
            context.ledger.explain(guide, str(error), *names)
            continue
        parts = [x.states if kind == "context" else x.pooled for x in arrays]
        known = [x for x in parts if x is not None]
        if len(known) != len(got) or known[0].shape != got.shape[1:]:
            context.ledger.explain(guide, "its text encoders return another shape", *names)
            continue
        context.compared(guide, *names)
        words = "from its text encoders to the weaker model"
        yield context.judge(guide, "weaker model's text", got, np.stack(known), segment=words)
