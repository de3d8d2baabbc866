"""The declaration of a sampler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, replace
from functools import partial
from typing import Any, Literal

from ldmref.declare import Invalid, get_fields, read
from ldmref.errors import UsageError
from ldmref.samplers.interfaces import Step
from ldmref.support.renames import take_former

SAMPLER_CODE = "E-SAMPLER"


@dataclass(frozen=True)
class Sampler:
    """The declaration of a sampler, from which pages, the command line and tests are made.

    Args:
        make: Function that makes the step, `make() -> step` or `make(eta=...) -> step`.
        order: Order of convergence of its deterministic part (its `eta` set to 0) in the number of
            steps; 0 if it does not converge to the probability flow.
        nfe: Evaluations of the denoiser per step; with `adaptive`, at least.
        stochastic: Whether it adds fresh noise at its default `eta`.
        source: Paper or code, with equation or algorithm.
        eta: Default of `make(eta=...)`; None if `make` does not take `eta`.
        start_nfe: Evaluations of the first steps, if they differ.
        draws: Arrays of noise per step.
        adaptive: Whether steps are divided until the error is small.
        unconditional: Whether it uses the prediction without the prompt, at any guidance scale.
        clean_end: Whether its last step leads to the predicted x0 in every schedule.
        lower_orders: Whether a run ends with steps of lower order: `always`, only as a diffusers
            folder `configured`, or "" (never).
        block: Steps per block of a singlestep method; 0 for other methods.
        on_timesteps: Whether `make` takes `training_sigmas`, the sigmas of the training timesteps.
        own_guidance: Whether guidance is a part of the step: it takes the prediction with the
            prompt, and the guidance scale of the request.
        configurable: Further arguments of `make`, set from a checkpoint's scheduler configuration.
        straight: Whether it is made of the slope (x - x0) / sigma and of sigma, so that every path
            has its step; others run by `on_ratio`.
        family: Family of diffusers' schedulers whose noise levels it uses in a diffusers folder.
        jumps: Whether each step is one evaluation at its start, along whose slope it goes, and the
            fresh noise: a network that is a flow map takes such samplers alone. A step that goes
            to a level other than the next one says so by `interfaces.toward`.
        parameters: Declared dataclass of further arguments of `make`, which follow the name and a
            colon in a request. None: there are none.
        name: Name recorded in images; `SAMPLERS` sets it.
        guides: Former: `own_guidance`.

    >>> from ldmref.samplers import SAMPLERS
    >>> sampler = SAMPLERS["dpmpp_2m_sde"]
    >>> sampler.order, sampler.nfe, sampler.stochastic, sampler.eta
    (2, 1, True, 1.0)
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
    unconditional: bool = False
    own_guidance: bool = False
    clean_end: bool = False
    lower_orders: Literal["", "always", "configured"] = ""
    block: int = 0
    on_timesteps: bool = False
    configurable: tuple[str, ...] = ()
    straight: bool = False
    family: Literal["euler", "ddim", "multistep"] = "euler"
    jumps: bool = False
    parameters: type | None = None
    name: str = "custom"
    guides: InitVar[bool] = False

    def __post_init__(self, guides: bool) -> None:
        take_former(self, "guides", guides, "own_guidance")

    def __repr__(self) -> str:
        return f"<Sampler {self.name!r}: order {self.order}, {self.nfe} evaluations per step>"

    def draws_noise(self, eta: float | None) -> bool:
        """Return whether it adds fresh noise at a value of `eta` (None: its default)."""
        return self.stochastic if self.eta is None or eta is None else eta != 0.0

    @property
    def defaults(self) -> dict[str, Any]:
        """The defaults of its parameters by name; {} without any."""
        if self.parameters is None:
            return {}
        return {name: field.default for name, field in get_fields(self.parameters).items()}

    def with_parameters(self, values: Mapping[str, Any]) -> Sampler:
        """Return the sampler with parameters by name, which become part of its own name.

        Args:
            values: The parameters; those that are left out have their defaults.

        Raises:
            UsageError: An unknown parameter, or a value that is not as declared.
        """
        if self.parameters is None:
            raise UsageError(
                f"sampler {self.name!r} takes no parameters",
                code=SAMPLER_CODE,
                hint="give its name alone; eta is a parameter of the request",
            )
        try:
            checked = read(self.parameters, values, self.name)
        except Invalid as error:
            raise UsageError(str(error), code=SAMPLER_CODE, hint=error.hint) from None
        text = ",".join(f"{name}={value}" for name, value in values.items())
        arguments = {name: getattr(checked, name) for name in values}
        return replace(self, make=partial(self.make, **arguments), name=f"{self.name}:{text}")
