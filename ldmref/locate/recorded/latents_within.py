"""Autoencoders that scale latents within: programs whose decoder reads what the denoiser wrote.

The makers' code of Flux.1 and FLUX.2 normalises what its encoder returns, and undoes it before its
decoder's first layer. In ldmref, as in diffusers, that is done between the networks. A recording
shows which: the decoder's first layer reads what the whole was given, or what that is after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ldmref.backends import get_backend
from ldmref.locate.law import GAIN
from ldmref.locate.recorded.layouts import relative_error
from ldmref.locate.recorded.names import read_array
from ldmref.models.autoencoder_kind import LatentScale
from ldmref.models.declared import DeclaredNetwork
from ldmref.models.model import LatentDiffusion
from ldmref.ports.arguments import names_of
from ldmref.trace.model import Trace, TraceEntry

AUTOENCODER = "vae"
LATENTS = "latents"  # the role of what a decoder reads
MEAN = "mean"  # the role of what an encoder returns


class LatentsWithin:
    """How latents that an autoencoder scales within become those of ldmref.

    Args:
        model: The model.
        network: One of its networks.
    """

    def __init__(self, model: LatentDiffusion, network: DeclaredNetwork):
        self.side = ""
        if network.params != AUTOENCODER:
            return
        read = [x for x in network.inputs if x.role == LATENTS]
        if read:
            self.side, self.roles = "input", names_of(network, read[0])
        elif any(x.role == MEAN for x in network.outputs):
            self.side, self.roles = "output", (MEAN, "output", "0")
        config = model.config.vae
        self.channels = config.latent_channels
        self.own_channels = config.latent_channels // config.patch**2
        ops = get_backend("numpy")
        self._scale = LatentScale(ops, config, model.params[AUTOENCODER])

    def turn(self, x: np.ndarray) -> np.ndarray:
        """Return what the decoder's first layer reads, or the encoder's last one returns.

        Args:
            x: Latents as the denoiser has them, (n, latent_channels, h, w).
        """
        if x.ndim != 4 or x.shape[1] != self.channels:
            return x
        return np.asarray(self._scale.denormalize(x))

    def concerns(self, entry: TraceEntry, side: str, role: str) -> bool:
        """Return whether an array is the latents that the whole autoencoder was given or returned.

        Args:
            entry: The entry of the array.
            side: "input" or "output".
            role: Its role.
        """
        return not entry.layer and side == self.side and role in self.roles

    def is_shown(self, port: Trace, whole: TraceEntry) -> bool:
        """Return whether the arrays of a call show that its latents are scaled within.

        Args:
            port: The trace.
            whole: What was recorded of the whole autoencoder.
        """
        held = self._of(whole) if self.side else {}
        name = next((held[role] for role in self.roles if role in held), "") if held else ""
        if not name:
            return False
        x = read_array(port, name)
        if x.ndim != 4 or x.shape[1] != self.channels:
            return False
        if self.channels != self.own_channels:  # only folded latents have so many channels
            return True
        turned = self.turn(x)
        errors = [
            (relative_error(seen, x), relative_error(seen, turned))
            for seen in self._list_alike(port, whole, turned.shape)
        ]
        if not errors:
            return False
        own, other = (min(column) for column in zip(*errors, strict=True))
        return GAIN * other < own

    def _of(self, entry: TraceEntry) -> Mapping[str, str]:
        return entry.inputs if self.side == "input" else entry.outputs

    def _list_alike(
        self, port: Trace, whole: TraceEntry, shape: tuple[int, ...]
    ) -> Iterator[np.ndarray]:
        """Yield what layers read or return of a shape; of the means and log-variances, the means.

        Args:
            port: The trace.
            whole: What was recorded of the whole autoencoder.
            shape: That of what is read or returned.
        """
        for entry in port.entries:
            if entry.call != whole.call or not entry.layer:
                continue
            for name in self._of(entry).values():
                sizes = np.shape(port.tensors[name])
                if len(sizes) != len(shape) or (sizes[0], *sizes[2:]) != (shape[0], *shape[2:]):
                    continue
                if sizes[1] in (shape[1], 2 * shape[1]):
                    yield read_array(port, name)[:, : shape[1]]
