"""`SchedulerConfig`: the forward process of a checkpoint, and how its maker samples from it."""

from __future__ import annotations

from dataclasses import dataclass

LEARNED = "learned_range"  # variance_type: the network's second half, between beta-tilde and beta


@dataclass(frozen=True)
class SchedulerConfig:
    """The forward process on which the U-Net was trained, and the sampler's defaults."""

    num_train_timesteps: int = 1000
    beta_schedule: str = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction_type: str = "eps"
    sampler: str = "ddim"
    spacing: str = "leading"
    final_sigma: str = "sigma_min"
    steps_offset: int = 1
    convention: str = ""  # "diffusers": spacings are made as its scheduler for the sampler does
    timestep_spacing: str = "leading"  # below Karras' and other continuous spacings of diffusers
    final_alpha: str = "sigma_min"  # the end of diffusers' DDIM and PNDM; `final_sigma` of others
    rescale_betas_zero_snr: bool = False
    trained_betas: tuple[float, ...] = ()  # every training timestep's, in place of a schedule
    lower_order_final: bool = True  # UniPC and third-order methods: lower orders at the end
    euler_at_final: bool = False  # diffusers' DPM-Solver: the last step is of order 1
    solver_type: str = ""  # "midpoint", "heun", "bh1" or "bh2"; "": the sampler's own
    noise_prediction: bool = False  # UniPC through eps, diffusers' `predict_x0=False`
    disable_corrector: tuple[int, ...] = ()  # steps after which UniPC does not correct
    timestep_rounding: str = ""  # "round" or "cut", of continuous spacings; "": as the spacing's
    clip_sample_range: float = 0.0  # predictions x0 are cut there; 0: nowhere
    thresholding_ratio: float = 0.0  # dynamic thresholding of x0 at that quantile; 0: none
    sample_max_value: float = 1.0  # the most that dynamic thresholding lets through
    variance_type: str = "fixed_small"  # of DDPM: or "fixed_large", "learned_range"
    sigma_max: float = 1000.0  # samplers start no higher, however far the training table goes
    original_inference_steps: int = 50  # timesteps on which an LCM was distilled; of spacing `lcm`
    full_range: bool = False  # Karras' and other continuous spacings span the whole table
