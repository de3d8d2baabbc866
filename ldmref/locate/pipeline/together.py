"""Judge what the other texts of a call change in diffusers: `TextPath.together`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ldmref.errors import LdmrefError
from ldmref.locate.findings import Row
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.evaluations import state_of
from ldmref.locate.pipeline.prompt_arrays import prompts_of
from ldmref.locate.pipeline.roles import roles_of
from ldmref.locate.pipeline.text_inputs import parts_of_batch, request_at
from ldmref.locate.pipeline.tokens import tokenize
from ldmref.locate.precision import exact_backend
from ldmref.trace.model import TraceEntry


def judge_together(context: PipelineContext) -> Iterator[Row]:
    """Yield a row for each array that depends on the longest text of a call."""
    together = context.model.family.text.together
    if together is None:
        return
    ops = exact_backend()
    names = [*together(ops, 1, 1)]
    for evaluation in context.evaluations:
        state = state_of(context, evaluation)
        if state is None:
            continue
        parts = parts_of_batch(context, evaluation, len(state))
        for network, roles in zip(evaluation.networks, parts, strict=False):
            lengths = [_find_longest(context, network, role) for role in roles]
            known = [length for length in lengths if length is not None]
            for name in names if len(known) == len(lengths) else ():
                recorded = roles_of(context, name)
                got = context.read(network, *recorded)
                if got is None:
                    continue
                made = [together(ops, len(state), length)[name] for length in known]
                right = np.concatenate([np.asarray(x) for x in made])
                variants = _list_variants(context, network, name, right)
                segment = f"from the texts to the denoiser's {name}"
                context.compared(network, *recorded)
                yield context.judge(network, name, got, right, variants=variants, segment=segment)


def _find_longest(context: PipelineContext, network: TraceEntry, role: str) -> int | None:
    """Return the number of tokens of the longest text of one side of a request."""
    request = request_at(context, network)
    prompts = prompts_of(context, request, role)
    if not prompts:
        return None
    try:
        tokens = tokenize(context, 0, [texts[0] for texts in prompts], request)
    except LdmrefError:
        return None
    return int(tokens.mask[:, :, tokens.dropped :].sum(axis=(1, 2)).max())


def _list_variants(
    context: PipelineContext, network: TraceEntry, name: str, right: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the array that each text makes alone."""
    mask = context.read(network, *roles_of(context, "mask"))
    together = context.model.family.text.together
    if mask is None or together is None or len(mask) != len(right):
        return
    counts = np.asarray(mask).sum(axis=1).astype(int)
    alone = [together(exact_backend(), 1, int(count))[name] for count in counts]
    yield "each row is that of its text alone", np.concatenate([np.asarray(x) for x in alone])
