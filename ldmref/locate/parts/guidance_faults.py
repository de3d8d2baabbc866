"""Causes of a wrong guidance that are another formula, or have words of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ldmref.locate.parts.hypotheses import PossibleCause
from ldmref.locate.parts.rules import changed
from ldmref.locate.parts.visit import Visit
from ldmref.samplers.guidances import ClassifierFree


def known_guidance_faults(visit: Visit) -> Iterator[PossibleCause]:
    """Yield causes that are another formula, or have words of their own."""
    rule, arrays, scale = visit.rule, visit.arrays, visit.inputs["scale"]
    cond, uncond = arrays.get("cond"), arrays.get("uncond")
    yield from _known_of_two_models(visit)
    for prediction in rule.perturbed:
        words = prediction.name.partition("_")[0]
        weight = getattr(rule, "inner", rule)
        for text, value in (
            (f"the {words} prediction is not used", 0.0),
            (f"the sign of the {words} prediction is reversed", -weight.scale),
        ):
            yield text, replace(visit, rule=changed(weight, scale=value)).output
    if cond is None or uncond is None:
        return
    phi = getattr(rule, "phi", 0.0)
    if phi:
        plain = ClassifierFree()(arrays, 1.0, scale, ())[0]
        yield f"guidance rescale {phi:g} is missing", lambda: plain
    yield "the sum uncond + scale cond", lambda: uncond + scale * cond
    larger = cond + scale * (cond - uncond)
    yield "cond + scale (cond - uncond), which is a scale larger by 1", lambda: larger


def _known_of_two_models(visit: Visit) -> Iterator[PossibleCause]:
    """Yield causes of a wrong guidance by a weaker model."""
    rule, arrays = visit.rule, visit.arrays
    if not rule.guide_weight:
        return
    weight_of_model = getattr(rule, rule.guide_weight)
    weights = {
        "the weaker model is not used": 1.0,
        "the weaker model alone": 0.0,
        "a weight larger by 1": weight_of_model + 1.0,
    }
    for text, weight in weights.items():
        yield text, replace(visit, rule=changed(rule, **{rule.guide_weight: weight})).output
    opposite = changed(rule, **{rule.guide_weight: 1.0 - weight_of_model})
    exchanged = replace(visit, rule=opposite)
    if "uncond" not in arrays:
        exchanged = visit.with_arrays(cond=arrays["guide"], guide=arrays["cond"])
    yield "the two models are exchanged", exchanged.output
