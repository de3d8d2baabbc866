"""The guidances of ldmref."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from ldmref.declare import Doc, Range, document_fields
from ldmref.errors import UsageError
from ldmref.math.arrays import Array
from ldmref.math.guidance import (
    classifier_free_guidance,
    dynamic_threshold,
    magnitude_quantile,
    rescale_guidance,
)
from ldmref.samplers.guidance import CODE, Guidance
from ldmref.samplers.interfaces import History
from ldmref.samplers.predictions import read_texts

Predictions = Mapping[str, Array]
GuidanceResult = tuple[Array, History]


@dataclass(frozen=True)
class ClassifierFree(Guidance):
    r"""Classifier-free guidance, the guidance of Stable Diffusion.

    .. math:: \hat f = f_\varnothing + s\,(f_c - f_\varnothing)

    Source: Ho and Salimans 2022, arXiv:2207.12598, eq. 6 (`ldmref.math.classifier_free_guidance`).

    >>> import numpy as np
    >>> from ldmref.samplers import ClassifierFree
    >>> u, c = np.asarray([[1.0, 1.0]]), np.asarray([[2.0, 1.0]])
    >>> guided, memory = ClassifierFree()({"uncond": u, "cond": c}, 1.0, 3.0, ())
    >>> guided.round(3)
    array([[4., 1.]])
    """

    name = "cfg"
    source = "arXiv:2207.12598, eq. 6"

    def embedded(self) -> Guidance:
        """Return the one prediction of the network."""
        return EmbeddedScale()

    def __call__(
        self, predictions: Predictions, sigma: float, cfg_scale: float, memory
    ) -> GuidanceResult:
        return classifier_free(predictions, cfg_scale), ()


@dataclass(frozen=True)
class EmbeddedScale(Guidance):
    """The guidance of a distilled network, which reads the scale itself: its one prediction.

    Such a network is all that it applies to, so it has no entry in the list of guidances.

    Source: Meng et al. 2023, arXiv:2210.03142, section 3.1 (the network that reads the scale).

    >>> from ldmref.samplers.guidances import EmbeddedScale
    >>> EmbeddedScale().needs(1.0, 3.5)
    ('cond',)
    """

    name = "embedded"
    source = "arXiv:2210.03142, section 3.1"
    by_level = False
    embeds = True

    def embedded(self) -> Guidance:
        """Return itself."""
        return self

    def needs(self, sigma: float, cfg_scale: float) -> tuple[str, ...]:
        return ("cond",)

    def __call__(
        self, predictions: Predictions, sigma: float, cfg_scale: float, memory
    ) -> GuidanceResult:
        return predictions["cond"], ()


def classifier_free(predictions: Predictions, scale: float) -> Array:
    """Guide without a classifier by the one or two predictions that the scale needs."""
    if scale == 0.0:
        return predictions["uncond"]
    if scale == 1.0:
        return predictions["cond"]
    return classifier_free_guidance(predictions["uncond"], predictions["cond"], scale)


@document_fields
@dataclass(frozen=True)
class Rescale(Guidance):
    r"""Classifier-free guidance with the contrast of the conditional prediction.

    .. math:: \hat f' = \phi\,\hat f\,\frac{\operatorname{std}(f_c)}{\operatorname{std}(\hat f)}
              + (1 - \phi)\,\hat f

    Raises:
        UsageError: A parameter is not as declared.

    Source: Lin et al. 2024, arXiv:2305.08891, eq. 14 to 16 (`ldmref.math.rescale_guidance`).

    >>> import numpy as np
    >>> from ldmref.samplers import Rescale
    >>> u, c = np.asarray([[1.0, 0.0]]), np.asarray([[2.0, 1.0]])
    >>> guided, memory = Rescale(phi=1.0)({"uncond": u, "cond": c}, 1.0, 3.0, ())
    >>> guided.round(3)
    array([[4., 3.]])
    """

    name = "rescale"
    source = "arXiv:2305.08891, eq. 14 to 16"
    by_level = False
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


@document_fields
@dataclass(frozen=True)
class Threshold(Guidance):
    r"""Classifier-free guidance, then x0 shrunk to the range of data (dynamic thresholding).

    .. math:: \hat x_0' = \frac{b}{s}\,\mathrm{clip}(\hat x_0, -s, s), \qquad
              s = \max(Q(|\hat x_0|), b)

    with Q the quantile over the elements of an example. It combines predictions of x0, whatever
    the network predicts.

    Raises:
        UsageError: A parameter is not as declared.

    Source: Saharia et al. 2022, arXiv:2205.11487, section 2.3 (`ldmref.math.dynamic_threshold`).

    >>> import numpy as np
    >>> from ldmref.samplers import Threshold
    >>> u, c = np.asarray([[1.0, 1.0]]), np.asarray([[2.0, 1.0]])
    >>> guided, memory = Threshold(bound=1.0)({"uncond": u, "cond": c}, 1.0, 3.0, ())
    >>> guided.round(3)
    array([[1.   , 0.251]])
    """

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


def check_interval(name: str, low: float, high: float) -> None:
    """Refuse an interval of noise levels that is empty.

    Raises:
        UsageError: `low` is not below `high`.
    """
    if low >= high:
        message = f"{name}.low must be below {name}.high, not {low:g} and {high:g}"
        raise UsageError(message, code=CODE)


@document_fields
@dataclass(frozen=True)
class LimitedInterval(Guidance):
    r"""Classifier-free guidance within an interval of noise levels, none outside.

    .. math:: \hat f = f_\varnothing + s(\sigma)\,(f_c - f_\varnothing), \qquad
              s(\sigma) = s \text{ for } \sigma_{low} < \sigma \le \sigma_{high},\ \text{otherwise }
              1

    Raises:
        UsageError: A parameter is not as declared, or `low` is not below `high`.

    Source: Kynkaanniemi et al. 2024, arXiv:2404.07724, section 3.

    >>> from ldmref.samplers import LimitedInterval
    >>> guidance = LimitedInterval(low=0.5, high=5.0)
    >>> guidance.needs(1.0, 7.5), guidance.needs(10.0, 7.5)
    (('uncond', 'cond'), ('cond',))
    """

    name = "interval"
    source = "arXiv:2404.07724, section 3"
    low: Annotated[float, Range(0.0, 1e6), Doc("Guidance acts above this sigma.")] = 0.28
    high: Annotated[float, Range(0.0, 1e6), Doc("Guidance acts up to this sigma.")] = 5.42

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval(self.name, self.low, self.high)

    def scale_at(self, sigma: float, cfg_scale: float) -> float:
        """Return the scale at noise level `sigma`: `cfg_scale` in the interval, 1 outside."""
        return cfg_scale if self.low < sigma <= self.high else 1.0

    def needs(self, sigma: float, cfg_scale: float) -> tuple[str, ...]:
        return super().needs(sigma, self.scale_at(sigma, cfg_scale))

    def __call__(
        self, predictions: Predictions, sigma: float, cfg_scale: float, memory
    ) -> GuidanceResult:
        return classifier_free(predictions, self.scale_at(sigma, cfg_scale)), ()

    def texts(self, cfg_scale: float) -> tuple[str, ...]:
        return read_texts(("cond", *self.needs(self.high, cfg_scale)))

    def evaluations(self, cfg_scale: float) -> int:
        return len(self.needs(self.high, cfg_scale))
