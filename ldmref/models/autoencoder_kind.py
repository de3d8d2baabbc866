"""Kinds of autoencoders as data: KL, VQ, those of families, and those of other packages.

A kind is shared by families: KL serves Stable Diffusion and Flux.1. A package declares one as an
entry point of the group `ldmref.autoencoders`, which names an `Autoencoder`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from functools import cache
from typing import Any

from ldmref.backends.base import Backend
from ldmref.errors import UsageError
from ldmref.math.arrays import Array
from ldmref.models.autoencoder_config import AutoencoderConfig, BaseAutoencoderConfig
from ldmref.models.declared import DeclaredNetwork
from ldmref.models.params import Params, Shape, Spec
from ldmref.support.plugins import find_declared, list_plugins
from ldmref.support.renames import keep_former, take_former

GROUP = "ldmref.autoencoders"
BUILT_IN = {
    "kl": "ldmref.models.autoencoder:KL",
    "vq": "ldmref.models.autoencoder:VQ",
    "flux2": "ldmref.families.autoencoders.flux2:FLUX2_AUTOENCODER",
    "qwen-image": "ldmref.families.autoencoders.qwen_image:QWEN_IMAGE",
    "qwen-image-2.1": "ldmref.families.autoencoders.qwen_image_21:AUTOENCODER",
}


@dataclass(frozen=True)
class Autoencoder:
    r"""A kind of autoencoder as data, which loading, modes, traces, training and exports read.

    The encoder returns the posterior q(z|x) = N(mean, exp(logvar)) of images, and the decoder reads
    z. The denoiser reads latents, which are z folded by `config.patch` and normalised:

    .. math:: \mathrm{latents} = \mathrm{normalize}(\mathrm{fold}(z))

    Attributes:
        name: The `kind` of its configurations, and the name of the entry point.
        title: Its name for people, which follows "decoder of a".
        config: The class of its configurations, which inherits from `BaseAutoencoderConfig`.
        spec: Returns the shapes of every parameter of a configuration.
        encode: Returns mean and log-variance, of the same shape, of images (n, c, H, W) in [-1, 1].
            It takes the backend, the parameters, the configuration and `image`. Without a
            posterior the log-variance is -inf.
        decode: Returns images of `z`, which follows the backend, the parameters and the
            configuration.
        normalize: Returns the latents of folded z, (n, latent_channels, h, w), which follows the
            backend, the parameters of `normalized_by` and the configuration.
        denormalize: Returns folded z of latents; the inverse.
        spread: Returns by what `normalize` multiplies a deviation: (latent_channels, 1, 1), or a
            number. It takes the backend, the parameters of `normalized_by` and the configuration.
        normalized_by: The first names of the parameters that the normalisation reads, such as
            "bn". (): it reads the configuration alone.
        scales: Returns scaling factor s and shift factor m of a configuration, if latents are
            s (z - m). None: the normalisation is another one.
        has_posterior: Whether z has a distribution, which has a log-variance.
        is_quantized: Whether the decoder rounds z to a codebook.
        networks: Returns decoder and encoder as data. None: `describe_autoencoder` makes them.
        classes: For each class of diffusers, a function that reads the configuration from its
            config.json.
        stored: Returns the table of a diffusers file, a `KeyEntry` for each parameter, from the
            configuration and the table in which all names and layouts are ours.
        makers: Returns the table of a file of the makers, likewise. None: there is none, or it is
            known from the class of the configuration.
        with_sizes: Returns a configuration with the sizes that a file says, where published
            files of the kind differ, from that of a model and names and shapes of the file.
        ignored: A pattern of the names of tensors that a file may also hold.
        preview: Returns a linear map from latents to red, green and blue in [0, 1]: for each colour
            a weight per channel and a bias, 3 (latent_channels + 1) numbers; () if none is known.
        shrink: Returns a tiny version of a configuration, for golden cases. None: there is none.
        broken_rules: Yields the relations between fields that do not hold.
        module: Former: `ldmref.ports.NetworkPort`. None: not given.
        original: Former: `makers`. None: not given.

    >>> from ldmref.models.autoencoder_kind import find_autoencoder
    >>> vq = find_autoencoder("vq")
    >>> vq.has_posterior, vq.is_quantized
    (False, True)
    """

    name: str
    title: str
    config: type[BaseAutoencoderConfig]
    spec: Callable[[Any], Spec]
    encode: Callable[..., tuple[Array, Array]]
    decode: Callable[..., Array]
    normalize: Callable[[Backend, Params, Any, Array], Array]
    denormalize: Callable[[Backend, Params, Any, Array], Array]
    spread: Callable[[Backend, Params, Any], Array | float]
    normalized_by: tuple[str, ...] = ()
    scales: Callable[[Any], tuple[float, float]] | None = None
    has_posterior: bool = True
    is_quantized: bool = False
    networks: Callable[[Any], Sequence[DeclaredNetwork]] | None = None
    classes: Mapping[str, Callable[[Mapping[str, Any]], BaseAutoencoderConfig]] = field(
        default_factory=dict
    )
    stored: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]] = lambda config, table: table
    makers: Callable[[Any], Mapping[str, Any]] | None = None
    with_sizes: Callable[[Any, Mapping[str, Shape]], Any] = lambda config, shapes: config
    ignored: str = ""
    preview: Callable[[Any], tuple[float, ...]] = lambda config: ()
    shrink: Callable[[Any], Any] | None = None
    broken_rules: Callable[[Any], Iterable[str]] = lambda config: ()
    module: InitVar[Any] = None
    original: InitVar[Any] = None

    def __post_init__(self, module: Any, original: Any) -> None:
        keep_former(self, "ldmref.ports.NetworkPort", module=module)
        take_former(self, "original", original, "makers")

    def select(self, params: Params) -> Params:
        """Return the parameters that the normalisation reads.

        Args:
            params: Those of the autoencoder.
        """
        return Params({name: params[name] for name in self.normalized_by})


@cache
def find_autoencoder(name: str) -> Autoencoder:
    """Return the kind of autoencoder of that name.

    Args:
        name: The `kind` of its configurations, such as "kl".

    Returns:
        The kind.

    Raises:
        UsageError: There is none, or its plug-in cannot be used.

    >>> find_autoencoder("kl").title
    'KL autoencoder'
    """
    return find_declared(GROUP, BUILT_IN, name, Autoencoder, "kind of autoencoder", "E-AUTOENCODER")


def autoencoder_of(config: BaseAutoencoderConfig) -> Autoencoder:
    """Return the kind of an autoencoder.

    >>> from ldmref.models import preset
    >>> autoencoder_of(preset("sd15").vae).name
    'kl'
    """
    return find_autoencoder(config.kind)


def list_autoencoders() -> Iterator[Autoencoder]:
    """Yield all kinds: those of ldmref, then those of other packages, by name."""
    for name in (*BUILT_IN, *sorted({*list_plugins(GROUP)} - {*BUILT_IN})):
        yield find_autoencoder(name)


def config_class(name: object) -> type[BaseAutoencoderConfig]:
    """Return the class of the configurations of the kind `name`; None is KL or VQ.

    Raises:
        UsageError: There is no kind of that name, or its plug-in cannot be used.
    """
    if name is None:
        return AutoencoderConfig
    return find_autoencoder(name if isinstance(name, str) else "").config


def scales_of(config: BaseAutoencoderConfig) -> tuple[float, float]:
    """Return scaling factor and shift factor of an autoencoder.

    Raises:
        UsageError: Its latents are not normalised by two numbers.

    >>> from ldmref.models import preset
    >>> scales_of(preset("flux-dev").vae)
    (0.3611, 0.1159)
    """
    kind = autoencoder_of(config)
    if kind.scales is None:
        raise UsageError(
            f"a {kind.title} has no scaling factor",
            code="E-AUTOENCODER",
            hint="choose a model whose latents are scaled by one number",
        )
    return kind.scales(config)


def spec_of(config: BaseAutoencoderConfig) -> Spec:
    """Return the shapes of every parameter of an autoencoder."""
    return autoencoder_of(config).spec(config)


class LatentScale:
    """How the latents of a model follow from z, which its encoder returns and its decoder reads.

    Args:
        ops: The backend, to which all arrays belong.
        config: The configuration of the autoencoder.
        params: The parameters of `normalized_by`; those of the whole autoencoder also do.

    >>> from ldmref.backends import get_backend
    >>> from ldmref.models import Params, preset
    >>> scale = LatentScale(get_backend("numpy"), preset("flux-dev").vae, Params())
    >>> round(scale.normalize(1.1159), 4), scale.spread(1.0)
    (0.3611, 0.3611)
    """

    def __init__(self, ops: Backend, config: BaseAutoencoderConfig, params: Params):
        self.ops = ops
        self.config = config
        self.params = params
        self.kind = autoencoder_of(config)

    def normalize(self, z: Array) -> Array:
        """Return the latents (n, latent_channels, h, w) of z."""
        return self.kind.normalize(self.ops, self.params, self.config, self.fold(z))

    def denormalize(self, latents: Array) -> Array:
        """Return z of latents (n, latent_channels, h, w)."""
        return self.unfold(self.kind.denormalize(self.ops, self.params, self.config, latents))

    def spread(self, deviation: Array) -> Array:
        """Return the standard deviation of latents from that of z."""
        return self.fold(deviation) * self.kind.spread(self.ops, self.params, self.config)

    def fold(self, z: Array) -> Array:
        """Return patches of z (n, c, p h, p w) as channels, (n, c p p, h, w)."""
        p = self.config.patch
        if p == 1:
            return z
        xp = self.ops.xp
        n, c, height, width = z.shape
        h, w = height // p, width // p
        patches = xp.permute_dims(xp.reshape(z, (n, c, h, p, w, p)), (0, 1, 3, 5, 2, 4))
        return xp.reshape(patches, (n, c * p * p, h, w))

    def unfold(self, folded: Array) -> Array:
        """Return z (n, c, p h, p w) of its patches (n, c p p, h, w); the inverse of `fold`."""
        p = self.config.patch
        if p == 1:
            return folded
        xp = self.ops.xp
        n, channels, h, w = folded.shape
        c = channels // (p * p)
        patches = xp.reshape(folded, (n, c, p, p, h, w))
        return xp.reshape(xp.permute_dims(patches, (0, 1, 4, 2, 5, 3)), (n, c, h * p, w * p))


def add_alpha(ops: Backend, images: Array, config: BaseAutoencoderConfig) -> Array:
    """Return images (n, 3, H, W) with an opaque alpha channel, if the encoder reads one."""
    if config.in_channels != images.shape[1] + 1:
        return images
    opaque = ops.xp.ones_like(images[:, :1, ...])
    return ops.xp.concat([images, opaque], axis=1)


def over_white(ops: Backend, images: Array) -> Array:
    """Return images with alpha over white, (n, 3, H, W) in [-1, 1]; those without as they are."""
    if images.shape[1] != 4:
        return images
    alpha = ops.xp.clip(0.5 * images[:, 3:, ...] + 0.5, 0.0, 1.0)
    return images[:, :3, ...] * alpha + (1.0 - alpha)
