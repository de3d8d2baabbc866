"""Samplers: pure step functions, the one loop that runs them, and the schedules they run on.

| file             | content                                                                    |
|------------------|----------------------------------------------------------------------------|
| `loop.py`        | `sample`                                                                   |
| `interfaces.py`  | steps, denoisers, noise and constraints                                    |
| `schedule.py`    | `make_schedule`: sigmas, timesteps, initial noise scale                    |
| `spacings.py`    | `sigma_grid`: the names in `SPACINGS`                                      |
| `own_spacing.py` | `Spacing`: a spacing of one's own, by name from a package                  |
| `registry.py`    | `SAMPLERS`: every sampler with its order, cost and source                  |
| `configure.py`   | the step as configured by a checkpoint's scheduler                         |
| `path.py`        | the paths of runs: x0 + sigma eps, and that of flow matching               |
| `ratio.py`       | `on_ratio`: methods for x0 + sigma eps on any path                         |
| `steps.py` ...   | the methods                                                                |
| `lower_order.py` | lower orders in the last steps                                             |
| `denoiser.py`    | from a network to `denoise(x, sigma) -> x0`, with guidance                 |
| `guidance.py`    | the interface of a guidance; `guidance_registry.py`: `GUIDANCES`          |
| `noise.py` ...   | noise that depends only on the seed                                        |
| `diffusers/`     | conventions of diffusers' schedulers                                       |
"""

from typing import TYPE_CHECKING

from ldmref.samplers.autoguidance import Autoguidance, autoguidance
from ldmref.samplers.cfgpp import cfgpp
from ldmref.samplers.churn import churn, euler_churn, heun_churn
from ldmref.samplers.config import SchedulerConfig
from ldmref.samplers.configure import configured_step
from ldmref.samplers.denoiser import guided_denoiser
from ldmref.samplers.dpm_multistep import dpm_solver_multistep
from ldmref.samplers.dpm_solver import dpm_solver, dpmpp_2s, dpmpp_sde
from ldmref.samplers.dpmpp import dpmpp_2m, dpmpp_3m
from ldmref.samplers.editing import flow_edit, toward_data, toward_noise
from ldmref.samplers.er_sde import er_sde
from ldmref.samplers.guidance import Guidance
from ldmref.samplers.guidance_attention import NormalizedAttention
from ldmref.samplers.guidance_directions import (
    AdaptiveProjected,
    PerpendicularNegative,
    PerturbedAttention,
    SkipLayers,
)
from ldmref.samplers.guidance_norms import MagnitudeAware, Renormalized, Tangential, ZeroStar
from ldmref.samplers.guidance_registry import GUIDANCES, get_guidance
from ldmref.samplers.guidances import ClassifierFree, LimitedInterval, Rescale, Threshold
from ldmref.samplers.heunpp import heunpp2
from ldmref.samplers.interfaces import (
    Constraint,
    Denoiser,
    Guided,
    GuidedDenoiser,
    History,
    Interval,
    Noise,
    State,
    Step,
    Stepped,
)
from ldmref.samplers.inversion import implicit, invert
from ldmref.samplers.ipndm_v import ipndm_v
from ldmref.samplers.lcm import lcm
from ldmref.samplers.loop import sample
from ldmref.samplers.moments import exponential_moment, moment_weights
from ldmref.samplers.multistep import deis, gradient_estimation, ipndm, lms, pndm
from ldmref.samplers.noise import Streams
from ldmref.samplers.own_spacing import Spacing, get_spacing
from ldmref.samplers.path import FLOW, VE, NoisePath
from ldmref.samplers.predictions import (
    AttentionGuided,
    LayersLeftOut,
    PartsPerturbed,
    Prediction,
    Steering,
    WeakerModel,
)
from ldmref.samplers.ratio import on_ratio
from ldmref.samplers.rectified_cfgpp import rectified_cfgpp
from ldmref.samplers.registry import ALIASES, SAMPLERS, get_sampler
from ldmref.samplers.repaint import repaint_visits
from ldmref.samplers.runge_kutta import heun, midpoint, rk4, rk45, runge_kutta
from ldmref.samplers.sampler import Sampler
from ldmref.samplers.schedule import Schedule, make_schedule
from ldmref.samplers.seeds import seeds_2, seeds_3
from ldmref.samplers.singlestep import dpmpp_singlestep
from ldmref.samplers.spacings import SPACINGS, sigma_grid
from ldmref.samplers.steps import ancestral, euler_step, with_noise
from ldmref.samplers.tcd import tcd
from ldmref.samplers.unipc import unipc
from ldmref.support.renames import find_former_names

__all__ = [
    "ALIASES", "FLOW", "GUIDANCES", "SAMPLERS", "SPACINGS", "VE", "AdaptiveProjected",
    "AttentionGuided", "Autoguidance", "ClassifierFree", "Constraint", "Denoiser", "Guidance",
    "Guided", "GuidedDenoiser", "History", "Interval", "LayersLeftOut", "LimitedInterval",
    "MagnitudeAware", "Noise", "NoisePath", "NormalizedAttention", "PartsPerturbed",
    "PerpendicularNegative", "PerturbedAttention", "Prediction", "Renormalized", "Rescale",
    "Sampler", "Schedule", "SchedulerConfig", "SkipLayers", "Spacing", "State", "Steering", "Step",
    "Stepped", "Streams", "Tangential", "Threshold", "WeakerModel", "ZeroStar", "ancestral",
    "autoguidance", "cfgpp", "churn", "configured_step", "deis", "dpm_solver",
    "dpm_solver_multistep", "dpmpp_2m", "dpmpp_2s", "dpmpp_3m", "dpmpp_sde", "dpmpp_singlestep",
    "er_sde", "euler_churn", "euler_step", "exponential_moment", "flow_edit", "get_guidance",
    "get_sampler", "get_spacing", "gradient_estimation", "guided_denoiser", "heun", "heun_churn",
    "heunpp2", "implicit", "invert", "ipndm", "ipndm_v", "lcm", "lms", "make_schedule", "midpoint",
    "moment_weights", "on_ratio", "pndm", "rectified_cfgpp", "repaint_visits", "rk4", "rk45",
    "runge_kutta", "sample", "seeds_2", "seeds_3", "sigma_grid", "tcd", "toward_data",
    "toward_noise", "unipc", "with_noise",
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__


if not TYPE_CHECKING:  # which would take any name for one of this package
    __getattr__ = find_former_names(__name__)
