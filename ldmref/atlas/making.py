"""Make the flow times of a row, in float64."""

from __future__ import annotations

import math

import numpy as np

from ldmref.atlas.positions import place
from ldmref.atlas.table import FlowSchedule
from ldmref.errors import UsageError, short_repr
from ldmref.samplers.flow_spacings import empirical_mu, mu_of_tokens, stretch_levels

MAX_TOKENS = 2**20
MAX_STEPS = 10_000
TOKEN = 16  # pixels of a side: 8 by the autoencoder, 2 by the patches


def count_tokens(width: int, height: int) -> int:
    """Return the number of image tokens, of 16 x 16 pixels each.

    Args:
        width: Pixels.
        height: Pixels.

    Returns:
        The number, without what is left of a token at the edges.

    Raises:
        UsageError: The image has no token, or more than a schedule is defined for.

    Example:
        >>> count_tokens(1024, 1024)
        4096
    """
    tokens = (width // TOKEN) * (height // TOKEN)
    check_tokens(tokens)
    return tokens


def check_tokens(tokens: int) -> None:
    """Refuse a number of image tokens for which no shift is a number.

    Raises:
        UsageError: It is not from 1 to 2^20, that of 16384 x 16384 pixels.
    """
    if not 1 <= tokens <= MAX_TOKENS:
        message = f"an image must have from 1 to {MAX_TOKENS:,} tokens, not {short_repr(tokens)}"
        hint = f"one is {TOKEN} x {TOKEN} pixels"
        raise UsageError(message, code="E-SIZE", hint=hint)


def shift_mu(row: FlowSchedule, steps: int, tokens: int) -> float:
    """Return mu, the logarithm of the shift, of a row.

    Args:
        row: The row.
        steps: Number of steps; only FLUX.2 depends on it.
        tokens: Number of image tokens.

    Returns:
        mu; 0 if nothing is shifted. Of a logit-normal law it is the mean of the logit, to which a
        shift adds mu.

    Example:
        >>> from ldmref.atlas import find_flow_schedule
        >>> round(shift_mu(find_flow_schedule("FLUX.1", "BFL"), 28, 4096), 6)
        1.15
        >>> flux2 = find_flow_schedule("FLUX.2")
        >>> [round(math.exp(shift_mu(flux2, 50, tokens)), 2) for tokens in (4300, 4301)]
        [7.73, 3.27]
    """
    if row.shift == "linear":
        return math.log(row.factor)
    if row.shift == "exponential":
        return row.mu
    if row.shift == "tokens":
        return mu_of_tokens(tokens, row.tokens, row.mus)
    if row.shift == "tokens and steps":
        return empirical_mu(tokens, steps)
    if row.positions == "logit-normal":
        return row.mu + 0.5 * math.log(tokens * TOKEN * TOKEN / row.pixels)
    return 0.0


def make_flow_sigmas(row: FlowSchedule, steps: int, tokens: int = 4096) -> np.ndarray:
    """Return the flow times of a schedule, and the 0 at which the last step ends.

    Args:
        row: The row. A list is returned as it is: explicit flow times are never shifted.
        steps: Number of steps; of a list, its own.
        tokens: Number of image tokens.

    Returns:
        (steps + 1,) float64, falling from about 1 to 0. Two of ComfyUI's schedulers return another
        number: ddim_uniform as many as its strides give, beta fewer where two round to one.

    Raises:
        UsageError: Less than one step or more than 10,000, another number than the list has, or a
            number of tokens out of range.

    Example:
        >>> from ldmref.atlas import find_flow_schedule
        >>> make_flow_sigmas(find_flow_schedule("Z-Image"), 4).round(6).tolist()
        [1.0, 0.9, 0.75, 0.5, 0.0]
    """
    if row.positions == "list" and steps != len(row.sigmas):
        message = f"{row.name} is a list of {len(row.sigmas)} flow times, not of {steps}"
        raise UsageError(message, code="E-STEPS", hint=f"--steps {len(row.sigmas)}")
    if not 1 <= steps <= MAX_STEPS:
        message = f"steps must be from 1 to {MAX_STEPS:,}, not {short_repr(steps)}"
        raise UsageError(message, code="E-STEPS", hint="")
    check_tokens(tokens)
    return np.append(shifted(row, steps, shift_mu(row, steps, tokens)), 0.0)


def shifted(row: FlowSchedule, steps: int, mu: float) -> np.ndarray:
    """Return the flow times of a row with this mu, without the final 0."""
    s = place(row, steps, mu)
    return stretch_levels(s, row.terminal) if row.terminal else s
