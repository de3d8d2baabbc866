"""Judge the hints of ControlNets: the control image, or its latents; and the kind of the image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ldmref.locate.findings import Row
from ldmref.locate.parts.latent_faults import encoding_faults
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.coverage import RecordedArray
from ldmref.locate.pipeline.images import Variants, repeat_rows
from ldmref.locate.pipeline.noise_tests import judge_normal
from ldmref.locate.recorded.layouts import relative_error
from ldmref.locate.replay.networks import number_controlnet
from ldmref.models.control import ControlNet
from ldmref.trace.model import TraceEntry

HINTS = ("controlnet_cond", "hint", "control")
MODES = ("controlnet_mode", "mode")
KIND = "control image"
NO_MODE = -1  # with which diffusers' pipelines say that no kind of image was asked for


# -- which ControlNet -----------------------------------------------------------------------------


def controls_asked(context: PipelineContext) -> list[dict]:
    """Return the controls of a request of ldmref; [] if it has none."""
    found = context.params.get("control")
    return [x for x in found if isinstance(x, dict)] if isinstance(found, list) else []


def number_of(context: PipelineContext, net: TraceEntry) -> int | None:
    """Return which ControlNet of the run a call is of, from 0; None: it is not known.

    ldmref's calls are in turn, unless some act only in a part of the steps.
    """
    asked = controls_asked(context)
    if len(asked) > 1 and any(x.get("start", 0) > 0 or x.get("end", 1) < 1 for x in asked):
        return None
    number = number_controlnet(context.port, net.call)
    count = len(context.controlnets) or len(asked)
    if count:
        return number % count
    return number if any(call.controlnet == 2 for call in context.port.calls) else 0


def definition_of(context: PipelineContext, net: TraceEntry) -> ControlNet | None:
    """Return the ControlNet of a call; None: it was not given, or is not known."""
    number = number_of(context, net)
    return None if number is None or not context.controlnets else context.controlnets[number]


# -- the hint -------------------------------------------------------------------------------------


def judge_hint(context: PipelineContext, net: TraceEntry) -> Iterator[Row]:
    """Yield a row for the control image of a ControlNet, or for its latents."""
    hint = context.recorded(net, *HINTS)
    if hint is None:
        return
    number = number_of(context, net)
    if number is None:
        why = "which of several ControlNets it is of was not recorded"
        context.coverage.explain(hint.names, why)
        return
    sources = [*context.calls("control"), *_prepared_once(context, "controlnet.hint")]
    prepared = [context.read_output(entry) for entry in sources]
    got = hint.array
    fits = [x for x in prepared if x is not None and x.shape[1:] == got.shape[1:]]
    if fits and any(x is None for x in prepared):
        why = "what was prepared of a control image was not recorded"
        context.coverage.explain(hint.names, why)
        return
    if not fits:
        yield from _judge_latents(context, net, hint, number)
        return
    rows = [_rows_of(x, len(got)) for x in fits]
    of_number = rows[number % len(rows)]
    variants: Variants = [
        ("the control image is inverted", 1.0 - of_number),
        ("pixels in [-1, 1] instead of [0, 1]", 2.0 * of_number - 1.0),
        ("the control image is zero", np.zeros_like(of_number)),
        *(("the control image of another ControlNet", x) for x in rows if x is not of_number),
    ]
    yield context.judge(hint, KIND, of_number, least=1e-5, variants=variants)


def _rows_of(x: np.ndarray, n: int) -> np.ndarray:
    """Return a prepared image for n rows; diffusers prepares it twice, for a batch of two halves.

    A batch with a third prediction has the first half three times.
    """
    half = x[: len(x) // 2] if n % len(x) and len(x) % 2 == 0 else x
    return repeat_rows(half, n) if len(half) <= n else half[:n]


def _prepared_once(context: PipelineContext, kind: str) -> list[TraceEntry]:
    """Return the calls of a kind, which ldmref makes once for all batches of a run."""
    if context.whole is None or context.is_diffusers:
        return context.calls(kind)
    return context.calls_of_all(kind)


def _judge_latents(
    context: PipelineContext, net: TraceEntry, hint: RecordedArray, number: int
) -> Iterator[Row]:
    """Yield a row for a hint that is made of the latents of the control image."""
    definition, got = definition_of(context, net), hint.array
    encoded = _encoded(context)
    scaled = [x for z, _ in encoded if (x := context.normalize(z)) is not None]
    whose = [x for x in scaled if x.shape[1:] == got.shape[1:] and not len(got) % len(x)]
    if definition is None or len(whose) != len(context.controlnets):
        why = "what the pipeline prepared of the control image was not recorded"
        context.coverage.explain(hint.names, why)
        return
    vae = context.model.config.vae
    rows = [repeat_rows(x, len(got)) for x in whose]
    hints = [np.asarray(definition.declared.make_hint(definition.config, vae, x)) for x in rows]
    right = hints[number]
    logvar = encoded[number][1]
    segment = f"from the encoder to {net.call}"
    draws = definition.declared.draws_hint and context.params.get("rng") == "torch"
    if logvar is not None and draws and relative_error(got, right) > context.epsilon:
        spread = context.latent_scale.spread(np.exp(0.5 * np.clip(logvar, -30.0, 20.0)))
        noise = (got - right) / repeat_rows(spread, len(got))
        yield judge_normal(context, hint.made(noise), KIND, segment)
        return
    variants: Variants = [
        ("the latents of the control image are zero", np.zeros_like(right)),
        *(("the control image of another ControlNet", x) for x in hints if x is not right),
        ("the latents are shifted or not, as this ControlNet does not read them", rows[number]),
        *encoding_faults(context.latent_scale, rows[number]),
    ]
    yield context.judge(hint, KIND, right, least=1e-5, variants=variants, segment=segment)


def _encoded(context: PipelineContext) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Return the unscaled latents of the control images, with log variances if they are means."""
    of_images = [
        e for e in context.calls("posterior") if e.attributes.get("for") == "prepare_image"
    ]
    if of_images:
        sampled = [context.read_output(entry) for entry in of_images]
        return [(x, None) for x in sampled if x is not None]
    encoders = _prepared_once(context, "vae.encode")
    count = len(controls_asked(context))
    if len(encoders) > count and context.model.config.image_channels:
        return []  # further channels are encoded after them
    encoders = encoders[len(encoders) - count :] if len(encoders) >= count else []
    found = [(context.read_output(e, "mean"), context.read_output(e, "logvar")) for e in encoders]
    return [(mean, logvar) for mean, logvar in found if mean is not None]


# -- the kind of the image ------------------------------------------------------------------------


def judge_mode(context: PipelineContext, net: TraceEntry) -> Iterator[Row]:
    """Yield a row for the number of the kind of image that a ControlNet is given."""
    got, number = context.recorded(net, *MODES), number_of(context, net)
    if got is None or number is None:
        return
    asked = _asked_mode(context, number)
    if asked is None:
        context.coverage.explain(got.names, "the kind that was asked for was not recorded")
        return
    right = np.full(got.array.shape, float(asked))
    segment = "from the request to the ControlNet's mode"
    yield context.judge(got, "kind of control image", right, segment=segment)


def _asked_mode(context: PipelineContext, number: int) -> int | None:
    """Return the kind that a request named for a ControlNet; None: it is not known."""
    if not context.is_diffusers:
        asked = controls_asked(context)
        return asked[number].get("mode") if number < len(asked) else None
    if not context.port.manifest.get("request"):
        return None
    found = context.request.get("control_mode")
    if isinstance(found, list | tuple):
        found = found[number] if number < len(found) else None
    return NO_MODE if found is None else int(found)
