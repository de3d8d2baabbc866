"""Samplers by name, and the entry point for other people's.

A package offers a sampler with an entry point that names a `Sampler` object:

    [project.entry-points."ldmref.samplers"]
    my_method = "my_package.samplers:my_sampler"

It is loaded only when its name is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from ldmref.errors import UsageError, short_repr
from ldmref.plugins import describe_origin, find_plugin, load_plugin, suggest_names
from ldmref.samplers.churn import euler_churn, heun_churn
from ldmref.samplers.dpm_multistep import dpm_solver_multistep
from ldmref.samplers.dpm_solver import dpm_solver, dpmpp_2s, dpmpp_sde
from ldmref.samplers.dpmpp import dpmpp_2m, dpmpp_3m
from ldmref.samplers.lcm import lcm
from ldmref.samplers.loop import Step
from ldmref.samplers.multistep import deis, gradient_estimation, ipndm, lms, pndm
from ldmref.samplers.runge_kutta import heun, midpoint, rk4, rk45
from ldmref.samplers.singlestep import dpmpp_singlestep
from ldmref.samplers.steps import ancestral, with_noise
from ldmref.samplers.unipc import unipc


@dataclass(frozen=True)
class Sampler:
    """What is declared about a sampler; docs, command line and tests are made from it.

    Args:
        make: `make() -> step`, or `make(eta=...)`.
        order: of convergence of its deterministic part (its `eta` set to 0) in the number of
            steps; 0 if it does not converge to the probability flow.
        nfe: denoiser evaluations per step; with `adaptive`, at least.
        stochastic: whether it draws noise at its default `eta`.
        source: paper or code, with equation or algorithm.
        eta: default of `make(eta=...)`; None if there is no such argument.
        start_nfe: evaluations of the first steps, where they differ.
        draws: noises per step.
        adaptive: whether steps are divided until the error is small.
        name: recorded in images; `SAMPLERS` fills it in.
    """

    make: Callable[..., Step]
    order: int
    nfe: int
    stochastic: bool
    source: str
    eta: float | None = None
    start_nfe: tuple[int, ...] = ()
    draws: int = 1
    adaptive: bool = False
    name: str = "custom"

    def draws_noise(self, eta: float | None) -> bool:
        """Whether it draws noise at that `eta` (None: its default)."""
        return self.stochastic if self.eta is None or eta is None else eta != 0.0


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
_RK = "Hairer et al. 1993"

# fmt: off
_SAMPLERS: dict[str, Sampler] = {
    #                  make(eta) -> step, order, nfe, stochastic, source, eta
    "ddpm": Sampler(partial(ancestral, eta=1.0), 1, 1, True, f"{_DDPM}, algorithm 2"),
    "ddim": Sampler(ancestral, 1, 1, False, f"{_DDIM}, eq. 12", eta=0.0),
    "euler": Sampler(partial(ancestral, eta=0.0), 1, 1, False, f"{_EDM}, algorithm 1"),
    "euler_a": Sampler(partial(ancestral, eta=1.0), 1, 1, True, f"{_DDIM}, eq. 16", eta=1.0),
    "euler_churn": Sampler(euler_churn, 1, 1, True, f"{_EDM}, algorithm 2 with Euler steps"),
    "gradient_estimation": Sampler(
        gradient_estimation, 1, 1, False, "arXiv:2306.04848, algorithm 2"),
    "heun": Sampler(heun, 2, 2, False, f"{_EDM}, algorithm 1"),
    "heun_churn": Sampler(heun_churn, 2, 2, True, f"{_EDM}, algorithm 2"),
    "midpoint": Sampler(midpoint, 2, 2, False, f"{_RK}, section II.1"),
    "rk4": Sampler(rk4, 4, 4, False, f"{_RK}, table II.1.2"),
    "rk45": Sampler(rk45, 5, 7, False, "Dormand and Prince 1980, table 2", adaptive=True),
    "lms": Sampler(lms, 4, 1, False, "k-diffusion, sample_lms", start_nfe=(4, 4, 4)),
    "lms_euler": Sampler(partial(lms, 4, "euler"), 2, 1, False, "k-diffusion, sample_lms"),
    "pndm": Sampler(pndm, 2, 1, False, "arXiv:2202.09778, algorithm 2", start_nfe=(2,)),
    "ipndm": Sampler(ipndm, 2, 1, False, f"{_DEIS} (iPNDM)"),
    "deis": Sampler(deis, 2, 1, False, _DEIS),
    "deis_3_euler": Sampler(partial(deis, 3), 2, 1, False, _DEIS),
    "deis_3": Sampler(partial(deis, 3, "runge_kutta"), 3, 1, False, _DEIS, start_nfe=(4, 4)),
    "dpm_solver_2": Sampler(partial(dpm_solver, 2), 2, 2, False, f"{_DPM}, algorithm 1"),
    "dpm_solver_2_a": Sampler(
        _dpm_solver_2_a, 2, 2, True, f"{_DPM}, algorithm 1, ancestral", eta=1.0),
    "dpm_solver_3": Sampler(partial(dpm_solver, 3), 3, 3, False, f"{_DPM}, algorithm 2"),
    "dpm_solver_2m": Sampler(dpm_solver_multistep, 2, 1, False, f"{_DPM}, published code"),
    "dpm_solver_3m": Sampler(
        partial(dpm_solver_multistep, 3), 2, 1, False, f"{_DPM}, published code"),
    "dpm_solver_1_sde": Sampler(
        partial(dpm_solver_multistep, 1, eta=1.0), 1, 1, True, f"{_DPM}, published code", eta=1.0),
    "dpm_solver_2m_sde": Sampler(
        partial(dpm_solver_multistep, eta=1.0), 2, 1, True, f"{_DPM}, published code", eta=1.0),
    "dpmpp_1": Sampler(partial(ancestral, eta=0.0), 1, 1, False, f"{_DPMPP}, eq. 9"),
    "dpmpp_1_sde": Sampler(partial(ancestral, eta=1.0), 1, 1, True, f"{_DPMPP}, eq. 18", eta=1.0),
    "dpmpp_2s": Sampler(dpmpp_2s, 2, 2, False, f"{_DPMPP}, algorithm 1"),
    "dpmpp_2s_a": Sampler(_dpmpp_2s_a, 2, 2, True, f"{_DPMPP}, algorithm 1, ancestral", eta=1.0),
    "dpmpp_sde": Sampler(
        dpmpp_sde, 2, 2, True, "k-diffusion, sample_dpmpp_sde", eta=1.0, draws=2),
    "dpmpp_2_singlestep": Sampler(dpmpp_singlestep, 2, 1, False, f"{_DPMPP}, published code"),
    "dpmpp_3_singlestep": Sampler(
        partial(dpmpp_singlestep, 3), 2, 1, False, f"{_DPMPP}, published code"),
    "dpmpp_2m": Sampler(dpmpp_2m, 2, 1, False, f"{_DPMPP}, algorithm 2"),
    "dpmpp_2m_heun": Sampler(
        partial(dpmpp_2m, solver="heun"), 2, 1, False, f"{_DPMPP}, section 5"),
    "dpmpp_3m": Sampler(partial(dpmpp_3m, eta=0.0), 2, 1, False, f"{_DPMPP}, published code"),
    "dpmpp_2m_sde": Sampler(
        partial(dpmpp_2m, eta=1.0), 2, 1, True, "k-diffusion, sample_dpmpp_2m_sde", eta=1.0),
    "dpmpp_2m_sde_heun": Sampler(
        partial(dpmpp_2m, eta=1.0, solver="heun"), 2, 1, True,
        "k-diffusion, sample_dpmpp_2m_sde", eta=1.0),
    "dpmpp_3m_sde": Sampler(dpmpp_3m, 2, 1, True, "k-diffusion, sample_dpmpp_3m_sde", eta=1.0),
    "unipc_1": Sampler(partial(unipc, 1), 2, 1, False, f"{_UNIPC}, algorithms 1 and 2"),
    "unipc": Sampler(unipc, 3, 1, False, f"{_UNIPC}, algorithms 1 and 2"),
    "unipc_3": Sampler(partial(unipc, 3), 3, 1, False, f"{_UNIPC}, algorithms 1 and 2"),
    "lcm": Sampler(lcm, 0, 1, True, "arXiv:2310.04378, algorithm 3"),
}
# fmt: on
SAMPLERS = {name: replace(sampler, name=name) for name, sampler in _SAMPLERS.items()}

ALIASES = {  # in lower case: the names of A1111, ComfyUI and diffusers' classes
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
    "plms": "pndm",
    "uni_pc": "unipc",
}


GROUP = "ldmref.samplers"
SUBSTITUTES = ("ddim", "euler", "dpmpp_2m")  # for a scheduler of diffusers that is not here


def get_sampler(name: str) -> Sampler:
    """The sampler of that name (`ALIASES` are understood), or a plug-in's.

    Raises:
        UsageError: no such sampler, or a plug-in that cannot be imported or is no `Sampler`.
    """
    lower = str(name).lower()
    sampler = SAMPLERS.get(ALIASES.get(lower, lower))
    if sampler is not None:
        return sampler
    point = find_plugin(GROUP, lower)
    if point is None and lower.endswith("scheduler"):  # of a diffusers folder
        raise UsageError(
            f"diffusers' {short_repr(name)} has no sampler here",
            code="E-SCHEDULER",
            hint=f"give one of ldmref's, such as {', '.join(SUBSTITUTES)} (ldmref samplers)",
        )
    if point is None:
        hint = suggest_names(GROUP, SAMPLERS, lower)
        raise UsageError(f"unknown sampler {short_repr(name)}", code="E-SAMPLER", hint=hint)
    sampler = load_plugin(point)
    if not isinstance(sampler, Sampler):
        message = f"{describe_origin(point)} is of type {type(sampler).__name__}, not a Sampler"
        raise UsageError(message, code="E-PLUGIN", hint="an entry point names a Sampler object")
    return replace(sampler, name=point.name)
