"""The guidances that compare the directions of predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from ldmref.declare import Doc, Length, Range, document_fields
from ldmref.math.guidance_directions import (
    adaptive_projected_guidance,
    perpendicular_negative_guidance,
    perturbed_attention_guidance,
)
from ldmref.samplers.guidance import Guidance
from ldmref.samplers.guidances import (
    GuidanceResult,
    Predictions,
    check_interval,
    classifier_free,
)
from ldmref.samplers.interfaces import History
from ldmref.samplers.predictions import LayersLeftOut, PartsPerturbed, Prediction, read_texts


@document_fields
@dataclass(frozen=True)
class PerpendicularNegative(Guidance):
    r"""Guidance away from the part of the negative prompt that the prompt does not share.

    .. math:: \hat f = f_0 + s\,(d_+ - w\,d_-^\perp), \qquad
              d_+ = f_c - f_0, \quad d_- = f_\varnothing - f_0

    with f_0 the prediction with the empty prompt and d_-^perp the part of d_- perpendicular to d_+.

    Raises:
        UsageError: A parameter is not as declared.

    Source: Armandpour et al. 2023, arXiv:2304.04968, section 3
    (`ldmref.math.perpendicular_negative_guidance`).

    >>> import numpy as np
    >>> from ldmref.samplers import PerpendicularNegative
    >>> empty, cond, uncond = (np.asarray([row]) for row in ([0.0, 0.0], [1.0, 0.0], [1.0, 1.0]))
    >>> predictions = {"empty": empty, "cond": cond, "uncond": uncond}
    >>> PerpendicularNegative()(predictions, 1.0, 2.0, ())[0]
    array([[ 2., -2.]])
    """

    name = "perp_neg"
    source = "arXiv:2304.04968, section 3"
    by_level = False
    weight: Annotated[
        float, Range(0.0, 100.0), Doc("Weight of the negative prompt; 0 leaves it out.")
    ] = 1.0

    def needs(self, sigma: float, cfg_scale: float) -> tuple[str, ...]:
        return ("empty",) if cfg_scale == 0.0 else ("uncond", "cond", "empty")

    def __call__(
        self, predictions: Predictions, sigma: float, cfg_scale: float, memory: History
    ) -> GuidanceResult:
        empty = predictions["empty"]
        if cfg_scale == 0.0:
            return empty, ()
        cond = predictions["cond"]
        negative = predictions["uncond"]
        guided = perpendicular_negative_guidance(empty, cond, negative, cfg_scale, self.weight)
        return guided, ()


@document_fields
@dataclass(frozen=True)
class PerturbedAttention(Guidance):
    r"""Guidance away from the prediction with perturbed self-attention, which lacks structure.

    .. math:: \hat f' = \hat f + t\,(f_c - f_{perturbed})

    with \hat f of classifier-free guidance and t the scale of this guidance.

    Raises:
        UsageError: A parameter is not as declared.

    Source: Ahn et al. 2024, arXiv:2403.17377, section 4.2
    (`ldmref.math.perturbed_attention_guidance`).

    >>> from ldmref.samplers import PerturbedAttention
    >>> PerturbedAttention(scale=3.0).needs(1.0, 7.5)
    ('uncond', 'cond', 'perturbed_mid')
    """

    name = "pag"
    source = "arXiv:2403.17377, section 4.2"
    by_level = False
    scale: Annotated[
        float, Range(0.0, 1000.0), Doc("Strength; 0 is classifier-free guidance alone.")
    ] = 3.0
    layers: Annotated[
        Literal["down", "mid", "up", "all"], Doc("Part of the U-Net whose attention is perturbed.")
    ] = "mid"

    @property
    def perturbed(self) -> tuple[Prediction, ...]:
        """The prediction with perturbed self-attention, unless the scale is 0."""
        steering = PartsPerturbed.from_values((self.layers,))
        return (Prediction("cond", steering),) if self.scale else ()

    def needs(self, sigma: float, cfg_scale: float) -> tuple[str, ...]:
        return with_perturbed(super().needs(sigma, cfg_scale), self.perturbed)

    def __call__(
        self, predictions: Predictions, sigma: float, cfg_scale: float, memory: History
    ) -> GuidanceResult:
        guided = classifier_free(predictions, cfg_scale)
        if self.scale == 0.0:
            return guided, ()
        cond = predictions["cond"]
        perturbed = predictions[self.perturbed[0]]
        return perturbed_attention_guidance(guided, cond, perturbed, self.scale), ()


def with_perturbed(names: tuple[str, ...], perturbed: tuple[Prediction, ...]) -> tuple[str, ...]:
    """Add predictions of the perturbed network, and the conditional one that they belong to."""
    return (*dict.fromkeys((*names, "cond", *perturbed)),) if perturbed else names


@document_fields
@dataclass(frozen=True)
class SkipLayers(Guidance):
    r"""Guidance away from the prediction without some layers of the transformer (SLG).

    .. math:: \hat f' = \hat f + t\,(f_c - f_{skipped}) \text{ for }
              \sigma_{low} < \sigma \le \sigma_{high}

    with \hat f of classifier-free guidance and t the scale of this guidance. The defaults are those
    of Stable Diffusion 3.5 medium: 0.01 to 0.2 of the steps at its shift of 3, as noise levels.

    Raises:
        UsageError: A parameter is not as declared, or `low` is not below `high`.

    Source: Stability-AI/sd3.5, sd3_impls.py (`SkipLayerCFGDenoiser`); Hyung et al. 2024,
    arXiv:2411.18664 (`ldmref.math.perturbed_attention_guidance`).

    >>> from ldmref.samplers import SkipLayers
    >>> SkipLayers().needs(20.0, 5.0), SkipLayers().needs(1.0, 5.0)
    (('uncond', 'cond', 'skipped_7_8_9'), ('uncond', 'cond'))
    """

    name = "slg"
    source = "Stability-AI/sd3.5, sd3_impls.py; arXiv:2411.18664"
    scale: Annotated[
        float, Range(0.0, 1000.0), Doc("Strength; 0 is classifier-free guidance alone.")
    ] = 2.8
    layers: Annotated[
        tuple[int, ...], Range(0, 999), Length(1, 100), Doc("Blocks that are left out, from 0.")
    ] = (7, 8, 9)
    low: Annotated[float, Range(0.0, 1e13), Doc("It acts above this sigma.")] = 12.0
    high: Annotated[float, Range(0.0, 1e13), Doc("It acts up to this sigma.")] = 300.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval(self.name, self.low, self.high)

    @property
    def perturbed(self) -> tuple[Prediction, ...]:
        """The prediction without the layers, unless the scale is 0."""
        return (Prediction("cond", LayersLeftOut(self.layers)),) if self.scale else ()

    def acts(self, sigma: float) -> bool:
        """Return whether layers are left out.

        Args:
            sigma: The noise level.
        """
        return self.scale != 0.0 and self.low < sigma <= self.high

    def needs(self, sigma: float, cfg_scale: float) -> tuple[str, ...]:
        names = super().needs(sigma, cfg_scale)
        return with_perturbed(names, self.perturbed) if self.acts(sigma) else names

    def texts(self, cfg_scale: float) -> tuple[str, ...]:
        return read_texts(("cond", *super().needs(1.0, cfg_scale)))

    def __call__(
        self, predictions: Predictions, sigma: float, cfg_scale: float, memory: History
    ) -> GuidanceResult:
        guided = classifier_free(predictions, cfg_scale)
        if not self.acts(sigma):
            return guided, ()
        cond = predictions["cond"]
        without = predictions[self.perturbed[0]]
        return perturbed_attention_guidance(guided, cond, without, self.scale), ()

    def evaluations(self, cfg_scale: float) -> int:
        return len(self.needs(self.high, cfg_scale))


@document_fields
@dataclass(frozen=True)
class AdaptiveProjected(Guidance):
    r"""Guidance without the part parallel to x0, of limited size and with momentum.

    .. math:: a &= (x_{0c} - x_{0\varnothing}) + \beta\, a_{prev}, \qquad
              d = a\,\min(1, r / \|a\|) \\
              \hat x_0 &= x_{0c} + (s - 1)\,(d_\perp + \eta\, d_\parallel)

    with the parts of d perpendicular and parallel to x_0c. It combines predictions of x0,
    whatever the network predicts; beta is `momentum`, r is `radius`.

    Raises:
        UsageError: A parameter is not as declared.

    Source: Sadat et al. 2024, arXiv:2410.02416, algorithm 1
    (`ldmref.math.adaptive_projected_guidance`).

    >>> import numpy as np
    >>> from ldmref.samplers import AdaptiveProjected
    >>> u, c = np.asarray([[1.0, 1.0]]), np.asarray([[2.0, 1.0]])
    >>> guided, memory = AdaptiveProjected()({"uncond": u, "cond": c}, 1.0, 3.0, ())
    >>> guided.round(3)
    array([[2.4, 0.2]])
    """

    name = "apg"
    source = "arXiv:2410.02416, algorithm 1"
    by_level = False
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
