"""The activations of U-Net, autoencoder and text encoder.

Small results keep full relative precision: no formula has a 1 + tanh that cancels.
"""

from __future__ import annotations

import math

from array_api_compat import array_namespace

from ldmref.math.arrays import Array
from ldmref.math.special import erfc


def sigmoid(x: Array) -> Array:
    r"""Logistic function.

    .. math:: \sigma(x) = \frac{1}{1 + e^{-x}} = \exp(-\log(1 + e^{-x}))

    Args:
        x: any shape, real floating; no magnitude overflows.

    Returns:
        in [0, 1], shape and dtype of `x`.

    Accuracy: relative error (4 + |x|) ulp for negative x, 4 ulp for others.
    Derived: definition.

    >>> import numpy as np
    >>> sigmoid(np.asarray([0.0, np.log(3.0)]))
    array([0.5 , 0.75])
    """
    xp = array_namespace(x)
    return xp.exp(-xp.logaddexp(xp.zeros_like(x), -x))


def silu(x: Array) -> Array:
    r"""Sigmoid linear unit (swish): the activation of U-Net and autoencoder.

    .. math:: \operatorname{silu}(x) = x\,\sigma(x)

    Args:
        x: any shape, real floating.

    Returns:
        >= -0.2785, shape and dtype of `x`.

    Accuracy: relative error (5 + |x|) ulp for negative x, 5 ulp for others.
    Source: Elfwing et al. 2017, arXiv:1702.03118, section 2.1.

    >>> import numpy as np
    >>> silu(np.asarray([0.0, np.log(3.0)])).round(6)
    array([0.      , 0.823959])
    """
    return x * sigmoid(x)


def gelu(x: Array) -> Array:
    r"""Gaussian error linear unit, exact: x times the normal distribution function.

    .. math:: \operatorname{gelu}(x) = x\,\Phi(x) = \tfrac x2 \operatorname{erfc}(-x / \sqrt2)

    Args:
        x: any shape, real floating.

    Returns:
        >= -0.17, shape and dtype of `x`.

    Accuracy: relative error (12 + 2 x^2) ulp, even where 1 + erf would round to 0.
    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.

    >>> import numpy as np
    >>> gelu(np.asarray([0.0, 1.0])).round(6)
    array([0.      , 0.841345])
    """
    return 0.5 * x * erfc(x * -math.sqrt(0.5))


def gelu_tanh(x: Array) -> Array:
    r"""Tanh approximation of GELU.

    .. math:: \tfrac x2\left(1 + \tanh u\right) = x\,\sigma(2u), \qquad
              u = \sqrt{2/\pi}\,(x + 0.044715\, x^3)

    Args:
        x: any shape, real floating.

    Returns:
        shape and dtype of `x`; within 4.8e-4 of `gelu`.

    Accuracy: relative error 4 (4 + |u|) ulp of this formula.
    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.

    >>> import numpy as np
    >>> gelu_tanh(np.asarray([0.0, 1.0])).round(6)
    array([0.      , 0.841192])
    """
    return x * sigmoid((2.0 * math.sqrt(2.0 / math.pi)) * (x + 0.044715 * (x * x * x)))


def quick_gelu(x: Array) -> Array:
    r"""Sigmoid approximation of GELU: the activation of OpenAI's CLIP.

    .. math:: x\,\sigma(1.702\, x)

    Args:
        x: any shape, real floating.

    Returns:
        shape and dtype of `x`; within 0.0204 of `gelu`.

    Accuracy: relative error (6 + 4 |x|) ulp for negative x, 6 ulp for others.
    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.

    >>> import numpy as np
    >>> quick_gelu(np.asarray([0.0, 1.0])).round(6)
    array([0.      , 0.845796])
    """
    return x * sigmoid(1.702 * x)


def geglu(x: Array) -> Array:
    r"""Gated GELU of the U-Net's transformers: the second half of x gates the first.

    .. math:: [a, g] = x, \qquad \operatorname{geglu}(x) = a\,\operatorname{gelu}(g)

    Args:
        x: (..., 2 d), real floating: output of one linear layer, both halves concatenated.

    Returns:
        (..., d), dtype of `x`.

    Raises:
        ValueError: the last axis is odd.

    Accuracy: that of `gelu`, plus 1 ulp.
    Source: Shazeer 2020, arXiv:2002.05202, section 2, GEGLU; order of the halves:
    CompVis/latent-diffusion, ldm/modules/attention.py.

    >>> import numpy as np
    >>> geglu(np.asarray([2.0, 1.0])).round(6)
    array([1.682689])
    """
    if x.shape[-1] % 2:
        raise ValueError(f"the last axis must be even, not {x.shape[-1]}")
    half = x.shape[-1] // 2
    return x[..., :half] * gelu(x[..., half:])
