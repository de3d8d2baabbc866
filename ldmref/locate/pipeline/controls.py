"""Judge what ControlNets are given, and what the denoiser is given of their outputs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import takewhile

import numpy as np

from ldmref.locate.findings import Row
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.images import Variants, repeat_rows
from ldmref.locate.pipeline.inputs import SAMPLES, TIMES
from ldmref.locate.pipeline.prompt_arrays import NotKnown, arrays_of_side
from ldmref.locate.pipeline.text_inputs import roles_of
from ldmref.trace.model import GUIDE_CALLS, TraceEntry

NET = re.compile(r"controlnet(_\d+)?([.~]\d+)+")
RESIDUAL = "control."  # the beginning of the denoiser's roles for residuals
HINTS = ("controlnet_cond", "hint", "control")


def judge_controls(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for the wires to and from ControlNets, and to a weaker model."""
    networks = context.calls(context.denoiser)
    entries = [e for e in context.port.entries if not e.layer]
    for network in networks:
        nets = _nets_before(context, entries, network)
        for net in nets:
            yield from _judge_net(context, net, network)
        yield from _judge_residuals(context, network, nets)
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
    shared = [SAMPLES, TIMES, *(roles_of(context, kind) for kind in ("context", "pooled", "sizes"))]
    for roles in (*shared, ("guidance",), ("img_ids",), ("txt_ids",)):
        got, right = context.read(net, *roles), context.read(network, *roles)
        if got is None or right is None:
            continue
        right = right[:, : got.shape[1]] if got.ndim == 4 == right.ndim else right
        if got.shape != right.shape and len(right) == 2 * len(got):
            right = right[len(got) :]  # without the negative half
        kind = f"ControlNet's {roles[0]}"
        if got.shape != right.shape:
            context.ledger.explain(net, "it has another shape than the denoiser's", *roles)
            continue
        context.compared(net, *roles)
        yield context.judge(net, kind, got, right, segment=f"what {network.call} is given too")
    yield from _judge_hint(context, net)


def _judge_hint(context: PipelineContext, net: TraceEntry) -> Iterator[Row]:
    """Yield a row for the control image of a ControlNet."""
    got = context.read(net, *HINTS)
    if got is None:
        return
    sources = [*context.calls("control"), *context.calls("controlnet.hint")]
    prepared = [context.read_output(entry) for entry in sources]
    fits = [x for x in prepared if x is not None and x.shape[1:] == got.shape[1:]]
    if not fits:
        why = "what the pipeline prepared of the control image was not recorded"
        context.ledger.explain(net, why, *HINTS)
        return
    rows = [repeat_rows(x, len(got)) if len(x) <= len(got) else x[: len(got)] for x in fits]
    of_number = rows[_number_of_net(net) % len(rows)] if len(rows) > 1 else rows[0]
    variants: Variants = [
        ("the control image is inverted", 1.0 - of_number),
        ("pixels in [-1, 1] instead of [0, 1]", 2.0 * of_number - 1.0),
        ("the control image is zero", 0.0 * of_number),
        *(("the control image of another ControlNet", x) for x in rows if x is not of_number),
    ]
    context.compared(net, *HINTS)
    yield context.judge(net, "control image", got, of_number, least=1e-5, variants=variants)


def _number_of_net(net: TraceEntry) -> int:
    found = re.match(r"controlnet_(\d+)", net.call)
    return int(found[1]) - 1 if found else 0


def _judge_residuals(
    context: PipelineContext, network: TraceEntry, nets: list[TraceEntry]
) -> Iterator[Row]:
    """Yield a row for the residuals that the denoiser adds: the sum of its ControlNets' outputs."""
    roles = [role for role in network.inputs if role.startswith(RESIDUAL)]
    requested: list[np.ndarray] = []
    sums: list[np.ndarray] = []
    for role in roles:
        got = context.read(network, role)
        parts = [context.read_output(net, role.removeprefix(RESIDUAL)) for net in nets]
        known = [x for x in parts if x is not None]
        if got is None or not known or any(x.shape[1:] != got.shape[1:] for x in known):
            context.ledger.explain(network, "no ControlNet that returns it was recorded", role)
            continue
        total = np.sum([_padded(x, len(got)) for x in known], axis=0)
        requested.append(got.ravel())
        sums.append(total.ravel())
        context.compared(network, role)
    if requested:
        right = np.concatenate(sums)
        yield context.judge(
            network,
            "residuals",
            np.concatenate(requested),
            right,
            variants=[("the residuals are not added", 0.0 * right)],
            segment="from the ControlNets to the denoiser",
        )


def _padded(x: np.ndarray, n: int) -> np.ndarray:
    """Return residuals of the positive half alone with zeros for the negative one."""
    return np.concatenate([np.zeros_like(x), x]) if n == 2 * len(x) else x


def _judge_guides(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for the inputs of a weaker model: the state and the time of the denoiser."""
    networks = context.calls(context.denoiser)
    guides = context.calls(GUIDE_CALLS + context.denoiser)
    if not guides or len(networks) % len(guides):
        return
    each = len(networks) // len(guides)
    for i, guide in enumerate(guides):
        network = networks[i * each]
        yield from _judge_guide_text(context, guide)
        for roles in (SAMPLES, TIMES, roles_of(context, "sizes"), ("guidance",)):
            got, right = context.read(guide, *roles), context.read(network, *roles)
            if got is None or right is None or got.shape[1:] != right.shape[1:]:
                continue
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
