r"""Tangential damping: classifier-free guidance without the part of u that c does not share.

The predictions with and without the prompt, c and u, span a plane, whose principal directions are
the right singular vectors of the matrix with the rows c and u. The method keeps the first one in u:

.. math:: u' = (u \cdot v)\, v = \sin\theta\,(\cos\theta\, c + \sin\theta\, u), \qquad
          \tan 2\theta = \frac{2\, c \cdot u}{\lVert c\rVert^2 - \lVert u\rVert^2}

and guides from there, u' + s (c - u'). The closed form follows from the eigenvectors of the matrix
of the products of c and u, which is 2 x 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

from ldmref.math import classifier_free_guidance
from ldmref.samplers import Guidance, History

__all__ = ["TangentialDamping", "damp"]


@dataclass(frozen=True)
class TangentialDamping(Guidance):
    """Classifier-free guidance from the part of the prediction without the prompt along both."""

    name = "tcfg"
    source = "arXiv:2503.18137"

    def __call__(
        self, predictions: Mapping[str, Any], sigma: float, cfg_scale: float, memory: History
    ) -> tuple[Any, History]:
        if cfg_scale in (0.0, 1.0):
            return predictions["cond" if cfg_scale else "uncond"], ()
        cond = predictions["cond"]
        damped = damp(predictions["uncond"], cond)
        return classifier_free_guidance(damped, cond, cfg_scale), ()


def damp(uncond: Any, cond: Any) -> Any:
    """Project `uncond` on the first singular vector of both; (n, ...), each example on its own.

    >>> import numpy as np
    >>> c, u = np.asarray([[2.0, 0.0]]), np.asarray([[1.0, 0.1]])
    >>> (damp(u, c)).round(3)  # most of the part that c does not have is gone
    array([[1.002, 0.02 ]])
    """
    xp = array_namespace(uncond, cond)
    axes = tuple(range(1, cond.ndim))

    def product(a: Any, b: Any) -> Any:
        wide = getattr(xp, "float64" if a.dtype == xp.float64 else "float32")
        return xp.sum(xp.astype(a, wide) * xp.astype(b, wide), axis=axes, keepdims=True)

    angle = 0.5 * xp.atan2(
        2.0 * product(cond, uncond), product(cond, cond) - product(uncond, uncond)
    )
    along = xp.astype(xp.sin(angle) * xp.cos(angle), cond.dtype)
    return along * cond + xp.astype(xp.sin(angle) ** 2, cond.dtype) * uncond
