"""Judge the guidance of diffusers' pipelines by what was asked for, at each of their steps.

| asked for                                       | compared with                                 |
|-------------------------------------------------|-----------------------------------------------|
| `guidance_scale`, `true_cfg_scale`              | the recorded scale                            |
| `guidance_rescale`, `cfg_normalization`         | the recorded rule                             |
| `skip_layer_guidance_scale`, `pag_scale`        | the scale of the further prediction           |
| `skip_layer_guidance_start` and `_stop`         | the steps that have such a prediction         |
| `cfg_truncation`, a guider's `start` and `stop` | the steps with a negative prediction          |
| `skip_guidance_layers`, `pag_applied_layers`    | the layers that the network says it changed   |

Whatever else was asked of the guidance is "not judged".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ldmref.locate.findings import DIFFERS, UNKNOWN, Row
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.evaluations import RunEvaluation, state_of
from ldmref.locate.pipeline.roles import roles_of
from ldmref.trace.model import TraceEntry

GUIDES = re.compile(r"(.*_)?(guidance|cfg|pag|sag)_.*")  # arguments that ask for guidance
COMPARED = (
    "guidance_scale", "guidance_rescale", "true_cfg_scale", "cfg_normalization", "cfg_truncation",
    "skip_guidance_layers", "skip_layer_guidance_scale", "skip_layer_guidance_start",
    "skip_layer_guidance_stop", "pag_scale", "pag_adaptive_scale", "pag_applied_layers",
    "control_guidance_start", "control_guidance_end",
)  # fmt: skip
OF_GUIDERS = (
    "class", "guidance_scale", "guidance_rescale", "start", "stop", "use_original_formulation",
    "enabled",
)  # fmt: skip
CFG = "ClassifierFreeGuidance"
WORDS = {
    "uncond": "negative prediction",
    "skipped": "prediction without layers",
    "perturbed": "perturbed prediction",
}
NOT_RECORDED = "what was asked for was not recorded"
CLOSE = 1e-5  # of times at an end of an interval, which diffusers computes in float32


def judge_asked(context: PipelineContext) -> Iterator[Row]:
    """Yield a row for whatever of the guidance is not what was asked for, or is not compared."""
    for entry in context.calls("guidance"):
        yield from _judge_numbers(context, entry)
    if not context.is_diffusers:
        return
    yield from _judge_missing(context)
    if not _call_of(context):
        return
    for evaluation in context.evaluations:
        for part in WORDS:
            yield from _judge_part(context, evaluation, part)
        yield from _judge_layers(context, evaluation)
    yield from _judge_control_scales(context)
    yield from _judge_rest(context)


def _call_of(context: PipelineContext) -> Mapping[str, Any]:
    """Return the arguments of the pipeline's call; {} if it was not recorded."""
    return context.port.manifest.get("request") or {}


def _calls_back(context: PipelineContext) -> bool:
    return any(name.startswith("callback") for name in context.request)


def _differs(context: PipelineContext, call: str, kind: str, cause: str, note: str = "") -> Row:
    """Return the row of a difference, which a callback of the run may have caused."""
    if _calls_back(context):
        note = f"{cause}; the callback of the run may have changed it"
        return Row(call, "", kind, verdict=UNKNOWN, note=note)
    return Row(call, "", kind, error=float("inf"), verdict=DIFFERS, cause=cause, note=note)


# -- numbers --------------------------------------------------------------------------------------


def _judge_numbers(context: PipelineContext, entry: TraceEntry) -> Iterator[Row]:
    """Yield a row for the numbers that a guidance used, from those that were asked for.

    A callback may change them from step to step.
    """
    for role, value in _asked_numbers(context, entry).items():
        got = context.recorded(entry, role)
        if got is None or not got.array.size:
            continue
        if not isinstance(value, int | float):  # the recorded one is all that is known
            context.coverage.explain(got.names, NOT_RECORDED)
            continue
        numbers = np.ravel(got.array)
        words = f"{numbers[0]:g} instead of {value:g}"
        row = context.judge(
            got.made(numbers),
            f"guidance {role}",
            np.full(numbers.shape, float(value)),
            least=1e-6,
            variants=[(words, numbers)],
        )
        if row.verdict == DIFFERS:
            late = _calls_back(context)
            yield _differs(context, entry.call, row.kind, words) if late else row
    asked = _call_of(context).get("cfg_normalization")
    if isinstance(asked, bool | int | float):
        got = entry.attributes.get("factor") if entry.attributes.get("name") == "renorm" else 0.0
        if float(got or 0.0) != max(float(asked), 0.0):
            words = f"{float(got or 0.0):g} instead of {float(asked):g}"
            yield _differs(context, entry.call, "guidance normalization", words)


