"""Record the scheduler and the guidance of a diffusers pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from ldmref.models.family import Family, GuidanceScale
from ldmref.ports.port import FamilyPort, port_of
from ldmref.trace.recorder import CallRecord
from ldmref.trace.torch_hooks import LayerRecorder
from ldmref.trace.torch_latents import LatentLayout
from ldmref.trace.torch_methods import AnyMethod
from ldmref.trace.torch_values import first_tensor

NOISE = "noise"
OWN = ("sigmas", "timesteps")  # a schedule that the caller gives
CFG = "ClassifierFreeGuidance"  # the guider of modular pipelines whose formula is known
NUMBERS = ("mu", "num_inference_steps")
RULE = ("name", "over", "factor")  # of a guidance: its name, and parameters that are no arrays
NO_X0 = ("LCMScheduler", "TCDScheduler")  # that return something else beside the state


class SchedulerRecorder:
    """Records what a scheduler of diffusers computes, and the guidance before each step.

    Attributes:
        predictions: The outputs of the denoiser since the last step, which guidance combines.

    A pipeline that keeps its batch twice through the steps, as that of DiT does, is recorded as the
    first half, from which it makes both again.
    """

    def __init__(
        self,
        pipe: Any,
        scheduler: Any,
        layers: LayerRecorder,
        family: Family | None,
        layout: LatentLayout,
        asked: Callable[[str], Any] = lambda name: None,
    ):
        self.predictions: list[torch.Tensor] = []
        self._asked = asked
        self._pipe = pipe
        self._scheduler = scheduler
        self._layers = layers
        self._layout = layout
        self._halves = (FamilyPort("") if family is None else port_of(family)).halves
        theirs = GuidanceScale() if family is None else family.guidance_scale
        self._scale_of = theirs.convert
        self._writer = layers.writer
        self._left_out = layers.writer.left_out
        self._time: Any = None  # of the step that is being taken

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
        def before(args: tuple, kwargs: Mapping[str, Any]) -> dict[str, np.ndarray]:
            return {k: np.array(kwargs[k]) for k in OWN if kwargs.get(k) is not None}

        def after(
            own: dict[str, np.ndarray], args: tuple, kwargs: Mapping[str, Any], result: object
        ) -> None:
            found = {
                name: getattr(self._scheduler, name, None)
                for name in ("timesteps", "sigmas", "alphas_cumprod")
            }
            outputs = {name: x for name, x in found.items() if x is not None}
            call = self._writer.begin("schedule", numbered=False)
            numbers = {k: kwargs[k] for k in NUMBERS if isinstance(kwargs.get(k), int | float)}
            call.add("", "schedule", own, numbers, outputs)
            self._writer.end(call)

        return self._left_out.observed(method, "schedule", before, after)

    def _wrap_step(self, method: AnyMethod) -> AnyMethod:
        signature = inspect.signature(method)

        def before(
            args: tuple, kwargs: Mapping[str, Any]
        ) -> tuple[CallRecord, dict[str, Any], int | None]:
            arguments = signature.bind(*args, **kwargs).arguments
            call = self._writer.begin("sampler")
            self._time = arguments.get("timestep")
            inputs, attributes = _split(arguments)
            inputs = self._layout.convert_all(inputs)
            rows = self._rows_of_half(inputs)
            inputs = _first_rows(inputs, rows)
            with self._left_out.guard("guidance"):
                self._record_guidance(inputs["model_output"])
            attributes |= self._guides()
            call.add("", type(self._scheduler).__name__, inputs)  # before a step works in place
            self._layers.noise = []
            return call, attributes, rows

        def after(
            begun: tuple[CallRecord, dict[str, Any], int | None],
            args: tuple,
            kwargs: Mapping[str, Any],
            result: object,
        ) -> None:
            call, attributes, rows = begun
            noise_parts, self._layers.noise = self._layers.noise, None
            named = type(self._scheduler).__name__
            x0 = None if named in NO_X0 else _predicted(result)
            outputs = {"output": first_tensor(result)} | ({} if x0 is None else {"x0": x0})
            noise = {NOISE: torch.cat(noise_parts)} if noise_parts else {}
            made = [_first_rows(self._layout.convert_all(x), rows) for x in (noise, outputs)]
            call.add("", "", made[0] | self._levels(), attributes, made[1])
            self._writer.end(call)

        return self._left_out.observed(method, "sampler", before, after)

    def _guides(self) -> dict[str, Any]:
        """Return whether the pipeline says that it combines two predictions, if it says so."""
        guides = getattr(self._pipe, "do_classifier_free_guidance", None)
        return {"guided": guides} if isinstance(guides, bool) else {}

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

    def _rows_of_half(self, inputs: Mapping[str, Any]) -> int | None:
        """Return half the batch of a step whose batch is there twice, or None."""
        sample, guided = inputs.get("sample"), inputs.get("model_output")
        if sample is None or guided is None or len(sample) != len(guided):
            return None
        twice = self._is_guided_twice(guided) and torch.equal(*sample.chunk(2))
        return len(guided) // 2 if twice else None

    def _is_guided_twice(self, guided: torch.Tensor) -> bool:
        """Return whether a guided prediction is there twice, as some pipelines pass it.

        The denoiser's predictions are not equal: they are the two parts that guidance combines.
        """
        raw = self.predictions
        if len(raw) != 1 or len(raw[0]) != len(guided) or len(guided) % 2:
            return False
        parts = raw[0][:, : guided.shape[1]].chunk(2)
        return torch.equal(*guided.chunk(2)) and not torch.equal(*parts)

    def _record_guidance(self, guided: torch.Tensor) -> None:
        """Record the predictions since the last step, and what guidance made of them.

        Further channels of the output are variances.
        """
        guided = guided.chunk(2)[0] if self._is_guided_twice(guided) else guided
        raw, self.predictions = self.predictions, []
        if not raw or any(x.shape[2:] != guided.shape[2:] for x in raw):
            return
        raw = [x[:, : guided.shape[1]] for x in raw]
        parts, numbers = self._parts(raw, len(guided))
        if not parts:
            return
        order = {} if self._halves == ("uncond", "cond") else {"halves": list(self._halves)}
        name = {k: numbers.pop(k) for k in (*numbers,) if k in RULE}
        call = self._writer.begin("guidance")
        inputs: dict[str, Any] = {**parts, **{k: np.float64(x) for k, x in numbers.items()}}
        call.add("", "guidance", inputs, {**order, **name}, {"output": guided})
        self._writer.end(call)

    def _parts(
        self, raw: list[torch.Tensor], n: int
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return the predictions of n states by role, and the scales; ({}, {}): no guidance."""
        numbers = {
            role: value
            for role, name in (("scale", "guidance_scale"), ("rescale", "guidance_rescale"))
            if isinstance(value := read_scale(self._pipe, name), int | float)
        }
        if "scale" in numbers:
            numbers["scale"] = self._scale_of(numbers["scale"])
        numbers |= self._rule()
        sizes = [len(x) / n for x in raw]
        perturbed = bool(getattr(self._pipe, "do_perturbed_attention_guidance", False))
        if sizes == [2] and not perturbed:
            return dict(zip(self._halves, raw[0].chunk(2), strict=True)), numbers
        if sizes == [1, 1]:  # a call for each, the prompt's first
            scale = self._asked("true_cfg_scale")
            asked = numbers if scale is None else {**numbers, "scale": scale}
            return {"uncond": raw[1], "cond": raw[0]}, asked
        if sizes == [2, 1]:
            skip = getattr(self._pipe, "_skip_layer_guidance_scale", None)
            if skip is None:
                return {}, {}  # of another guidance with a third prediction
            halves = dict(zip(self._halves, raw[0].chunk(2), strict=True))
            named = {"name": "skip_layers", "skip_scale": skip}
            return halves | {"skipped": raw[1]}, numbers | named
        if perturbed and sizes in ([2], [3]):
            names = ("cond", "perturbed") if sizes == [2] else (*self._halves, "perturbed")
            named = {"name": "perturbed", "perturbed_scale": self._perturbed_scale()}
            parts = dict(zip(names, raw[0].chunk(len(names)), strict=True))
            return parts, numbers | named
        return {}, {}

    def _rule(self) -> dict[str, Any]:
        """Return the name and the parameters of a guidance that is not classifier-free alone."""
        guider = getattr(self._pipe, "guider", None)
        if guider is not None and type(guider).__name__ != CFG:
            return {"name": type(guider).__name__}
        factor = float(getattr(self._pipe, "_cfg_normalization", None) or 0.0)
        return {"name": "renorm", "over": "image", "factor": factor} if factor > 0.0 else {}

    def _perturbed_scale(self) -> float:
        """Return the scale of perturbed-attention guidance at the step that is being taken."""
        return float(self._pipe._get_pag_scale(self._time))

    def _wrap_other(self, name: str) -> Callable[[AnyMethod], AnyMethod]:
        def wrap(method: AnyMethod) -> AnyMethod:
            signature = inspect.signature(method)

            def before(args: tuple, kwargs: Mapping[str, Any]) -> CallRecord:
                inputs, _ = _split(signature.bind(*args, **kwargs).arguments)
                call = self._writer.begin(name)
                call.add("", name, self._layout.convert_all(inputs))
                return call

            def after(
                call: CallRecord, args: tuple, kwargs: Mapping[str, Any], result: object
            ) -> None:
                call.add("", outputs={"output": self._layout.convert(first_tensor(result))})
                self._writer.end(call)

            return self._left_out.observed(method, name, before, after)

        return wrap


def read_scale(pipe: object, name: str) -> Any:
    """Return a number of the guidance of a pipeline's run, or of its guider; None without any.

    A scale of the original formulation, which begins with the conditional prediction, is one less.
    """
    own = getattr(pipe, f"_{name}", None)
    guider = getattr(pipe, "guider", None)
    if own is not None or type(guider).__name__ != CFG:
        return own
    value: Any = getattr(guider, name, None)
    original = name == "guidance_scale" and getattr(guider, "use_original_formulation", False)
    return value + 1.0 if original and value is not None else value


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


def _first_rows(arrays: Mapping[str, Any], rows: int | None) -> dict[str, Any]:
    """Return arrays with their first rows alone, those that are batches; None: as they are."""
    if rows is None:
        return dict(arrays)
    batches = {name: x for name, x in arrays.items() if getattr(x, "ndim", 0) > 1}
    return {**arrays, **{name: x[:rows] for name, x in batches.items()}}


def _predicted(result: object) -> torch.Tensor | None:
    """Return the prediction of x0, if a step returned it."""
    if isinstance(result, tuple):
        return result[1] if len(result) == 2 and isinstance(result[1], torch.Tensor) else None
    return getattr(result, "pred_original_sample", None)
