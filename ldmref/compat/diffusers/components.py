"""The parts of a pipeline, which have the names of diffusers' networks and share one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from ldmref.backends.numpy import NumpyBackend
from ldmref.compat.diffusers.arrays import to_caller, to_host
from ldmref.errors import UsageError, short_repr
from ldmref.io.checkpoint import open_checkpoint
from ldmref.loading import load_checkpoint, open_backend
from ldmref.models.autoencoder_config import BaseAutoencoderConfig
from ldmref.models.autoencoder_kind import autoencoder_of
from ldmref.models.config import ModelConfig, UNetConfig
from ldmref.models.model import LatentDiffusion
from ldmref.samplers.config import SchedulerConfig
from ldmref.support.config import settings
from ldmref.support.files import read_json


class FrozenConfig(dict[str, Any]):
    """A read-only dictionary whose keys are also attributes.

    >>> config = FrozenConfig(steps_offset=1)
    >>> config.steps_offset, config["steps_offset"], dict(config)
    (1, 1, {'steps_offset': 1})
    """

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"the configuration has no {name!r}; it has {', '.join(self)}")

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise UsageError(
            "a configuration cannot be changed",
            code="E-CONFIG",
            hint="give changes to from_config: EulerDiscreteScheduler.from_config(config, name=1)",
        )

    __setattr__ = __setitem__ = __delitem__ = _refuse
    update = pop = popitem = setdefault = clear = _refuse  # type: ignore[assignment]


NETWORKS = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet")
DTYPES = ("float16", "bfloat16", "float32", "float64")


class Weights:
    """A model in a folder, which is loaded at its first use on the device that was chosen by then.

    Args:
        name: A folder of diffusers, or any other name that `ldmref.load` knows.
        variant: The variant of the weights, such as `fp16`.

    Raises:
        InputError: There is no such model.
        CorruptModelError: Its configuration is not supported.
        UsageError: Its denoiser is a transformer.
    """

    def __init__(self, name: str | Path, variant: str | None = None):
        self.checkpoint = open_checkpoint(name, variant=variant)
        self.path = self.checkpoint.path
        self.config: ModelConfig = self.checkpoint.config
        if not isinstance(self.config.denoiser, UNetConfig):
            raise UsageError(
                f"{self.config.name!r} is no model of a U-Net, and only their pipelines are here",
                code="E-PIPELINE",
                hint="use ldmref.load(folder) and ldmref.modes.txt2img",
            )
        self.checkpoint.read()
        self.backend: str | None = None
        self.device: str | None = None
        self.dtype: str | None = None
        self._model: LatentDiffusion | None = None

    @property
    def model(self) -> LatentDiffusion:
        """The model, loaded at the first use."""
        if self._model is None:
            ops = open_backend(self.backend, self.device, self.dtype)
            self._model = load_checkpoint(self.checkpoint, ops, **settings().limits)
        return self._model

    def with_scheduler(self, scheduler: SchedulerConfig) -> LatentDiffusion:
        """Return the model with another configuration of its scheduler; weights are shared."""
        model = self.model
        configured = model.with_params({}, model.backend)
        configured.config = replace(model.config, scheduler=scheduler)
        return configured

    def move(self, *targets: object) -> None:
        """Choose the device and the dtype, as `pipe.to(...)` does; None changes nothing.

        A device or dtype of torch, and every device except for "cpu", select the torch backend.

        Raises:
            UsageError: A target is neither a device nor a dtype.
            BackendUnavailable: The device is not there, or torch is not installed.
        """
        device, dtype, backend = self.device, self.dtype, self.backend
        for target in targets:
            if target is None:
                continue
            name = str(target).removeprefix("torch.")
            is_torch = type(target).__module__.partition(".")[0] == "torch"
            if name in DTYPES:
                dtype = name
            elif isinstance(target, str | int) or is_torch:
                device = f"cuda:{target}" if isinstance(target, int) else name
            else:
                message = f"to() takes a device and a dtype, not {short_repr(target)}"
                raise UsageError(message, code="E-DEVICE")
            if is_torch or (name not in DTYPES and device != "cpu"):
                backend = "torch"
        if (device, dtype, backend) != (self.device, self.dtype, self.backend):
            open_backend(backend, device, dtype)
            self.device, self.dtype, self.backend = device, dtype, backend
            self._model = None

    def read_json(self, part: str) -> dict[str, Any]:
        """Return the configuration of a part as its file says, or {} without one."""
        path = Path(self.path, part, "config.json")
        return read_json(path) if path.is_file() else {}


class Component:
    """A network or tokenizer of a pipeline: its configuration, and what pipelines need of it.

    Attributes:
        config: The contents of its config.json, a read-only dictionary.
        weights: The model that it belongs to.
    """

    def __init__(self, name: str, weights: Weights):
        self.name = name
        self.weights = weights
        self.config = FrozenConfig(component_config(name, weights))

    @property
    def dtype(self) -> Any:
        """The dtype of the weights: torch's if the backend is torch, otherwise a name."""
        ops = self.weights.model.backend
        return getattr(__import__("torch"), ops.dtype) if ops.name == "torch" else ops.dtype

    @property
    def device(self) -> Any:
        """The device: torch's if the backend is torch, otherwise a name."""
        ops = self.weights.model.backend
        return __import__("torch").device(ops.device) if ops.name == "torch" else ops.device

    def to(self, *targets: object, **named: object) -> Component:
        """Move the whole model, to which this part belongs."""
        self.weights.move(*targets, *targets_of(named))
        return self

    def eval(self) -> Component:
        """Return the part, which never trains."""
        return self

    def requires_grad_(self, _: bool = True) -> Component:
        """Return the part, which has no gradients."""
        return self

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"{self.__dict__.get('name', 'a part')} of ldmref.compat.diffusers has no {name!r}; "
            "ldmref.load(folder) has the networks themselves"
        )

    def __call__(self, *_: object, **__: object) -> Any:
        raise UsageError(
            f"pipe.{self.name} cannot be called: the networks belong to the pipeline",
            code="E-COMPONENT",
            hint="model = ldmref.load(folder) has unet, encode_text, encode_image and decode",
        )

    def __repr__(self) -> str:
        return f"<{self.name} of {self.weights.config.name!r}>"


