r"""The levels of models trained with flow matching: evenly spaced flow times, shifted.

| spacing      | flow times before the shift                                                   |
|--------------|-------------------------------------------------------------------------------|
| `flow`       | 1, ..., 1/n: evenly spaced, so that the step to 0 has the same length         |
| `flow_table` | 1, ..., the shifted 1/T: evenly spaced over the table of training, as in SD3  |

The shift k moves levels towards the noise, which larger images need: s -> k s / (1 + (k - 1) s).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ldmref.errors import UsageError
from ldmref.math.flow import shift_flow_time
from ldmref.samplers.config import SchedulerConfig, listed_levels
from ldmref.samplers.spacings import FLOW_SPACINGS, SPACINGS, check_steps, unknown_name


def flow_levels(config: SchedulerConfig, spacing: str, steps: int, tokens: int = 0) -> np.ndarray:
    r"""Return the levels of `steps` steps of a flow.

    .. math:: s_i' = \frac{k s_i}{1 + (k - 1) s_i}, \qquad
              k = e^{\mu}, \quad \mu = \mu_0 + (\mu_1 - \mu_0) \frac{n - n_0}{n_1 - n_0}

    with k the constant `config.shift` unless `config.dynamic_shift`, and mu `empirical_mu`, or mu_1
    for every n, if the `shift_rule` says so. With `shift_terminal` the distances from 1 are then
    stretched so that the last level above 0 is that. Instead, `config.flow_times` are used as they
    are with the model's own spacing, or interpolated where their number is not `steps`.

    Args:
        config: Configuration of the checkpoint's scheduler.
        spacing: `flow` or `flow_table`.
        steps: Number of steps, from 1 to T.
        tokens: n, the number of image tokens.

    Returns:
        (steps + 1,) float64, from 1 to 0, strictly decreasing.

    Raises:
        UsageError: The spacing is not one of these, or `steps` is out of range.

    Source: Esser et al. 2024, arXiv:2403.03206, eq. 23 and section 5.3.2 (shift); diffusers 0.42.1,
    `FlowMatchEulerDiscreteScheduler.set_timesteps`.

    >>> from ldmref.samplers import SchedulerConfig
    >>> flow_levels(SchedulerConfig(prediction_type="flow", shift=3.0), "flow", 4).round(4)
    array([1.  , 0.9 , 0.75, 0.5 , 0.  ])
    """
    if spacing in SPACINGS:
        raise UsageError(
            f"schedule {spacing!r} is for models of diffusion, and this one is of flow matching",
            code="E-SCHEDULE",
            hint="leave it out, or take " + " or ".join(FLOW_SPACINGS),
        )
    if spacing not in FLOW_SPACINGS:
        raise unknown_name("schedule of a flow", spacing, FLOW_SPACINGS)
    total = config.num_train_timesteps
    steps = check_steps(steps, total)
    if config.flow_times and spacing == config.spacing:
        return listed_levels(config.flow_times, steps)
    end = 1.0 / steps
    if spacing == "flow_table":
        end = float(shift_flow_time(1.0 / total, 1.0 if config.dynamic_shift else config.shift))
    return np.append(shift_levels(config, np.linspace(1.0, end, steps), tokens), 0.0)


def shift_levels(config: SchedulerConfig, levels: np.ndarray, tokens: int = 0) -> np.ndarray:
    """Return levels above 0, one for each step, after a scheduler's shift, stretched to its end.

    Raises:
        UsageError: The shift depends on the tokens, and their number is not positive.

    >>> from ldmref.samplers import SchedulerConfig
    >>> shift_levels(SchedulerConfig(prediction_type="flow", shift=3.0), np.asarray([1.0, 0.5]))
    array([1.  , 0.75])
    """
    levels = shift_flow_time(levels, shift_factor(config, tokens, len(levels)))
    return stretch_levels(levels, config.shift_terminal) if config.shift_terminal else levels


def stretch_levels(levels: np.ndarray, terminal: float) -> np.ndarray:
    """Stretch the distances from 1 so that the last level is `terminal`; 1 alone stays.

    >>> stretch_levels(np.asarray([1.0, 0.6]), 0.2)
    array([1. , 0.2])
    """
    if levels[-1] == 1.0:
        return levels
    return 1.0 - (1.0 - levels) * (1.0 - terminal) / (1.0 - levels[-1])


def shift_factor(config: SchedulerConfig, tokens: int, steps: int) -> float:
    """Return the factor k of the shift for an image of this number of tokens, in so many steps.

    Raises:
        UsageError: The shift depends on the tokens, and their number is not positive.

    >>> from ldmref.samplers import SchedulerConfig
    >>> round(shift_factor(SchedulerConfig(dynamic_shift=True), 4096, 28), 4)  # e^1.15
    3.1582
    """
    if not config.dynamic_shift:
        return config.shift
    if config.shift_rule == "constant":
        return math.exp(config.max_shift)
    if tokens < 1:
        raise UsageError(
            "the shift of this model depends on the size of the image",
            code="E-SCHEDULE",
            hint="make_schedule(..., tokens=N), the number of image tokens",
        )
    if config.shift_rule == "empirical":
        return math.exp(empirical_mu(tokens, steps))
    counts = config.base_image_seq_len, config.max_image_seq_len
    return math.exp(mu_of_tokens(tokens, counts, (config.base_shift, config.max_shift)))


def mu_of_tokens(tokens: int, counts: Sequence[int], mus: Sequence[float]) -> float:
    """Return mu for a number of tokens: `mus` at the two `counts`, linear between and beyond.

    >>> mu_of_tokens(1024, (256, 4096), (0.5, 1.15))
    0.63
    """
    slope = (mus[1] - mus[0]) / (counts[1] - counts[0])
    return mus[0] + slope * (tokens - counts[0])


# FLUX.2's mu as lines in the number of image tokens n: at 10 and at 200 steps.
MU_STEPS = 10, 200
MU_SLOPES = 8.73809524e-05, 0.00016927
MU_OFFSETS = 1.89833333, 0.45666666
MU_TOKENS = 4300  # above it, the line of 200 steps is taken for every number of steps


def empirical_mu(tokens: int, steps: int) -> float:
    r"""Return mu of FLUX.2, which was fitted to the number of image tokens n and of steps m.

    .. math::
        \mu_{10} = 8.73809524 \cdot 10^{-5} n + 1.89833333, \quad
        \mu_{200} = 1.6927 \cdot 10^{-4} n + 0.45666666, \quad
        \mu = \begin{cases}
            \mu_{200} + \frac{m - 200}{190} (\mu_{200} - \mu_{10}) & n \le 4300 \\
            \mu_{200} & n > 4300
        \end{cases}

    Below 200 steps, mu falls where n passes 4300: at 4 steps from 2.31 to 1.18.

    Args:
        tokens: n, of the generated image.
        steps: m.

    Source: github.com/black-forest-labs/flux2, src/flux2/sampling.py, `compute_empirical_mu`.

    >>> [round(empirical_mu(tokens, 4), 4) for tokens in (4096, 4300, 4301)]
    [2.2912, 2.3085, 1.1847]
    """
    few, many = (a * tokens + b for a, b in zip(MU_SLOPES, MU_OFFSETS, strict=True))
    if tokens > MU_TOKENS:
        return many
    slope = (many - few) / (MU_STEPS[1] - MU_STEPS[0])
    return many + slope * (steps - MU_STEPS[1])
