"""The guidances that compare the norms of predictions, most of them made for flow matching."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from array_api_compat import array_namespace

from ldmref.declare import Doc, Range, document_fields
from ldmref.errors import UsageError
from ldmref.math.arrays import Array
from ldmref.math.guidance import classifier_free_guidance
from ldmref.math.guidance_norms import (
    magnitude_aware_guidance,
    renormalize_guidance,
    tangential_guidance,
    zero_star_guidance,
)
from ldmref.samplers.guidance import CODE, Guidance
from ldmref.samplers.guidances import GuidanceResult, Predictions


class PairGuidance(Guidance):
    """A guidance that combines both predictions at every scale but 1, where it is the conditional.

    A subclass states `combine`.
    """

    by_level = False

    def needs(self, sigma: float, cfg_scale: float) -> tuple[str, ...]:
        return ("cond",) if cfg_scale == 1.0 else ("uncond", "cond")

    def __call__(
        self, predictions: Predictions, sigma: float, cfg_scale: float, memory
    ) -> GuidanceResult:
        cond = predictions["cond"]
        if cfg_scale == 1.0:
            return cond, ()
        return self.combine(predictions["uncond"], cond, cfg_scale), ()

    @abstractmethod
    def combine(self, uncond: Array, cond: Array, cfg_scale: float) -> Any:
        """Return the guided prediction.

        Args:
            uncond: The unconditional prediction.
            cond: The conditional prediction.
            cfg_scale: The guidance scale, not 1.
        """


@document_fields
@dataclass(frozen=True)
class ZeroStar(PairGuidance):
    r"""Guidance from a rescaled unconditional velocity, and none at pure noise (CFG-Zero*).

    .. math:: \hat v = \alpha v_\varnothing + s\,(v_c - \alpha v_\varnothing), \qquad
              \alpha = \frac{\langle v_c, v_\varnothing\rangle}{\|v_\varnothing\|^2}

    Above `zero_above` the velocity is 0, so that a step leaves the noise as it is. It combines
    velocities, whatever the network predicts.

    Raises:
        UsageError: A parameter is not as declared.

    Source: Fan et al. 2025, arXiv:2503.18886, section 4 (`ldmref.math.zero_star_guidance`).

    >>> import numpy as np
    >>> from ldmref.samplers import ZeroStar
    >>> u, c = np.asarray([[2.0, 0.0]]), np.asarray([[1.0, 1.0]])
    >>> ZeroStar()({"uncond": u, "cond": c}, 1.0, 3.0, ())[0]
    array([[1., 3.]])
    """

    name = "cfg_zero"
    source = "arXiv:2503.18886, section 4"
    on_velocity = True
    zero_above: Annotated[
        float,
        Range(0.0, 1e13),
        Doc(
            "The velocity is 0 above this sigma; 1e6: in the first step of a flow that starts with "
            "pure noise; 1e13: nowhere."
        ),
    ] = 1e6

    def is_zero(self, sigma: float, cfg_scale: float) -> bool:
        """Return whether the velocity is 0: above `zero_above`, and with guidance.

        Args:
            sigma: The noise level.
            cfg_scale: The guidance scale; at 1 there is no guidance.
        """
        return sigma > self.zero_above and cfg_scale != 1.0

    def needs(self, sigma: float, cfg_scale: float) -> tuple[str, ...]:
        if self.is_zero(sigma, cfg_scale):
            return ("cond",)
        return super().needs(sigma, cfg_scale)

    def texts(self, cfg_scale: float) -> tuple[str, ...]:
        return super().needs(1.0, cfg_scale)

    def __call__(
        self, predictions: Predictions, sigma: float, cfg_scale: float, memory
    ) -> GuidanceResult:
        if self.is_zero(sigma, cfg_scale):
            cond = predictions["cond"]
            return array_namespace(cond).zeros_like(cond), ()
        return super().__call__(predictions, sigma, cfg_scale, memory)

    def combine(self, uncond: Array, cond: Array, cfg_scale: float) -> Any:
        return zero_star_guidance(uncond, cond, cfg_scale)

    def evaluations(self, cfg_scale: float) -> int:
        return len(self.needs(0.0, cfg_scale))


@document_fields
@dataclass(frozen=True)
class Renormalized(PairGuidance):
    r"""Classifier-free guidance with the norm of the conditional velocity, or at most that.

    .. math:: \hat v' = \hat v\,\min(1, r), \qquad r = \frac{k\,\|v_c\|}{\|\hat v\|}

    or r itself with `grow`. It combines velocities, whatever the network predicts.

    Raises:
        UsageError: A parameter is not as declared, or the latents have no whole tokens (raised by
            the call).

    Source: published code of Lumina-Image 2.0, Z-Image, Qwen-Image and diffusers
    (`ldmref.math.renormalize_guidance`).

    >>> import numpy as np
    >>> from ldmref.samplers import Renormalized
    >>> u, c = np.asarray([[0.0, 0.0]]), np.asarray([[3.0, 4.0]])
    >>> Renormalized()({"uncond": u, "cond": c}, 1.0, 2.0, ())[0]
    array([[3., 4.]])
    """

    name = "renorm"
    source = "Alpha-VLLM/Lumina-Image-2.0, forward_with_cfg; arXiv:2508.02324 (Qwen-Image)"
    on_velocity = True
    over: Annotated[
        Literal["image", "token", "row"],
        Doc(
            "What has a norm: the image (Lumina 2, Z-Image), each token (Qwen-Image), or each row "
            "of the latents (Lumina 2 in diffusers)."
        ),
    ] = "image"
    factor: Annotated[
        float, Range(0.0, 1000.0, above=True), Doc("Largest norm, in norms of the conditional one.")
    ] = 1.0
    grow: Annotated[
        bool, Doc("Whether smaller norms grow, too (Qwen-Image, and Lumina 2 in diffusers).")
    ] = False
    patch: Annotated[int, Range(1, 64), Doc("Height and width of a token, in latents.")] = 2

    def combine(self, uncond: Array, cond: Array, cfg_scale: float) -> Any:
        if self.over == "token":
            self._check_tokens(cond.shape)
        guided = classifier_free_guidance(uncond, cond, cfg_scale)
        return renormalize_guidance(guided, cond, self.over, self.factor, self.grow, self.patch)

    def _check_tokens(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 4 or any(size % self.patch for size in shape[2:]):
            sizes = " x ".join(map(str, shape[2:]))
            raise UsageError(
                f"latents of {sizes} have no whole tokens of {self.patch} x {self.patch}",
                code=CODE,
                hint="renorm:over=image, or another patch",
            )


@document_fields
@dataclass(frozen=True)
class Tangential(PairGuidance):
    r"""Classifier-free guidance away from what the unconditional prediction shares (TCFG).

    .. math:: \hat f = f'_\varnothing + s\,(f_c - f'_\varnothing), \qquad
              f'_\varnothing = \langle f_\varnothing, v_1\rangle\, v_1

    with v_1 the first right singular vector of both predictions. They are the network's own, as in
    the paper (eps of Stable Diffusion 1.5 and XL, velocities of Stable Diffusion 3).

    Raises:
        UsageError: A parameter is not as declared.

    Source: Kwon et al. 2025, arXiv:2503.18137, section 3 (`ldmref.math.tangential_guidance`).

    >>> import numpy as np
    >>> from ldmref.samplers import Tangential
    >>> u, c = np.asarray([[1.0, 0.0]]), np.asarray([[0.0, 2.0]])
    >>> Tangential()({"uncond": u, "cond": c}, 1.0, 3.0, ())[0]
    array([[0., 6.]])
    """

    name = "tcfg"
    source = "arXiv:2503.18137, section 3"

    def combine(self, uncond: Array, cond: Array, cfg_scale: float) -> Any:
        return tangential_guidance(uncond, cond, cfg_scale)


@document_fields
@dataclass(frozen=True)
class MagnitudeAware(PairGuidance):
    r"""Classifier-free guidance, weaker where it would change the velocity much (MAMBO-G).

    .. math:: \hat v = v_c + (s - 1)\,e^{-a\rho}\,(v_c - v_\varnothing), \qquad
              \rho = \frac{\|v_c - v_\varnothing\|}{\|v_\varnothing\|}

    with a the `strength`. It combines velocities, whatever the network predicts.

    Raises:
        UsageError: A parameter is not as declared.

    Source: Zhu et al. 2025, arXiv:2508.03442, section 3 (`ldmref.math.magnitude_aware_guidance`).

    >>> import numpy as np
    >>> from ldmref.samplers import MagnitudeAware
    >>> u, c = np.asarray([[2.0]]), np.asarray([[3.0]])
    >>> MagnitudeAware()({"uncond": u, "cond": c}, 1.0, 5.0, ())[0].round(4)
    array([[3.0733]])
    """

    name = "mambo_g"
    source = "arXiv:2508.03442, section 3"
    on_velocity = True
    strength: Annotated[
        float, Range(0.0, 1000.0), Doc("How fast guidance falls; 0 is classifier-free guidance.")
    ] = 8.0

    def combine(self, uncond: Array, cond: Array, cfg_scale: float) -> Any:
        return magnitude_aware_guidance(uncond, cond, cfg_scale, self.strength)
