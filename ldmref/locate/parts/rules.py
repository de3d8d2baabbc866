"""The rules of recorded calls, as ldmref and other programs record them.

A recording of another program is a table of names: of its arrays into those of a part, and of its
settings into the parameters of a rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ldmref.declare import get_fields
from ldmref.errors import LdmrefError
from ldmref.locate.parts.visit import FAILS
from ldmref.math.guidance import rescale_guidance
from ldmref.samplers.autoguidance import Autoguidance, EmbeddedScaleAutoguidance
from ldmref.samplers.guidance import Guidance
from ldmref.samplers.guidance_directions import PerturbedAttention, SkipLayers
from ldmref.samplers.guidance_registry import GUIDANCES, get_guidance, guidance_class
from ldmref.samplers.guidances import EmbeddedScale, Rescale

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


def depends_on_level(rule: Guidance, predictions: Mapping[str, np.ndarray], scale: float) -> bool:
    """Return whether a guidance is another one at another noise level."""
    try:
        low, high = (rule(predictions, sigma, scale, ())[0] for sigma in (1e-6, 1e6))
    except FAILS:
        return True
    return not np.array_equal(low, high)
