"""Guidance within the network: the negative prompt acts in attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ldmref.declare import Doc, Range, document_fields
from ldmref.samplers.guidance import Guidance
from ldmref.samplers.guidances import GuidanceResult, Predictions, classifier_free
from ldmref.samplers.predictions import AttentionGuided, Prediction


@document_fields
@dataclass(frozen=True)
class NormalizedAttention(Guidance):
    r"""Guidance of the attention to the prompt, away from the negative prompt (NAG).

    .. math:: \tilde z &= z_+ + (s - 1)\,(z_+ - z_-) \\
              \hat z &= b\,\tilde z\,\min\left(1, \frac{\tau\,\|z_+\|}{\|\tilde z\|}\right)
              + (1 - b)\, z_+

    with the outputs z of cross-attention (U-Nets) or of the image in joint attention (Stable
    Diffusion 3, Flux.1), and b = alpha. The prediction takes the place of the conditional one in
    classifier-free guidance, and works without that: with `cfg_scale` 1, and in networks that read
    the scale themselves. Norms are sums of magnitudes, in Flux.1 Euclidean.

    Raises:
        UsageError: A parameter is not as declared.

    Source: Chen et al. 2025, arXiv:2505.21179, section 3, and its published code
    (`ldmref.math.normalized_attention_guidance`).

    >>> from ldmref.samplers import NormalizedAttention
    >>> NormalizedAttention(scale=4.0).needs(1.0, 1.0), NormalizedAttention().needs(1.0, 7.5)
    (('attended_4.0_2.5',), ('uncond', 'attended_5.0_2.5'))
    """

    name = "nag"
    source = "arXiv:2505.21179, section 3"
    by_level = False
    scale: Annotated[float, Range(0.0, 1000.0), Doc("Strength; 1 is no guidance.")] = 5.0
    tau: Annotated[
        float,
        Range(0.0, 1e6, above=True),
        Doc("Largest norm of a guided output, in norms of the output for the prompt."),
    ] = 2.5
    alpha: Annotated[
        float | None,
        Range(0.0, 1.0),
        Doc(
            "Weight of the guided output. None: that of published code, 0.5 in U-Nets, 0.125 in "
            "Stable Diffusion 3 and 0.25 in Flux.1."
        ),
    ] = None

    @property
    def perturbed(self) -> tuple[Prediction, ...]:
        """The prediction that is guided in attention, unless the scale is 1."""
        steering = AttentionGuided(self.scale, self.tau, self.alpha)
        return () if self.scale == 1.0 else (Prediction("cond", steering),)

    def embedded(self) -> Guidance:
        """Return the guidance in attention alone."""
        return EmbeddedScaleAttention(self.scale, self.tau, self.alpha)

    @property
    def conditional(self) -> str:
        """The name of the prediction with the prompt."""
        return self.perturbed[0] if self.perturbed else "cond"

    def needs(self, sigma: float, cfg_scale: float) -> tuple[str, ...]:
        names = super().needs(sigma, cfg_scale)
        return tuple(self.conditional if name == "cond" else name for name in names)

    def __call__(
        self, predictions: Predictions, sigma: float, cfg_scale: float, memory
    ) -> GuidanceResult:
        names = {self.conditional: "cond", "uncond": "uncond"}
        needed = self.needs(sigma, cfg_scale)
        return classifier_free({names[name]: predictions[name] for name in needed}, cfg_scale), ()


@dataclass(frozen=True)
class EmbeddedScaleAttention(NormalizedAttention):
    """The same in a network that reads the guidance scale itself: its one prediction.

    >>> from ldmref.samplers.guidance_attention import EmbeddedScaleAttention
    >>> EmbeddedScaleAttention().needs(1.0, 3.5)
    ('attended_5.0_2.5',)
    """

    by_level = False
    embeds = True

    def needs(self, sigma: float, cfg_scale: float) -> tuple[str, ...]:
        return super().needs(sigma, 1.0)

    def __call__(
        self, predictions: Predictions, sigma: float, cfg_scale: float, memory
    ) -> GuidanceResult:
        return super().__call__(predictions, sigma, 1.0, memory)