def _asked_numbers(context: PipelineContext, entry: TraceEntry) -> dict[str, Any]:
    """Return the numbers that were asked for of a guidance, by role; None: it is not known."""
    request = context.request
    evaluation = _evaluation_of(context, entry)
    true_cfg = request.get("true_cfg_scale")  # of pipelines that have two scales
    second = true_cfg is not None and _is_second(context, entry)
    known = not context.unknown_scheduler
    itself = known and context.choose_sampler(context.config)[0].own_guidance
    guider = context.guider
    rescale = guider.get("guidance_rescale", 0.0) if guider else None
    return {
        # a step with guidance of its own combines the predictions itself
        "scale": 1.0 if itself else true_cfg if second else context.asked_scale,
        "rescale": request.get("guidance_rescale", 0.0) if rescale is None else rescale,
        "skip_scale": request.get("skip_layer_guidance_scale"),
        "perturbed_scale": None if evaluation is None else _perturbed_scale(context, evaluation),
    }


def _perturbed_scale(context: PipelineContext, evaluation: RunEvaluation) -> float | None:
    """Return the scale of perturbed attention at a step, which may fall with the time."""
    scale = context.request.get("pag_scale")
    falls = context.request.get("pag_adaptive_scale", 0.0)
    time = context.number(evaluation.step, "timestep")
    if not isinstance(scale, int | float) or not isinstance(falls, int | float):
        return None
    if falls <= 0.0 or scale <= 0.0:
        return float(scale)
    return None if time is None else max(scale - falls * (1000.0 - time), 0.0)


