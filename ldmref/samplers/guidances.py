"""The guidances of ldmref by name, and those of other packages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ldmref.declare import Doc, Range
from ldmref.errors import UsageError, short_repr
from ldmref.math.arrays import Array
from ldmref.math.guidance import (
    classifier_free_guidance,
    dynamic_threshold,
    magnitude_quantile,
    rescale_guidance,
)
from ldmref.math.guidance_directions import (
    adaptive_projected_guidance,
    perpendicular_negative_guidance,
    perturbed_attention_guidance,
)
from ldmref.plugins import describe_origin, find_plugin, load_plugin, suggest_names
from ldmref.samplers.guidance import CODE, Guidance, read_guidance
from ldmref.samplers.loop import History

Predictions = Mapping[str, Array]
GuidanceResult = tuple[Array, History]


@dataclass(frozen=True)
class ClassifierFree(Guidance):
    """u + s (c - u), the guidance of Stable Diffusion."""

    name = "cfg"
    source = "arXiv:2207.12598, eq. 6"

    def __call__(
        self, predictions: Predictions, sigma: float, cfg_scale: float, memory
    ) -> GuidanceResult:
        return classifier_free(predictions, cfg_scale), ()


def classifier_free(predictions: Predictions, scale: float) -> Array:
    """Guide without a classifier by the one or two predictions that the scale needs."""
    if scale == 0.0:
        return predictions["uncond"]
    if scale == 1.0:
        return predictions["cond"]
    return classifier_free_guidance(predictions["uncond"], predictions["cond"], scale)


@dataclass(frozen=True)
class Rescale(Guidance):
    """Classifier-free guidance with the contrast of the conditional prediction."""

    name = "rescale"
    source = "arXiv:2305.08891, eq. 14 to 16"
    phi: Annotated[
        float, Range(0.0, 1.0), Doc("Weight of the rescaled prediction; 0 is plain guidance.")
    ] = 0.7

    def needs(self, sigma: float, cfg_scale: float) -> tuple[str, ...]:
        if cfg_scale == 0.0 and self.phi > 0.0:
            return ("uncond", "cond")
        return super().needs(sigma, cfg_scale)

    def __call__(
        self, predictions: Predictions, sigma: float, cfg_scale: float, memory
    ) -> GuidanceResult:
        guided = classifier_free(predictions, cfg_scale)
        if cfg_scale == 1.0 or self.phi == 0.0:
            return guided, ()
        return rescale_guidance(guided, predictions["cond"], self.phi), ()


@dataclass(frozen=True)
class Threshold(Guidance):
    """Classifier-free guidance, then x0 shrunk to the range of data (dynamic thresholding)."""

    name = "threshold"
    source = "arXiv:2205.11487, section 2.3"
    on_x0 = True
    ratio: Annotated[
        float, Range(0.0, 1.0), Doc("Quantile of |x0| that is brought to the bound.")
    ] = 0.995
    bound: Annotated[
        float | None,
        Range(0.0, 1e6, above=True),
        Doc(
            "Largest |x0| of data; 1 for pixels, as in the paper. None: the quantile of the "
            "conditional prediction, which suits latents."
        ),
    ] = None

    def __call__(
        self, predictions: Predictions, sigma: float, cfg_scale: float, memory
    ) -> GuidanceResult:
        guided = classifier_free(predictions, cfg_scale)
        if cfg_scale in (0.0, 1.0):
            return guided, ()
        bound = self.bound
        if bound is None:
            bound = magnitude_quantile(predictions["cond"], self.ratio)
        return dynamic_threshold(guided, self.ratio, bound), ()


@dataclass(frozen=True)
class LimitedInterval(Guidance):
    """Classifier-free guidance within an interval of noise levels, none outside."""

    name = "interval"
    source = "arXiv:2404.07724, section 3"
    low: Annotated[float, Range(0.0, 1e6), Doc("Guidance acts above this sigma.")] = 0.28
    high: Annotated[float, Range(0.0, 1e6), Doc("Guidance acts up to this sigma.")] = 5.42

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low >= self.high:
            raise UsageError(
                f"interval.low must be below interval.high, not {self.low:g} and {self.high:g}",
                code=CODE,
            )

    def scale_at(self, sigma: float, cfg_scale: float) -> float:
        """Return the guidance scale at a noise level."""
        return cfg_scale if self.low < sigma <= self.high else 1.0

    def needs(self, sigma: float, cfg_scale: float) -> tuple[str, ...]:
        return super().needs(sigma, self.scale_at(sigma, cfg_scale))

    def __call__(
        self, predictions: Predictions, sigma: float, cfg_scale: float, memory
    ) -> GuidanceResult:
        return classifier_free(predictions, self.scale_at(sigma, cfg_scale)), ()

    def evaluations(self, cfg_scale: float) -> int:
        return len(self.needs(self.high, cfg_scale))


@dataclass(frozen=True)
class PerpendicularNegative(Guidance):
    """Guidance away from the part of the negative prompt that the prompt does not share."""

    name = "perp_neg"
    source = "arXiv:2304.04968, section 3"
    weight: Annotated[
        float, Range(0.0, 100.0), Doc("Weight of the negative prompt; 0 leaves it out.")
    ] = 1.0

    def needs(self, sigma: float, cfg_scale: float) -> tuple[str, ...]:
        return ("empty",) if cfg_scale == 0.0 else ("uncond", "cond", "empty")

    def __call__(
        self, predictions: Predictions, sigma: float, cfg_scale: float, memory
    ) -> GuidanceResult:
        empty = predictions["empty"]
        if cfg_scale == 0.0:
            return empty, ()
        cond = predictions["cond"]
        negative = predictions["uncond"]
        guided = perpendicular_negative_guidance(empty, cond, negative, cfg_scale, self.weight)
        return guided, ()


@dataclass(frozen=True)
class PerturbedAttention(Guidance):
    """Guidance away from the prediction with perturbed self-attention, which lacks structure."""

    name = "pag"
    source = "arXiv:2403.17377, section 4.2"
    scale: Annotated[
        float, Range(0.0, 1000.0), Doc("Strength; 0 is classifier-free guidance alone.")
    ] = 3.0
    layers: Annotated[
        Literal["down", "mid", "up", "all"], Doc("Part of the U-Net whose attention is perturbed.")
    ] = "mid"

    def needs(self, sigma: float, cfg_scale: float) -> tuple[str, ...]:
        names = super().needs(sigma, cfg_scale)
        if self.scale == 0.0:
            return names
        return (*(("uncond",) if "uncond" in names else ()), "cond", f"perturbed_{self.layers}")

    def __call__(
        self, predictions: Predictions, sigma: float, cfg_scale: float, memory
    ) -> GuidanceResult:
        guided = classifier_free(predictions, cfg_scale)
        if self.scale == 0.0:
            return guided, ()
        cond = predictions["cond"]
        perturbed = predictions[f"perturbed_{self.layers}"]
        return perturbed_attention_guidance(guided, cond, perturbed, self.scale), ()


@dataclass(frozen=True)
class AdaptiveProjected(Guidance):
    """Guidance without the part parallel to x0, of limited size and with momentum."""

    name = "apg"
    source = "arXiv:2410.02416, algorithm 1"
    on_x0 = True
    eta: Annotated[
        float, Range(0.0, 1.0), Doc("Weight of the parallel part, which raises the contrast.")
    ] = 0.0
    radius: Annotated[
        float,
        Range(0.0, 1e6),
        Doc("Largest norm of the difference of the predictions; 0: no limit."),
    ] = 15.0
    momentum: Annotated[
        float, Range(-1.0, 1.0), Doc("Weight of earlier steps; negative pushes away from them.")
    ] = -0.5

    @property
    def remembers(self) -> bool:
        """Whether the momentum is not 0."""
        return self.momentum != 0.0

    def needs(self, sigma: float, cfg_scale: float) -> tuple[str, ...]:
        return ("cond",) if cfg_scale == 1.0 else ("uncond", "cond")

    def __call__(
        self, predictions: Predictions, sigma: float, cfg_scale: float, memory: History
    ) -> GuidanceResult:
        cond = predictions["cond"]
        if cfg_scale == 1.0:
            return cond, ()
        guided, average = adaptive_projected_guidance(
            predictions["uncond"],
            cond,
            cfg_scale,
            self.eta,
            self.radius or math.inf,
            self.momentum,
            memory[0] if memory else None,
        )
        return guided, (average,) if self.remembers else ()


BUILT_IN = (
    ClassifierFree,
    Rescale,
    Threshold,
    LimitedInterval,
    PerpendicularNegative,
    PerturbedAttention,
    AdaptiveProjected,
)
GUIDANCES: dict[str, type[Guidance]] = {guidance.name: guidance for guidance in BUILT_IN}
GROUP = "ldmref.guidance"


def get_guidance(value: Any) -> Guidance:
    """Return a guidance by its name, or by its record, such as {"name": "rescale", "phi": 0.7}.

    A `Guidance` is returned unchanged.

    Raises:
        UsageError: An unknown name or parameter, a value that is not as declared, or a plug-in that
            cannot be imported or is not a guidance.
    """
    if isinstance(value, Guidance):
        return value
    parameters = dict(value) if isinstance(value, Mapping) else {}
    name = parameters.pop("name", None) if isinstance(value, Mapping) else value
    if not isinstance(name, str):
        raise UsageError(
            f"guidance must be a name, a Guidance, or a table with a name, not {short_repr(value)}",
            code=CODE,
            hint='guidance="rescale", {"name": "rescale", "phi": 0.7} or samplers.Rescale(phi=0.7)',
        )
    return read_guidance(guidance_class(name), parameters)


def guidance_class(name: str) -> type[Guidance]:
    """Return the class of a guidance, built in or a plug-in's.

    Raises:
        UsageError: There is none of that name, or a plug-in is not a guidance of its name.
    """
    lower = name.strip().lower()
    if lower in GUIDANCES:
        return GUIDANCES[lower]
    point = find_plugin(GROUP, lower)
    if point is None:
        hint = suggest_names(GROUP, GUIDANCES, lower)
        raise UsageError(f"unknown guidance {short_repr(name)}", code=CODE, hint=hint)
    cls = load_plugin(point)
    if not (isinstance(cls, type) and issubclass(cls, Guidance)):
        message = f"{describe_origin(point)} is not a subclass of ldmref.samplers.Guidance"
        raise UsageError(message, code="E-PLUGIN", hint="an entry point names a class")
    if cls.name.lower() != lower:
        message = f"{describe_origin(point)} has the name {cls.name!r}"
        raise UsageError(message, code="E-PLUGIN", hint=f"write name = {point.name!r} in the class")
    return cls
