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
from ldmref.samplers.loop import Step, StepFunction, sample
from ldmref.samplers.steps import ancestral, dpmpp_2m, heun

__all__ = ["SAMPLERS", "Sampler", "Step", "get_sampler", "sample"]


@dataclass(frozen=True)
class Sampler:
    """What is declared about a sampler; docs, command line and tests are made from it.

    `make() -> step`; `order` of convergence of its deterministic part; `nfe`, denoiser evaluations
    per step; `eta` is the default of `make(eta=...)`, None where there is no such argument.
    """

    make: Callable[..., StepFunction]
    order: int
    nfe: int
    stochastic: bool
    source: str
    eta: float | None = None


SAMPLERS: dict[str, Sampler] = {
    "ddpm": Sampler(partial(ancestral, eta=1.0), 1, 1, True, "arXiv:2006.11239, algorithm 2"),
    "ddim": Sampler(ancestral, 1, 1, False, "arXiv:2010.02502, eq. 12", eta=0.0),
    "euler": Sampler(partial(ancestral, eta=0.0), 1, 1, False, "arXiv:2206.00364, algorithm 1"),
    "euler_a": Sampler(
        partial(ancestral, eta=1.0), 1, 1, True, "arXiv:2010.02502, eq. 16", eta=1.0
    ),
    "heun": Sampler(heun, 2, 2, False, "arXiv:2206.00364, algorithm 1"),
    "dpmpp_2m": Sampler(dpmpp_2m, 2, 1, False, "arXiv:2211.01095, algorithm 2"),
}

ALIASES = {
    "euler a": "euler_a",
    "dpm++ 2m": "dpmpp_2m",
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
