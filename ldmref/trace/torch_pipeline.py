"""Record a live pipeline of diffusers: its networks, its scheduler and its guidance."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch

from ldmref.errors import UsageError
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.family import family_of_pipeline, find_family
from ldmref.trace.selection import Selection
from ldmref.trace.torch_calls import (
    TorchTraceWriter,
    describe_parameters,
    first_tensor,
)
from ldmref.trace.torch_hooks import LayerRecorder, refuse_compiled
from ldmref.trace.torch_latents import LatentLayout
from ldmref.trace.torch_names import make_renamer
from ldmref.trace.torch_operations import named_inputs
from ldmref.trace.torch_request import RequestRecorder
from ldmref.trace.torch_scheduler import AnyMethod, SchedulerRecorder

SKIPPED = ("safety_checker", "image_encoder")
STEERING = ("conditioning_scale", "skip_layers")  # arguments of networks that are no arrays
PROCESSORS = re.compile(r"PAG|IPAdapter|CustomDiffusion")  # of attention that is another function
LATENTS = {"sample", "controlnet_cond"}  # the inputs of networks that may be tokens


@contextmanager
def record_pipeline(
    pipe: Any, folder: str | Path, *, selection: Selection | None = None, overwrite: bool = False
) -> Iterator[TorchTraceWriter]:
    """Record what a diffusers pipeline computes in a `with` block; its numbers do not change.

    The trace has the layers of all networks (U-Net, ControlNets, text encoders, autoencoder) with
    inputs and outputs, tokens, the schedule, the guidance, and each step of the scheduler with its
    random noise.

    Args:
        pipe: A pipeline of diffusers for Stable Diffusion 1 to 3 or Flux.1, in any dtype, on any
            device. Latents that it passes as tokens are recorded as latents, (n, c, h, w).
        folder: The folder of the trace.
        selection: Calls, layers and steps to record. None: all.
        overwrite: Whether an existing trace is replaced.

    Yields:
        The writer, whose `manifest` may be extended.

    Raises:
        UsageError: It is not a pipeline, or a network is compiled.
        OutputError: The folder has a trace (unless `overwrite`), or cannot be written.

    >>> from ldmref.trace import Selection, read_trace, record_pipeline
    >>> with record_pipeline(pipe, "trace", selection=Selection(steps=(0,))):  # doctest: +SKIP
    ...     pipe("a red heart", num_inference_steps=2)
    >>> read_trace("trace").find("unet.000", "conv_in").name  # doctest: +SKIP
    'unet.000/conv_in'
    """
    networks = _find_networks(pipe)
    writer = TorchTraceWriter(folder, selection, overwrite)
    recorder = _PipelineRecorder(pipe, networks, writer)
    try:
        recorder.start()
        with recorder.layers:
            yield writer
    finally:
        recorder.stop()
    writer.manifest |= recorder.describe()
    writer.close()


class _PipelineRecorder:
    """The hooks of a pipeline, and the methods that it replaces."""

    def __init__(self, pipe: Any, networks: dict[str, torch.nn.Module], writer: TorchTraceWriter):
        self._pipe = pipe
        self._writer = writer
        self.layers = LayerRecorder(writer)
        self._networks = networks
        self._scheduler: SchedulerRecorder | None = None
        # Owner, name, and the method that the object had itself; None: that of its class.
        self._replaced: list[tuple[Any, str, Any]] = []
        self._family = family_of_pipeline(type(pipe).__name__)
        self._control = (self._family or find_family(UNetConfig.family)).control
        self._layout = LatentLayout(self._family)
        self._request = RequestRecorder(writer, self._layout)
        self._end_calls: Callable[[], None] | None = None

    def start(self) -> None:
        """Attach all hooks."""
        for name, network in self._networks.items():
            self.layers.attach(network, make_renamer(network))
            if name == "vae":
                self._replace(network, "encode", self._wrap_encode)
                self._replace(network, "decode", self._wrap_decode)
            elif name.startswith("text_encoder"):
                self.layers.hook(network, *self._make_text_hooks(name))
            else:
                self.layers.hook(network, self._make_begin(name), self._end)
        scheduler = getattr(self._pipe, "scheduler", None)
        if scheduler is not None:
            self._scheduler = SchedulerRecorder(
                self._pipe,
                scheduler,
                self.layers,
                self._family,
                self._layout,
                self._request.asked_for,
            )
            for method, wrap in self._scheduler.wrappers().items():
                self._replace(scheduler, method, wrap)
        for method, wrap in self._request.wrappers().items():
            self._replace(self._pipe, method, wrap)
        self._end_calls = self._request.observe_calls(self._pipe)

    def stop(self) -> None:
        """Remove all hooks."""
        self.layers.detach()
        for owner, name, own in reversed(self._replaced):
            delattr(owner, name)
            if own is not None:
                setattr(owner, name, own)
        self._replaced = []
        if self._end_calls is not None:
            self._end_calls()

    def describe(self) -> dict[str, Any]:
        """Return the manifest: program, model, dtype, scheduler, request."""
        pipe = self._pipe
        networks = self._networks
        params = dict(self._request.params)
        for name in ("guidance_scale", "guidance_rescale", "num_timesteps"):
            value = self._request.asked.get(name, getattr(pipe, f"_{name}", None))
            if isinstance(value, int | float):
                params[name] = value
        config = {name: _configuration(network) for name, network in networks.items()}
        model = {"name": str(getattr(pipe, "name_or_path", "") or ""), "config": config}
        manifest = describe_parameters(networks.values())
        manifest |= {"program": f"diffusers {_version()}", "pipeline": type(pipe).__name__}
        manifest |= {"model": model, "params": params}
        manifest |= {"request": self._request.asked, "requests": self._request.requests}
        if self._scheduler is not None:
            manifest["scheduler"] = self._scheduler.describe()
        return manifest

    def _replace(self, owner: Any, name: str, wrap: Callable[[AnyMethod], AnyMethod]) -> None:
        method = getattr(owner, name, None)
        if method is not None:
            self._replaced.append((owner, name, vars(owner).get(name)))
            setattr(owner, name, wrap(method))

    # -- networks

    def _make_begin(self, name: str) -> Callable:
        def begin(module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> None:
            call = self.layers.begin(module, name, True)
            inputs = self._name_inputs(named_inputs(module, "", args, kwargs))
            if "sample" not in inputs:  # transformers call their first argument otherwise
                inputs = {"sample": inputs.pop(next(iter(inputs)))} | inputs
            for role in LATENTS & inputs.keys():
                inputs[role] = self._layout.convert(inputs[role])
            timestep = kwargs.get("timestep", args[1] if len(args) > 1 else None)
            if timestep is not None:
                inputs["timestep"] = _one_per_example(timestep, len(inputs["sample"]))
                if self._family is not None and self._family.timestep_factor != 1.0:
                    inputs["timestep"] = inputs["timestep"] * self._family.timestep_factor
            attributes = {k: kwargs[k] for k in STEERING if kwargs.get(k) is not None}
            processors = _own_processors(module)
            attributes |= {"own_attention": processors} if processors else {}
            call.add("", "", inputs, attributes)

        return begin

    def _name_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return inputs with the roles that ldmref gives the outputs of ControlNets."""
        passed = {} if self._control is None else self._control.passed
        named = {}
        for role, x in inputs.items():
            argument, dot, number = role.partition(".")
            name = f"control.{passed[argument]}" if argument in passed else argument
            named[name + dot + number] = x
        return named

    def _end(
        self, module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any], output: Any
    ) -> None:
        call = self.layers.call
        if call is None:
            return
        if call.name.startswith("controlnet") and self._control is not None:
            parts = output if isinstance(output, tuple) else tuple(output.values())
            named = zip(self._control.residuals._fields, parts, strict=False)
            found = {role: x for name, part in named for role, x in _number(name, part)}
        else:
            found = {"output": self._layout.convert(first_tensor(output))}
            if self._scheduler is not None:
                self._scheduler.predictions.append(found["output"])
        call.add("", outputs=found)
        self.layers.end()

    def _make_text_hooks(self, name: str) -> tuple[Callable, Callable]:
        def begin(module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> None:
            ids = args[0] if args else kwargs.get("input_ids")
            tokens = self._writer.begin(name.replace("text_encoder", "tokens"), numbered=False)
            tokens.add("", "tokens", outputs={"ids": ids})
            self._writer.end(tokens)
            self.layers.begin(module, name, False).add("", "text_encoder", {"input_ids": ids})

        def end(module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any], output: Any):
            call = self.layers.call
            if call is None:
                return
            skip = self._request.skip_of(name)
            several = hasattr(self._pipe, "text_encoder_2")
            if several and output.hidden_states:  # of CLIP, without the last layer and the norm
                states = output.hidden_states[-(skip + 2)]
            elif skip:  # the pipeline applies the norm itself, which replaces this output
                states = output.hidden_states[-(skip + 1)]
            else:
                states = output.last_hidden_state
            pooled = getattr(output, "text_embeds", None)
            outputs = {"output": states} | ({} if pooled is None else {"pooled": pooled})
            call.add("", outputs=outputs, attributes={"clip_skip": skip})
            self.layers.end()

        return begin, end

    def _wrap_encode(self, method: AnyMethod) -> AnyMethod:
        @wraps(method)
        def encode(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            call = self.layers.begin(self._networks["vae"], "vae.encode", False)
            call.add("", "encode", {"image": x})
            result = method(x, *args, **kwargs)
            first = result[0] if isinstance(result, tuple) else next(iter(result.values()))
            if isinstance(first, torch.Tensor):
                outputs = {"mean": first}
            else:
                outputs = {"mean": first.mean, "logvar": first.logvar}
            call.add("", outputs=outputs)
            self.layers.end()
            if not isinstance(first, torch.Tensor):
                self._watch_draws(first, call.name)
            return result

        return encode

    def _watch_draws(self, distribution: Any, encoder: str) -> None:
        """Record what is drawn from the distribution that an encoder returned: `posterior`."""
        attributes = {"encoder": encoder, "for": self._request.doing}

        def watched(method: AnyMethod, name: str) -> AnyMethod:
            @wraps(method)
            def draw(*args: Any, **kwargs: Any) -> Any:
                result = method(*args, **kwargs)
                call = self._writer.begin("posterior", numbered=False)
                call.add("", name, {}, attributes, {"output": result})
                self._writer.end(call)
                return result

            return draw

        for name in ("sample", "mode"):
            setattr(distribution, name, watched(getattr(distribution, name), name))

    def _wrap_decode(self, method: AnyMethod) -> AnyMethod:
        vae = self._networks["vae"]

        @wraps(method)
        def decode(z: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if getattr(vae, "use_slicing", False) and len(z) > 1:  # one call for each image
                results = [decode(part, *args, **kwargs) for part in z.split(1)]
                images = torch.cat([result[0] for result in results])
                is_tuple = isinstance(results[0], tuple)
                return (images,) if is_tuple else type(results[0])(sample=images)
            call = self.layers.begin(vae, "vae.decode", False)
            call.add("", "decode", {"latents": z})
            result = method(z, *args, **kwargs)
            call.add("", outputs={"output": first_tensor(result)})
            self.layers.end()
            return result

        return decode


def _find_networks(pipe: Any) -> dict[str, torch.nn.Module]:
    """Return the networks of a pipeline by name; several ControlNets are numbered."""
    if not hasattr(pipe, "components"):
        message = f"a pipeline of diffusers is needed, not {type(pipe).__name__}"
        raise UsageError(message, code="E-TRACE", hint="ldmref.trace.record_module takes modules")
    networks: dict[str, torch.nn.Module] = {}
    for name, part in pipe.components.items():
        if name == "controlnet" and hasattr(part, "nets"):
            nets = {f"controlnet_{i}" if i > 1 else name: net for i, net in enumerate(part.nets, 1)}
            networks |= nets
        elif isinstance(part, torch.nn.Module) and name not in SKIPPED:
            networks[name] = part
    for name, network in networks.items():
        refuse_compiled(name, network)
    return networks


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


def _one_per_example(timestep: Any, n: int) -> torch.Tensor:
    """Return a timestep once per example, (n,)."""
    return torch.as_tensor(timestep).reshape(-1).expand(n)


def _configuration(network: Any) -> dict[str, Any]:
    """Return the configuration of a network of diffusers or transformers."""
    config: Any = getattr(network, "config", {})
    return config.to_dict() if hasattr(config, "to_dict") else dict(config)


def _version() -> str:
    import diffusers

    return diffusers.__version__
