"""Record what a pipeline of diffusers was asked for, and the latents with which it begins."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ldmref.trace.torch_calls import TorchTraceWriter, first_tensor
from ldmref.trace.torch_latents import LatentLayout
from ldmref.trace.torch_scheduler import AnyMethod

PROMPTS = ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2", "clip_skip")
SIZES = ("original_size", "crops_coords_top_left", "target_size")


class RequestRecorder:
    """Notes the arguments of a pipeline's own methods.

    Attributes:
        params: The request, for the manifest.
    """

    def __init__(self, writer: TorchTraceWriter, layout: LatentLayout):
        self.params: dict[str, Any] = {}
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
        }

    def _wrap_prompt(self, method: AnyMethod) -> AnyMethod:
        """Note the prompts; a method that takes no negative one is called for it a second time."""
        signature = inspect.signature(method)

        def before(args: tuple, kwargs: Mapping[str, Any]) -> None:
            arguments = signature.bind(*args, **kwargs).arguments
            self._encoded = set()
            found = {k: arguments[k] for k in PROMPTS if arguments.get(k) is not None}
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
        def after(_: None, args: tuple, kwargs: Mapping[str, Any], result: Any) -> None:
            self._encoding = False
            self._layout.note(result)
            latents = self._layout.convert(first_tensor(result))
            call = self._writer.begin("initial", numbered=False)
            call.add("", "initial", outputs={"output": latents})
            self._writer.end(call)

        return self._writer.left_out.observed(method, "initial", after=after)
