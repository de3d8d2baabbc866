"""Record what a pipeline of diffusers was asked for, and the latents with which it begins."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from ldmref.trace.torch_calls import TorchTraceWriter
from ldmref.trace.torch_latents import LatentLayout
from ldmref.trace.torch_scheduler import AnyMethod
from ldmref.trace.torch_values import find_tensors, first_tensor

PROMPTS = """
    prompt prompt_2 prompt_3 negative_prompt negative_prompt_2 negative_prompt_3 clip_skip
    max_sequence_length num_images_per_prompt
""".split()
SIZES = ("original_size", "crops_coords_top_left", "target_size")
WITH_DEFAULT = re.compile(r"(.*_)?(guidance|cfg|pag|sag)_.*")  # what guides, unless it is given
NOT_ASKED = ("generator", "output_type", "return_dict")  # arguments that change no number


class RequestRecorder:
    """Notes the arguments of a pipeline's own methods.

    Attributes:
        params: The request, for the manifest.
        asked: The arguments of the pipeline's call that are numbers or texts; {} if it was not
            called.
        requests: Those of all calls, in their order.
        doing: The method of the pipeline that runs, of those that encode images.
    """

    def __init__(self, writer: TorchTraceWriter, layout: LatentLayout):
        self.params: dict[str, Any] = {}
        self.asked: dict[str, Any] = {}
        self.requests: list[dict[str, Any]] = []
        self.doing = ""
        self._layout = layout
        self._writer = writer
        self._encoded: set[str] = set()
        self._encoding = False  # the prompts of a run, before its latents

    def skip_of(self, encoder: str) -> int:
        """Return how many layers the next run of a text encoder leaves out.

        A prompt is encoded first. diffusers leaves out no layer for the negative prompt after it.
        """
        skip = 0 if encoder in self._encoded else int(self.params.get("clip_skip") or 0)
        self._encoded.add(encoder)
        return skip

    def wrappers(self) -> dict[str, Callable[[AnyMethod], AnyMethod]]:
        """Return a function that wraps each observed method of a pipeline, by its name."""
        return {
            "encode_prompt": self._wrap_prompt,
            "_get_add_time_ids": self._wrap_sizes,
            "prepare_latents": self._wrap_latents,
            "prepare_mask_latents": self._wrap_mask,
            "prepare_image_latents": self._wrap_references,
            "prepare_image": self._wrap_image,
            "prepare_control_image": self._wrap_image,
        }

    def asked_for(self, name: str) -> Any:
        """Return an argument of the pipeline's call; None if it was not given."""
        return self.asked.get(name)

    def observe_calls(self, pipe: object) -> Callable[[], None]:
        """Note the arguments of the pipeline's calls; return a function that ends this.

        Calls look up `__call__` in the class, so the pipeline gets a subclass for the time.
        """
        kind = type(pipe)

        def before(args: tuple, kwargs: Mapping[str, Any]) -> None:
            self._note_call(kind, args[1:], kwargs)
            self.asked |= asked_of_parts(pipe)

        call = self._writer.left_out.observed(kind.__call__, "call of the pipeline", before)
        names = {"__call__": call, "__module__": kind.__module__, "__doc__": kind.__doc__}
        pipe.__class__ = type(kind.__name__, (kind,), names)

        def end() -> None:
            pipe.__class__ = kind

        return end

    def _note_call(self, kind: type, args: tuple, kwargs: Mapping[str, Any]) -> None:
        """Note a request: numbers and texts for the manifest, arrays as a call of the trace."""
        try:
            bound = inspect.signature(kind.__call__).bind(None, *args, **kwargs)
        except TypeError:
            return  # the call itself says what is wrong
        parameters = bound.signature.parameters
        defaults = {k: x.default for k, x in parameters.items() if WITH_DEFAULT.fullmatch(k)}
        arguments = dict(list(bound.arguments.items())[1:])
        for name, parameter in parameters.items():  # modular pipelines take all by name
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                arguments |= arguments.pop(name, {})
        requested = {name: copied(x) for name, x in arguments.items()}
        asked = {k: x for k, x in (defaults | requested).items() if k not in NOT_ASKED}
        self.asked = {k: x for k, x in asked.items() if x is not None and _is_plain(x)}
        self.asked |= {k: True for k, x in asked.items() if callable(x)}
        self.requests.append(self.asked)
        if not hasattr(kind, "encode_prompt"):
            self.params |= {k: self.asked[k] for k in PROMPTS if k in self.asked}
        arrays = {role: x for k, value in asked.items() for role, x in _arrays(k, value)}
        if arrays:
            call = self._writer.begin("inputs", numbered=False)
            call.add("", "inputs", arrays)
            self._writer.end(call)

    def _wrap_prompt(self, method: AnyMethod) -> AnyMethod:
        """Note the prompts; a method that takes no negative one is called for it a second time."""
        signature = inspect.signature(method)

        def before(args: tuple, kwargs: Mapping[str, Any]) -> None:
            arguments = signature.bind(*args, **kwargs).arguments
            self._encoded = set()
            found = {k: arguments[k] for k in PROMPTS if arguments.get(k) is not None}
            found = {k: copied(x) for k, x in found.items()}
            if self._encoding and "negative_prompt" not in signature.parameters:
                found = {f"negative_{k}": x for k, x in found.items() if k.startswith("prompt")}
            self._encoding = True
            self.params |= found

        return self._writer.left_out.observed(method, "prompts of the request", before)

    def _wrap_sizes(self, method: AnyMethod) -> AnyMethod:
        """Note the sizes that were asked for; the second call is for the negative prompt."""
        names = tuple(inspect.signature(method).parameters)

        def before(args: tuple, kwargs: Mapping[str, Any]) -> None:
            arguments = dict(zip(names, args, strict=False)) | dict(kwargs)
            sizes = {name: arguments[name] for name in SIZES if arguments.get(name) is not None}
            prefix = "negative_" if set(sizes) & set(self.params) else ""
            self.params |= {prefix + name: list(value) for name, value in sizes.items()}

        return self._writer.left_out.observed(method, "sizes of the request", before)

    def _wrap_latents(self, method: AnyMethod) -> AnyMethod:
        signature = inspect.signature(method)

        def before(args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
            self.doing = "prepare_latents"
            arguments = signature.bind(*args, **kwargs).arguments
            return {**arguments, "latents": copied(arguments.get("latents"))}

        def after(
            arguments: dict[str, Any], args: tuple, kwargs: Mapping[str, Any], result: object
        ) -> None:
            self.doing = ""
            self._encoding = False
            self._layout.note(result, arguments.get("height"), arguments.get("width"))
            requested = arguments["latents"]
            inputs = {"latents": self._layout.convert(requested)} if _is_array(requested) else {}
            latents = self._layout.convert(first_tensor(result))
            call = self._writer.begin("initial", numbered=False)
            call.add("", "initial", inputs, outputs={"output": latents})
            self._writer.end(call)

        return self._writer.left_out.observed(method, "initial", before, after)

    def _wrap_mask(self, method: AnyMethod) -> AnyMethod:
        """Record the mask and the latents of the masked image, which the network or steps read."""
        signature = inspect.signature(method)

        def before(args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
            self.doing = "prepare_mask_latents"
            arguments = signature.bind(*args, **kwargs).arguments
            names = ("mask", "masked_image")
            found = {name: arguments[name] for name in names if _is_array(arguments.get(name))}
            return {name: copied(x) for name, x in found.items()}

        def after(
            inputs: dict[str, Any], args: tuple, kwargs: Mapping[str, Any], result: object
        ) -> None:
            self.doing = ""
            found = [x for _, x in find_tensors(result, "")]
            outputs: dict[str, Any] = dict(zip(("mask", "latents"), found, strict=False))
            call = self._writer.begin("mask", numbered=False)
            call.add("", "mask", inputs, outputs=self._layout.convert_all(outputs))
            self._writer.end(call)

        return self._writer.left_out.observed(method, "mask", before, after)

    def _wrap_references(self, method: AnyMethod) -> AnyMethod:
        """Note that the encoder runs for reference images."""

        def before(args: tuple, kwargs: Mapping[str, Any]) -> None:
            self.doing = "prepare_image_latents"

        def after(_: None, args: tuple, kwargs: Mapping[str, Any], result: object) -> None:
            self.doing = ""

        return self._writer.left_out.observed(method, "references", before, after)

    def _wrap_image(self, method: AnyMethod) -> AnyMethod:
        """Record the control image as a network or an encoder reads it."""

        def after(_: None, args: tuple, kwargs: Mapping[str, Any], result: object) -> None:
            image = first_tensor(result)
            if image is not None:
                call = self._writer.begin("control", numbered=False)
                call.add("", "control", outputs={"output": image})
                self._writer.end(call)
            self.doing = "prepare_image"  # an encoder may follow

        return self._writer.left_out.observed(method, "control", after=after)


def asked_of_parts(pipe: Any) -> dict[str, Any]:
    """Return what the parts of a pipeline are asked for, which no argument of its call says.

    `pag_applied_layers` are patterns of diffusers' PAG; `perturbed_layers` are the layers that they
    stand for. `guider` has the class of a guider and its settings.
    """
    found: dict[str, Any] = {}
    patterns = getattr(pipe, "pag_applied_layers", None)
    if isinstance(patterns, list):
        network = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
        found = {"pag_applied_layers": [*patterns]}
        found["perturbed_layers"] = _attentions(network, patterns)
    guider = getattr(pipe, "guider", None)
    if guider is not None:
        settings = dict(getattr(guider, "config", None) or {})
        plain = {k: x for k, x in settings.items() if _is_plain(x) and not k.startswith("_")}
        found["guider"] = {**plain, "class": type(guider).__name__}
    return found


def _attentions(network: torch.nn.Module | None, patterns: list[str]) -> list[str]:
    """Return the self-attentions that the patterns of diffusers' PAG name.

    A pattern that ends with a number does not mean a layer whose own name is that number.
    """
    modules = [] if network is None else network.named_modules()
    names = [name for name, x in modules if getattr(x, "is_cross_attention", None) is False]
    found = []
    for name in names:
        last = name.rpartition(".")[2]
        own = [p for p in patterns if p.rpartition(".")[2] != last or not last.isnumeric()]
        found += [name] if any(re.search(pattern, name) for pattern in own) else []
    return found


def copied(value: object) -> Any:
    """Return a copy of a list or array, into which pipelines may write; other values as is."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    return list(value) if isinstance(value, list) else value


def _is_plain(x: object) -> bool:
    """Return whether a value is a number, a text, or a list of such, in which some may be None."""
    if isinstance(x, list | tuple):
        return all(part is None or _is_plain(part) for part in x)
    return isinstance(x, bool | int | float | str)


def _is_array(x: object) -> bool:
    return isinstance(x, torch.Tensor | np.ndarray)


def _arrays(role: str, value: object) -> Iterator[tuple[str, Any]]:
    """Yield the arrays and images among the arguments of a call, by role."""
    if isinstance(value, Image.Image):
        yield role, np.asarray(value).copy()
    elif _is_array(value):
        yield role, value
    elif isinstance(value, list | tuple) and not _is_plain(value):
        for i, part in enumerate(value):
            yield from _arrays(role if len(value) == 1 else f"{role}.{i}", part)
