"""The names under which the inputs of networks are recorded, as the networks declare them."""

from __future__ import annotations

from ldmref.families.lookup import networks_of_run
from ldmref.locate.pipeline.port_run import PortRun
from ldmref.models.declared import DeclaredNetwork
from ldmref.ports.arguments import names_of
from ldmref.trace.calls import GUIDE_CALLS


def roles_of(run: PortRun, argument: str, network: str = "") -> tuple[str, ...]:
    """Return the names under which an input of a network may be recorded.

    Args:
        run: The recorded run.
        argument: The argument of the network's function.
        network: The kind of the network's calls, also those of a weaker model. "": the denoiser.

    Returns:
        Its role, the names that ports give it, and the argument itself.
    """
    declared = _network_of(run, network)
    known = None if declared is None else declared.input_of(argument)
    names = () if declared is None or known is None else names_of(declared, known)
    return tuple(dict.fromkeys((*names, argument)))


def first_roles_of(run: PortRun, network: str) -> tuple[str, ...]:
    """Return the names of a network's first input, whose argument depends on the family.

    Args:
        run: The recorded run.
        network: The kind of the network's calls, such as "vae.decode".

    Returns:
        As for `roles_of`; () if the run has no such network.
    """
    declared = _network_of(run, network)
    return () if declared is None else roles_of(run, declared.inputs[0].argument, network)


def _network_of(run: PortRun, kind: str) -> DeclaredNetwork | None:
    name = kind.removeprefix(GUIDE_CALLS)
    if name in ("", run.denoiser):
        return run.model.denoiser
    return next((x for x in networks_of_run(run.model.config) if x.name == name), None)
