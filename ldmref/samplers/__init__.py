"""Samplers by name, the loop that runs them, and the entry point for other people's.

A package offers a sampler through the entry-point group `ldmref.samplers`; the object named there
is a `Sampler`. It is loaded only when its name is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points

from ldmref.errors import UsageError, did_you_mean
from ldmref.samplers.dpm_multistep import dpm_solver_multistep
from ldmref.samplers.dpm_solver import dpm_solver, dpmpp_2s, dpmpp_sde
from ldmref.samplers.dpmpp import dpmpp_2m, dpmpp_3m
from ldmref.samplers.inversion import invert
from ldmref.samplers.lcm import lcm
from ldmref.samplers.loop import Step, StepFunction, sample
from ldmref.samplers.multistep import deis, lms, pndm
from ldmref.samplers.runge_kutta import heun, midpoint, rk4, rk45, runge_kutta
from ldmref.samplers.steps import ancestral, with_noise
from ldmref.samplers.unipc import unipc

__all__ = [
    "ALIASES",
    "SAMPLERS",
    "Sampler",
    "Step",
    "ancestral",
    "deis",
    "dpm_solver",
    "dpm_solver_multistep",
    "dpmpp_2m",
    "dpmpp_2s",
    "dpmpp_3m",
    "dpmpp_sde",
    "get_sampler",
    "heun",
    "invert",
    "lcm",
    "lms",
    "midpoint",
    "pndm",
    "rk4",
    "rk45",
    "runge_kutta",
    "sample",
    "unipc",
    "with_noise",
]


@dataclass(frozen=True)
class Sampler:
    """What is declared about a sampler; docs, command line and tests are made from it.

    `make() -> step`; `order` of convergence of its deterministic part (its `eta` set to 0) in the
    number of intervals, 0 if it does not converge to the flow; `nfe`, denoiser evaluations per
    step; `eta` is the default of `make(eta=...)`, None where there is no such argument;
    `start_nfe`, evaluations of the first steps, where they differ; `draws`, noises of a step;
    `adaptive`: `nfe` is the least, and steps are cut further as the error asks for; `family`: whose
    way to make a grid its scheduler has in diffusers, one of `conventions.FAMILIES`; `options`,
    arguments of `make` that a scheduler's configuration decides (`course.options_of`).
    """

    make: Callable[..., StepFunction]
    order: int
    nfe: int
    stochastic: bool
    source: str
    eta: float | None = None
    start_nfe: tuple[int, ...] = ()
    draws: int = 1
    adaptive: bool = False
    family: str = "euler"
    options: tuple[str, ...] = ()


def _dpm_solver_2_a(eta: float = 1.0) -> StepFunction:
    return with_noise(dpm_solver(2), eta)


def _dpmpp_2s_a(eta: float = 1.0) -> StepFunction:
    return with_noise(dpmpp_2s(), eta)


_UNIPC = ("variant", "order_at", "noise_prediction", "uncorrected")
_DPM, _DPMPP = "arXiv:2206.00927, algorithm", "arXiv:2211.01095, algorithm"

SAMPLERS: dict[str, Sampler] = {
    "ddpm": Sampler(
        partial(ancestral, eta=1.0), 1, 1, True, "arXiv:2006.11239, algorithm 2", family="ddim"
    ),
    "ddim": Sampler(ancestral, 1, 1, False, "arXiv:2010.02502, eq. 12", eta=0.0, family="ddim"),
    "euler": Sampler(partial(ancestral, eta=0.0), 1, 1, False, "arXiv:2206.00364, algorithm 1"),
    "euler_a": Sampler(
        partial(ancestral, eta=1.0), 1, 1, True, "arXiv:2010.02502, eq. 16", eta=1.0
    ),
    "heun": Sampler(heun, 2, 2, False, "arXiv:2206.00364, algorithm 1"),
    "midpoint": Sampler(midpoint, 2, 2, False, "Hairer et al. 1993, section II.1"),
    "rk4": Sampler(rk4, 4, 4, False, "Hairer et al. 1993, table II.1.2"),
    "rk45": Sampler(rk45, 5, 7, False, "Dormand and Prince 1980, table 2", adaptive=True),
    "lms": Sampler(lms, 4, 1, False, "k-diffusion, sample_lms", start_nfe=(4, 4, 4)),
    "lms_euler": Sampler(partial(lms, 4, "euler"), 2, 1, False, "k-diffusion, sample_lms"),
    "pndm": Sampler(
        pndm, 2, 1, False, "arXiv:2202.09778, algorithm 2", start_nfe=(2,), family="ddim"
    ),
    "deis": Sampler(deis, 2, 1, False, "arXiv:2204.13902, section 3.2", family="multistep"),
    "deis_3": Sampler(
        partial(deis, 3, "runge_kutta"),
        3,
        1,
        False,
        "arXiv:2204.13902, section 3.2",
        start_nfe=(4, 4),
        family="multistep",
    ),
    "dpm_solver_2": Sampler(partial(dpm_solver, 2), 2, 2, False, f"{_DPM} 1"),
    "dpm_solver_2_a": Sampler(_dpm_solver_2_a, 2, 2, True, f"{_DPM} 1, ancestral", eta=1.0),
    "dpm_solver_3": Sampler(partial(dpm_solver, 3), 3, 3, False, f"{_DPM} 2"),
    "dpm_solver_2m": Sampler(
        dpm_solver_multistep,
        2,
        1,
        False,
        "arXiv:2206.00927, published code",
        family="multistep",
        options=("solver", "order_at"),
    ),
    "dpm_solver_3m": Sampler(
        partial(dpm_solver_multistep, 3),
        2,
        1,
        False,
        "arXiv:2206.00927, published code",
        family="multistep",
        options=("solver", "order_at"),
    ),
    "dpm_solver_1_sde": Sampler(
        partial(dpm_solver_multistep, 1, eta=1.0),
        1,
        1,
        True,
        "arXiv:2206.00927, published code",
        1.0,
        family="multistep",
    ),
    "dpm_solver_2m_sde": Sampler(
        partial(dpm_solver_multistep, eta=1.0),
        2,
        1,
        True,
        "arXiv:2206.00927, published code",
        1.0,
        family="multistep",
        options=("solver", "order_at"),
    ),
    "dpmpp_1": Sampler(
        partial(ancestral, eta=0.0),
        1,
        1,
        False,
        "arXiv:2211.01095, eq. 9",
        family="multistep",
    ),
    "dpmpp_1_sde": Sampler(
        partial(ancestral, eta=1.0),
        1,
        1,
        True,
        "arXiv:2211.01095, eq. 18",
        1.0,
        family="multistep",
    ),
    "dpmpp_2s": Sampler(dpmpp_2s, 2, 2, False, f"{_DPMPP} 1", family="multistep"),
    "dpmpp_2s_a": Sampler(_dpmpp_2s_a, 2, 2, True, f"{_DPMPP} 1, ancestral", eta=1.0),
    "dpmpp_sde": Sampler(dpmpp_sde, 2, 2, True, "k-diffusion, sample_dpmpp_sde", 1.0, draws=2),
    "dpmpp_2m": Sampler(
        partial(dpmpp_2m, eta=0.0),
        2,
        1,
        False,
        f"{_DPMPP} 2",
        family="multistep",
        options=("order_at",),
    ),
    "dpmpp_2m_heun": Sampler(
        partial(dpmpp_2m, eta=0.0, solver="heun"),
        2,
        1,
        False,
        "arXiv:2211.01095, section 5",
        family="multistep",
        options=("order_at",),
    ),
    "dpmpp_3m": Sampler(
        partial(dpmpp_3m, eta=0.0),
        2,
        1,
        False,
        "arXiv:2211.01095, published code",
        family="multistep",
        options=("solver", "order_at"),
    ),
    "dpmpp_2m_sde": Sampler(
        partial(dpmpp_2m, eta=1.0),
        2,
        1,
        True,
        "k-diffusion, sample_dpmpp_2m_sde",
        1.0,
        family="multistep",
        options=("order_at",),
    ),
    "dpmpp_2m_sde_heun": Sampler(
        partial(dpmpp_2m, eta=1.0, solver="heun"),
        2,
        1,
        True,
        "k-diffusion, sample_dpmpp_2m_sde",
        1.0,
        family="multistep",
        options=("order_at",),
    ),
    "dpmpp_3m_sde": Sampler(
        dpmpp_3m,
        2,
        1,
        True,
        "k-diffusion, sample_dpmpp_3m_sde",
        1.0,
        family="multistep",
        options=("solver", "order_at", "flipped"),
    ),
    "unipc_1": Sampler(
        partial(unipc, 1),
        2,
        1,
        False,
        "arXiv:2302.04867, algorithms 1 and 2",
        family="multistep",
        options=_UNIPC,
    ),
    "unipc": Sampler(
        unipc,
        3,
        1,
        False,
        "arXiv:2302.04867, algorithms 1 and 2",
        family="multistep",
        options=_UNIPC,
    ),
    "unipc_3": Sampler(
        partial(unipc, 3),
        3,
        1,
        False,
        "arXiv:2302.04867, algorithms 1 and 2",
        family="multistep",
        options=_UNIPC,
    ),
    "lcm": Sampler(lcm, 0, 1, True, "arXiv:2310.04378, algorithm 3", family="ddim"),
}

ALIASES = {  # in lower case: how A1111 and others call them
    "euler a": "euler_a",
    "dpm2": "dpm_solver_2",
    "dpm2 a": "dpm_solver_2_a",
    "dpm++ 2s": "dpmpp_2s",
    "dpm++ 2s a": "dpmpp_2s_a",
    "dpm++ sde": "dpmpp_sde",
    "dpm++ 2m": "dpmpp_2m",
    "dpm++ 2m sde": "dpmpp_2m_sde",
    "dpm++ 2m sde heun": "dpmpp_2m_sde_heun",
    "dpm++ 3m sde": "dpmpp_3m_sde",
    "plms": "pndm",
    "uni_pc": "unipc",
}


def get_sampler(name: str) -> Sampler:
    """The sampler of that name (A1111's spellings are understood), or a plug-in's.

    Raises:
        UsageError: no such sampler, or a plug-in under a built-in's name.
    """
    name = ALIASES.get(name.lower(), name.lower())
    plugins = {point.name: point for point in entry_points(group="ldmref.samplers")}
    clash = sorted(set(plugins) & set(SAMPLERS))
    if clash:
        raise UsageError(f"a plug-in takes the built-in name {clash[0]!r}", code="E-PLUGIN")
    if name in SAMPLERS:
        return SAMPLERS[name]
    if name in plugins:
        return plugins[name].load()
    known = [*SAMPLERS, *plugins]
    raise UsageError(f"unknown sampler {name!r}", code="E-SAMPLER", hint=did_you_mean(name, known))
