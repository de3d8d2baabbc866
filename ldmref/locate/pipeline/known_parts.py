"""Judge what inpainting does between steps: known parts put back, and jumps to more noise.

Lugmayr et al. 2022, arXiv:2201.09865, equation 8 and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ldmref.locate.findings import Row
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.noise_tests import judge_normal
from ldmref.locate.pipeline.wires import state_after
from ldmref.trace.calls import CONSTRAIN
from ldmref.trace.model import TraceEntry

LEAST_VALUES = 16  # of which a distribution is judged
LEVEL = 1e-3  # relative, to which two noise levels are the same


def judge_known_parts(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for the constraint after each step, and for jumps."""
    yield from _judge_constraints(context)
    for jump in context.calls("jump"):
        yield from _judge_jump(context, jump)


def _judge_constraints(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for what was put into the states, of which the mask is all that was given.

    It is alpha x0 + sigma noise with the latents x0 of the image, where the state changed.
    """
    encoder = next(iter(context.calls("vae.encode")), None)
    mean = context.read_output(encoder, "mean")
    x0 = context.normalize(mean)
    random = context.params.get("rng") == "torch"  # latents are a sample of the distribution
    for step in context.calls("sampler"):
        entry = context.port.find(step.call, CONSTRAIN)
        if entry is None:
            continue
        before, after = context.read(entry, "input"), context.read_output(entry)
        sampled, sigma = context.read_output(step), context.number(step, "sigma_next")
        if before is not None and sampled is not None:
            context.compared(entry, "input")
            yield context.judge(entry, CONSTRAIN, before, sampled, segment="from the step")
        if before is None or after is None or sigma is None or before.shape != after.shape:
            continue
        known = np.broadcast_to((before != after).any(axis=(0, 1), keepdims=True), after.shape)
        if x0 is None or random or x0.shape[1:] != after.shape[1:]:
            why = "the latents of the image that were put back were not recorded"
            context.ledger.explain(entry, why, "output", side="output")
            continue
        signal = float(context.path.alpha(sigma))
        last = _is_last(context, step, sigma)
        scale = context.path.spread(sigma) if last else signal
        right = np.broadcast_to(scale * x0, after.shape)
        context.compared_output(entry)
        if last:
            expected = np.where(known, right, before)
            least = max(1e-5, context.rounding)
            yield context.judge(entry, CONSTRAIN, after, expected, least=least)
        elif known.sum() >= LEAST_VALUES:
            z = (after - right)[known] / sigma
            yield judge_normal(context, entry, CONSTRAIN, z, "the noise of the known part")


def _is_last(context: PipelineContext, step: TraceEntry, sigma: float) -> bool:
    """Return whether a step ends the schedule, whose last level may be above 0.

    Args:
        context: The run.
        step: The step.
        sigma: The level to which it leads.
    """
    if sigma == 0.0 or "i_next" in step.attributes:
        return sigma == 0.0 or step.attributes["i_next"] == step.attributes.get("n")
    schedule = None if context.unknown_scheduler else context.make_schedule()
    return schedule is not None and abs(schedule.sigmas[-1] - sigma) <= LEVEL * sigma


def _judge_jump(context: PipelineContext, jump: TraceEntry) -> Iterator[Row]:
    """Yield rows for a jump back to a level of more noise, and the state after it."""
    steps = context.calls("sampler")
    order = context.port.calls
    place = order.index(jump.call)
    before = [step for step in steps if order.index(step.call) < place]
    after = [step for step in steps if order.index(step.call) > place]
    noise, got = context.read(jump, "noise"), context.read_output(jump)
    if not before or not after or noise is None or got is None:
        return
    state = state_after(context, before[-1])
    start, end = context.number(before[-1], "sigma_next"), context.number(jump, "sigma")
    begun, following = context.number(after[0], "sigma"), context.read(after[0], "x")
    if state is None or start is None or end is None or begun is None or following is None:
        return
    context.compared(jump, "noise", "sigma")
    context.compared_output(jump)
    context.compared(after[0], "x")
    yield judge_normal(context, jump, "noise", noise)
    yield context.judge(jump, "jump level", np.array([end]), np.array([begun]), least=1e-6)
    if context.path.alpha(start) <= 0.0:
        yield context.not_judged(jump, "jump", "it starts from a level that holds no image")
    elif 0.0 <= start <= begun:
        keep, up = context.path.forward(start, begun)
        least = max(1e-5, context.rounding)
        variants = [("the state before the jump", state), ("only the noise", up * noise)]
        yield context.judge(
            jump, "jump", got, keep * state + up * noise, least=least, variants=variants
        )
    else:
        yield context.not_judged(jump, "jump", "it leads to no more noise")
    yield context.judge(after[0], "state", following, got, segment=f"from {jump.call}")
