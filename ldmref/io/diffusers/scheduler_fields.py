"""The fields of diffusers' schedulers, by class, with their defaults (diffusers 0.42.1)."""

from __future__ import annotations

import math
from typing import Any

DPM = "DPMSolverMultistepScheduler"
UNIPC = "UniPCMultistepScheduler"
DEIS = "DEISMultistepScheduler"
SINGLESTEP = "DPMSolverSinglestepScheduler"

_BETAS: dict[str, Any] = {
    "num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear",
    "trained_betas": None, "prediction_type": "epsilon",
}  # fmt: skip
_COMMON = _BETAS | {"steps_offset": 0, "timestep_spacing": "linspace"}
_THRESHOLDING = {
    "thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0
}  # fmt: skip
_CLIP = {"clip_sample": True, "clip_sample_range": 1.0}
_SIGMAS = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_ZERO_SNR = {"rescale_betas_zero_snr": False}
_DEIS = {
    "solver_order": 2, "lower_order_final": True, "use_flow_sigmas": False, "flow_shift": 1.0,
    "use_dynamic_shifting": False, "time_shift_type": "exponential",
}  # fmt: skip
_SOLVER = _DEIS | {"final_sigmas_type": "zero"}
_SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012}
_LCM = (
    _COMMON
    | _CLIP
    | _THRESHOLDING
    | _ZERO_SNR
    | _SD_BETAS
    | {
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "timestep_spacing": "leading",
        "original_inference_steps": 50,
    }
)
FIELDS: dict[str, dict[str, Any]] = {
    "DDIMScheduler": _COMMON | _CLIP | _THRESHOLDING | _ZERO_SNR
    | {"set_alpha_to_one": True, "timestep_spacing": "leading"},
    "DDPMScheduler": _COMMON | _CLIP | _THRESHOLDING | _ZERO_SNR
    | {"variance_type": "fixed_small", "timestep_spacing": "leading"},
    "PNDMScheduler": _COMMON
    | {"skip_prk_steps": False, "set_alpha_to_one": False, "timestep_spacing": "leading"},
    "EulerDiscreteScheduler": _COMMON | _SIGMAS | _ZERO_SNR
    | {"interpolation_type": "linear", "sigma_min": None, "sigma_max": None,
       "timestep_type": "discrete", "final_sigmas_type": "zero"},
    "EulerAncestralDiscreteScheduler": _COMMON | _ZERO_SNR,
    "HeunDiscreteScheduler": _COMMON | _SIGMAS | _CLIP
    | _SD_BETAS | {"clip_sample": False},
    "LMSDiscreteScheduler": _COMMON | _SIGMAS,
    DPM: _COMMON | _SIGMAS | _ZERO_SNR | _THRESHOLDING | _SOLVER
    | {"algorithm_type": "dpmsolver++", "solver_type": "midpoint", "euler_at_final": False,
       "use_lu_lambdas": False, "lambda_min_clipped": -math.inf, "variance_type": None},
    UNIPC: _COMMON | _SIGMAS | _ZERO_SNR | _THRESHOLDING | _SOLVER
    | {"predict_x0": True, "solver_type": "bh2", "disable_corrector": [], "solver_p": None,
       "sigma_min": None, "sigma_max": None, "shift_terminal": None},
    DEIS: _COMMON | _SIGMAS | _THRESHOLDING | _DEIS
    | {"algorithm_type": "deis", "solver_type": "logrho"},
    SINGLESTEP: _BETAS | _SIGMAS | _THRESHOLDING | _SOLVER
    | {"algorithm_type": "dpmsolver++", "solver_type": "midpoint", "lower_order_final": False,
       "lambda_min_clipped": -math.inf, "variance_type": None},
    "KDPM2DiscreteScheduler": _COMMON | _SIGMAS | _SD_BETAS,
    "KDPM2AncestralDiscreteScheduler": _COMMON | _SIGMAS | _SD_BETAS,
    "LCMScheduler": _LCM | {"set_alpha_to_one": True, "timestep_scaling": 10.0},
    "TCDScheduler": _LCM | {"set_alpha_to_one": True, "timestep_scaling": 10.0},
}  # fmt: skip
FIELDS |= {  # the same steps for samples with a timestep each
    "DDIMParallelScheduler": FIELDS["DDIMScheduler"],
    "DDPMParallelScheduler": FIELDS["DDPMScheduler"],
}
# Classes whose sampler ldmref does not have; only their forward process is used.
FORWARD_ONLY: dict[str, dict[str, Any]] = {
    "SASolverScheduler": _COMMON | _SIGMAS | _THRESHOLDING,
    "DPMSolverSDEScheduler": _COMMON | _SIGMAS | _SD_BETAS,
    "DPMSolverMultistepInverseScheduler": _COMMON | _SIGMAS | _THRESHOLDING,
    "DDIMInverseScheduler": _COMMON
    | _CLIP
    | _ZERO_SNR
    | {"set_alpha_to_one": True, "timestep_spacing": "leading"},
}
FIXED: dict[str, dict[str, Any]] = {  # fields of others, or that the class does not use
    "TCDScheduler": {"clip_sample": False, "thresholding": False, "timestep_scaling": 10.0},
    SINGLESTEP: {"timestep_spacing": "linspace", "steps_offset": 0},
}
CORRECTED: dict[str, dict[str, Any]] = {  # fields that a pipeline sets, whatever the file says
    "StableDiffusionPipeline": {"steps_offset": 1, "clip_sample": False},
    "StableDiffusionImg2ImgPipeline": {"steps_offset": 1, "clip_sample": False},
    "StableDiffusionInpaintPipeline": {"steps_offset": 1, "skip_prk_steps": True},
}
