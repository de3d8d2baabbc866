"""Judge the gradients of a training step: their norm in each layer, and the norm of all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from ldmref.locate.findings import DIFFERS, EQUAL, Row
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.coverage import RecordedArray
from ldmref.locate.pipeline.training import LEAST, loss_weights, read_objective
from ldmref.locate.replay.networks import open_network
from ldmref.models.model import TEXT_ENCODERS
from ldmref.trace.model import TraceEntry

if TYPE_CHECKING:
    import torch

    from ldmref.locate.replay.autodiff import DenoiserEvaluation, StepGradients

KIND = "gradient"
CLIP = 1.0  # the usual bound of the gradients' norm
LOSS_SCALES = range(8, 25)  # powers of two by which losses are multiplied for float16
UNKNOWN_PARAMETERS = "its parameters are not those of the model"


def judge_gradients(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for the norms of the gradients of every recorded training step."""
    for entry in context.calls("train"):
        layers = [
            part
            for part in context.port.of_call(entry.call)
            if part.layer and "grad_norm" in part.outputs
        ]
        yield from _judge_total(context, entry, layers)
        if layers:
            yield from _judge_layers(context, entry, layers)


def _norm(context: PipelineContext, layer: TraceEntry) -> RecordedArray:
    """Return the recorded norm of a layer's gradient, (1,)."""
    found = context.recorded_output(layer, "grad_norm")
    assert found is not None  # only layers that have it are judged
    return found.made(np.ravel(found.array)[:1])


def _judge_total(
    context: PipelineContext, entry: TraceEntry, layers: list[TraceEntry]
) -> Iterator[Row]:
    """Yield the row of the norm of all gradients, if all layers were recorded."""
    selection = context.port.manifest.get("selection")
    total = context.recorded_output(entry, "grad_norm")
    if total is None:
        return
    if not layers or selection is None or selection.get("layers"):
        context.coverage.give(total.names)  # of gradients that are not all in the trace
        return
    norms = np.concatenate([_norm(context, layer).array for layer in layers])
    expected = np.sqrt(np.sum(norms**2, keepdims=True))
    variants = [("the sum of the layers' norms", np.sum(norms, keepdims=True))]
    variants += [("after clipping", np.minimum(expected, _clip_norm(context)))]
    got = total.made(np.ravel(total.array))
    row = context.judge(got, "grad_norm", expected, least=LEAST, variants=variants)
    yield replace(row, segment="the norm over the layers")


def _judge_layers(
    context: PipelineContext, entry: TraceEntry, layers: list[TraceEntry]
) -> Iterator[Row]:
    """Yield a row for every layer, or the reason why they are not judged."""
    if find_spec("torch") is None:
        yield context.not_judged(
            entry, KIND, "gradients are recomputed by PyTorch: pip install torch"
        )
        return
    found = _evaluations(context, entry)
    if isinstance(found, str):
        yield context.not_judged(entry, KIND, found)
        return
    from ldmref.locate.replay.autodiff import StepGradients

    exact = StepGradients(context.model, found, "float64", context.dtype)
    low = exact
    if context.dtype != "float64":
        low = StepGradients(context.model, found, context.dtype, context.dtype)
    results = {layer.layer: _find_gradient(layer, exact, low) for layer in layers}
    problems = {name: text for name, text in results.items() if isinstance(text, str)}
    expected = {name: x for name, x in results.items() if not isinstance(x, str)}
    total = math.hypot(*(gradient.norm for gradient in expected.values()))
    counts = sum(len(part.weights) for part in found), len(found)
    for layer in layers:
        if layer.layer in expected:
            yield _judge_layer(context, layer, expected[layer.layer], total, counts)
    for why in dict.fromkeys(problems.values()):
        names = [name for name, text in problems.items() if text == why]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield context.not_judged(entry, KIND, f"{names[0]}{more}: {why}")


@dataclass(frozen=True)
class _LayerGradient:
    """The gradients of a layer's parameters, in float64 and in the port's format."""

    exact: Mapping[str, torch.Tensor]
    rounded: Mapping[str, torch.Tensor]
    parameters: list[str]

    def norm_of(self, *parameters: str) -> float:
        return math.hypot(*(float(self.exact[name].norm()) for name in parameters))

    @cached_property
    def norm(self) -> float:
        return self.norm_of(*self.parameters)

    @property
    def floor(self) -> float:
        """The norm of the rounding errors, relative to that of the gradient, which is not zero."""
        errors = [float((self.rounded[k] - self.exact[k]).norm()) for k in self.parameters]
        return math.hypot(*errors) / self.norm


