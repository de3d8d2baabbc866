"""`ControlNet`: a network of any family that adds to the denoiser what it reads in an image."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from ldmref.backends.base import Backend
from ldmref.errors import UsageError
from ldmref.math.arrays import Array
from ldmref.models.conditioning import Conditioning, convert_conditioning
from ldmref.models.config import ModelConfig
from ldmref.models.declared import DeclaredNetwork
from ldmref.models.declared_control import DeclaredControl
from ldmref.models.family import family_of, find_family
from ldmref.models.lazy_params import CompiledNetworks
from ldmref.models.params import Params, Spec, tree_map


def control_of(net: Any) -> DeclaredControl:
    """Return the declaration of a ControlNet by its configuration.

    >>> from ldmref.models import ControlNetConfig
    >>> [network.name for network in control_of(ControlNetConfig()).networks(ControlNetConfig())]
    ['controlnet.hint', 'controlnet']
    """
    found = find_family(net.family).control
    assert found is not None
    return found


def own_spec(net: object) -> Spec:
    """Return the shapes of a ControlNet's own parameters, those of its files."""
    declared = control_of(net)
    shared = declared.shared(net)
    spec = declared.networks(net)[-1].spec()
    return {name: part for name, part in spec.items() if name not in shared}


def require_fit(config: ModelConfig, net: Any, name: str) -> None:
    """Refuse a ControlNet of another model.

    Args:
        config: The configuration of the model.
        net: The configuration of the ControlNet.
        name: Its name.

    Raises:
        UsageError: It does not fit, or the model takes none.
    """
    family = family_of(config)
    if family.control is None:
        message = f"{config.name!r} takes no ControlNet"
        raise UsageError(message, code="E-CONTROL", hint="leave it out")
    if net.family == family.name:
        found = (
            f"it has {what} {have}, not {want}"
            for what, have, want in family.control.differences(config, net)
        )
    else:
        found = iter([f"it is one of the family {net.family}, not {family.name}"])
    for difference in found:
        raise UsageError(
            f"the ControlNet {name!r} does not fit the model: {difference}",
            code="E-CONTROL",
            hint="take a ControlNet of the model's family",
        )


class ControlNet:
    """A ControlNet on one backend; `ldmref.load_controlnet` returns one.

    Its methods return arrays of the backend and accept these or NumPy's.

    Args:
        backend: The backend on which it computes.
        config: Its configuration.
        params: A tree of arrays, by the names of diffusers.
        name: Its name, for messages and records.
        sha256: SHA-256 of its file; "" without one.

    >>> import numpy as np
    >>> import ldmref
    >>> from ldmref.models import ControlNet, ControlNetConfig
    >>> from ldmref.models.controlnet import init_from_unet
    >>> model = ldmref.random_model("tiny")
    >>> config = ControlNetConfig(model.config.unet, 3, (4, 8))
    >>> net = ControlNet(model.backend, config, init_from_unet(model.params["unet"], config))
    >>> hint = net.encode_hint(np.zeros((1, 3, 16, 16), np.float32))
    >>> context = model.encode_text(["a red cat"])
    >>> residuals = net.residuals(np.zeros((1, 4, 8, 8), np.float32), np.array([10]), context, hint)
    >>> residuals.mid.shape
    (1, 32, 4, 4)
    """

    def __init__(
        self,
        backend: Backend,
        config: object,
        params: Mapping[str, Any],
        name: str = "controlnet",
        sha256: str = "",
    ):
        self.backend = backend
        self.config = config
        self.name = name
        self.sha256 = sha256
        self.params = tree_map(backend.weight, params)
        self._compiled = CompiledNetworks()

    @property
    def declared(self) -> DeclaredControl:
        """The declaration of its family's ControlNets."""
        return control_of(self.config)

    @property
    def hint_encoder(self) -> DeclaredNetwork | None:
        """The network that makes the hint of an image; None: the hint is the image's latents."""
        *encoders, _ = self.declared.networks(self.config)
        return encoders[0] if encoders else None

    def with_backend(self, ops: Backend) -> ControlNet:
        """Return a copy that shares all parameters, on `ops`, a backend that wraps this one."""
        other = copy.copy(self)
        other.backend = ops
        other._compiled = CompiledNetworks()
        return other

    def for_denoiser(self, denoiser: Mapping[str, Any]) -> ControlNet:
        """Return a copy with the parameters that it shares with the denoiser, or itself without."""
        shared = self.declared.shared(self.config)
        if not shared:
            return self
        other = copy.copy(self)
        other.params = Params({**self.params, **{name: denoiser[name] for name in shared}})
        other._compiled = CompiledNetworks()
        return other

    def encode_hint(self, hint: Array) -> Array:
        """Return the features of the hints, which do not depend on the step.

        Args:
            hint: Images, (n, 3, H, W) in the range that `hint_encoder` reads: [0, 1] for a U-Net.

        Returns:
            (n, c, h, w); for a U-Net, c is the width of its first level.

        Raises:
            UsageError: The ControlNet reads latents.
        """
        encoder = self.hint_encoder
        if encoder is None:
            message = f"the ControlNet {self.name!r} has no encoder of its image"
            raise UsageError(message, code="E-CONTROL", hint="give residuals() the image's latents")
        with self.backend.inference():
            network = self._compiled.get(self.backend, encoder.function, self.params)
            return network(self.backend.own("hint", hint), **encoder.settings)

    def residuals(
        self,
        x: Array,
        t: Array,
        context: Array | Conditioning,
        hint: Array,
        mode: Array | None = None,
    ) -> Any:
        """Return the residuals of one step, which the denoiser adds to its own features.

        Args:
            x: Noisy latents, (n, c, h, w).
            t: Training timesteps, (n,).
            context: Hidden states (n, l, d), or a `Conditioning`, as for `LatentDiffusion.predict`.
            hint: Features from `encode_hint`, or latents of the image, (n, c, h, w).
            mode: The number of the kind of the image, (n, 1), for a ControlNet of several kinds.
                None: it knows one kind.

        Returns:
            A named tuple, such as `Residuals` of a U-Net.
        """
        ops = self.backend
        declared = self.declared.networks(self.config)[-1]
        arrays = convert_conditioning(ops, context)
        arrays["hint"] = ops.own("hint", hint)
        if mode is not None:
            arrays["mode"] = ops.own("mode", mode)
        taken = {name: x for name, x in arrays.items() if declared.input_of(name)}
        x = ops.own("x", x)
        t = ops.own("t", t)
        with ops.inference():
            network = self._compiled.get(ops, declared.function, self.params)
            return network(self.config, x, t, *declared.arrange(taken))

    def __repr__(self) -> str:
        return f"<ControlNet {self.name!r} on {self.backend!r}>"
