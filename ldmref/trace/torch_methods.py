"""Record methods of modules: what an autoencoder encodes and decodes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ldmref.trace.left_out import LeftOut
from ldmref.trace.recorder import CallRecord
from ldmref.trace.torch_arguments import describe_named, under_declared_names
from ldmref.trace.torch_hooks import LayerRecorder
from ldmref.trace.torch_names import classes_of_diffusers
from ldmref.trace.torch_operations import named_outputs
from ldmref.trace.torch_values import find_tensors, first_tensor

AnyMethod = Callable[..., Any]
METHODS = ("encode", "decode")  # of autoencoders


class ReplacedMethods:
    """Methods of objects that are replaced for a while.

    Args:
        left_out: What notes a method that cannot be replaced.
    """

    def __init__(self, left_out: LeftOut):
        self._left_out = left_out
        # Owner, name, what replaces it, and the method that the object had itself; None: that of
        # its class.
        self._replaced: list[tuple[Any, str, AnyMethod, Any]] = []

    def replace(self, owner: object, name: str, wrap: Callable[[AnyMethod], AnyMethod]) -> None:
        """Replace a method, if there is one of that name, by what `wrap` returns of it."""
        method = getattr(owner, name, None)
        if method is None:
            return
        with self._left_out.guard(name):
            wrapped = wrap(under_declared_names(owner, name, method))
            own = vars(owner).get(name)
            setattr(owner, name, wrapped)
            self._replaced.append((owner, name, wrapped, own))

    def restore(self) -> None:
        """Put the methods back; one that was replaced again in the meantime stays."""
        while self._replaced:
            owner, name, wrapped, own = self._replaced.pop()
            if vars(owner).get(name) is not wrapped:
                continue
            delattr(owner, name)
            if own is not None:
                setattr(owner, name, own)


class AutoencoderRecorder:
    """Records the calls of an autoencoder of diffusers in ldmref's terms.

    Args:
        layers: What records its layers.
        vae: The autoencoder.
        name: The name of its calls, which are `NAME.encode`, `NAME.decode`.
        watch: What observes the distribution that the encoder returned, by the name of its call.
    """

    def __init__(
        self,
        layers: LayerRecorder,
        vae: torch.nn.Module,
        name: str,
        watch: Callable[[object, str], None] | None = None,
    ):
        self._layers = layers
        self._left_out = layers.writer.left_out
        self._vae: Any = vae
        self._encoder, self._decoder = (f"{name}.{method}" for method in METHODS)
        self._watch = watch
        self._slicing = False  # the decoder runs image by image

    def attach(self, replaced: ReplacedMethods) -> None:
        """Observe the methods; `replaced` puts them back."""
        replaced.replace(self._vae, "encode", self._wrap_encode)
        replaced.replace(self._vae, "decode", self._wrap_decode)
        replaced.replace(self._vae, "_decode", self._wrap_slice)

    def _wrap_encode(self, method: AnyMethod) -> AnyMethod:
        def before(args: tuple, kwargs: Mapping[str, Any]) -> None:
            call = self._begin(self._encoder)
            call.add("", "encode", {"image": drop_frame("", _first_argument(args, kwargs))})

        def after(_: None, args: tuple, kwargs: Mapping[str, Any], result: Any) -> None:
            name = self._layers.call.name if self._layers.call is not None else ""
            self._end(read_distribution(result))
            first = _first_result(result)
            if not isinstance(first, torch.Tensor) and self._watch is not None:
                self._watch(first, name)

        return self._left_out.observed(method, self._encoder, before, after)

    def _wrap_decode(self, method: AnyMethod) -> AnyMethod:
        """Record the decoder; with slicing, one call for each image, which `_wrap_slice` sees."""

        def before(args: tuple, kwargs: Mapping[str, Any]) -> bool:
            z = _first_argument(args, kwargs)
            slices = getattr(self._vae, "use_slicing", False) and hasattr(self._vae, "_decode")
            sliced = slices and len(z) > 1
            if sliced:
                self._slicing = True
            else:
                self._begin_decode(z)
            return sliced

        def after(sliced: bool, args: tuple, kwargs: Mapping[str, Any], result: object) -> None:
            self._slicing = False
            if not sliced:
                self._end({"output": first_tensor(result)})

        return self._left_out.observed(method, self._decoder, before, after)

    def _wrap_slice(self, method: AnyMethod) -> AnyMethod:
        def before(args: tuple, kwargs: Mapping[str, Any]) -> bool:
            if self._slicing:
                self._begin_decode(_first_argument(args, kwargs))
            return self._slicing

        def after(sliced: bool, args: tuple, kwargs: Mapping[str, Any], result: object) -> None:
            if sliced:
                self._end({"output": first_tensor(result)})

        return self._left_out.observed(method, self._decoder, before, after)

    def _begin_decode(self, z: object) -> None:
        self._begin(self._decoder).add("", "decode", {"latents": drop_frame("", z)})

    def _begin(self, name: str) -> CallRecord:
        """Begin a call, which may see images as videos of one frame."""
        self._layers.as_ours = drop_frame
        return self._layers.begin(self._vae, name, False)

    def _end(self, outputs: Mapping[str, Any]) -> None:
        """Record the outputs of the call that runs, and end it."""
        self._layers.as_ours = None
        call = self._layers.call
        if call is not None:
            call.add("", outputs={role: drop_frame("", x) for role, x in outputs.items()})
        self._layers.end()


def is_autoencoder(network: torch.nn.Module) -> bool:
    """Return whether a network has methods that encode and decode."""
    return all(callable(getattr(network, method, None)) for method in METHODS)


def is_autoencoder_of_diffusers(network: torch.nn.Module) -> bool:
    """Return whether a network is one of diffusers' autoencoders."""
    return bool(classes_of_diffusers(network)) and is_autoencoder(network)