def judge_embedded_scale(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for the guidance scale that the network reads, where no run says what it is."""
    asked, names = context.asked_scale, roles_of(context, "guidance")
    for network in context.calls(context.denoiser):
        got = context.recorded(network, *names)
        if got is not None and asked is not None:
            words = f"guidance scale {float(np.ravel(got.array)[0]):.5g} instead of {asked:g}"
            right, variants = np.full(got.array.shape, asked), [(words, got.array)]
            yield context.judge(got, "guidance scale", right, least=1e-6, variants=variants)


def _evaluation_of(context: PipelineContext, entry: TraceEntry) -> RunEvaluation | None:
    return next((e for e in context.evaluations if e.guidance is entry), None)


def _is_second(context: PipelineContext, entry: TraceEntry) -> bool:
    """Return whether a guidance combines two calls of a denoiser, each with a scale of its own."""
    evaluation = _evaluation_of(context, entry)
    return (
        evaluation is not None and len(evaluation.networks) == 2 and "skipped" not in entry.inputs
    )


# -- steps ----------------------------------------------------------------------------------------


def _judge_missing(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for steps without guidance, though it was asked for."""
    networks = context.calls(context.denoiser)[:1]
    names = {*roles_of(context, "guidance"), "timestep_cond"}
    reads_scale = any(role in names for e in networks for role in e.inputs)
    asked = context.asked_scale
    negative = context.request.get("negative_prompt")
    embeds = context.requested("negative_prompt_embeds")
    true_cfg = context.request.get("true_cfg_scale")  # of pipelines that have two scales
    requested = negative is not None or embeds is not None
    second = isinstance(true_cfg, int | float) and true_cfg > 1.0 and requested
    for evaluation in context.evaluations:
        if evaluation.guidance is not None or len(evaluation.networks) != 1:
            continue
        network, step = evaluation.networks[0], evaluation.step
        state, raw = state_of(context, evaluation), context.read_output(network)
        if state is None or raw is None or len(raw) != len(state):
            continue
        says = "guided" in step.attributes or context.guider
        may = says and not reads_scale and not _calls_back(context)
        within = _is_within(context, evaluation) is not False
        if second or (may and within and asked is not None and asked > 1.0):
            scale = true_cfg if second else asked
            cause = "guidance is dropped: the network is not asked for the negative prompt"
            note = f"guidance scale {scale:g} was asked for"
            values = {"error": float("inf"), "verdict": DIFFERS, "cause": cause, "note": note}
            yield Row(step.call, "", "guidance", **values)


def _judge_part(context: PipelineContext, evaluation: RunEvaluation, part: str) -> Iterator[Row]:
    """Yield a row for a prediction that a step has and should not have, or the reverse."""
    found = _predictions(context, evaluation)
    if found is None:
        left_out = (context.port.manifest.get("selection") or {}).get("calls")
        if part == "uncond" and not left_out:  # once for all parts
            note = "how its predictions are combined was not recorded"
            yield Row(evaluation.step.call, "", "guidance", verdict=UNKNOWN, note=note)
        return
    asked = _asks_for(context, evaluation, part)
    has = part in found
    if asked is None or asked == has:
        return
    if part == "uncond" and asked and evaluation.guidance is None:
        return  # `_judge_missing` says so where it is known
    words = "is missing" if asked else "was not asked for"
    entry = evaluation.guidance or evaluation.step
    yield _differs(context, entry.call, "guidance", f"the {WORDS[part]} {words} at this step")


def _predictions(context: PipelineContext, evaluation: RunEvaluation) -> tuple[str, ...] | None:
    """Return the predictions of an evaluation by role; None: it is not known which they are."""
    if evaluation.guidance is not None:
        return (*evaluation.guidance.inputs,)
    state = state_of(context, evaluation)
    found = [context.read_output(network) for network in evaluation.networks]
    outputs = [x for x in found if x is not None]
    if state is None or len(outputs) < len(found):
        return ("cond",) if len(found) == 1 else None
    if sum(map(len, outputs)) == len(state):
        return ("cond",)
    # the halves of a batch are combined where `judge_guidance` says so
    alone = len(context.calls(context.denoiser)) == len(context.calls("sampler"))
    return ("uncond", "cond") if alone and len(outputs[0]) == 2 * len(state) else None


def _asks_for(context: PipelineContext, evaluation: RunEvaluation, part: str) -> bool | None:
    """Return whether a prediction was asked for at a step; None: it is not known."""
    request = _call_of(context)
    if part == "uncond":
        scale = context.asked_scale
        if _is_second_of_two(context, request) or scale is None:
            return None
        return scale > 1.0 and _is_within(context, evaluation)
    if part == "perturbed":
        scale, layers = request.get("pag_scale"), request.get("pag_applied_layers")
        if not isinstance(scale, int | float) or not isinstance(layers, list):
            return None
        return scale > 0.0 and len(layers) > 0
    return _asks_to_skip(context, evaluation, request)


def _is_second_of_two(context: PipelineContext, request: Mapping[str, Any]) -> bool:
    """Return whether the network reads the guidance scale, or another argument guides."""
    first = context.calls(context.denoiser)[:1]
    names = {*roles_of(context, "guidance"), "timestep_cond"}
    return "true_cfg_scale" in request or any(role in names for e in first for role in e.inputs)


def _asks_to_skip(
    context: PipelineContext, evaluation: RunEvaluation, request: Mapping[str, Any]
) -> bool | None:
    """Return whether a step should have a prediction without layers; None: it is not known."""
    ends = [request.get(f"skip_layer_guidance_{end}") for end in ("start", "stop")]
    steps, scale = _steps_of(context), context.asked_scale
    if request.get("skip_guidance_layers") is None:
        return False
    if scale is not None and scale <= 1.0:
        return False  # diffusers skips layers only where it guides
    if scale is None or steps is None or not all(isinstance(x, int | float) for x in ends):
        return None
    start, stop = (float(x) for x in ends if x is not None)
    return steps * start < _index_of(context, evaluation) < steps * stop


def _is_within(context: PipelineContext, evaluation: RunEvaluation) -> bool | None:
    """Return whether a step is in the interval of guidance that was asked for, None: unknown."""
    last = _call_of(context).get("cfg_truncation")
    if isinstance(last, int | float) and last <= 1.0:
        time = context.number(evaluation.step, "timestep")
        if time is None or abs((1000.0 - time) / 1000.0 - last) < CLOSE:
            return None
        return (1000.0 - time) / 1000.0 <= last
    guider = context.guider
    if not guider:
        return True
    steps = _steps_of(context)
    start, stop = guider.get("start", 0.0), guider.get("stop", 1.0)
    if steps is None or not isinstance(start, int | float) or not isinstance(stop, int | float):
        return None
    return int(start * steps) <= _index_of(context, evaluation) < int(stop * steps)


def _steps_of(context: PipelineContext) -> int | None:
    """Return the number of steps that diffusers counts; None: it is not known."""
    asked = context.request.get("num_inference_steps")
    own = any(context.request.get(name) is not None for name in ("sigmas", "timesteps"))
    if isinstance(asked, int) and not own:
        return asked
    recorded = context.read_output(context.schedule_entry, "timesteps")
    return None if recorded is None else recorded.size


def _index_of(context: PipelineContext, evaluation: RunEvaluation) -> int:
    """Return the index of a step among the timesteps of its run."""
    first = context.calls("sampler")[0].call.number if context.whole is not None else 0
    return (evaluation.step.call.number or 0) - (first or 0)


# -- layers ---------------------------------------------------------------------------------------


def _judge_layers(context: PipelineContext, evaluation: RunEvaluation) -> Iterator[Row]:
    """Yield a row for layers that were skipped or perturbed in place of those asked for."""
    request = _call_of(context)
    roles = () if evaluation.guidance is None else evaluation.guidance.inputs
    if "skipped" in roles:
        network = evaluation.networks[-1]
        got = network.attributes.get("skip_layers")
        yield from _compare_layers(
            context, network, request.get("skip_guidance_layers"), got, "skipped"
        )
    if "perturbed" in roles:
        for network in evaluation.networks:
            own = network.attributes.get("own_attention")
            kinds = own if isinstance(own, dict) else {}
            got = [name for name, kind in kinds.items() if "PAG" in str(kind)]
            asked = request.get("perturbed_layers")
            yield from _compare_layers(context, network, asked, got, "perturbed")


def _compare_layers(
    context: PipelineContext, network: TraceEntry, asked: object, got: object, words: str
) -> Iterator[Row]:
    kind = f"{words} layers"
    if not isinstance(asked, list) or not isinstance(got, list):
        what = "asked for" if isinstance(got, list) else words
        note = f"which layers were {what} was not recorded"
        yield Row(network.call, "", kind, verdict=UNKNOWN, note=note)
    elif {*map(str, asked)} != {*map(str, got)}:
        cause = f"{_listed(got)} instead of {_listed(asked)}"
        yield _differs(context, network.call, kind, cause)


def _listed(layers: list[Any]) -> str:
    return ", ".join(map(str, layers)) or "none"


# -- ControlNets ----------------------------------------------------------------------------------


def _judge_control_scales(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for the scales of ControlNets, which act from a start to an end of the steps."""
    request = _call_of(context)
    asked = {
        name: request[name]
        for name in (
            "controlnet_conditioning_scale", "control_guidance_start", "control_guidance_end"
        )
        if name in request
    }  # fmt: skip
    steps = context.calls("sampler")
    kinds = sorted({e.call.kind for e in context.port.entries if e.call.kind.startswith("contro")})
    nets = [kind for kind in kinds if re.fullmatch(r"controlnet(_\d+)?", kind)]
    if not asked or not nets:
        return
    some = (context.port.manifest.get("selection") or {}).get("steps")
    total = 0 if some else len(steps)
    for i, kind in enumerate(nets):
        calls = context.calls(kind)
        if len(calls) != len(steps) or not total:
            note = "its calls are not one for each step: its scale is not compared"
            yield Row(calls[0].call, "", "ControlNet's scale", verdict=UNKNOWN, note=note)
            continue
        for index, net in enumerate(calls):
            yield from _judge_control_scale(context, net, index, total, i, asked)


def _judge_control_scale(
    context: PipelineContext,
    net: TraceEntry,
    index: int,
    total: int,
    number: int,
    asked: Mapping[str, Any],
) -> Iterator[Row]:
    """Yield a row for the scale of one call of a ControlNet."""
    own = {k: x[number] if isinstance(x, list) else x for k, x in asked.items()}
    start = own.get("control_guidance_start", 0.0)
    end = own.get("control_guidance_end", 1.0)
    acts = index / total >= start and (index + 1) / total <= end
    right = float(own.get("controlnet_conditioning_scale", 1.0)) * acts
    got = net.attributes.get("conditioning_scale")
    got = got[number] if isinstance(got, list) and number < len(got) else got
    if not isinstance(got, int | float):
        note = "its scale was not recorded"
        yield Row(net.call, "", "ControlNet's scale", verdict=UNKNOWN, note=note)
    elif not np.isclose(got, right):
        yield _differs(context, net.call, "ControlNet's scale", f"{got:g} instead of {right:g}")


# -- the rest -------------------------------------------------------------------------------------


def _judge_rest(context: PipelineContext) -> Iterator[Row]:
    """Yield a row for what was asked of the guidance and nothing compares."""
    asked = {
        name: value
        for name, value in _call_of(context).items()
        if GUIDES.fullmatch(name) and name not in COMPARED
    }
    guider = context.guider
    if guider and guider.get("class") == CFG:
        asked |= {f"guider's {k}": x for k, x in guider.items() if k not in OF_GUIDERS}
    elif guider:
        asked["guider"] = guider.get("class")
    left = {name: x for name, x in asked.items() if x not in (None, False, 0, [])}
    entries = [*context.calls("guidance"), *context.calls("sampler")]
    if left and entries:
        listed = ", ".join(f"{name} {value}" for name, value in left.items())
        note = f"{listed}: nothing compares what was asked for with what was used"
        yield Row(entries[0].call, "", "guidance asked for", verdict=UNKNOWN, note=note)
