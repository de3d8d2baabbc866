"""`FamilyPort`: how other programs write a family, and where it is found.

A package declares it with an entry point that names a `FamilyPort` and is called as the family:

    [project.entry-points."ldmref.ports"]
    dit = "ldmref_dit.port:PORT"
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from ldmref.math.arrays import Array
from ldmref.models.config import ModelConfig
from ldmref.models.family import Family, family_of_pipeline, list_families
from ldmref.ports.parts import PipelineParts
from ldmref.support.plugins import find_optional

GROUP = "ldmref.ports"
BUILT_IN = {
    "latent-diffusion": "ldmref.ports.latent_diffusion:PORT",
    "sd3": "ldmref.ports.sd3:PORT",
    "flux": "ldmref.ports.flux:PORT",
    "z-image": "ldmref.ports.z_image:PORT",
    "flux2": "ldmref.ports.flux2:PORT",
    "flux3": "ldmref.ports.flux3:PORT",
    "krea2": "ldmref.ports.krea2:PORT",
    "qwen-image-2.1": "ldmref.ports.qwen_image_21:PORT",
}


FindPart = Callable[[np.ndarray], np.ndarray | None]


@dataclass(frozen=True)
class FamilyPort:
    """How diffusers' pipelines and other programs write a family, in terms of ours.

    Attributes:
        name: The name of the family, and of the entry point.
        modules: Classes that compute the denoiser, in pipelines of any class.
        halves: The order of the predictions in a batch of the denoiser.
        unpack: For pipelines that pass latents as tokens, (n, l, c): returns them as (n, c, h, w),
            from the numbers of rows and columns of tokens. None: they pass latents.
        inputs: Returns the arguments of a call of the denoiser, by diffusers' name, as ours: with
            our timestep, and arrays (n, ...) instead of lists.
        prediction: Returns our prediction of what the denoiser returned.
        states: Returns our hidden states of what a text encoder returned, the number of layers to
            leave out, and the pipeline.
        layer: Returns an array of a layer of the denoiser as our layer of that name has it, from
            the inputs of the call by role, the name and the array: some pipelines join texts of
            different lengths in one row. "" is the denoiser, whose prediction may come with other
            tokens. It returns None for what no layer of ours has. None: their layers have our
            arrays.
        arguments: Further names that programs give to the arrays of the denoiser and ControlNets,
            by our argument; `ldmref.ports.arguments` has those of all families.
        first_layers: For such an argument, ends of the names of layers that read it first, with the
            role that it has there.
        joined: Returns, for a configuration, the arguments of the denoiser in which programs join
            several of ours: by their name and our role, a function of a recorded array. It returns
            None where the array has no such part.
        unguided: Whether the settings of a pipeline, as in its model_index.json, turn guidance off,
            whichever scale is asked for.
        parts: How a pipeline is made of a model, for `kit_pipeline`. None: it is not.

    >>> find_port("sd3").halves
    ('uncond', 'cond')
    """

    name: str
    modules: tuple[str, ...] = ()
    halves: tuple[str, str] = ("uncond", "cond")
    unpack: Callable[[Array, int, int], Array] | None = None
    inputs: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda arguments: arguments
    prediction: Callable[[Any], Any] = lambda output: output
    states: Callable[[Any, int, Any], Any] = lambda output, skip, pipe: output.last_hidden_state
    layer: Callable[[Mapping[str, Any], str, Any], Any] | None = None
    arguments: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    first_layers: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    joined: Callable[[ModelConfig], Mapping[str, Mapping[str, FindPart]]] = lambda config: {}
    unguided: Callable[[Mapping[str, Any]], bool] = lambda settings: False
    parts: PipelineParts | None = None

    def read_encoded(self, result: Any, skip: int, pipe: object) -> dict[str, Any]:
        """Return what is read of a text encoder's result: "output", and "pooled" if it has one.

        Args:
            result: The result of a network of transformers.
            skip: The number of final layers to leave out.
            pipe: The pipeline.
        """
        pooled = getattr(result, "text_embeds", None)
        states = {"output": self.states(result, skip, pipe)}
        return states if pooled is None else {**states, "pooled": pooled}


@cache
def find_port(name: str) -> FamilyPort:
    """Return how other programs write the family of that name; the defaults if nothing says it.

    Args:
        name: The name of the family.

    Returns:
        What is declared of it.

    Raises:
        UsageError: Its plug-in cannot be used.

    >>> find_port("z-image").halves, find_port("no family").modules
    (('cond', 'uncond'), ())
    """
    found = find_optional(GROUP, BUILT_IN, name, FamilyPort)
    return FamilyPort(name) if found is None else found


def port_of(family: Family) -> FamilyPort:
    """Return how other programs write a family.

    Args:
        family: The family.

    Returns:
        What is declared of it.

    >>> from ldmref.models.family import find_family
    >>> port_of(find_family("flux")).modules
    ('FluxTransformer2DModel',)
    """
    former = getattr(family, "diffusers", None)  # a declaration of an earlier version
    if former is not None:
        return FamilyPort(family.name, **former.of_port)
    return find_port(family.name)


def family_of_classes(pipeline: Sequence[str], modules: Iterable[str]) -> Family | None:
    """Return the family that reads a live pipeline of diffusers; None if none does.

    Args:
        pipeline: The names of the pipeline's class and of its base classes, the nearest first.
        modules: The same of its parts. The family of the denoiser counts if none reads the class
            of the pipeline.

    Raises:
        UsageError: A plug-in cannot be used.

    >>> family_of_classes(["MyPipeline", "FluxPipeline", "object"], []).name
    'flux'
    >>> family_of_classes(["FluxKontextPipeline"], ["FluxTransformer2DModel"]).name
    'flux'
    """
    for kind in pipeline:
        family = family_of_pipeline(kind)
        if family is not None:
            return family
    known = {*modules}
    return next((family for family in list_families() if known & {*port_of(family).modules}), None)


def list_ports() -> Iterator[FamilyPort]:
    """Yield how other programs write each family, in the order of `list_families`."""
    return map(port_of, list_families())
