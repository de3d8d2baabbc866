"""Record a live pipeline of diffusers: its networks, its scheduler and its guidance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ldmref.errors import UsageError
from ldmref.models.family import Family
from ldmref.ports.port import family_of_classes, port_of
from ldmref.trace.calls import MODULE_ARGUMENTS, OF_MODULE
from ldmref.trace.files import require_call_name
from ldmref.trace.selection import Selection
from ldmref.trace.torch_arguments import describe_arguments
from ldmref.trace.torch_calls import TorchTraceWriter, describe_parameters
from ldmref.trace.torch_denoiser import DenoiserRecorder
from ldmref.trace.torch_hooks import LayerRecorder, refuse_compiled
from ldmref.trace.torch_latents import LatentLayout
from ldmref.trace.torch_methods import (
    AnyMethod,
    AutoencoderRecorder,
    ReplacedMethods,
    drop_frame,
)
from ldmref.trace.torch_names import make_renamer
from ldmref.trace.torch_networks import record_networks
from ldmref.trace.torch_operations import named_inputs
from ldmref.trace.torch_request import RequestRecorder
from ldmref.trace.torch_scheduler import SchedulerRecorder, read_scale

SKIPPED = ("safety_checker", "image_encoder")


@contextmanager
def record_pipeline(
    pipe: object, folder: str | Path, *, selection: Selection | None = None, overwrite: bool = False
) -> Iterator[TorchTraceWriter]:
    """Record what a diffusers pipeline computes in a `with` block; its numbers do not change.

    The trace has the layers of all networks (U-Net, ControlNets, text encoders, autoencoder) with
    inputs and outputs, tokens, the schedule, the guidance, and each step of the scheduler with its
    random noise.

    Args:
        pipe: A pipeline of diffusers, in any dtype, on any device. Latents that one of a family
            passes as tokens are recorded as latents, (n, c, h, w). Of one that no family reads,
            the networks are recorded, and nothing between them (`record_networks`).
        folder: The folder of the trace.
        selection: Calls, layers and steps to record. None: all.
        overwrite: Whether an existing trace is replaced.

    Yields:
        The writer, whose `manifest` may be extended.

    Raises:
        UsageError: It is not a pipeline, it has no network, or a network is compiled.
        OutputError: The folder has a trace (unless `overwrite`), or cannot be written.

    >>> from ldmref.trace import Selection, read_trace, record_pipeline
    >>> with record_pipeline(pipe, "trace", selection=Selection(steps=(0,))):  # doctest: +SKIP
    ...     pipe("a red heart", num_inference_steps=2)
    >>> read_trace("trace").find("unet.000", "conv_in").name  # doctest: +SKIP
    'unet.000/conv_in'
    """
    networks = _find_networks(pipe)
    parts = [name for network in networks.values() for name in _class_names(network)]
    family = family_of_classes(_class_names(pipe), parts)
    if family is None:
        _require_networks(pipe, networks)
        with record_networks(pipe, networks, folder, selection, overwrite) as writer:
            yield writer
        return
    writer = TorchTraceWriter(folder, selection, overwrite)
    recorder = _PipelineRecorder(pipe, networks, family, writer)
    try:
        recorder.start()
        with recorder.layers:
            yield writer
    finally:
        recorder.stop()
    with writer.left_out.guard("manifest"):
        writer.manifest |= recorder.describe()
    writer.close()


class _PipelineRecorder:
    """The hooks of a pipeline, and the methods that it replaces."""

    def __init__(
        self,
        pipe: object,
        networks: dict[str, torch.nn.Module],
        family: Family,
        writer: TorchTraceWriter,
    ):
        self._pipe = pipe
        self._writer = writer
        self.layers = LayerRecorder(writer)
        self._networks = networks
        self._scheduler: SchedulerRecorder | None = None
        self._replaced = ReplacedMethods(writer.left_out)
        self._family = family
        self._port = port_of(family)
        self._layout = LatentLayout(family)
        self._denoiser = DenoiserRecorder(self.layers, family, self._layout)
        self._request = RequestRecorder(writer, self._layout)
        self._end_calls: Callable[[], None] | None = None

    def start(self) -> None:
        """Attach all hooks."""
        for name, network in self._networks.items():
            self.layers.attach(network, make_renamer(network))
            if name == "vae":
                AutoencoderRecorder(self.layers, network, name, self._watch_draws).attach(
                    self._replaced
                )
            elif name.startswith("text_encoder"):
                self.layers.hook_call(network, name, *self._make_text_hooks(name))
            else:
                self.layers.hook_call(network, name, self._denoiser.make_begin(name), self._end)
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
                self._replaced.replace(scheduler, method, wrap)
        for method, wrap in self._request.wrappers().items():
            self._replaced.replace(self._pipe, method, wrap)
        self._end_calls = self._request.observe_calls(self._pipe)

    def stop(self) -> None:
        """Remove all hooks; a method that was replaced within the block stays."""
        self._writer.left_out.ended = True
        self.layers.detach()
        self._replaced.restore()
        if self._end_calls is not None:
            self._end_calls()

    def describe(self) -> dict[str, Any]:
        """Return the manifest: program, model, dtype, scheduler, request."""
        pipe = self._pipe
        networks = self._networks
        params = dict(self._request.params)
        for name in ("guidance_scale", "guidance_rescale", "num_timesteps"):
            value = self._request.asked.get(name, read_scale(pipe, name))
            if isinstance(value, int | float):
                params[name] = value
        settings = _settings(pipe)
        if "guidance_scale" in params:
            scale = 1.0 if self._port.unguided(settings) else params["guidance_scale"]
            params["guidance_scale"] = self._family.guidance_scale.convert(scale)
        config = {name: _configuration(network) for name, network in networks.items()}
        model = {"name": str(getattr(pipe, "name_or_path", "") or ""), "config": config}
        manifest = describe_parameters(networks.values())
        manifest |= {"program": f"diffusers {_version()}", "pipeline": type(pipe).__name__}
        manifest |= {"model": model, "params": params, "settings": settings}
        manifest |= {"request": self._request.asked, "requests": self._request.requests}
        if self._scheduler is not None:
            manifest["scheduler"] = self._scheduler.describe()
        return manifest

    # -- networks

    def _end(
        self, module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any], output: Any
    ) -> None:
        prediction = self._denoiser.end(output)
        if prediction is not None and self._scheduler is not None:
            self._scheduler.predictions.append(prediction.detach().clone())

    def _make_text_hooks(self, name: str) -> tuple[Callable, Callable]:
        def begin(module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> None:
            ids = args[0] if args else kwargs.get("input_ids")
            mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
            masks = {"attention_mask": mask} if isinstance(mask, torch.Tensor) else {}
            tokens = self._writer.begin(name.replace("text_encoder", "tokens"), numbered=False)
            tokens.add("", "tokens", outputs={"ids": ids})
            self._writer.end(tokens)
            call = self.layers.begin(module, name, False)
            own = named_inputs(module, "", args, kwargs)
            attributes = {}
            if len(own) > 1 + len(masks):  # positions, which ldmref's encoders know by themselves
                masks |= {OF_MODULE + role: x for role, x in own.items()}
                attributes = {MODULE_ARGUMENTS: describe_arguments(module, args, kwargs)}
            call.add("", "text_encoder", {"input_ids": ids} | masks, attributes)

        def end(
            module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any], output: object
        ) -> None:
            call = self.layers.call
            if call is None:
                return
            hidden = getattr(output, "hidden_states", None)
            skip = self._request.skip_of(name) if hidden else 0  # T5 leaves out no layer
            outputs = self._port.read_encoded(output, skip, self._pipe)
            attributes = {"clip_skip": skip, "hidden_states": bool(hidden)}
            call.add("", outputs=outputs, attributes=attributes)

        return begin, end

    def _watch_draws(self, distribution: object, encoder: str) -> None:
        """Record what is drawn from the distribution that an encoder returned: `posterior`."""
        attributes = {"encoder": encoder, "for": self._request.doing}

        def watched(method: AnyMethod, name: str) -> AnyMethod:
            def after(_: None, args: tuple, kwargs: Mapping[str, Any], result: object) -> None:
                call = self._writer.begin("posterior", numbered=False)
                call.add("", name, {}, attributes, {"output": drop_frame("", result)})
                self._writer.end(call)

            return self._writer.left_out.observed(method, "posterior", after=after)

        for name in ("sample", "mode"):
            setattr(distribution, name, watched(getattr(distribution, name), name))


def _require_networks(pipe: object, networks: Mapping[str, torch.nn.Module]) -> None:
    """Require that a pipeline has a network that can be recorded.

    Raises:
        UsageError: It has none.
    """
    if not networks:
        message = f"no component of a {type(pipe).__name__} is a torch.nn.Module"
        hint = "record what has the layers: ldmref.recording(module, call=NAME)"
        raise UsageError(message, code="E-TRACE", hint=hint)


def _class_names(value: object) -> list[str]:
    """Return the names of an object's class and of its base classes, the nearest first."""
    return [kind.__name__ for kind in type(value).__mro__]


