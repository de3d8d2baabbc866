"""The order of the calls of a run, for files that list their tensors in another one.

Safetensors files and folders of them list tensors by their names, so without a manifest nothing but
the kinds and the numbers of the calls tells which came first.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace

BEFORE = (  # kinds of calls before the first step
    "inputs",
    "truth",
    "words",
    "tokens",
    "tokens_2",
    "tokens_3",
    "text_encoder",
    "text_encoder_2",
    "text_encoder_3",
    "cond_stage",
    "vae.encode",
    "taesd.encode",
    "posterior",
    "mask",
    "control",
    "low_resolution",
    "schedule",
    "initial",
    "add_noise",
    "controlnet.hint",
)
FIRST = ("scale_input", "controlnet")  # of an evaluation
LAST = ("guidance", "sampler", "jump")  # of an evaluation or a step, after its networks
AFTER = ("vae.decode", "taesd.decode", "image")

CallOrder = tuple[int, float, int, int]


def in_order_of_run(trace: Trace) -> Trace:
    """Return a trace whose calls are in the order in which a run makes them.

    Calls of one kind have the order of their numbers. In a step, what its state is scaled by comes
    first, then ControlNets and the denoiser, guidance and the sampler. If there are twice as many
    calls of the denoiser as steps, each step has two.

    Args:
        trace: The trace, whose calls have some order.

    >>> import numpy as np
    >>> from ldmref.trace import build_trace
    >>> names = ("sampler.000//input.x", "sampler.001//input.x", "unet.000//output",
    ...          "unet.001//output")
    >>> trace = in_order_of_run(build_trace({name: np.ones(1) for name in names}))
    >>> [str(call) for call in trace.calls]
    ['unet.000', 'sampler.000', 'unet.001', 'sampler.001']
    """
    counts = Counter(call.kind for call in trace.calls)
    seen: Counter[str] = Counter()
    order: dict[str, CallOrder] = {}
    for call in sorted(trace.calls, key=lambda call: call.number):
        order[call] = _place(call, seen[call.kind], counts[call.kind])
        seen[call.kind] += 1
    return replace(trace, entries=tuple(sorted(trace.entries, key=lambda x: order[x.call])))


def _place(call: TraceCall, number: int, count: int) -> CallOrder:
    """Return the place of one of `count` calls of a kind: a group, the time in it, and a rank.

    What ends an evaluation comes before what begins the next one at the same time.
    """
    kind = "controlnet" if call.controlnet else call.kind
    for group, kinds in ((0, BEFORE), (2, AFTER)):
        if kind in kinds:
            return group, 0.0, kinds.index(kind), number
    if kind in LAST:
        return 1, (number + 1) / count, LAST.index(kind), number
    if kind in FIRST:
        return 1, number / count, len(LAST) + FIRST.index(kind), number
    return 1, (number + 0.99) / count, 0, number  # just before what ends the evaluation
