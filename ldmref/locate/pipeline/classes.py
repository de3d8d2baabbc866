"""Judge the numbers of classes that a denoiser is given, from the prompts that name them.

A pipeline of classes is asked for them by an argument that has the name of the denoiser's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ldmref.errors import LdmrefError
from ldmref.locate.findings import Row
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.evaluations import state_of
from ldmref.locate.pipeline.prompt_arrays import NotKnown, Prompts, prompts_of
from ldmref.locate.pipeline.roles import roles_of
from ldmref.locate.pipeline.text_inputs import parts_of_batch, request_at
from ldmref.locate.pipeline.tokens import tokenize
from ldmref.locate.precision import exact_backend
from ldmref.models.declared import NetworkInput

CONTENT = "labels"


def judge_class_labels(context: PipelineContext) -> Iterator[Row]:
    """Yield a row for the classes of each call of the denoiser."""
    inputs = [x for x in context.model.denoiser.inputs if x.content == CONTENT]
    for evaluation in context.evaluations if inputs else ():
        state = state_of(context, evaluation)
        parts = [] if state is None else parts_of_batch(context, evaluation, len(state))
        for network, roles in zip(evaluation.networks, parts, strict=False):
            request = request_at(context, network)
            for x in inputs:
                names = roles_of(context, x.argument)
                got = context.read(network, *names)
                if got is None or state is None:
                    continue
                try:
                    known = {side: _labels(context, request, side, x, len(state)) for side in roles}
                except (NotKnown, LdmrefError) as error:
                    context.ledger.explain(network, str(error), *names)
                    continue
                right = np.concatenate([known[side] for side in roles])
                if right.shape != got.shape:
                    context.ledger.explain(network, "it has another shape", *names)
                    continue
                context.compared(network, *names)
                segment = "from the prompts to the denoiser's classes"
                yield context.judge(network, "classes", got, right, segment=segment)


def _labels(
    context: PipelineContext, request: Mapping[str, Any], side: str, x: NetworkInput, images: int
) -> np.ndarray:
    """Return the classes of the prompts of one side, (images,).

    Raises:
        NotKnown: The prompts were not recorded, or do not name the classes.
    """
    asked = next((request[name] for name in roles_of(context, x.argument) if name in request), None)
    if side == "cond" and isinstance(asked, list | tuple | int):
        found = np.ravel(asked).tolist()
    else:
        prompts = prompts_of(context, request, side) or []
        found = [_label(context, request, each, x) for each in prompts]
    if not found or images % len(found):
        raise NotKnown("the prompts of the classes were not recorded")
    return np.repeat(np.array(found, np.float64), images // len(found))


def _label(
    context: PipelineContext, request: Mapping[str, Any], prompts: Prompts, x: NetworkInput
) -> float:
    """Return the class that a prompt names, as the family of the model makes it of tokens."""
    family, config = context.model.family, context.model.config
    tokens = [tokenize(context, i, [prompt], request) for i, prompt in enumerate(prompts)]
    ops = exact_backend()
    encoded = family.text.encode(ops, config.text_encoders, tokens, _no_network)
    condition = family.text.condition_text(ops, config, encoded, (0, 0))
    if x.argument not in condition.more:
        raise NotKnown("the classes do not follow from the prompts")
    return float(np.ravel(condition.more[x.argument])[0])


def _no_network(function: Callable, name: str) -> Callable:
    """Refuse to run a text encoder: classes are numbers that prompts name.

    Raises:
        NotKnown: Always.
    """
    raise NotKnown(f"the classes depend on the outputs of {name}")
