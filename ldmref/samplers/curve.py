r"""Where a state stands on its path: how much the picture and the noise count in it.

A state is alpha x0 + sigma eps. In the scale in which a network was trained, or on the path that a
request asks for, the points (alpha, sigma) of all levels lie on one curve:

| curve        | where                                    | network or request                 |
|--------------|------------------------------------------|------------------------------------|
| `preserving` | the circle alpha^2 + sigma^2 = 1         | predicts eps, v or x0              |
| `flow`       | the straight line alpha = 1 - sigma      | predicts a velocity; `noise_path`  |
| `exploding`  | the axis alpha = 1, with sigma unbounded | `noise_path="ve"`                  |
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ldmref.samplers.path import FLOW, VE, NoisePath

CURVES = {VE.name: "exploding", FLOW.name: "flow"}  # of a path that a request asks for


class PathPoint(NamedTuple):
    r"""A point of a curve, x = alpha x0 + sigma eps.

    Attributes:
        curve: `preserving`, `flow` or `exploding`.
        signal: alpha, from 0 (noise alone) to 1.
        noise: sigma, from 0 (the picture alone).
    """

    curve: str
    signal: float
    noise: float


def path_point(
    prediction_type: str, sigma: float, path: NoisePath = VE, asked: bool = False
) -> PathPoint:
    r"""Return the point of a level.

    .. math:: (\alpha, \sigma) = \frac{(1, r)}{\sqrt{1 + r^2}} \;\text{(preserving)}, \qquad
              \frac{(1, r)}{1 + r} \;\text{(flow)}, \qquad (1, r) \;\text{(exploding)}

    for the ratio r of noise to data at the level.

    Args:
        prediction_type: `eps`, `v`, `x0` or `flow`: what the network predicts.
        sigma: The level on the path of the run.
        path: The path of the run.
        asked: Whether the request names this path; otherwise the scale is that of the network.

    Source: Song et al. 2021, arXiv:2011.13456, section 3.4 (variance exploding and preserving);
    Lipman et al. 2022, arXiv:2210.02747, section 4 (the straight line).

    >>> from ldmref.samplers.curve import path_point
    >>> path_point("eps", 0.75)
    PathPoint(curve='preserving', signal=0.8, noise=0.6)
    >>> path_point("flow", 0.25, FLOW)
    PathPoint(curve='flow', signal=0.75, noise=0.25)
    """
    if asked:
        return PathPoint(CURVES[path.name], float(path.alpha(sigma)), float(sigma))
    if prediction_type == "flow":
        level = sigma if path is FLOW else FLOW.level(path.ratio(sigma))
        return PathPoint("flow", float(FLOW.alpha(level)), float(level))
    total = math.hypot(path.alpha(sigma), sigma)
    return PathPoint("preserving", float(path.alpha(sigma)) / total, float(sigma) / total)
