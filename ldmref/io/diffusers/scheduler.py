"""The scheduler of a diffusers folder, read field by field.

Fields that the scheduler's class does not have are ignored, as in diffusers. Every other field is
either understood or must have the value that leaves the sampler unchanged.

The fields of each class and their defaults are those of diffusers 0.42.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from ldmref.errors import UnsupportedModelError
from ldmref.io.diffusers.checks import (
    config_error,
    damage_as_config_error,
    require_class,
    require_plain,
    unsupported,
)
from ldmref.samplers.config import SchedulerConfig

DPM = "DPMSolverMultistepScheduler"
UNIPC = "UniPCMultistepScheduler"
DEIS = "DEISMultistepScheduler"
SINGLESTEP = "DPMSolverSinglestepScheduler"

_BETAS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
}
_COMMON = _BETAS | {"steps_offset": 0, "timestep_spacing": "linspace"}
_THRESHOLDING = {
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
}
_CLIP = {"clip_sample": True, "clip_sample_range": 1.0}
_SIGMAS = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_ZERO_SNR = {"rescale_betas_zero_snr": False}
_DEIS = {
    "solver_order": 2,
    "lower_order_final": True,
    "use_flow_sigmas": False,
    "flow_shift": 1.0,
    "use_dynamic_shifting": False,
    "time_shift_type": "exponential",
}
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

SAMPLERS = {  # of the classes with a single sampler
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "PNDMScheduler": "pndm",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_a",
    "HeunDiscreteScheduler": "heun",
    "LMSDiscreteScheduler": "lms_euler",
    "KDPM2DiscreteScheduler": "dpm_solver_2",
    "KDPM2AncestralDiscreteScheduler": "dpm_solver_2_a",
    "LCMScheduler": "lcm",
    "TCDScheduler": "tcd",
    "DDIMParallelScheduler": "ddim",
    "DDPMParallelScheduler": "ddpm",
}
UNIPC_SAMPLERS: dict[Any, str] = {1: "unipc_1", 2: "unipc", 3: "unipc_3"}  # by order
DEIS_SAMPLERS: dict[Any, str] = {1: "dpmpp_1", 2: "deis", 3: "deis_3_euler"}
DPM_SAMPLERS: dict[str, dict[Any, str]] = {  # by algorithm; then by order, or order and type
    "dpmsolver++": {
        1: "dpmpp_1",
        (2, "midpoint"): "dpmpp_2m",
        (2, "heun"): "dpmpp_2m_heun",
        3: "dpmpp_3m",
    },
    "sde-dpmsolver++": {
        1: "dpmpp_1_sde",
        (2, "midpoint"): "dpmpp_2m_sde",
        (2, "heun"): "dpmpp_2m_sde_heun",
        3: "dpmpp_3m_sde",
    },
    "dpmsolver": {1: "dpmpp_1", 2: "dpm_solver_2m", 3: "dpm_solver_3m"},
    "sde-dpmsolver": {1: "dpm_solver_1_sde", 2: "dpm_solver_2m_sde"},
}
SINGLESTEP_SAMPLERS: dict[str, dict[Any, str]] = {  # by algorithm and order
    "dpmsolver++": {1: "dpmpp_1", 2: "dpmpp_2_singlestep", 3: "dpmpp_3_singlestep"},
    "sde-dpmsolver++": {1: "dpmpp_1_sde"},
    "dpmsolver": {1: "dpmpp_1"},
}
RENAMED = {  # solver types of the other class -> the types that diffusers uses instead
    DPM: {"logrho": "midpoint", "bh1": "midpoint", "bh2": "midpoint"},
    UNIPC: {"logrho": "bh2", "midpoint": "bh2", "heun": "bh2"},
    DEIS: dict.fromkeys(("logrho", "bh1", "bh2", "midpoint", "heun"), ""),
}
RENAMED[SINGLESTEP] = RENAMED[DPM]
SCHEDULES: dict[str, Literal["linear", "scaled_linear", "cosine"]] = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "cosine",
}
PREDICTIONS: dict[str, Literal["eps", "v", "x0"]] = {
    "epsilon": "eps",
    "v_prediction": "v",
    "sample": "x0",
}
CONTINUOUS = {
    "use_karras_sigmas": "karras",
    "use_lu_lambdas": "exponential",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta_sigma",
}
SCHEDULER_PLAIN: dict[str, tuple[Any, ...]] = {
    "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large"),
    "use_flow_sigmas": (False,),
    "interpolation_type": ("linear",),
    "timestep_type": ("discrete",),
    "skip_prk_steps": (True,),
    "solver_p": (None,),
    "sigma_min": (None,),
    "sigma_max": (None,),
    "use_dynamic_shifting": (False,),
    "shift_terminal": (None,),
    "timestep_scaling": (10, 10.0),
    "solver_type": ("midpoint", "heun", "bh1", "bh2", "logrho"),
    "final_sigmas_type": ("zero", "sigma_min"),
    "timestep_spacing": ("leading", "linspace", "trailing"),
    "beta_schedule": tuple(SCHEDULES),
    "prediction_type": tuple(PREDICTIONS),
}

FLOW_EULER = "FlowMatchEulerDiscreteScheduler"
FLOW_HEUN = "FlowMatchHeunDiscreteScheduler"
FLOW_FIELDS: dict[str, Any] = {  # with their defaults, diffusers 0.42.1
    "num_train_timesteps": 1000, "shift": 1.0, "use_dynamic_shifting": False, "base_shift": 0.5,
    "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096,
    "invert_sigmas": False, "shift_terminal": None, "use_karras_sigmas": False,
    "use_exponential_sigmas": False, "use_beta_sigmas": False, "time_shift_type": "exponential",
    "stochastic_sampling": False,
}  # fmt: skip
FLOW_HEUN_FIELDS = ("num_train_timesteps", "shift")  # all that it has; others it ignores
FLOW_PLAIN: dict[str, tuple[Any, ...]] = {
    "invert_sigmas": (False,),
    "use_karras_sigmas": (False,),
    "use_exponential_sigmas": (False,),
    "use_beta_sigmas": (False,),
    "time_shift_type": ("exponential",),
}
# Pipelines that let the scheduler space the levels over its table; others give 1, ..., 1/n.
ON_TABLE = (
    "StableDiffusion3Pipeline",
    "StableDiffusion3Img2ImgPipeline",
    "StableDiffusion3InpaintPipeline",
    "StableDiffusion3ControlNetPipeline",
)


def convert_scheduler_config(
    data: Mapping[str, Any], class_name: str = "", pipeline: str = ""
) -> SchedulerConfig:
    """Convert a scheduler_config.json: forward process, sampler and grid.

    Args:
        data: The contents of the file.
        class_name: The class that model_index.json names, which overrides the file's.
        pipeline: The class of the pipeline; some pipelines set fields of their scheduler.

    Returns:
        The configuration in the terms of ldmref.

    Raises:
        UnsupportedModelError: The scheduler, or a value of its configuration, is not known; the
            message names it.
        CorruptModelError: A field has a value of another type.

    >>> from ldmref.io.diffusers import convert_scheduler_config
    >>> convert_scheduler_config({"_class_name": "DDIMScheduler"}).sampler
    'ddim'
    """
    with damage_as_config_error("scheduler_config.json"):
        return _convert(data, class_name, pipeline)


def _convert(data: Mapping[str, Any], class_name: str, pipeline: str) -> SchedulerConfig:
    kind = class_name or str(data.get("_class_name"))
    known = FIELDS | FORWARD_ONLY
    require_class(kind, [*known, FLOW_EULER, FLOW_HEUN], "the scheduler is", "E-SCHEDULER")
    if kind == FLOW_EULER:
        return convert_flow_config(data, pipeline)
    if kind == FLOW_HEUN:
        return convert_flow_heun_config(data)
    values = {**known[kind], **data, **CORRECTED.get(pipeline, {})}
    fields = {name: values[name] for name in known[kind]} | FIXED.get(kind, {})
    require_plain(fields, SCHEDULER_PLAIN, "the scheduler's configuration")
    if "solver_type" in fields:
        fields["solver_type"] = RENAMED[kind].get(fields["solver_type"], fields["solver_type"])
    spacing = fields["timestep_spacing"]
    continuous = next((name for name in CONTINUOUS if fields.get(name)), "")
    thresholding = bool(fields.get("thresholding"))
    clip = bool(fields.get("clip_sample")) and not thresholding
    large = fields.get("variance_type") == "fixed_large"
    return SchedulerConfig(
        num_train_timesteps=fields["num_train_timesteps"],
        beta_schedule=SCHEDULES[fields["beta_schedule"]],
        beta_start=float(fields["beta_start"]),
        beta_end=float(fields["beta_end"]),
        trained_betas=_trained_betas(fields),
        prediction_type=PREDICTIONS[fields["prediction_type"]],
        sampler=kind if kind in FORWARD_ONLY else _sampler(kind, fields),
        spacing=CONTINUOUS[continuous] if continuous else spacing,
        timestep_spacing=spacing,
        timestep_rounding=_rounding(kind, fields, continuous),
        final_sigma=_final_sigma(kind, fields),
        final_alpha="zero" if fields.get("set_alpha_to_one", True) else "sigma_min",
        steps_offset=fields["steps_offset"],
        convention="diffusers",
        rescale_betas_zero_snr=bool(fields.get("rescale_betas_zero_snr", False)),
        lower_order_final=bool(fields.get("lower_order_final", True)),
        euler_at_final=bool(fields.get("euler_at_final", False)),
        solver_type=fields.get("solver_type", ""),
        noise_prediction=not fields.get("predict_x0", True),
        disable_corrector=tuple(fields.get("disable_corrector", ())),
        clip_sample_range=float(fields["clip_sample_range"]) if clip else 0.0,
        thresholding_ratio=float(fields["dynamic_thresholding_ratio"]) if thresholding else 0.0,
        sample_max_value=float(fields.get("sample_max_value", 1.0)),
        variance_type="fixed_large" if large else "fixed_small",
        sigma_max=_sigma_max(fields, bool(continuous)),
        original_inference_steps=_original_steps(fields),
    )


def _not_supported(what: str, hint: str) -> UnsupportedModelError:
    return unsupported(f"the scheduler's configuration has {what}, which is not supported", hint)


def _trained_betas(fields: Mapping[str, Any]) -> tuple[float, ...]:
    betas = tuple(float(beta) for beta in fields["trained_betas"] or ())
    if betas and len(betas) != fields["num_train_timesteps"]:
        what = f"{len(betas)} trained_betas for {fields['num_train_timesteps']} timesteps"
        raise _not_supported(what, "one for each training timestep")
    return betas


def _final_sigma(kind: str, fields: Mapping[str, Any]) -> str:
    """Return the last sigma; `deis` ends above 0 by itself, and DEIS of order 1 is `dpmpp_1`."""
    if kind == DEIS and fields["solver_order"] == 1:
        return "sigma_min"
    return fields.get("final_sigmas_type", "zero")


def _original_steps(fields: Mapping[str, Any]) -> int:
    steps = fields.get("original_inference_steps", 50)
    most = fields["num_train_timesteps"]
    if not 1 <= steps <= most:
        what = f"original_inference_steps = {steps}"
        raise _not_supported(what, f"supported: 1 to {most}, the training timesteps")
    return steps


def _rounding(kind: str, fields: Mapping[str, Any], continuous: str) -> Literal["", "round", "cut"]:
    """Return the rounding of the timesteps of continuous sigmas; "" for other grids.

    DPM-Solver and UniPC differ in it.
    """
    if not continuous:
        return ""
    cosine = fields["beta_schedule"] == "squaredcos_cap_v2"
    rounds = continuous in ("use_karras_sigmas", "use_lu_lambdas")
    return "round" if rounds and not (cosine and kind == DPM) else "cut"


def _sigma_max(fields: Mapping[str, Any], continuous: bool) -> float:
    """Return the largest sigma that `lambda_min_clipped` admits; 1e5, above all, without it."""
    unlimited = 1e5
    lowest = float(fields.get("lambda_min_clipped", -math.inf))
    if lowest < -math.log(unlimited):
        return unlimited
    if continuous or fields["timestep_spacing"] == "trailing":
        what = f"lambda_min_clipped = {lowest:g} with such a spacing"
        raise _not_supported(what, "supported: with timestep_spacing linspace or leading")
    return math.exp(-lowest)


def _sampler(kind: str, fields: Mapping[str, Any]) -> str:
    """Return the name of a class's sampler; for multistep solvers it depends on the options."""
    if kind in SAMPLERS:
        return SAMPLERS[kind]
    order = fields["solver_order"]
    hint = "final_sigmas_type sigma_min"
    if kind == DEIS:
        return _deis(fields["algorithm_type"], order)
    zero = fields["final_sigmas_type"] == "zero"
    if kind == UNIPC:
        if order not in UNIPC_SAMPLERS:
            raise _not_supported(f"solver_order = {order!r}", "supported: 1, 2, 3")
        if not fields["predict_x0"] and zero:
            raise _not_supported("predict_x0 = False and a last sigma of 0", hint)
        return UNIPC_SAMPLERS[order]
    algorithm = fields["algorithm_type"]
    if kind == SINGLESTEP and algorithm == "deis":
        algorithm = "dpmsolver++"  # as diffusers does
    samplers = (SINGLESTEP_SAMPLERS if kind == SINGLESTEP else DPM_SAMPLERS).get(algorithm, {})
    sampler = samplers.get(order) or samplers.get((order, fields["solver_type"]))
    if sampler is None:
        what = f"algorithm_type = {algorithm!r} and solver_order = {order!r}"
        supported = f"{', '.join(DPM_SAMPLERS)}, of order 1 to 3 (sde-dpmsolver: 1, 2)"
        if kind == SINGLESTEP:
            supported = "dpmsolver++ of order 1 to 3, sde-dpmsolver++ and dpmsolver of order 1"
        raise _not_supported(what, f"supported: {supported}")
    if not algorithm.endswith("++") and zero:
        raise _not_supported(f"{algorithm} and a last sigma of 0", hint)
    return sampler


