"""Networks that are loaded on their own: a ControlNet, and TAESD for previews."""

from __future__ import annotations

from pathlib import Path

from ldmref.backends.base import Backend
from ldmref.errors import InputError
from ldmref.io.adapters.autoencoder import read_vae
from ldmref.io.adapters.controlnet import open_controlnet
from ldmref.io.native import check_weights
from ldmref.loading import build_tiny_autoencoder, open_backend, require_type
from ldmref.models.config import AutoencoderConfig
from ldmref.models.control import ControlNet
from ldmref.models.denoiser_config import DenoiserConfig
from ldmref.models.params import unflatten
from ldmref.models.taesd import TinyAutoencoder


def load_taesd(
    path: str | Path,
    backend: str | Backend | None = None,
    latent_channels: int = 4,
    device: str | None = None,
    dtype: str | None = None,
) -> TinyAutoencoder:
    """Load TAESD, a small autoencoder for previews: `event.preview(decoder)`.

    Args:
        path: A diffusers folder (AutoencoderTiny) or a single file; see `ldmref.io.read_vae`. The
            author's file of the decoder is enough for previews.
        backend: The backend, by name or as an object such as `model.backend`. None: as for `load`.
        latent_channels: The number of channels of the latents, for a single file with diffusers'
            names.
        device: The device of a backend given by name. None: as for `load`.
        dtype: The data type of a backend given by name. None: as for `load`.

    Returns:
        The autoencoder, with `encode(images)` and `decode(latents)`.

    Raises:
        InputError: There is no such file, or it holds a full autoencoder.
        UsageError: An argument has the wrong type.
        BackendUnavailable: The backend cannot run here.

    >>> import ldmref
    >>> from ldmref import modes
    >>> model = ldmref.load("stable-diffusion-v1-5")  # doctest: +SKIP
    >>> taesd = ldmref.load_taesd("taesd.safetensors", model.backend)  # doctest: +SKIP
    >>> def show(progress):
    ...     progress.preview(taesd)[0].save(f"step-{progress.step}.png")
    >>> result = modes.txt2img(model, "a house", callback=show)  # doctest: +SKIP
    """
    require_type("backend", backend, str, Backend, type(None))
    require_type("latent_channels", latent_channels, int)
    model = AutoencoderConfig(latent_channels=int(latent_channels))
    vae = read_vae(path, model, with_encoder=False)
    check_weights(vae.tensors)
    tiny = build_tiny_autoencoder(open_backend(backend, device, dtype), vae)
    if tiny is None:
        raise InputError(f"{vae.name!r} is not TAESD but a full autoencoder", code="E-VAE")
    return tiny


def load_controlnet(
    path: str | Path,
    backend: str | Backend | None = None,
    device: str | None = None,
    dtype: str | None = None,
    unet: DenoiserConfig | None = None,
    allow_nonfinite: bool = False,
) -> ControlNet:
    """Load a ControlNet, for `modes.Control`.

    Args:
        path: A diffusers folder (ControlNetModel, SD3ControlNetModel, FluxControlNetModel), or a
            single file of a U-Net's ControlNet with CompVis' names.
        backend: The backend, by name or as an object such as `model.backend`. None: as for `load`.
        device: The device of a backend given by name. None: as for `load`.
        dtype: The data type of a backend given by name. None: as for `load`.
        unet: The U-Net that a single file was made for. None, or another denoiser: those of Stable
            Diffusion are tried.
        allow_nonfinite: Whether weights that are NaN or infinite only cause a warning.

    Returns:
        The ControlNet, with `encode_hint(image)` and `residuals(x, t, context, hint)`.

    Raises:
        InputError: There is no such file, it is damaged, or it does not hold a ControlNet.
        UnsafeFileError: It is a pickle.
        UsageError: `unet` is not the configuration of a denoiser.
        BackendUnavailable: The backend cannot run here.

    >>> import ldmref
    >>> from ldmref import modes
    >>> model = ldmref.load("stable-diffusion-v1-5")  # doctest: +SKIP
    >>> net = ldmref.load_controlnet("canny.safetensors", model.backend)  # doctest: +SKIP
    >>> control = [modes.Control(net, "edges.png", weight=0.8)]  # doctest: +SKIP
    >>> result = modes.txt2img(model, "a house", control=control)  # doctest: +SKIP
    """
    require_type("unet", unet, DenoiserConfig, type(None))
    file = open_controlnet(path, unet)
    ops = open_backend(backend, device, dtype)
    tensors = file.tensors()
    check_weights(tensors, allow_nonfinite)
    return ControlNet(ops, file.config, unflatten(tensors), file.name, file.sha256())
