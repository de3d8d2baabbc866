"""Record the scheduler and the guidance of a diffusers pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from ldmref.models.family import Family
from ldmref.trace.recorder import CallRecord
from ldmref.trace.torch_calls import first_tensor
from ldmref.trace.torch_hooks import LayerRecorder
from ldmref.trace.torch_latents import LatentLayout

NOISE = "noise"
OWN = ("sigmas", "timesteps")  # a schedule that the caller gives
AnyMethod = Callable[..., Any]


class SchedulerRecorder:
    """Records what a scheduler of diffusers computes, and the guidance before each step.

    Attributes:
        prediction: The last output of the denoiser, which guidance combines.
    """

    def __init__(
        self,
        pipe: Any,
        scheduler: Any,
        layers: LayerRecorder,
        family: Family | None,
        layout: LatentLayout,
    ):
        self.prediction: torch.Tensor | None = None
        self._pipe = pipe
        self._scheduler = scheduler
        self._layers = layers
        self._layout = layout
        self._halves = ("uncond", "cond") if family is None else family.halves
        self._writer = layers.writer
        self._left_out = layers.writer.left_out

    def wrappers(self) -> dict[str, Callable[[AnyMethod], AnyMethod]]:
        """Return a function that wraps each recorded method, by the method's name."""
        return {
            "set_timesteps": self._wrap_set_timesteps,
            "step": self._wrap_step,
            "scale_model_input": self._wrap_other("scale_input"),
            "add_noise": self._wrap_other("add_noise"),
            "scale_noise": self._wrap_other("add_noise"),  # of schedulers of flows
        }

    def describe(self) -> dict[str, Any]:
        """Return the manifest's description: class and configuration."""
        config = dict(self._scheduler.config)
        return {"class": type(self._scheduler).__name__, "config": config}

    def _wrap_set_timesteps(self, method: AnyMethod) -> AnyMethod:
        def after(_: None, args: tuple, kwargs: Mapping[str, Any], result: Any) -> None:
            found = {
                name: getattr(self._scheduler, name, None)
                for name in ("timesteps", "sigmas", "alphas_cumprod")
            }
            outputs = {name: x for name, x in found.items() if x is not None}
            own = {k: np.asarray(kwargs[k]) for k in OWN if kwargs.get(k) is not None}
            call = self._writer.begin("schedule", numbered=False)
            call.add("", "schedule", own, outputs=outputs)
            self._writer.end(call)

        return self._left_out.observed(method, "schedule", after=after)

    def _wrap_step(self, method: AnyMethod) -> AnyMethod:
        signature = inspect.signature(method)

        def before(args: tuple, kwargs: Mapping[str, Any]) -> tuple[CallRecord, dict[str, Any]]:
            arguments = signature.bind(*args, **kwargs).arguments
            call = self._writer.begin("sampler")
            with self._left_out.guard("guidance"):
                self._record_guidance(self._layout.convert(arguments["model_output"]))
            inputs, attributes = _split(arguments)
            inputs = self._layout.convert_all(inputs)
            call.add("", type(self._scheduler).__name__, inputs)  # before a step works in place
            self._layers.noise = []
            return call, attributes

        def after(
            begun: tuple[CallRecord, dict[str, Any]],
            args: tuple,
            kwargs: Mapping[str, Any],
            result: Any,
        ) -> None:
            call, attributes = begun
            noise_parts, self._layers.noise = self._layers.noise, None
            x0 = _predicted(result)
            outputs = {"output": first_tensor(result)} | ({} if x0 is None else {"x0": x0})
            noise = {NOISE: torch.cat(noise_parts)} if noise_parts else {}
            convert = self._layout.convert_all
            call.add("", "", convert(noise) | self._levels(), attributes, convert(outputs))
            self._writer.end(call)

        return self._left_out.observed(method, "sampler", before, after)

    def _levels(self) -> dict[str, Any]:
        """Return the noise levels of the step that was taken, if the scheduler has them."""
        scheduler = self._scheduler
        index = getattr(scheduler, "step_index", None)
        sigmas = getattr(scheduler, "sigmas", None)
        if index is None or sigmas is None or getattr(scheduler, "order", 1) != 1:
            return {}
        if not 1 <= index < len(sigmas):
            return {}
        return {"sigma": sigmas[index - 1], "sigma_next": sigmas[index]}

    def _record_guidance(self, guided: torch.Tensor) -> None:
        """Record the halves of the denoiser's output and what guidance made of them.

        Further channels of the output are variances. Some pipelines give the scheduler the guided
        prediction twice.
        """
        raw = self.prediction
        if raw is None or raw.shape[2:] != guided.shape[2:]:
            return
        raw = raw[:, : guided.shape[1]]
        if len(guided) == len(raw) and len(raw) % 2 == 0:
            first, second = guided.chunk(2)
            different = not torch.equal(*raw.chunk(2))
            guided = first if different and torch.equal(first, second) else guided
        if len(raw) != 2 * len(guided):
            return
        call = self._writer.begin("guidance")
        inputs: dict[str, Any] = dict(zip(self._halves, raw.chunk(2), strict=True))
        inputs |= {
            role: np.float64(value)
            for role, name in (("scale", "_guidance_scale"), ("rescale", "_guidance_rescale"))
            if isinstance(value := getattr(self._pipe, name, None), int | float)
        }
        order = {} if self._halves == ("uncond", "cond") else {"halves": list(self._halves)}
        call.add("", "guidance", inputs, order, {"output": guided})
        self._writer.end(call)

    def _wrap_other(self, name: str) -> Callable[[AnyMethod], AnyMethod]:
        def wrap(method: AnyMethod) -> AnyMethod:
            signature = inspect.signature(method)

            def before(args: tuple, kwargs: Mapping[str, Any]) -> CallRecord:
                inputs, _ = _split(signature.bind(*args, **kwargs).arguments)
                call = self._writer.begin(name)
                call.add("", name, self._layout.convert_all(inputs))
                return call

            def after(
                call: CallRecord, args: tuple, kwargs: Mapping[str, Any], result: Any
            ) -> None:
                call.add("", outputs={"output": self._layout.convert(first_tensor(result))})
                self._writer.end(call)

            return self._left_out.observed(method, name, before, after)

        return wrap


def _split(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tensors among a method's arguments, and numbers and flags that are not."""
    flat = {**arguments, **arguments.get("kwargs", {})}
    if arguments.get("args"):  # of `scale_model_input(sample, timestep)`
        flat["timestep"] = arguments["args"][0]
    names = {"variance_noise": NOISE, "timesteps": "timestep"}
    tensors = {name: x for name, x in flat.items() if isinstance(x, torch.Tensor)}
    inputs: dict[str, Any] = {names.get(name) or name: x for name, x in tensors.items()}
    if "timestep" in flat:
        inputs["timestep"] = flat["timestep"]
    numbers = {k: v for k, v in flat.items() if isinstance(v, bool | int | float)}
    dropped = ("timestep", "return_dict")
    return inputs, {k: v for k, v in numbers.items() if k not in dropped}


def _predicted(result: Any) -> torch.Tensor | None:
    """Return the prediction of x0, if a step returned it."""
    if isinstance(result, tuple):
        return result[1] if len(result) == 2 and isinstance(result[1], torch.Tensor) else None
    return getattr(result, "pred_original_sample", None)