def _find_networks(pipe: Any) -> dict[str, torch.nn.Module]:
    """Return the networks of a pipeline by name; several ControlNets are numbered."""
    if not hasattr(pipe, "components"):
        message = f"a pipeline of diffusers is needed, not {type(pipe).__name__}"
        raise UsageError(message, code="E-TRACE", hint="ldmref.trace.record_module takes modules")
    components = pipe.components
    if not isinstance(components, Mapping) or not all(isinstance(k, str) for k in components):
        message = f"the components of a {type(pipe).__name__} must be a mapping from names to parts"
        raise UsageError(message, code="E-TRACE", hint="ldmref.trace.record_module takes modules")
    networks: dict[str, torch.nn.Module] = {}
    for name, part in components.items():
        if name == "controlnet" and hasattr(part, "nets"):
            nets = {f"controlnet_{i}" if i > 1 else name: net for i, net in enumerate(part.nets, 1)}
            networks |= nets
        elif isinstance(part, torch.nn.Module) and name not in SKIPPED:
            networks[name] = part
    for name, network in networks.items():
        require_call_name(name)
        refuse_compiled(name, network)
    return networks


def _configuration(network: object) -> dict[str, Any]:
    """Return the configuration of a network of diffusers or transformers."""
    config: Any = getattr(network, "config", {})
    return config.to_dict() if hasattr(config, "to_dict") else dict(config)


def _settings(pipe: object) -> dict[str, Any]:
    """Return the numbers and texts of a pipeline's configuration."""
    values = dict(getattr(pipe, "config", None) or {})
    plain = {k: x for k, x in values.items() if isinstance(x, bool | int | float | str)}
    return {name: x for name, x in plain.items() if not name.startswith("_")}


def _version() -> str:
    import diffusers

    return diffusers.__version__