def _find_gradient(
    layer: TraceEntry, exact: StepGradients, low: StepGradients
) -> _LayerGradient | str:
    """Return the gradient of a layer's trained parameters, or the reason why it is not known."""
    network = layer.layer.partition(".")[0]
    denoiser = exact.model.config.denoiser.network
    if network not in (denoiser, *TEXT_ENCODERS):
        return UNKNOWN_PARAMETERS
    gradients = exact.denoiser if network == denoiser else exact.text
    rounded = low.denoiser if network == denoiser else low.text
    if gradients is None or rounded is None:
        return "the recorded context is not that of recorded prompts"
    recorded = layer.attributes.get("parameters")
    if recorded is None:
        names = [name for name in gradients if name.rpartition(".")[0] == layer.layer]
    else:
        names = [f"{layer.layer}.{name}" for name in recorded]
    if not names or any(name not in gradients for name in names):
        return UNKNOWN_PARAMETERS
    return _LayerGradient(gradients, rounded, names)


def _judge_layer(
    context: PipelineContext,
    layer: TraceEntry,
    gradient: _LayerGradient,
    total: float,
    counts: tuple[int, int],
) -> Row:
    norm = gradient.norm
    got = _norm(context, layer)
    if not norm:  # the loss does not depend on this layer
        error = float(got.array[0]) / (total or 1.0)
        verdict = EQUAL if error <= LEAST else DIFFERS
        values = {"error": error, "allowed": LEAST, "verdict": verdict}
        return context.row(got, KIND, layer.layer, **values)
    examples, parts = counts
    clip = _clip_norm(context)
    factors = [(f"the sum over the {examples} examples instead of the mean", float(examples))]
    if parts > 1:
        factors += [(f"the sum over the {parts} evaluations instead of the mean", float(parts))]
    if total > clip:
        factors += [(f"after clipping to the norm {clip:g}", clip / total)]
    factors += [(f"the loss is scaled by 2^{k}, as for float16", 2.0**k) for k in LOSS_SCALES]
    factors += [("the loss is halved", 0.5), ("the layer is frozen", 0.0)]
    variants = [(text, np.array([factor * norm])) for text, factor in factors]
    variants += [("the square of the norm", np.array([norm**2]))]
    for name in gradient.parameters:
        if len(gradient.parameters) > 1:
            part = name.rpartition(".")[2]
            alone = gradient.norm_of(name)
            variants += [(f"only the gradient of the {part}", np.array([alone]))]
    row = context.judge(
        got,
        KIND,
        np.array([norm]),
        floor=gradient.floor,
        least=LEAST,
        variants=variants,
    )
    return replace(row, layer=layer.layer)


def _clip_norm(context: PipelineContext) -> float:
    return float(context.diffusion_stage.get("optimizer", {}).get("clip_norm", CLIP))


def _evaluations(context: PipelineContext, entry: TraceEntry) -> list[DenoiserEvaluation] | str:
    """Return the denoiser's evaluations in a step, or the reason why they cannot be repeated."""
    from ldmref.locate.replay.autodiff import DenoiserEvaluation

    target = context.read(entry, "target")
    timesteps = context.read(entry, "timesteps")
    if target is None or timesteps is None:
        return "the target or the timesteps were not recorded"
    kind, gamma = read_objective(context)
    known = loss_weights(context, timesteps, gamma)
    if kind not in known:
        return f"the loss {kind!r} is not recomputed"
    weights = known[kind] / len(target)
    steps = len(context.calls("train"))
    calls = entry.attributes.get("evaluations")
    if calls is None and steps == 1:
        calls = [call.call for call in context.calls(context.denoiser)]
    prompts = list(entry.attributes.get("prompts") or [])
    if len(prompts) != len(target):
        prompts = []
    parts = []
    first = 0
    for call in calls or []:
        recorded = context.port.find(call)
        if recorded is None:
            return f"the inputs of {call} were not recorded"
        network = open_network(context.model, context.port, recorded.call)
        if not network.complete:
            return f"the inputs of {call} were not recorded"
        if network.arguments.get("control") is not None:
            return "gradients of a run with ControlNets are not recomputed"
        last = first + len(network.arguments["x"])
        own = slice(first, last)
        part = DenoiserEvaluation(network, target[own], weights[own], prompts[own])
        parts.append(part)
        first = last
    if first != len(target):
        return "the denoiser's calls of this step were not recorded"
    return parts
