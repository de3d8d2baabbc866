"""`SchedulerConfig`: the forward process of a checkpoint and the defaults of its sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ldmref.declare import Range

LEARNED = "learned_range"  # variance_type: the network's second half, between beta-tilde and beta

UnitFloat = Annotated[float, Range(0, 1)]


@dataclass(frozen=True)
class SchedulerConfig:
    """The forward process on which the U-Net was trained, and the sampler's defaults."""

    num_train_timesteps: Annotated[int, Range(2, 100_000)] = 1000
    beta_schedule: Literal["linear", "scaled_linear", "cosine"] = "scaled_linear"
    beta_start: UnitFloat = 0.00085
    beta_end: UnitFloat = 0.012
    prediction_type: Literal["eps", "v", "x0"] = "eps"
    sampler: str = "ddim"
    spacing: str = "leading"
    final_sigma: str = "sigma_min"
    steps_offset: Annotated[int, Range(0, 100_000)] = 1
    # "diffusers": spacings are made as its scheduler for the sampler does
    convention: str = ""
    # the spacing below Karras' and other continuous spacings of diffusers
    timestep_spacing: str = "leading"
    # the end of diffusers' DDIM and PNDM; other samplers have `final_sigma`
    final_alpha: str = "sigma_min"
    rescale_betas_zero_snr: bool = False
    # beta of every training timestep; (): those of `beta_schedule`
    trained_betas: Annotated[tuple[float, ...], Range(0, 1)] = ()
    # UniPC and third-order methods use lower orders at the end
    lower_order_final: bool = True
    # the last step of DPM-Solver is of order 1
    euler_at_final: bool = False
    # "": the sampler's own
    solver_type: Literal["", "midpoint", "heun", "bh1", "bh2"] = ""
    # UniPC through eps: diffusers' `predict_x0=False`
    noise_prediction: bool = False
    # steps after which UniPC does not correct
    disable_corrector: Annotated[tuple[int, ...], Range(-100_000, 100_000)] = ()
    # timesteps of continuous spacings; "": the spacing's own rule
    timestep_rounding: Literal["", "round", "cut"] = ""
    # predictions x0 are clipped to +- this; 0: not at all
    clip_sample_range: Annotated[float, Range(0)] = 0.0
    # dynamic thresholding of x0 at this quantile; 0: none
    thresholding_ratio: UnitFloat = 0.0
    # the largest value that dynamic thresholding lets pass
    sample_max_value: Annotated[float, Range(0)] = 1.0
    # the variance of DDPM's steps
    variance_type: Literal["fixed_small", "fixed_large", "learned_range"] = "fixed_small"
    # samplers start no higher, however far the training table goes
    sigma_max: Annotated[float, Range(1)] = 1000.0
    # timesteps on which an LCM was distilled, for the spacing `lcm`
    original_inference_steps: Annotated[int, Range(1, 100_000)] = 50
    # Karras' and other continuous spacings span the whole table
    full_range: bool = False
