"""A backend whose networks return what was recorded of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, get_type_hints

import numpy as np

from ldmref.backends import get_backend
from ldmref.backends.base import Backend
from ldmref.locate.run.calls import OUTPUT, FollowedCalls, NotFollowed
from ldmref.math.arrays import Array
from ldmref.models.config import ModelConfig
from ldmref.models.text import text_encoder_pooled
from ldmref.trace.backend import LayerRecordingBackend
from ldmref.trace.calls import TraceCall


def exact_backend(dtype: str = "float64") -> Backend:
    """Return the backend of a run that is followed: NumPy, without shortcuts."""
    return get_backend("numpy", dtype=dtype, speed="exact")


class RecordedNetworks(LayerRecordingBackend):
    """A backend whose networks compute nothing, and return what was recorded.

    Args:
        inner: The backend of the model, which computes nothing.
        recorder: The recorded calls.
        config: The model's configuration, which distinguishes its text encoders.
        whole: Whether only whole calls are compared, which is so.
        prefix: What the names of calls begin with.
    """

    recorder: FollowedCalls

    def __init__(
        self,
        inner: Backend,
        recorder: FollowedCalls,
        config: ModelConfig,
        whole: bool | None = None,
        prefix: str = "",
    ):
        super().__init__(exact_backend(recorder.dtype), recorder, config, True, prefix)
        self.config = config

    def compile(self, network: Callable, params: Mapping[str, Any]) -> Callable:
        """Return a function that compares its arguments and returns what was recorded."""
        names = list(inspect.signature(network).parameters)[2:]

        def run(*args: object, **kwargs: object) -> Any:
            self.begin(network.__name__, dict(zip(names, args, strict=False)) | kwargs)
            _, call = self._open.pop()
            assert call is not None
            unknown = partial(unknown_outputs, network, call.name, self.config, args)
            rows = next(len(x) for x in args if isinstance(x, np.ndarray))
            return as_returned(network, self.recorder.outputs_of(call.name, rows, unknown))

        return run

    def is_finite(self, x: Array) -> bool:
        """Return that a state may be continued with: the run takes what was recorded, also NaN."""
        return True


def unknown_outputs(
    network: Callable, call: str, config: ModelConfig, arguments: Sequence[Any]
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of what a network returns of which no call was recorded, by role.

    Args:
        network: Its function.
        call: The call.
        config: The configuration of the model.
        arguments: Those of the call.

    Raises:
        NotFollowed: They depend on more than the shapes of its arguments.
    """
    kind, vae = TraceCall(call).kind, config.vae
    x = next(x for x in arguments if isinstance(x, np.ndarray))
    if kind.startswith("text_encoder"):
        text = next(c for c in arguments if hasattr(c, "hidden_size"))
        width = text.hidden_size * max(len(getattr(text, "hidden_layers", ())), 1)
        shapes = {OUTPUT: (*x.shape, width)}
        if network is text_encoder_pooled:
            shapes["pooled"] = (len(x), text.projection_dim or text.hidden_size)
        return shapes
    scale, channels = vae.factor // vae.patch, vae.latent_channels // vae.patch**2
    if kind == "vae.encode":
        shape = (len(x), channels, x.shape[2] // scale, x.shape[3] // scale)
        return {"mean": shape, "logvar": shape}
    if kind == "vae.decode":
        return {OUTPUT: (len(x), 3, x.shape[2] * scale, x.shape[3] * scale)}
    if kind == config.denoiser.network:
        return {OUTPUT: (len(x), vae.latent_channels, *x.shape[2:])}
    raise NotFollowed(f"what {call} returned was not recorded")


def as_returned(network: Callable, outputs: Mapping[str, np.ndarray]) -> Any:
    """Return the recorded outputs of a network in the form in which it returns them.

    >>> as_returned(lambda: 0, {"output": np.ones(1)})
    array([1.])
    """
    if not any("." in role for role in outputs):
        several = [*outputs.values()]
        return tuple(several) if len(several) > 1 else several[0]
    parts: dict[str, Any] = {}
    for role, x in outputs.items():
        name, _, number = role.partition(".")
        parts[name] = (*parts.get(name, ()), x) if number else x
    kind = get_type_hints(network).get("return")
    fields = getattr(kind, "_fields", None)
    if kind is None or fields is None:
        return tuple(parts.values())
    return kind(*(parts.get(name, ()) for name in fields))