class Vae(Component):
    """The autoencoder of a pipeline, with diffusers' `encode` and `decode`."""

    def decode(self, z: object, return_dict: bool = True, generator: object = None) -> Any:
        """Decode unscaled latents to images (n, 3, H, W) in [-1, 1], as diffusers does."""
        model = self.weights.model
        latents = model.latent_scale(NumpyBackend(dtype="float64")).normalize(to_host("z", z))
        images = to_caller(model, model.decode(model.backend.asarray(latents)))
        return SimpleNamespace(sample=images) if return_dict else (images,)

    def encode(self, x: object, return_dict: bool = True) -> Any:
        """Encode images (n, 3, H, W) in [-1, 1]; `latent_dist` has `mean`, `std` and `mode()`."""
        model = self.weights.model
        images = model.backend.asarray(to_host("x", x))
        mean, std = (to_caller(model, part) for part in model.encode_unscaled(images))
        posterior = SimpleNamespace(mean=mean, std=std, mode=lambda: mean)
        return SimpleNamespace(latent_dist=posterior) if return_dict else (posterior,)

    def enable_tiling(self, *_: object, **__: object) -> None:
        """Accept the call: images are decoded one by one, each as a whole."""

    disable_tiling = enable_slicing = disable_slicing = enable_tiling


def targets_of(named: Mapping[str, Any]) -> list[Any]:
    """Return the devices and dtypes among the named arguments of `to`; others have no effect."""
    return [named.get(name) for name in ("device", "torch_device", "dtype", "torch_dtype")]


def component_config(name: str, weights: Weights) -> Mapping[str, Any]:
    """Return the configuration of a part, with the fields that callers of pipelines read."""
    config = weights.config
    known: dict[str, Any] = {}
    if name == "vae":
        known = describe_autoencoder(config.vae)
    elif name == "unet":
        known = {
            "in_channels": config.unet.in_channels,
            "sample_size": config.defaults.height // config.vae.factor,
            "cross_attention_dim": config.unet.cross_attention_dim,
            "time_cond_proj_dim": None,
        }
    return known | weights.read_json(name)


def describe_autoencoder(vae: BaseAutoencoderConfig) -> dict[str, Any]:
    """Return the fields of an autoencoder that callers of pipelines read."""
    known: dict[str, Any] = {}
    scales = autoencoder_of(vae).scales
    if scales is not None:
        scaling_factor, shift_factor = scales(vae)
        known = {"scaling_factor": scaling_factor, "shift_factor": shift_factor or None}
    known["latent_channels"] = vae.latent_channels // vae.patch**2
    widths = getattr(vae, "block_out_channels", None)
    return known if widths is None else known | {"block_out_channels": list(widths)}


def make_components(weights: Weights) -> dict[str, Component]:
    """Return the parts of a model by name."""
    present = [name for name in NETWORKS if weights.config.text_encoder_2 or name[-1] != "2"]
    return {name: (Vae if name == "vae" else Component)(name, weights) for name in present}
