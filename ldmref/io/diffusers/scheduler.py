"""A diffusers folder's scheduler, read field by field.

Fields that the scheduler's class does not have are ignored, as diffusers does; every other one is
either understood or must have the value that means "nothing special".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ldmref.errors import CorruptModelError
from ldmref.samplers.config import SchedulerConfig

SAMPLER_OF = {
    "DDIMScheduler": "ddim", "DDPMScheduler": "ddpm", "PNDMScheduler": "pndm",
    "EulerDiscreteScheduler": "euler", "EulerAncestralDiscreteScheduler": "euler_a",
    "HeunDiscreteScheduler": "heun", "LMSDiscreteScheduler": "lms_euler",
    "UniPCMultistepScheduler": "", "DPMSolverMultistepScheduler": "",
}  # fmt: skip
SOLVERS = {  # of DPMSolverMultistepScheduler, by algorithm, order and kind of the second order
    ("dpmsolver++", 1, "midpoint"): "dpmpp_1", ("dpmsolver++", 1, "heun"): "dpmpp_1",
    ("dpmsolver++", 2, "midpoint"): "dpmpp_2m", ("dpmsolver++", 2, "heun"): "dpmpp_2m_heun",
    ("dpmsolver++", 3, "midpoint"): "dpmpp_3m", ("dpmsolver++", 3, "heun"): "dpmpp_3m",
    ("sde-dpmsolver++", 1, "midpoint"): "dpmpp_1_sde",
    ("sde-dpmsolver++", 1, "heun"): "dpmpp_1_sde",
    ("sde-dpmsolver++", 2, "midpoint"): "dpmpp_2m_sde",
    ("sde-dpmsolver++", 2, "heun"): "dpmpp_2m_sde_heun",
    ("sde-dpmsolver++", 3, "midpoint"): "dpmpp_3m_sde",
    ("sde-dpmsolver++", 3, "heun"): "dpmpp_3m_sde",
    ("dpmsolver", 1, "midpoint"): "dpmpp_1", ("dpmsolver", 1, "heun"): "dpmpp_1",
    ("dpmsolver", 2, "midpoint"): "dpm_solver_2m", ("dpmsolver", 2, "heun"): "dpm_solver_2m",
    ("dpmsolver", 3, "midpoint"): "dpm_solver_3m", ("dpmsolver", 3, "heun"): "dpm_solver_3m",
    ("sde-dpmsolver", 1, "midpoint"): "dpm_solver_1_sde",
    ("sde-dpmsolver", 1, "heun"): "dpm_solver_1_sde",
    ("sde-dpmsolver", 2, "midpoint"): "dpm_solver_2m_sde",
    ("sde-dpmsolver", 2, "heun"): "dpm_solver_2m_sde",
}  # fmt: skip
UNIPC = {1: "unipc_1", 2: "unipc", 3: "unipc_3"}
RENAMED = {  # what the two classes take each other's solver types for
    "DPMSolverMultistepScheduler": {"logrho": "midpoint", "bh1": "midpoint", "bh2": "midpoint"},
    "UniPCMultistepScheduler": {"logrho": "bh2", "midpoint": "bh2", "heun": "bh2"},
}
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
CONTINUOUS = {"use_karras_sigmas": "karras", "use_lu_lambdas": "exponential",
              "use_exponential_sigmas": "exponential", "use_beta_sigmas": "beta_sigma"}  # fmt: skip
SCHEDULER_PLAIN: dict[str, tuple[Any, ...]] = {
    "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large"),
    "use_flow_sigmas": (False,), "interpolation_type": ("linear",), "timestep_type": ("discrete",),
    "skip_prk_steps": (True,), "solver_p": (None,), "sigma_min": (None,), "sigma_max": (None,),
    "use_dynamic_shifting": (False,), "shift_terminal": (None,),
    "solver_type": ("midpoint", "heun", "bh1", "bh2"), "final_sigmas_type": ("zero", "sigma_min"),
    "timestep_spacing": ("leading", "linspace", "trailing"),
    "beta_schedule": tuple(SCHEDULES), "prediction_type": tuple(PREDICTIONS),
}  # fmt: skip

_ALL: dict[str, Any] = {
    "num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear",
    "trained_betas": None, "prediction_type": "epsilon", "steps_offset": 0,
    "timestep_spacing": "linspace",
}  # fmt: skip
_THRESHOLDING = {
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
}
_CLIP = {"clip_sample": True, "clip_sample_range": 1.0}
_SIGMAS = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_ZERO_SNR = {"rescale_betas_zero_snr": False}
_SOLVER = {
    "solver_order": 2, "lower_order_final": True, "use_flow_sigmas": False, "flow_shift": 1.0,
    "final_sigmas_type": "zero", "use_dynamic_shifting": False, "time_shift_type": "exponential",
}  # fmt: skip
FIELDS: dict[str, dict[str, Any]] = {  # of each class, with its defaults
    "DDIMScheduler": _ALL | _CLIP | _THRESHOLDING | _ZERO_SNR
    | {"set_alpha_to_one": True, "timestep_spacing": "leading"},
    "DDPMScheduler": _ALL | _CLIP | _THRESHOLDING | _ZERO_SNR
    | {"variance_type": "fixed_small", "timestep_spacing": "leading"},
    "PNDMScheduler": _ALL
    | {"skip_prk_steps": False, "set_alpha_to_one": False, "timestep_spacing": "leading"},
    "EulerDiscreteScheduler": _ALL | _SIGMAS | _ZERO_SNR
    | {"interpolation_type": "linear", "sigma_min": None, "sigma_max": None,
       "timestep_type": "discrete", "final_sigmas_type": "zero"},
    "EulerAncestralDiscreteScheduler": _ALL | _ZERO_SNR,
    "HeunDiscreteScheduler": _ALL | _SIGMAS | _CLIP
    | {"clip_sample": False, "beta_start": 0.00085, "beta_end": 0.012},
    "LMSDiscreteScheduler": _ALL | _SIGMAS,
    "DPMSolverMultistepScheduler": _ALL | _SIGMAS | _ZERO_SNR | _THRESHOLDING | _SOLVER
    | {"algorithm_type": "dpmsolver++", "solver_type": "midpoint", "euler_at_final": False,
       "use_lu_lambdas": False, "lambda_min_clipped": -math.inf, "variance_type": None},
    "UniPCMultistepScheduler": _ALL | _SIGMAS | _ZERO_SNR | _THRESHOLDING | _SOLVER
    | {"predict_x0": True, "solver_type": "bh2", "disable_corrector": [], "solver_p": None,
       "sigma_min": None, "sigma_max": None, "shift_terminal": None},
}  # fmt: skip
_SD = "StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"
CORRECTED: dict[str, dict[str, Any]] = {  # what a pipeline does to its scheduler when it is made
    _SD[0]: {"steps_offset": 1, "clip_sample": False},
    _SD[1]: {"steps_offset": 1, "clip_sample": False},
    _SD[2]: {"steps_offset": 1, "skip_prk_steps": True},
}


def scheduler_config(
    data: Mapping[str, Any], class_name: str = "", pipeline: str = ""
) -> SchedulerConfig:
    """A scheduler_config.json: the forward process, and the sampler and grid of the class.

    Args:
        data: the file.
        class_name: the class that model_index.json names, which goes before the file's.
        pipeline: the class of the pipeline, some of which change fields.

    Raises:
        CorruptModelError: another scheduler, or one that is configured as none here can be.
    """
    kind = class_name or str(data.get("_class_name"))
    if kind not in SAMPLER_OF:
        raise CorruptModelError(
            f"the scheduler is a {kind}, which is not supported",
            code="E-SCHEDULER",
            hint="supported: " + ", ".join(SAMPLER_OF),
        )
    known = FIELDS[kind]
    given = {**known, **data, **CORRECTED.get(pipeline, {})}
    fields = {name: given[name] for name in known}
    if "solver_type" in fields:
        fields["solver_type"] = RENAMED[kind].get(fields["solver_type"], fields["solver_type"])
    _require_plain(fields)
    spacing = fields["timestep_spacing"]
    chosen = [name for name in CONTINUOUS if fields.get(name)]
    clips, thresholds = fields.get("clip_sample"), fields.get("thresholding")
    zero_first = fields.get("set_alpha_to_one", True)
    return SchedulerConfig(
        num_train_timesteps=fields["num_train_timesteps"],
        beta_schedule=SCHEDULES[fields["beta_schedule"]],
        beta_start=float(fields["beta_start"]),
        beta_end=float(fields["beta_end"]),
        trained_betas=_trained_betas(fields),
        prediction_type=PREDICTIONS[fields["prediction_type"]],
        sampler=_sampler(kind, fields),
        spacing=CONTINUOUS[chosen[0]] if chosen else spacing,
        timestep_spacing=spacing,
        timestep_rounding=_rounding(kind, fields, chosen[0]) if chosen else "",
        final_sigma=fields.get("final_sigmas_type", "zero"),
        final_alpha="zero" if zero_first else "sigma_min",
        steps_offset=fields["steps_offset"],
        convention="diffusers",
        rescale_betas_zero_snr=bool(fields.get("rescale_betas_zero_snr", False)),
        lower_order_final=bool(fields.get("lower_order_final", True)),
        euler_at_final=bool(fields.get("euler_at_final", False)),
        solver_type=fields.get("solver_type", ""),
        noise_prediction=not fields.get("predict_x0", True),
        disable_corrector=tuple(fields.get("disable_corrector", ())),
        clip_sample_range=float(fields["clip_sample_range"]) if clips and not thresholds else 0.0,
        thresholding_ratio=float(fields["dynamic_thresholding_ratio"]) if thresholds else 0.0,
        sample_max_value=float(fields.get("sample_max_value", 1.0)),
        variance_type="fixed_large"
        if fields.get("variance_type") == "fixed_large"
        else "fixed_small",
        sigma_max=_sigma_max(fields, bool(chosen)),
    )


def _refused(what: str, hint: str) -> CorruptModelError:
    return CorruptModelError(
        f"the scheduler's configuration has {what}, which is not supported",
        code="E-CONFIG",
        hint=hint,
    )


def _require_plain(fields: Mapping[str, Any]) -> None:
    for name, values in SCHEDULER_PLAIN.items():
        if name in fields and fields[name] not in values:
            raise _refused(
                f"{name} = {fields[name]!r}", "supported: " + ", ".join(map(str, values))
            )


def _trained_betas(fields: Mapping[str, Any]) -> tuple[float, ...]:
    betas = tuple(float(beta) for beta in fields["trained_betas"] or ())
    if betas and len(betas) != fields["num_train_timesteps"]:
        what = f"{len(betas)} trained_betas for {fields['num_train_timesteps']} timesteps"
        raise _refused(what, "one for each training timestep")
    return betas


def _rounding(kind: str, fields: Mapping[str, Any], chosen: str) -> str:
    """How DPM-Solver and UniPC make whole timesteps of continuous levels."""
    rounds = chosen in ("use_karras_sigmas", "use_lu_lambdas")
    cosine = fields["beta_schedule"] == "squaredcos_cap_v2"
    return "round" if rounds and not (cosine and kind.startswith("DPM")) else "cut"


def _sigma_max(fields: Mapping[str, Any], continuous: bool) -> float:
    """Where samplers start: the whole table, or as high as `lambda_min_clipped` lets them."""
    whole, lowest = 1e5, float(fields.get("lambda_min_clipped", -math.inf))
    if lowest < -math.log(whole):
        return whole
    if continuous or fields["timestep_spacing"] == "trailing":
        what = f"lambda_min_clipped = {lowest:g} with such a spacing"
        raise _refused(what, "supported: with timestep_spacing linspace or leading")
    return math.exp(-lowest)


def _sampler(kind: str, fields: Mapping[str, Any]) -> str:
    if kind == "UniPCMultistepScheduler":
        order = fields["solver_order"]
        if order not in UNIPC:
            raise _refused(f"solver_order = {order!r}", "supported: 1, 2, 3")
        if not fields["predict_x0"] and fields["final_sigmas_type"] == "zero":
            raise _refused(
                "predict_x0 = False and a last sigma of 0", "final_sigmas_type sigma_min"
            )
        return UNIPC[order]
    if kind != "DPMSolverMultistepScheduler":
        return SAMPLER_OF[kind]
    solver = fields["algorithm_type"], fields["solver_order"], fields["solver_type"]
    if solver not in SOLVERS:
        raise _refused(
            f"DPM-Solver {' '.join(map(str, solver))}",
            "supported: " + ", ".join(" ".join(map(str, s)) for s in SOLVERS),
        )
    if not solver[0].endswith("++") and fields["final_sigmas_type"] == "zero":
        raise _refused(f"{solver[0]} and a last sigma of 0", "final_sigmas_type sigma_min")
    return SOLVERS[solver]