def _deis(algorithm: object, order: object) -> str:
    """Return the name of DEIS' sampler; diffusers treats DPM-Solver's algorithms as DEIS."""
    algorithms = ("deis", "dpmsolver", "dpmsolver++")
    if algorithm not in algorithms:
        supported = f"supported: {', '.join(algorithms)}"
        raise _not_supported(f"algorithm_type = {algorithm!r}", supported)
    if order not in DEIS_SAMPLERS:
        raise _not_supported(f"solver_order = {order!r}", "supported: 1, 2, 3")
    return DEIS_SAMPLERS[order]


def convert_flow_config(data: Mapping[str, Any], pipeline: str = "") -> SchedulerConfig:
    """Convert the scheduler_config.json of a `FlowMatchEulerDiscreteScheduler`.

    Args:
        data: The contents of the file.
        pipeline: The class of the pipeline, which decides how levels are spaced before the shift.

    Raises:
        CorruptModelError: The configuration is not supported.

    >>> config = convert_flow_config({"shift": 3.0}, "StableDiffusion3Pipeline")
    >>> config.shift, config.spacing, config.sampler
    (3.0, 'flow_table', 'euler')
    """
    values = FLOW_FIELDS | {name: data[name] for name in FLOW_FIELDS.keys() & data.keys()}
    require_plain(values, FLOW_PLAIN, "the scheduler's configuration")
    if values["base_image_seq_len"] == values["max_image_seq_len"]:
        raise config_error("base_image_seq_len and max_image_seq_len of the scheduler are equal")
    return SchedulerConfig(
        num_train_timesteps=values["num_train_timesteps"],
        prediction_type="flow",
        # x0 and fresh noise, as in LCM
        sampler="lcm" if values["stochastic_sampling"] else "euler",
        spacing="flow_table" if pipeline in ON_TABLE else "flow",
        final_sigma="zero",
        shift=float(values["shift"]),
        dynamic_shift=bool(values["use_dynamic_shifting"]),
        base_shift=float(values["base_shift"]),
        max_shift=float(values["max_shift"]),
        base_image_seq_len=values["base_image_seq_len"],
        max_image_seq_len=values["max_image_seq_len"],
        shift_terminal=float(values["shift_terminal"] or 0.0),
    )


def convert_flow_heun_config(data: Mapping[str, Any]) -> SchedulerConfig:
    """Convert the scheduler_config.json of a `FlowMatchHeunDiscreteScheduler`.

    It takes no levels from pipelines, so its own are those of the table of training in all of them.

    Args:
        data: The contents of the file; fields that the class does not have are ignored, as it does.

    >>> config = convert_flow_heun_config({"shift": 3.0, "use_dynamic_shifting": True})
    >>> config.shift, config.spacing, config.sampler, config.dynamic_shift
    (3.0, 'flow_table', 'heun', False)
    """
    own = {name: data[name] for name in FLOW_HEUN_FIELDS if name in data}
    return replace(convert_flow_config(own), sampler="heun", spacing="flow_table")