def watch_methods(
    recorder: LayerRecorder, replaced: ReplacedMethods, network: torch.nn.Module, name: str
) -> None:
    """Record what a network encodes and decodes by the names of its own arguments.

    Args:
        recorder: What records its layers.
        replaced: What puts the methods back.
        network: The network; without such methods nothing is watched.
        name: The name of its calls, which are `NAME.encode`, `NAME.decode`.
    """
    for method in METHODS:
        if callable(getattr(network, method, None)):
            replaced.replace(network, method, _watch(recorder, network, f"{name}.{method}"))


def _watch(
    recorder: LayerRecorder, network: torch.nn.Module, name: str
) -> Callable[[AnyMethod], AnyMethod]:
    """Return what makes of a method one that is recorded as a call."""

    def wrap(method: AnyMethod) -> AnyMethod:
        names = list(inspect.signature(method).parameters)

        def before(args: tuple, kwargs: Mapping[str, Any]) -> bool:
            if recorder.call is not None:  # a part of what the network computes
                return False
            named = dict(zip(names, args, strict=False)) | dict(kwargs)
            begin_named(recorder, network, name, False, named)
            return True

        def after(begun: bool, args: tuple, kwargs: Mapping[str, Any], result: object) -> None:
            if begun:
                end_named(recorder, result)
                recorder.end()

        return recorder.writer.left_out.observed(method, name, before, after)

    return wrap


def begin_named(
    recorder: LayerRecorder,
    network: torch.nn.Module,
    name: str,
    numbered: bool,
    arguments: Mapping[str, Any],
) -> None:
    """Begin a call with its arguments by name."""
    call = recorder.begin(network, name, numbered)
    call.add("", "", dict(find_tensors(arguments, "")))
    with recorder.writer.left_out.guard(f"{call.name}: arguments that are not tensors"):
        call.add("", attributes={"arguments": describe_named(arguments)})


def end_named(recorder: LayerRecorder, result: object) -> None:
    """Record what the call that runs returned, and what could not be read of it."""
    if recorder.call is not None:
        recorder.call.add("", outputs=named_outputs(result))
        recorder.note_unread(recorder.call, "", result)


def read_distribution(result: Any) -> dict[str, torch.Tensor]:
    """Return the mean and the logarithm of the variance that an encoder of diffusers returned.

    Args:
        result: Its result, whose first value is a distribution, or the mean alone.
    """
    first = _first_result(result)
    if isinstance(first, torch.Tensor):
        return {"mean": first}
    return {name: getattr(first, name) for name in ("mean", "logvar")}


def _first_result(result: Any) -> Any:
    return result[0] if isinstance(result, tuple) else next(iter(result.values()))


def drop_frame(layer: str, x: Any) -> Any:
    """Return the image of a video of one frame, (n, c, 1, h, w); any other array as it is."""
    one = isinstance(x, torch.Tensor) and x.ndim == 5 and x.shape[2] == 1
    return x[:, :, 0] if one else x


def _first_argument(args: tuple, kwargs: Mapping[str, Any]) -> Any:
    return args[0] if args else next(iter(kwargs.values()))
