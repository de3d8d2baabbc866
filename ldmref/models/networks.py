"""The networks of a model on one backend: read when used, compiled once, released to make room.

`Networks` holds them; `ImageNetworks` also calls those between images and latents: the autoencoder,
or TAESD, and the encoder of maps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from ldmref.backends.base import Backend
from ldmref.errors import ResourceError
from ldmref.math.arrays import Array
from ldmref.math.divergence import reparameterize
from ldmref.models.autoencoder_kind import LatentScale, add_alpha, autoencoder_of, over_white
from ldmref.models.config import TEXT_ENCODERS, ModelConfig
from ldmref.models.declared import DeclaredNetwork
from ldmref.models.family import Family, family_of
from ldmref.models.lazy_params import CompiledNetworks, LazyParams
from ldmref.models.memory import MemoryEstimate, estimate_memory
from ldmref.models.params import Params, Spec, count, tree_map
from ldmref.models.rescaler import rescaler
from ldmref.models.taesd import TinyAutoencoder
from ldmref.models.text import text_spec
from ldmref.models.tiling import decode_tiled
from ldmref.support.free_memory import find_free_memory

RELEASED_PARAMETERS = 2**26  # text encoders of this size are released before the denoiser runs


def model_spec(config: ModelConfig) -> dict[str, Spec]:
    """Return the shapes of every parameter, by network.

    The networks are the denoiser (`unet`, or the name of another family), `vae`, `text_encoder`
    and, in SDXL, `text_encoder_2`. Models without prompts have no text encoder; models of
    segmentation maps also have `cond_stage`.

    Args:
        config: The configuration of the model.

    Returns:
        A tree of shapes, tuples of int, for each network.

    >>> from ldmref.models import model_spec, preset
    >>> spec = model_spec(preset("sd15"))
    >>> list(spec), spec["unet"]["conv_in"]["weight"]
    (['unet', 'vae', 'text_encoder'], (320, 4, 3, 3))
    """
    networks = {network.params: network for network in family_of(config).networks(config)}
    names = dict.fromkeys((config.denoiser.network, "vae", *networks))
    return {name: networks[name].spec() for name in names}


class Networks:
    """The networks of a model, with their parameters in memory.

    Args:
        backend: The backend that the networks run on.
        config: The configuration of all networks.
        params: A tree of arrays for each network of `model_spec`, or `LazyParams`.
        max_memory: The number of bytes that a request may take; None: what the machine has, if
            its weights are read when they are used (`limit_memory`).

    Attributes:
        params: The parameters of each network, `params.unet.conv_in.weight`.
        family: The family of the model.
        denoiser: The declaration of the network that predicts eps, v, x0 or a velocity.
    """

    def __init__(
        self,
        backend: Backend,
        config: ModelConfig,
        params: Mapping[str, Any],
        max_memory: int | None = None,
    ):
        self.backend = backend
        self.config = config  # which also declares `family` and `denoiser`
        self.max_memory = max_memory
        self.params = params if isinstance(params, LazyParams) else LazyParams(backend, params)
        self._warnings: tuple[str, ...] = ()
        self._offload = False  # keep only one network in memory
        self._compiled = CompiledNetworks()
        names = zip(TEXT_ENCODERS, config.text_encoders, strict=False)
        large = [name for name, text in names if count(text_spec(text)) >= RELEASED_PARAMETERS]
        self._large_text_encoders = tuple(large if backend.device == "cpu" else ())

    @property
    def config(self) -> ModelConfig:
        """The configuration of all networks; a new one declares them again."""
        return self._config

    @config.setter
    def config(self, config: ModelConfig) -> None:
        self._config = config
        self.family: Family = family_of(config)
        self.denoiser: DeclaredNetwork = self.family.declared(config, config.denoiser.network)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the model's files, and about the weights that were used so far."""
        return (*self._warnings, *self.params.warnings)

    def with_warnings(self, warnings: Iterable[str]) -> Self:
        """Return a copy that has these warnings as well."""
        other = copy.copy(self)
        other._warnings = (*self._warnings, *warnings)
        return other

    def __copy__(self) -> Self:
        """Share everything except for the compiled networks."""
        other = object.__new__(type(self))
        other.__dict__.update(vars(self), _compiled=CompiledNetworks())
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the configuration instead of what it declares."""
        state = dict(vars(self))
        del state["family"], state["denoiser"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.config = self._config

    def estimate_memory(
        self,
        width: int,
        height: int,
        n: int = 1,
        tile: int | None = None,
        reference_pixels: int = 0,
    ) -> MemoryEstimate:
        """Return an estimate of the memory that images take together, with the networks.

        Args:
            width: Width of an image in pixels.
            height: Height of an image in pixels.
            n: Number of images that are generated together.
            tile: The side in pixels of the tiles in which the decoder works. None: it decodes at
                once.
            reference_pixels: Pixels of the reference images that the denoiser reads beside an
                image.
        """
        spec, images = model_spec(self.config), (n, tile, reference_pixels)
        return estimate_memory(spec, self.config, self.backend, (width, height), *images)

    @property
    def has_limit(self) -> bool:
        """Whether a request may take only some memory: `max_memory`, or what the machine has."""
        stays = self.params.copied or self.backend.device != "cpu"
        return self.max_memory is not None or (not stays and len(self.params.releasable) > 0)

    def limit_memory(
        self,
        width: int,
        height: int,
        n: int = 1,
        tile: int | None = None,
        others: int = 0,
        reference_pixels: int = 0,
    ) -> None:
        """Keep one network in memory at a time if all of them together exceed `max_memory`.

        Networks that exceed it alone keep one block at a time, unless the backend compiles whole
        networks. Without `max_memory`, models whose weights are read when they are used may take
        the memory that the machine has.

        Args:
            width: Width of an image in pixels.
            height: Height of an image in pixels.
            n: Number of images that are generated together.
            tile: The side in pixels of the tiles in which the decoder works. None: it decodes at
                once.
            others: Bytes of other networks that stay in memory.
            reference_pixels: Pixels of the reference images that the denoiser reads beside an
                image.

        Raises:
            ResourceError: One block of a network at a time also exceeds it.
        """
        releasable = self.params.releasable
        limit = self.max_memory
        source = "max_memory"
        if limit is None and self.has_limit:
            limit = find_free_memory()
            source = "free memory; max_memory sets another limit"
        if limit is None:
            return
        needs = self.estimate_memory(width, height, n, tile, reference_pixels)
        least = needs.peak_streamed(releasable) + others
        if least > limit:
            raise ResourceError(
                f"the image takes about {least / 1e9:.1f} GB, more than the "
                f"{limit / 1e9:.1f} GB of {source}",
                code="E-MEMORY",
                hint="generate smaller images, fewer at a time, or decode in tiles (tile=512)",
            )
        self._offload = needs.peak_resident + others > limit
        self.params.stream(needs.list_streamed(releasable, limit - others) if self._offload else ())

    def with_params(self, networks: Mapping[str, Params], ops: Backend) -> Self:
        """Return a copy with other parameters of some `networks`, on `ops`, an equal backend."""
        other = self.with_backend(ops)
        other.params = self.params.replaced(networks)
        return other

    def with_backend(self, ops: Backend) -> Self:
        """Return a copy that shares all parameters, on `ops`, a backend that wraps this one.

        Such a backend records or checks each operation of the original one.
        """
        other = copy.copy(self)
        other.backend = ops
        return other

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """Return (c, h, w), the shape of the latents of an image of `width` x `height` pixels."""
        f = self.config.vae.factor
        return self.config.vae.latent_channels, height // f, width // f

    def _compile(self, function: Callable, network: str) -> Callable:
        """Return a network as a function of all arguments after its parameters."""
        if self._offload or self._large_text_encoders or self.backend.observes_layers:
            self._make_room(network)
        return self._compiled.get(self.backend, function, self.params[network], network)

    def _make_room(self, network: str) -> None:
        """Release the parameters of networks that must make room for another one."""
        leaving: Sequence[str] = ()
        if self.backend.observes_layers:  # which need their names
            self.params.stream(())
        if self._offload:
            leaving = [name for name in self.params if name != network]
        elif network == self.config.denoiser.network:
            # the prompts are encoded, and the file can bring the text encoders back
            leaving = self._large_text_encoders
        self.params.release(*leaving)
        for name in leaving:
            self._compiled.forget(name)


class ImageNetworks(Networks):
    """The networks of a model that read or return images.

    Args:
        backend: The backend that the networks run on.
        config: The configuration of all networks.
        params: A tree of arrays for each network of `model_spec`.
        max_memory: The number of bytes that a request may take. None: as `load` says.
        tiny_autoencoder: An autoencoder that replaces the model's own (TAESD). None: its own.
    """

    def __init__(
        self,
        backend: Backend,
        config: ModelConfig,
        params: Mapping[str, Any],
        max_memory: int | None = None,
        tiny_autoencoder: TinyAutoencoder | None = None,
    ):
        super().__init__(backend, config, params, max_memory)
        self.tiny_autoencoder = tiny_autoencoder

    def encode_image(self, images: Array, noise: Array | None = None) -> Array:
        """Encode images as scaled latents.

        Args:
            images: (n, 3, H, W) in [-1, 1]; H and W are multiples of `config.size_multiple`.
            noise: Standard normal noise of the latents' shape, to sample from the posterior; None:
                the posterior's mean. VQ autoencoders have no posterior, and `decode` rounds their
                latents to the codebook.

        Returns:
            Scaled latents, (n, c, h, w).
        """
        if self.tiny_autoencoder is not None:
            return self.tiny_autoencoder.encode(images)
        ops = self.backend
        noise = None if noise is None else ops.own("noise", noise)
        with ops.inference():
            mean, logvar = self._encode(ops.own("images", images))
            scale = self.latent_scale()
            z = mean if noise is None else reparameterize(mean, logvar, scale.unfold(noise))
            return scale.normalize(z)

    def encode_posterior(self, images: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation of the scaled latents of images, both (n, c, h, w).

        Args:
            images: (n, 3, H, W) in [-1, 1].
        """
        ops = self.backend
        if self.tiny_autoencoder is not None:
            latents = self.tiny_autoencoder.encode(images)
            return latents, ops.xp.zeros_like(latents)
        with ops.inference():
            mean, logvar = self._encode(ops.own("images", images))
            scale = self.latent_scale()
            return scale.normalize(mean), scale.spread(ops.xp.exp(0.5 * logvar))

    def encode_unscaled(self, images: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation of what the encoder returns, before any scaling.

        Args:
            images: (n, 3, H, W) in [-1, 1].
        """
        ops = self.backend
        with ops.inference():
            mean, logvar = self._encode(ops.own("images", images))
            return mean, ops.xp.exp(0.5 * logvar)

    def latent_scale(self, ops: Backend | None = None) -> LatentScale:
        """Return how latents follow from what the encoder returns.

        Args:
            ops: The backend of its arrays. None: the model's.
        """
        config = self.config.vae
        kind = autoencoder_of(config)
        params = kind.select(self.params["vae"]) if kind.normalized_by else Params()
        if ops is not None:
            params = tree_map(lambda x: ops.asarray(self.backend.to_numpy(x)), params)
        return LatentScale(ops or self.backend, config, params)

    def _encode(self, images: Array) -> tuple[Array, Array]:
        config = self.config.vae
        encode = autoencoder_of(config).encode
        return self._compile(encode, "vae")(config, add_alpha(self.backend, images, config))

    def encode_segmentation(self, labels: Array) -> Array:
        """Return the input channels of segmentation maps, (n, k, h, w).

        Args:
            labels: Numbers of classes, (n, H, W) integers.
        """
        ops = self.backend
        classes = np.arange(self.config.segmentation_classes)
        labels = ops.to_numpy(ops.own("labels", labels))
        onehot = ops.asarray((labels[:, None] == classes[:, None, None]).astype(np.float32))
        with ops.inference():
            return self._compile(rescaler, "cond_stage")(onehot, self.config.vae.factor)

    def decode(self, latents: Array, tile: int | None = None) -> Array:
        """Decode scaled latents to images.

        Args:
            latents: Scaled latents, (n, c, h, w).
            tile: The side in pixels of the overlapping tiles to decode one by one, which bounds
                memory (`ldmref.models.tiling`); None: decode all at once.

        Returns:
            Images, (n, 3, H, W), approximately in [-1, 1].
        """
        if self.tiny_autoencoder is not None:
            return self.tiny_autoencoder.decode(latents, tile)
        ops = self.backend
        config = self.config.vae
        decode = autoencoder_of(config).decode
        latents = ops.own("latents", latents)

        def decoder(latents: Array) -> Array:
            network = self._compile(decode, "vae")
            return over_white(ops, network(config, self.latent_scale().denormalize(latents)))

        with ops.inference():
            if tile is None:
                return decoder(latents)
            return decode_tiled(ops, decoder, latents, config.factor, tile)
