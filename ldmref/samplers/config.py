"""`SchedulerConfig`: the forward process of a checkpoint and the defaults of its sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from ldmref.declare import Length, Range
from ldmref.samplers.path import FLOW, VE, NoisePath

LEARNED = "learned_range"  # variance_type: the network's second half, between beta-tilde and beta

UnitFloat = Annotated[float, Range(0, 1)]


@dataclass(frozen=True)
class SchedulerConfig:
    """The forward process on which the denoiser was trained, and the sampler's defaults.

    Args:
        num_train_timesteps: Number of training timesteps T, from 2 to 100,000.
        beta_schedule: Betas of the timesteps: `linear`, `scaled_linear` (linear in their root) or
            `cosine`.
        beta_start: Beta of the first timestep, in [0, 1]; not used by `cosine`.
        beta_end: Beta of the last timestep, in [0, 1]; not used by `cosine`.
        prediction_type: Output of the denoiser: `eps`, `v` or `x0` of the variance-preserving
            diffusion, or `flow`, the velocity eps - x0 of a model trained with flow matching, which
            has no betas.
        sampler: Default sampler, a name in `SAMPLERS`.
        spacing: Default spacing, a name in `SPACINGS`.
        final_sigma: Last sigma of a schedule: `zero`, or `sigma_min`, the smallest of training.
        steps_offset: Number added to every timestep of the spacing `leading`, from 0 to 100,000.
        convention: "diffusers" if spacings are made as its scheduler for the sampler does,
            otherwise "".
        timestep_spacing: The spacing below Karras' and other continuous spacings of diffusers.
        final_alpha: The end of diffusers' DDIM and PNDM, `zero` or `sigma_min`; other samplers have
            `final_sigma`.
        rescale_betas_zero_snr: Whether the betas are rescaled to a last alpha-bar of (nearly) 0.
        trained_betas: Beta of every training timestep, (T,); () for those of `beta_schedule`.
        lower_order_final: Whether UniPC and third-order methods use lower orders at the end.
        euler_at_final: Whether the last step of DPM-Solver is of order 1.
        solver_type: Variant of DPM-Solver (`midpoint`, `heun`) or UniPC (`bh1`, `bh2`); "": the
            sampler's own.
        noise_prediction: Whether UniPC interpolates eps: diffusers' `predict_x0=False`.
        disable_corrector: Indices of the steps after which UniPC does not correct.
        timestep_rounding: Timesteps of continuous spacings: `round`, `cut`, or "" for the spacing's
            own rule.
        clip_sample_range: Predictions x0 are clipped to +- this number; 0: not at all.
        thresholding_ratio: Quantile of the dynamic thresholding of x0, in [0, 1]; 0: none.
        sample_max_value: The largest value that dynamic thresholding lets pass, >= 0.
        variance_type: Variance of DDPM's steps: `fixed_small` (the posterior's), `fixed_large`
            (beta) or `learned_range`, which the network predicts.
        sigma_max: Samplers start no higher than this sigma, however far the training table goes.
        original_inference_steps: Number of timesteps on which an LCM was distilled, for the spacing
            `lcm`.
        full_range: Whether Karras' and other continuous spacings span the whole table.
        shift: Of a flow, the factor k of s -> k s / (1 + (k - 1) s) on its levels.
        dynamic_shift: Whether k is e^mu, with mu a function of the number of image tokens.
        shift_rule: How mu follows from it: `linear`, a line through two points; `empirical`,
            FLUX.2's fit, which also depends on the number of steps; or `constant`, `max_shift` for
            any number, as in distilled models.
        base_shift: mu at `base_image_seq_len` tokens, by the rule `linear`.
        max_shift: mu at `max_image_seq_len` tokens; it is linear between and beyond.
        base_image_seq_len: A number of tokens.
        max_image_seq_len: Another one.
        shift_terminal: The last level above 0, to which the others are stretched; 0: not at all.
        flow_times: The levels of the steps of a distilled flow, decreasing, which are used as they
            are for as many steps with `spacing`. For another number of steps they are interpolated;
            no shift moves them. (): the spacing makes the levels.

    >>> from ldmref.samplers import SchedulerConfig
    >>> config = SchedulerConfig(prediction_type="v", rescale_betas_zero_snr=True)
    >>> config.sampler, config.spacing, config.beta_end
    ('ddim', 'leading', 0.012)
    """

    num_train_timesteps: Annotated[int, Range(2, 100_000)] = 1000
    beta_schedule: Literal["linear", "scaled_linear", "cosine"] = "scaled_linear"
    beta_start: UnitFloat = 0.00085
    beta_end: UnitFloat = 0.012
    prediction_type: Literal["eps", "v", "x0", "flow"] = "eps"
    sampler: str = "ddim"
    spacing: str = "leading"
    final_sigma: str = "sigma_min"
    steps_offset: Annotated[int, Range(0, 100_000)] = 1
    convention: str = ""
    timestep_spacing: str = "leading"
    final_alpha: str = "sigma_min"
    rescale_betas_zero_snr: bool = False
    trained_betas: Annotated[tuple[float, ...], Range(0, 1)] = ()
    lower_order_final: bool = True
    euler_at_final: bool = False
    solver_type: Literal["", "midpoint", "heun", "bh1", "bh2"] = ""
    noise_prediction: bool = False
    disable_corrector: Annotated[tuple[int, ...], Range(-100_000, 100_000)] = ()
    timestep_rounding: Literal["", "round", "cut"] = ""
    clip_sample_range: Annotated[float, Range(0)] = 0.0
    thresholding_ratio: UnitFloat = 0.0
    sample_max_value: Annotated[float, Range(0)] = 1.0
    variance_type: Literal["fixed_small", "fixed_large", "learned_range"] = "fixed_small"
    sigma_max: Annotated[float, Range(1)] = 1000.0
    original_inference_steps: Annotated[int, Range(1, 100_000)] = 50
    full_range: bool = False
    shift: Annotated[float, Range(1e-6, 1e6)] = 1.0
    dynamic_shift: bool = False
    shift_rule: Literal["linear", "empirical", "constant"] = "linear"
    base_shift: Annotated[float, Range(-20, 20)] = 0.5
    max_shift: Annotated[float, Range(-20, 20)] = 1.15
    base_image_seq_len: Annotated[int, Range(1, 1_000_000)] = 256
    max_image_seq_len: Annotated[int, Range(1, 1_000_000)] = 4096
    shift_terminal: UnitFloat = 0.0
    flow_times: Annotated[tuple[float, ...], Range(0, 1), Length(0, 1000)] = ()

    @property
    def path(self) -> NoisePath:
        """The path on which the model is sampled if a request names no other."""
        return FLOW if self.prediction_type == "flow" else VE


def listed_levels(flow_times: Sequence[float], steps: int) -> np.ndarray:
    """Return given flow times and 0, interpolated linearly for another number of steps.

    >>> listed_levels((1.0, 0.9, 0.6), 3)
    array([1. , 0.9, 0.6, 0. ])
    >>> listed_levels((1.0, 0.8), 4)
    array([1. , 0.9, 0.8, 0.4, 0. ])
    """
    whole = np.append(np.asarray(flow_times, np.float64), 0.0)
    if len(flow_times) == steps:
        return whole
    return np.interp(np.linspace(0.0, len(flow_times), steps + 1), np.arange(len(whole)), whole)
