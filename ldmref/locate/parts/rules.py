"""The rules of recorded calls, as ldmref and other programs record them.

A recording of another program is a table of names: of its arrays into those of a part, and of its
settings into the parameters of a rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ldmref.declare import get_fields
from ldmref.errors import LdmrefError
from ldmref.locate.parts.visit import Visit
from ldmref.math.guidance import rescale_guidance
from ldmref.samplers.autoguidance import Autoguidance, EmbeddedScaleAutoguidance
from ldmref.samplers.guidance import Guidance
from ldmref.samplers.guidance_directions import PerturbedAttention, SkipLayers
from ldmref.samplers.guidance_registry import GUIDANCES, get_guidance, guidance_class
from ldmref.samplers.guidances import EmbeddedScale, Rescale
from ldmref.samplers.predictions import TEXTS, Prediction, Steering

PLAIN = (None, "", "cfg", "classifier_free", "none")
ANY_LEVEL = {"low": 0.0, "high": 1e13}
# As other programs name a guidance: ldmref's, with the names of its arrays and of its numbers.
FOREIGN: Mapping[str, tuple[type[Guidance], Mapping[str, Any], Mapping[str, str], Mapping]] = {
    "skip_layers": (
        SkipLayers,
        ANY_LEVEL | {"layers": (0,)},
        {"skipped": "skipped_0"},
        {"skip_scale": "scale"},
    ),
    "perturbed": (
        PerturbedAttention,
        {"layers": "mid"},
        {"perturbed": "perturbed_mid"},
        {"perturbed_scale": "scale"},
    ),
}
NUMBERS = ("rescale", *(number for *_, numbers in FOREIGN.values() for number in numbers))


class RecordedRule(NamedTuple):
    """The rule of a recorded call.

    Attributes:
        guidance: The rule.
        arrays: The names of its arrays, by role.
        foreign: Whether only its predictions say whether it is guided, not its scale.
    """

    guidance: Guidance
    arrays: Mapping[str, str]
    foreign: bool = False


@dataclass(frozen=True)
class Rescaled(Guidance):
    """Another guidance with the contrast of the conditional prediction, as in diffusers.

    Attributes:
        inner: The other guidance.
        phi: As in `Rescale`.
    """

    name = "rescaled"
    inner: Any = None
    phi: float = 0.0

    def __post_init__(self) -> None:
        """Take both as they were recorded."""

    def needs(self, sigma: float, cfg_scale: float) -> tuple[str, ...]:
        return self.inner.needs(sigma, cfg_scale)

    def __call__(self, predictions, sigma, cfg_scale, memory):
        guided, memory = self.inner(predictions, sigma, cfg_scale, memory)
        return rescale_guidance(guided, predictions["cond"], self.phi), memory


def changed(rule: Guidance, **values: Any) -> Guidance:
    """Return a rule with other parameters, also outside of the declared range."""
    other = copy(rule)
    for name, value in values.items():
        object.__setattr__(other, name, value)
    return other


def guidance_rule(
    attributes: Mapping[str, Any], roles: Mapping[str, Any], numbers: Mapping[str, float | None]
) -> RecordedRule | str:
    """Return the rule of a recorded guidance, or why there is none.

    Args:
        attributes: The attributes of the call.
        roles: The roles of its inputs.
        numbers: Those of `NUMBERS` that were recorded, or None.
    """
    name = attributes.get("name", attributes.get("guidance"))
    phi = numbers.get("rescale") or 0.0
    arrays: Mapping[str, str] = {"text": "cond"}
    if name == EmbeddedScale.name:
        return RecordedRule(EmbeddedScale(), arrays)
    if name in PLAIN:
        return RecordedRule(
            changed(Rescale(), phi=phi), arrays
        )  # without phi it is classifier-free
    if name in FOREIGN:
        cls, fixed, renamed, settings = FOREIGN[str(name)]
        values = {field: numbers.get(number) for number, field in settings.items()}
        if any(value is None for value in values.values()):
            return "its parts or its result were not recorded"
        found: Guidance = changed(cls(**fixed), **values)
        return RecordedRule(
            Rescaled(found, phi) if phi else found, {**arrays, **renamed}, foreign=True
        )
    try:
        known = get_fields(guidance_class(str(name)))
        values = {key: x for key, x in attributes.items() if key in known}
        if known and not values:
            return "its parameters were not recorded"
        found = get_guidance({"name": name, **values})
    except LdmrefError:
        return f"guidance {name!r} is not recomputed"
    if type(found) is Autoguidance and "uncond" not in roles and "cond" in roles:
        found = EmbeddedScaleAutoguidance(weight=found.weight)
    return RecordedRule(found, arrays)


def other_guidances(rule: Guidance) -> dict[str, Guidance]:
    """Return the other guidances with their defaults, for the same predictions or fewer."""
    return {
        f"guidance {name}": cls() for name, cls in GUIDANCES.items() if not isinstance(rule, cls)
    }


@dataclass(frozen=True)
class GuidanceOfSteps(Guidance):
    """A guidance whose rule and scale are others in each evaluation.

    Attributes:
        ratios: The ratios of noise to data, at which the denoiser is evaluated.
        rules: The rule at each.
        scales: The guidance scale at each.
    """

    name = "of_steps"
    ratios: tuple[float, ...] = ()
    rules: tuple[Guidance, ...] = ()
    scales: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Take all as they were recorded."""

    @property
    def record(self) -> dict[str, str]:
        """Its name alone."""
        return {"name": self.name}

    def embedded(self) -> Guidance:
        """Return itself, with the scale that the network does not read."""
        return self

    def at(self, ratio: float) -> tuple[Guidance, float]:
        """Return the rule and the scale of the evaluation whose level is nearest."""
        with np.errstate(all="ignore"):
            times = [float(np.nan_to_num(x / (1.0 + x), nan=1.0)) for x in (ratio, *self.ratios)]
        near = int(np.argmin(np.abs(np.array(times[1:]) - times[0])))
        return self.rules[near], self.scales[near]

    def visited(self, visit: Visit) -> Visit:
        """Return a visit of it as one of the rule of its evaluation."""
        inputs = visit.inputs
        rule, scale = self.at(inputs["path"].ratio(inputs["sigma"]))
        names = {as_recorded(name): name for name in rule.needs(inputs["sigma"], scale)}
        arrays = {names.get(name, name): x for name, x in visit.arrays.items()}
        return replace(visit, rule=rule).with_inputs(predictions=arrays, scale=scale)

    def needs(self, sigma: float, cfg_scale: float) -> tuple[str, ...]:
        rule, scale = self.at(sigma)
        return tuple(as_recorded(name) for name in rule.needs(sigma, scale))

    def texts(self, cfg_scale: float) -> tuple[str, ...]:
        pairs = zip(self.rules, self.scales, strict=True)
        return tuple({text for rule, scale in pairs for text in rule.texts(scale)})

    def __call__(self, predictions, sigma, cfg_scale, memory):
        rule, scale = self.at(sigma)
        named = {name: predictions[as_recorded(name)] for name in rule.needs(sigma, scale)}
        return rule(named, sigma, scale, memory)


@dataclass(frozen=True)
class RecordedChange(Steering):
    """A change of the network whose outputs were recorded.

    Attributes:
        role: The role of the prediction.
    """

    kind = "recorded"
    role: str


def as_recorded(name: str) -> str:
    """Return a prediction as the network makes it that returns what was recorded.

    >>> as_recorded("cond")
    'cond'
    """
    if name in TEXTS:
        return name
    return Prediction("cond", RecordedChange(name.partition("_")[0]))
