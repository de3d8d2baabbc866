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

# Functions that have the name of their module are imported at once (`ldmref.support.lazy`).
from ldmref.samplers.autoguidance import autoguidance as autoguidance
from ldmref.samplers.cfgpp import cfgpp as cfgpp
from ldmref.samplers.churn import churn as churn
from ldmref.samplers.dpm_solver import dpm_solver as dpm_solver
from ldmref.samplers.er_sde import er_sde as er_sde
from ldmref.samplers.ipndm_v import ipndm_v as ipndm_v
from ldmref.samplers.lcm import lcm as lcm
from ldmref.samplers.rectified_cfgpp import rectified_cfgpp as rectified_cfgpp
from ldmref.samplers.runge_kutta import runge_kutta as runge_kutta
from ldmref.samplers.tcd import tcd as tcd
from ldmref.samplers.unipc import unipc as unipc
from ldmref.support.lazy import export_lazily

if TYPE_CHECKING:
    from ldmref.samplers.autoguidance import Autoguidance as Autoguidance
    from ldmref.samplers.churn import euler_churn as euler_churn
    from ldmref.samplers.churn import heun_churn as heun_churn
    from ldmref.samplers.config import SchedulerConfig as SchedulerConfig
    from ldmref.samplers.configure import configured_step as configured_step
    from ldmref.samplers.denoiser import guided_denoiser as guided_denoiser
    from ldmref.samplers.dpm_multistep import dpm_solver_multistep as dpm_solver_multistep
    from ldmref.samplers.dpm_solver import dpmpp_2s as dpmpp_2s
    from ldmref.samplers.dpm_solver import dpmpp_sde as dpmpp_sde
    from ldmref.samplers.dpmpp import dpmpp_2m as dpmpp_2m
    from ldmref.samplers.dpmpp import dpmpp_3m as dpmpp_3m
    from ldmref.samplers.editing import flow_edit as flow_edit
    from ldmref.samplers.editing import toward_data as toward_data
    from ldmref.samplers.editing import toward_noise as toward_noise
    from ldmref.samplers.guidance import Guidance as Guidance
    from ldmref.samplers.guidance_attention import NormalizedAttention as NormalizedAttention
    from ldmref.samplers.guidance_directions import AdaptiveProjected as AdaptiveProjected
    from ldmref.samplers.guidance_directions import PerpendicularNegative as PerpendicularNegative
    from ldmref.samplers.guidance_directions import PerturbedAttention as PerturbedAttention
    from ldmref.samplers.guidance_directions import SkipLayers as SkipLayers
    from ldmref.samplers.guidance_norms import MagnitudeAware as MagnitudeAware
    from ldmref.samplers.guidance_norms import Renormalized as Renormalized
    from ldmref.samplers.guidance_norms import Tangential as Tangential
    from ldmref.samplers.guidance_norms import ZeroStar as ZeroStar
    from ldmref.samplers.guidance_registry import GUIDANCES as GUIDANCES
    from ldmref.samplers.guidance_registry import get_guidance as get_guidance
    from ldmref.samplers.guidances import ClassifierFree as ClassifierFree
    from ldmref.samplers.guidances import LimitedInterval as LimitedInterval
    from ldmref.samplers.guidances import Rescale as Rescale
    from ldmref.samplers.guidances import Threshold as Threshold
    from ldmref.samplers.heunpp import heunpp2 as heunpp2
    from ldmref.samplers.interfaces import Constraint as Constraint
    from ldmref.samplers.interfaces import Denoiser as Denoiser
    from ldmref.samplers.interfaces import Guided as Guided
    from ldmref.samplers.interfaces import GuidedDenoiser as GuidedDenoiser
    from ldmref.samplers.interfaces import History as History
    from ldmref.samplers.interfaces import Interval as Interval
    from ldmref.samplers.interfaces import Noise as Noise
    from ldmref.samplers.interfaces import State as State
    from ldmref.samplers.interfaces import Step as Step
    from ldmref.samplers.interfaces import Stepped as Stepped
    from ldmref.samplers.inversion import implicit as implicit
    from ldmref.samplers.inversion import invert as invert
    from ldmref.samplers.loop import sample as sample
    from ldmref.samplers.moments import exponential_moment as exponential_moment
    from ldmref.samplers.moments import moment_weights as moment_weights
    from ldmref.samplers.multistep import deis as deis
    from ldmref.samplers.multistep import gradient_estimation as gradient_estimation
    from ldmref.samplers.multistep import ipndm as ipndm
    from ldmref.samplers.multistep import lms as lms
    from ldmref.samplers.multistep import pndm as pndm
    from ldmref.samplers.noise import Streams as Streams
    from ldmref.samplers.own_spacing import Spacing as Spacing
    from ldmref.samplers.own_spacing import get_spacing as get_spacing
    from ldmref.samplers.path import FLOW as FLOW
    from ldmref.samplers.path import VE as VE
    from ldmref.samplers.path import NoisePath as NoisePath
    from ldmref.samplers.predictions import AttentionGuided as AttentionGuided
    from ldmref.samplers.predictions import LayersLeftOut as LayersLeftOut
    from ldmref.samplers.predictions import PartsPerturbed as PartsPerturbed
    from ldmref.samplers.predictions import Prediction as Prediction
    from ldmref.samplers.predictions import Steering as Steering
    from ldmref.samplers.predictions import WeakerModel as WeakerModel
    from ldmref.samplers.ratio import on_ratio as on_ratio
    from ldmref.samplers.registry import ALIASES as ALIASES
    from ldmref.samplers.registry import SAMPLERS as SAMPLERS
    from ldmref.samplers.registry import get_sampler as get_sampler
    from ldmref.samplers.repaint import repaint_visits as repaint_visits
    from ldmref.samplers.runge_kutta import heun as heun
    from ldmref.samplers.runge_kutta import midpoint as midpoint
    from ldmref.samplers.runge_kutta import rk4 as rk4
    from ldmref.samplers.runge_kutta import rk45 as rk45
    from ldmref.samplers.sampler import Sampler as Sampler
    from ldmref.samplers.schedule import Schedule as Schedule
    from ldmref.samplers.schedule import make_schedule as make_schedule
    from ldmref.samplers.seeds import seeds_2 as seeds_2
    from ldmref.samplers.seeds import seeds_3 as seeds_3
    from ldmref.samplers.singlestep import dpmpp_singlestep as dpmpp_singlestep
    from ldmref.samplers.spacings import SPACINGS as SPACINGS
    from ldmref.samplers.spacings import sigma_grid as sigma_grid
    from ldmref.samplers.steps import ancestral as ancestral
    from ldmref.samplers.steps import euler_step as euler_step
    from ldmref.samplers.steps import with_noise as with_noise

__getattr__, _, __all__ = export_lazily(__name__)


def __dir__() -> list[str]:
    return __all__
