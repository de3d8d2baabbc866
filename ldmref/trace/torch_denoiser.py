"""Record the calls of a denoiser of diffusers in ldmref's terms, as its family reads them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from ldmref.models.family import Family
from ldmref.ports.port import FamilyPort, family_of_classes, port_of
from ldmref.trace.calls import MODULE_ARGUMENTS, OF_MODULE
from ldmref.trace.model import UNLIKE
from ldmref.trace.torch_arguments import describe_arguments
from ldmref.trace.torch_hooks import LayerRecorder
from ldmref.trace.torch_latents import LatentLayout
from ldmref.trace.torch_names import classes_of_diffusers
from ldmref.trace.torch_operations import name_arguments, named_inputs
from ldmref.trace.torch_values import find_tensors, first_tensor

SAME = ("hidden_states", "sample", "return_dict")  # arguments that have another role, or none
SETTINGS_OF_DIFFUSERS = ("conditioning_scale", "skip_layers")  # arguments that are no arrays
PROCESSORS = re.compile(r"PAG|IPAdapter|CustomDiffusion")  # of attention that is another function
LATENTS = {"sample", "controlnet_cond"}  # the inputs of networks that may be tokens


def family_of_denoiser(module: torch.nn.Module) -> Family | None:
    """Return the family without which nobody knows the arrays of a denoiser; None: there is none.

    It is one that reads layers of diffusers' class otherwise than they are. Classes of other
    programs may have the same name, and other arguments.
    """
    kinds = classes_of_diffusers(module)
    family = family_of_classes([], [kind.__name__ for kind in kinds]) if kinds else None
    return None if family is None or port_of(family).layer is None else family


class DenoiserRecorder:
    """Records the calls of denoisers and ControlNets of one family.

    Args:
        layers: What records their layers.
        family: The family.
        layout: How its latents are passed. None: nothing is known of it.
    """

    def __init__(self, layers: LayerRecorder, family: Family, layout: LatentLayout | None = None):
        self._layers = layers
        self._port: FamilyPort = port_of(family)
        self._control = family.control
        self._layout = LatentLayout(family) if layout is None else layout
        self._converts = False  # the call is recorded otherwise than its module has it

    def make_begin(self, name: str) -> Callable[..., None]:
        """Return what begins the calls of a network."""

        def begin(module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> None:
            call = self._layers.begin(module, name, True)
            change = self._port.inputs
            inputs = self._name_inputs(named_inputs(module, "", args, kwargs, change))
            if "sample" not in inputs:  # transformers call their first argument otherwise
                inputs = {"sample": inputs.pop(next(iter(inputs)))} | inputs
            self._layout.note_sample(inputs["sample"])
            for role in LATENTS & inputs.keys():
                inputs[role] = self._layout.convert(inputs[role])
            timestep = inputs.get("timestep", kwargs.get("timestep"))
            if timestep is not None:
                inputs["timestep"] = _one_per_example(timestep, len(inputs["sample"]))
            if self._port.layer is not None:
                self._layers.as_ours = partial(self._port.layer, inputs)
            attributes = {k: kwargs[k] for k in SETTINGS_OF_DIFFUSERS if kwargs.get(k) is not None}
            processors = _own_processors(module)
            attributes |= {"own_attention": processors} if processors else {}
            arguments = name_arguments(module, args, kwargs)
            denoises = not name.startswith("controlnet")  # whose result is several arrays
            self._converts = denoises and _needs_more(arguments, inputs)
            if self._converts:
                own = named_inputs(module, "", args, kwargs)
                inputs |= {OF_MODULE + role: x for role, x in own.items()}
                attributes[MODULE_ARGUMENTS] = describe_arguments(module, args, kwargs)
            call.add("", "", inputs, attributes)

        return begin

    def end(self, output: Any) -> torch.Tensor | None:
        """Record what the network of the call returned; return the prediction of a denoiser."""
        as_ours, self._layers.as_ours = self._layers.as_ours, None
        call = self._layers.call
        if call is None:
            return None
        prediction = None
        if call.name.startswith("controlnet") and self._control is not None:
            parts = output if isinstance(output, tuple) else tuple(output.values())
            named = zip(self._control.residuals._fields, parts, strict=False)
            found = {role: x for name, part in named for role, x in _number(name, part)}
        else:
            prediction = self._convert_prediction(self._port.prediction(output), as_ours)
            found = {"output": prediction}
        if self._converts:
            found |= {OF_MODULE + role: x for role, x in find_tensors(output, "output")}
        empty = {e.layer for e in call.entries if not e.inputs and not e.outputs}
        unlike = sorted(empty & self._layers.unlike)
        call.add("", attributes={UNLIKE: unlike} if unlike else {}, outputs=found)
        return prediction

    def _name_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return inputs with the roles that ldmref gives the outputs of ControlNets."""
        passed = {} if self._control is None else self._control.passed
        named = {}
        for role, x in inputs.items():
            argument, dot, number = role.partition(".")
            name = f"control.{passed[argument]}" if argument in passed else argument
            named[name + dot + number] = x
        return named

    def _convert_prediction(self, prediction: object, as_ours: Callable | None) -> torch.Tensor:
        """Return a prediction as latents: of the tokens of a network, those of the image."""
        own = first_tensor(prediction)
        return self._layout.convert(own if as_ours is None else as_ours("", own))


def _needs_more(arguments: Mapping[str, Any], inputs: Mapping[str, Any]) -> bool:
    """Return whether a module cannot be called with the inputs that are recorded of its call.

    Args:
        arguments: Its arguments by name.
        inputs: What is recorded of them, by role.
    """
    passed = {name for name, x in arguments.items() if isinstance(x, torch.Tensor) or x}
    return bool(passed - {role.partition(".")[0] for role in inputs} - {*SAME})


def _own_processors(module: torch.nn.Module) -> dict[str, str]:
    """Return the layers whose attention is not the usual one, with the class that computes it."""
    found = getattr(module, "attn_processors", {})
    names = {name: type(processor).__name__ for name, processor in found.items()}
    return {
        name.removesuffix(".processor"): kind
        for name, kind in names.items()
        if PROCESSORS.search(kind)
    }


def _number(name: str, part: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a part of a ControlNet's output by role; there may be none."""
    if isinstance(part, torch.Tensor):
        yield name, part
    else:
        yield from ((f"{name}.{i}", x) for i, x in enumerate(part or ()))


def _one_per_example(timestep: object, n: int) -> torch.Tensor:
    """Return a timestep once per example, (n,)."""
    return torch.as_tensor(timestep).reshape(-1).expand(n)
