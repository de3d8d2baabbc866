"""The name of a call of a trace, read once into its parts."""

from __future__ import annotations

import re
from functools import cached_property

REQUESTED = "inputs"  # the call with the images and arrays of the request
CONSTRAIN = "constrain"  # the layer of a step that puts the known part of an image back
# A denoiser's call is recorded as ldmref has it. Where its module could not be called with that,
# the module's own tensors are recorded as well, with this before their roles, and this attribute
# describes its arguments.
OF_MODULE = "module."
MODULE_ARGUMENTS = "module_arguments"
FAMILY = "family"  # in the manifest of denoisers that are recorded in ldmref's terms, without a run
GUIDE_CALLS = "guide."  # before the names of the calls of a second model
HOST = """
    tokens tokens_2 tokens_3 schedule guidance sampler jump scale_input add_noise initial train
    words image inputs truth posterior mask control low_resolution
""".split()
NUMBER = re.compile(r"(~\d+|\.\d+)+$")  # of a call
CONTROLNET = re.compile(r"controlnet_(\d+)")  # of several ControlNets of a port
SHORT = {"vae": "vae.decode", "vae.decoder": "vae.decode"}  # names of ports


class TraceCall(str):
    """The name of a call: one run of a network, or one computation between networks.

    It is text, and its parts are read from it when they are asked for first. A trace has one of
    these for each of its calls.

    >>> from ldmref.trace.calls import TraceCall
    >>> call = TraceCall("guide.unet.003")
    >>> call.kind, call.number, call.network, call.is_guide, call.is_host
    ('guide.unet', 3, 'unet', True, False)
    >>> call = TraceCall("tokens_2~1")
    >>> call.kind, call.number, call.network, call.is_guide, call.is_host
    ('tokens_2', 1, '', False, True)
    """

    @cached_property
    def kind(self) -> str:
        """The name without numbers, such as "unet", "guide.unet" or "vae.decode"."""
        return NUMBER.sub("", self)

    @cached_property
    def number(self) -> int:
        """The last number of the name; 0 if it does not have one."""
        numbers = re.findall(r"\d+", self[len(self.kind) :])
        return int(numbers[-1]) if numbers else 0

    @cached_property
    def is_guide(self) -> bool:
        """Whether it is a call of the weaker model of autoguidance."""
        return self.startswith(GUIDE_CALLS)

    @cached_property
    def is_host(self) -> bool:
        """Whether it is a computation between networks that traces have."""
        return self.kind in HOST

    @cached_property
    def network(self) -> str:
        """The name of the network that ran; "" if it was none, or none that a family declares."""
        from ldmref.families.lookup import known_networks  # to show a trace takes no networks

        name = CONTROLNET.sub("controlnet", self.kind, count=1) if self.controlnet else self.kind
        name = name.removeprefix(GUIDE_CALLS)
        name = SHORT.get(name, name)
        return name if name in known_networks() else ""

    @cached_property
    def controlnet(self) -> int:
        """Which ControlNet of a port is named, from 1: 2 in "controlnet_2.000"; 0: none is."""
        named = CONTROLNET.match(self)
        return 0 if named is None else int(named[1])
