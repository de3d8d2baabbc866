"""Samplers by name, built in and from other packages.

A package offers a sampler with an entry point that names a `Sampler` object:

    [project.entry-points."ldmref.samplers"]
    my_method = "my_package.samplers:my_sampler"

It is loaded when the name is requested.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ldmref.errors import UsageError, short_repr
from ldmref.samplers.cfgpp import cfgpp
from ldmref.samplers.churn import euler_churn, heun_churn
from ldmref.samplers.dpm_multistep import dpm_solver_multistep
from ldmref.samplers.dpm_solver import dpm_solver, dpmpp_2s, dpmpp_sde
from ldmref.samplers.dpmpp import dpmpp_2m, dpmpp_3m
from ldmref.samplers.er_sde import er_sde
from ldmref.samplers.heunpp import heunpp2
from ldmref.samplers.interfaces import Step
from ldmref.samplers.ipndm_v import ipndm_v
from ldmref.samplers.lcm import lcm
from ldmref.samplers.multistep import deis, gradient_estimation, ipndm, lms, pndm
from ldmref.samplers.notation import read_notation
from ldmref.samplers.rectified_cfgpp import RectifiedParameters, rectified_cfgpp
from ldmref.samplers.runge_kutta import heun, midpoint, rk4, rk45
from ldmref.samplers.sampler import SAMPLER_CODE, Sampler
from ldmref.samplers.seeds import seeds_2, seeds_3
from ldmref.samplers.singlestep import dpmpp_singlestep
from ldmref.samplers.steps import ancestral, with_noise
from ldmref.samplers.tcd import tcd
from ldmref.samplers.unipc import unipc
from ldmref.support.plugins import describe_origin, find_plugin, load_plugin, suggest_names


def _dpm_solver_2_a(eta: float = 1.0) -> Step:
    return with_noise(dpm_solver(2), eta)


def _dpmpp_2s_a(eta: float = 1.0) -> Step:
    return with_noise(dpmpp_2s(), eta)


_DDPM = "arXiv:2006.11239"
_DDIM = "arXiv:2010.02502"
_EDM = "arXiv:2206.00364"
_DPM = "arXiv:2206.00927"
_DPMPP = "arXiv:2211.01095"
_UNIPC = "arXiv:2302.04867"
_DEIS = "arXiv:2204.13902, section 3.2"
_CFGPP = "arXiv:2406.08070"
_SEEDS = "arXiv:2305.14267"
_EXP_HEUN = partial(seeds_2, r=1.0, solver="phi_2")
_RK = "Hairer et al. 1993"

_SOLVER = ("solver",)
_UNIPC_OPTIONS = ("variant", "noise_prediction", "lower_order_final", "disable_corrector")

# fmt: off
_SAMPLERS: dict[str, Sampler] = {
    "ddpm": Sampler(
        partial(ancestral, eta=1.0), 1, 1, True, f"{_DDPM}, algorithm 2",
        clean_end=True, family="ddim"),
    "ddim": Sampler(
        ancestral, 1, 1, False, f"{_DDIM}, eq. 12", eta=0.0, family="ddim", jumps=True),
    "euler": Sampler(
        partial(ancestral, eta=0.0), 1, 1, False, f"{_EDM}, algorithm 1", straight=True,
        jumps=True),
    "euler_a": Sampler(
        partial(ancestral, eta=1.0), 1, 1, True, f"{_DDIM}, eq. 16", eta=1.0, jumps=True),
    "euler_churn": Sampler(
        euler_churn, 1, 1, True, f"{_EDM}, algorithm 2 with Euler steps", straight=True),
    "gradient_estimation": Sampler(
        gradient_estimation, 1, 1, False, "arXiv:2306.04848, algorithm 2", straight=True),
    "heun": Sampler(heun, 2, 2, False, f"{_EDM}, algorithm 1", straight=True),
    "heun_churn": Sampler(heun_churn, 2, 2, True, f"{_EDM}, algorithm 2", straight=True),
    "heunpp2": Sampler(heunpp2, 1, 3, False, "ComfyUI, sample_heunpp2", straight=True),
    "midpoint": Sampler(midpoint, 2, 2, False, f"{_RK}, section II.1", straight=True),
    "rk4": Sampler(rk4, 4, 4, False, f"{_RK}, table II.1.2", straight=True),
    "rk45": Sampler(
        rk45, 5, 7, False, "Dormand and Prince 1980, table 2", adaptive=True, straight=True),
    "lms": Sampler(
        lms, 4, 1, False, "k-diffusion, sample_lms", start_nfe=(4, 4, 4), straight=True),
    "lms_euler": Sampler(
        partial(lms, 4, "euler"), 2, 1, False, "k-diffusion, sample_lms", straight=True),
    "pndm": Sampler(
        pndm, 2, 1, False, "arXiv:2202.09778, algorithm 2",
        start_nfe=(2,), straight=True, family="ddim"),
    "ipndm": Sampler(ipndm, 2, 1, False, f"{_DEIS} (iPNDM)", straight=True),
    "ipndm_v": Sampler(ipndm_v, 2, 1, False, "arXiv:2312.00094, published code", straight=True),
    "deis": Sampler(deis, 2, 1, False, _DEIS, lower_orders="configured", family="multistep"),
    "deis_3_euler": Sampler(
        partial(deis, 3), 2, 1, False, _DEIS, lower_orders="configured", family="multistep"),
    "deis_3": Sampler(
        partial(deis, 3, "runge_kutta"), 3, 1, False, _DEIS, start_nfe=(4, 4), family="multistep"),
    "dpm_solver_2": Sampler(partial(dpm_solver, 2), 2, 2, False, f"{_DPM}, algorithm 1"),
    "dpm_solver_2_a": Sampler(
        _dpm_solver_2_a, 2, 2, True, f"{_DPM}, algorithm 1, ancestral", eta=1.0),
    "dpm_solver_3": Sampler(partial(dpm_solver, 3), 3, 3, False, f"{_DPM}, algorithm 2"),
    "dpm_solver_2m": Sampler(
        dpm_solver_multistep, 2, 1, False, f"{_DPM}, published code",
        lower_orders="configured", configurable=_SOLVER, family="multistep"),
    "dpm_solver_3m": Sampler(
        partial(dpm_solver_multistep, 3), 2, 1, False, f"{_DPM}, published code",
        lower_orders="always", configurable=_SOLVER, family="multistep"),
    "dpm_solver_1_sde": Sampler(
        partial(dpm_solver_multistep, 1, eta=1.0), 1, 1, True, f"{_DPM}, published code",
        eta=1.0, family="multistep"),
    "dpm_solver_2m_sde": Sampler(
        partial(dpm_solver_multistep, eta=1.0), 2, 1, True, f"{_DPM}, published code",
        eta=1.0, lower_orders="configured", configurable=_SOLVER, family="multistep"),
    "dpmpp_1": Sampler(
        partial(ancestral, eta=0.0), 1, 1, False, f"{_DPMPP}, eq. 9", family="multistep"),
    "dpmpp_1_sde": Sampler(
        partial(ancestral, eta=1.0), 1, 1, True, f"{_DPMPP}, eq. 18", eta=1.0, family="multistep"),
    "dpmpp_2s": Sampler(dpmpp_2s, 2, 2, False, f"{_DPMPP}, algorithm 1", family="multistep"),
    "dpmpp_2s_a": Sampler(_dpmpp_2s_a, 2, 2, True, f"{_DPMPP}, algorithm 1, ancestral", eta=1.0),
    "dpmpp_sde": Sampler(
        dpmpp_sde, 2, 2, True, "k-diffusion, sample_dpmpp_sde", eta=1.0, draws=2),
    "dpmpp_2_singlestep": Sampler(
        dpmpp_singlestep, 2, 1, False, f"{_DPMPP}, published code",
        block=2, configurable=_SOLVER, family="multistep"),
    "dpmpp_3_singlestep": Sampler(
        partial(dpmpp_singlestep, 3), 2, 1, False, f"{_DPMPP}, published code",
        block=3, configurable=_SOLVER, family="multistep"),
    "dpmpp_2m": Sampler(
        dpmpp_2m, 2, 1, False, f"{_DPMPP}, algorithm 2",
        lower_orders="configured", family="multistep"),
    "dpmpp_2m_sigma": Sampler(
        dpmpp_2m, 2, 1, False, "Stability-AI/sd3.5, sample_dpmpp_2m",
        lower_orders="configured", straight=True, family="multistep"),
    "dpmpp_2m_heun": Sampler(
        partial(dpmpp_2m, solver="heun"), 2, 1, False, f"{_DPMPP}, section 5",
        lower_orders="configured", family="multistep"),
    "dpmpp_3m": Sampler(
        partial(dpmpp_3m, eta=0.0), 2, 1, False, f"{_DPMPP}, published code",
        lower_orders="always", configurable=_SOLVER, family="multistep"),
    "dpmpp_2m_sde": Sampler(
        partial(dpmpp_2m, eta=1.0), 2, 1, True, "k-diffusion, sample_dpmpp_2m_sde",
        eta=1.0, lower_orders="configured", family="multistep"),
    "dpmpp_2m_sde_heun": Sampler(
        partial(dpmpp_2m, eta=1.0, solver="heun"), 2, 1, True, "k-diffusion, sample_dpmpp_2m_sde",
        eta=1.0, lower_orders="configured", family="multistep"),
    "dpmpp_3m_sde": Sampler(
        dpmpp_3m, 2, 1, True, "k-diffusion, sample_dpmpp_3m_sde",
        eta=1.0, lower_orders="always", configurable=_SOLVER, family="multistep"),
    "unipc_1": Sampler(
        partial(unipc, 1), 2, 1, False, f"{_UNIPC}, algorithms 1 and 2",
        configurable=_UNIPC_OPTIONS, family="multistep"),
    "unipc": Sampler(
        unipc, 3, 1, False, f"{_UNIPC}, algorithms 1 and 2",
        configurable=_UNIPC_OPTIONS, family="multistep"),
    "unipc_3": Sampler(
        partial(unipc, 3), 3, 1, False, f"{_UNIPC}, algorithms 1 and 2",
        configurable=_UNIPC_OPTIONS, family="multistep"),
    "seeds_2": Sampler(seeds_2, 2, 2, True, f"{_SEEDS}, algorithm 2", eta=1.0, draws=2),
    "seeds_3": Sampler(seeds_3, 3, 3, True, f"{_SEEDS}, algorithm 3", eta=1.0, draws=3),
    "exp_heun_2_x0": Sampler(partial(_EXP_HEUN, 0.0), 2, 2, False, "ComfyUI, sample_exp_heun_2_x0"),
    "exp_heun_2_x0_sde": Sampler(
        _EXP_HEUN, 2, 2, True, "ComfyUI, sample_exp_heun_2_x0_sde", eta=1.0),
    "er_sde": Sampler(er_sde, 1, 1, True, "arXiv:2309.06169, algorithm 3"),
    "ddim_cfgpp": Sampler(
        cfgpp, 1, 1, False, f"{_CFGPP}, algorithm 2", eta=0.0, unconditional=True, family="ddim"),
    "euler_cfgpp": Sampler(
        partial(cfgpp, eta=0.0), 1, 1, False, f"{_CFGPP}, algorithm 2", unconditional=True),
    "rectified_cfgpp": Sampler(
        rectified_cfgpp, 1, 2, False, "arXiv:2510.07631, algorithm 1", unconditional=True,
        own_guidance=True, straight=True, parameters=RectifiedParameters),
    "lcm": Sampler(
        lcm, 0, 1, True, "arXiv:2310.04378, algorithm 3", clean_end=True, family="ddim",
        jumps=True),
    "tcd": Sampler(
        tcd, 0, 1, True, "arXiv:2402.19159, algorithm 2",
        eta=0.3, on_timesteps=True, family="ddim", jumps=True),
}
# fmt: on
SAMPLERS = {name: replace(sampler, name=name) for name, sampler in _SAMPLERS.items()}
"""Every built-in `Sampler` by its name; `SAMPLERS["euler"].make()` returns its step."""

ALIASES = {  # names of A1111, ComfyUI and diffusers, in lower case
    "euler a": "euler_a",
    "euler_ancestral": "euler_a",
    "dpm2": "dpm_solver_2",
    "dpm_2": "dpm_solver_2",
    "kdpm2": "dpm_solver_2",
    "dpm2 a": "dpm_solver_2_a",
    "dpm_2_ancestral": "dpm_solver_2_a",
    "kdpm2_a": "dpm_solver_2_a",
    "dpm++ 2s": "dpmpp_2s",
    "dpm++ 2s a": "dpmpp_2s_a",
    "dpmpp_2s_ancestral": "dpmpp_2s_a",
    "dpm++ sde": "dpmpp_sde",
    "dpm++ 2m": "dpmpp_2m",
    "res_multistep": "dpmpp_2m_heun",
    "dpm++ 2m sde": "dpmpp_2m_sde",
    "dpm++ 2m sde heun": "dpmpp_2m_sde_heun",
    "res_multistep_ancestral": "dpmpp_2m_sde_heun",
    "dpm++ 3m sde": "dpmpp_3m_sde",
    "ddim_cfg++": "ddim_cfgpp",
    "euler_cfg++": "euler_cfgpp",
    "euler_cfg_pp": "euler_cfgpp",
    "euler cfg++": "euler_cfgpp",
    "rectified_cfg++": "rectified_cfgpp",
    "plms": "pndm",
    "rf_solver": "midpoint",
    "uni_pc": "unipc",
}
"""The names of other programs, in lower case, each with the name in `SAMPLERS`."""
GROUP = "ldmref.samplers"
PARAMETER_HINT = "rectified_cfgpp, or with parameters rectified_cfgpp:power=1"
SUBSTITUTES = ("ddim", "euler", "dpmpp_2m")  # suggested for unknown schedulers of diffusers


def get_sampler(name: str) -> Sampler:
    """Return a built-in sampler or a plug-in's sampler by its name.

    Args:
        name: Name in `SAMPLERS` or `ALIASES`, or of an entry point, in any case; parameters follow
            a colon: "rectified_cfgpp:power=1".

    Returns:
        The sampler; `sampler.make()` returns its step for `sample`.

    Raises:
        UsageError: No sampler has this name, it has no such parameter, or a plug-in cannot be
            imported or is not a `Sampler`.

    >>> from ldmref.samplers import get_sampler
    >>> get_sampler("DPM++ 2M")
    <Sampler 'dpmpp_2m': order 2, 1 evaluations per step>
    """
    lower, colon, _ = str(name).lower().partition(":")
    sampler = SAMPLERS.get(ALIASES.get(lower, lower))
    if sampler is None:
        return load_sampler(name, lower)
    if not colon:
        return sampler
    _, parameters = read_notation(str(name), "sampler", SAMPLER_CODE, PARAMETER_HINT)
    return sampler.with_parameters(parameters)


def load_sampler(name: str, lower: str) -> Sampler:
    """Return the sampler of a plug-in.

    Args:
        name: As it was given, for the messages.
        lower: The name of the entry point.

    Raises:
        UsageError: As for `get_sampler`.
    """
    point = find_plugin(GROUP, lower)
    if point is None and lower.endswith("scheduler"):  # of a diffusers folder
        raise UsageError(
            f"diffusers' {short_repr(name)} has no sampler here",
            code="E-SCHEDULER",
            hint=f"give one of ldmref's, such as {', '.join(SUBSTITUTES)} (ldmref samplers)",
        )
    if point is None:
        hint = suggest_names(GROUP, SAMPLERS, lower)
        raise UsageError(f"unknown sampler {short_repr(name)}", code=SAMPLER_CODE, hint=hint)
    sampler = load_plugin(point)
    if not isinstance(sampler, Sampler):
        message = f"{describe_origin(point)} is of type {type(sampler).__name__}, not a Sampler"
        raise UsageError(message, code="E-PLUGIN", hint="an entry point names a Sampler object")
    return replace(sampler, name=point.name)
