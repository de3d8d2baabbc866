"""`load` and `random_model`: from a name, a file or a folder to a model on a backend."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.backends import get_backend
from ldmref.backends.base import Backend
from ldmref.config import override_backend, settings
from ldmref.errors import InputError, UsageError
from ldmref.io.adapters.autoencoder import Autoencoder, read_vae, swap_vae
from ldmref.io.adapters.controlnet import open_controlnet
from ldmref.io.adapters.lora import apply_loras, read_loras
from ldmref.io.adapters.textual_inversion import read_words
from ldmref.io.checkpoint import open_checkpoint
from ldmref.io.locate import find_model
from ldmref.io.native import check_network, check_weights
from ldmref.io.tokenizers import tokenizer_for
from ldmref.models.config import AutoencoderConfig, UNetConfig
from ldmref.models.controlnet import ControlNet
from ldmref.models.memory import check_seconds, parse_bytes
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import LazyParams, init, unflatten
from ldmref.models.presets import preset
from ldmref.models.taesd import TinyAutoencoder, TinyConfig
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.prompts.words import word_tokenizer

EAGER_BYTES = 256 * 2**20  # models up to this size are brought to the backend by `load`


def load(
    name: str | Path = "emoji",
    *,
    backend: str | Backend | None = None,
    device: str | None = None,
    dtype: str | None = None,
    config: str | Path | None = None,
    tokenizer: str | Path | None = None,
    vae: str | Path | None = None,
    lora: Sequence[str | Path | tuple[str | Path, float]] = (),
    speed: str | None = None,
    max_memory: int | str | None = None,
    max_seconds: float | None = None,
    fetch: bool = False,
    variant: str | None = None,
    ema: bool | None = None,
    allow_nonfinite: bool = False,
    embeddings: Sequence[str | Path] = (),
) -> LatentDiffusion:
    """Load a model.

    Args:
        name: `emoji`, the embedded text-to-emoji model; a folder of ldmref or diffusers; a CompVis
            single file (.safetensors); or a model in the local cache of Hugging Face,
            `owner/model` or `owner/model/file.safetensors`, optionally with `@revision`.
        backend: `numpy`, `torch`, `cupy`, the name of a plug-in, or a `Backend`.
        device: `cpu`, `cuda:0`, ...
        dtype: `float64`, `float32`, `float16` or `bfloat16`. None for these three arguments: the
            environment, the configuration file, then numpy, cpu and float32.
        config: The configuration of a single file that fits no known family: the name of a preset,
            or a folder with the configuration.
        tokenizer: The location of CLIP's vocabulary if the folder does not hold it; see
            `ldmref.prompts.read_vocabulary`.
        vae: Another autoencoder, or TAESD; see `ldmref.io.read_vae`.
        lora: LoRA files to merge into the weights: paths, or (path, weight).
        speed: `exact`, `fast` or `fastest` (docs/performance.md); None: as for `backend`.
        max_memory: The memory that an image may take, as a number of bytes or a size such as
            "6GB". If all networks together need more, each is read from the disk when it is used.
        max_seconds: The longest estimated time of a request (`plan.estimate`); longer requests
            are refused. None for these two arguments: the environment, then the configuration
            file, then no limit; no limit if `backend` is a `Backend`.
        fetch: Whether to download models that the cache lacks, with huggingface_hub. Nothing is
            downloaded otherwise.
        variant: The variant of the weights in a diffusers folder that has several, such as `fp16`.
        ema: The weights of a training checkpoint to read: True for the averages, False for the
            last weights, None for the family's published default (`ldmref.io.compvis.ema`), with
            a warning.
        allow_nonfinite: Whether weights that are NaN or infinite only cause a warning. Models above
            256 MiB are checked network by network, when each is first used.
        embeddings: Textual-inversion files, whose words the prompts can then use.

    Returns:
        The model, ready for `ldmref.modes` and `ldmref.denoiser`.

    Raises:
        InputError: There is no such model, or it is damaged; or the autoencoder, LoRA or embedding
            belongs to another family.
        UsageError: `ema=True` for a model without averages, or a configuration or tokenizer for a
            model that has its own.
        BackendUnavailable: The backend cannot run here.

    >>> model = load("emoji", backend="numpy")
    >>> model.config.defaults.width
    128
    """
    _require_type("fetch", fetch, bool)
    _require_type("allow_nonfinite", allow_nonfinite, bool)
    _require_type("ema", ema, bool, type(None))
    _require_type("variant", variant, str, type(None))
    configured = {} if isinstance(backend, Backend) else settings().limits
    seconds = configured.get("max_seconds") if max_seconds is None else max_seconds
    memory = configured.get("max_memory") if max_memory is None else max_memory
    limits: dict[str, Any] = {
        "max_memory": parse_bytes(memory),
        "max_seconds": check_seconds(seconds),
    }
    loras = read_loras(lora)
    words = read_words(embeddings)
    path = find_model(name, fetch, variant)
    ops = open_backend(backend, device, dtype, speed=speed)
    checkpoint = open_checkpoint(path, config, tokenizer, variant=variant, ema=ema)
    found = checkpoint.config
    tensors = checkpoint.tensors
    replacement = None if vae is None else read_vae(vae, found.vae)
    if replacement is not None:
        found, tensors = swap_vae(found, tensors, replacement)
    tensors = apply_loras(found, tensors, loras)
    small = sum(x.nbytes for x in tensors.values()) <= EAGER_BYTES
    eager = small and limits["max_memory"] is None
    checked = check_weights(tensors, allow_nonfinite) if eager else []
    checkpoint.check_digests()
    check = None if eager else partial(check_network, allow_nonfinite=allow_nonfinite)
    modifications: dict[str, Any] = {
        "ema": checkpoint.ema,
        "vae": replacement and replacement.record,
        "loras": [lora.record for lora in loras] or None,
    }
    model = LatentDiffusion(
        ops,
        found,
        LazyParams(ops, unflatten(tensors), check),
        checkpoint.tokenizers[0],
        checkpoint.compute_sha256,
        *checkpoint.tokenizers[1:],
        tiny_autoencoder=_build_tiny_autoencoder(ops, replacement),
        warnings=[*checkpoint.warnings, *checked],
        **limits,
        modifications={k: v for k, v in modifications.items() if v is not None},
    )
    if eager:
        model.params.read_all()
    return model.with_embeddings(words) if words else model


def load_taesd(
    path: str | Path,
    backend: str | Backend | None = None,
    latent_channels: int = 4,
    device: str | None = None,
    dtype: str | None = None,
) -> TinyAutoencoder:
    """Load TAESD, a small autoencoder for previews: `event.preview(decoder)`.

    Args:
        path: A diffusers folder (AutoencoderTiny) or a single file; see `ldmref.io.read_vae`.
        backend: The backend, by name or as an object such as `model.backend`; None: as for `load`.
        latent_channels: The number of channels of the latents, for a single file.
        device: The device of a backend given by name.
        dtype: The data type of a backend given by name.

    Returns:
        The autoencoder, with `encode(images)` and `decode(latents)`.

    Raises:
        InputError: There is no such file, or it holds a full autoencoder.
        BackendUnavailable: The backend cannot run here.

    Example: `taesd = ldmref.load_taesd("taesd.safetensors", model.backend)`.
    """
    _require_type("backend", backend, str, Backend, type(None))
    _require_type("latent_channels", latent_channels, int)
    vae = read_vae(path, AutoencoderConfig(latent_channels=int(latent_channels)))
    check_weights(vae.tensors)
    tiny = _build_tiny_autoencoder(open_backend(backend, device, dtype), vae)
    if tiny is None:
        raise InputError(f"{vae.name!r} is not TAESD but a full autoencoder", code="E-VAE")
    return tiny


def load_controlnet(
    path: str | Path,
    backend: str | Backend | None = None,
    device: str | None = None,
    dtype: str | None = None,
    unet: UNetConfig | None = None,
    allow_nonfinite: bool = False,
) -> ControlNet:
    """Load a ControlNet, for `modes.Control`.

    Args:
        path: A diffusers folder (ControlNetModel), or a single file with CompVis' names.
        backend: The backend, by name or as an object such as `model.backend`; None: as for `load`.
        device: The device of a backend given by name.
        dtype: The data type of a backend given by name.
        unet: The U-Net that a single file was made for; None tries those of Stable Diffusion.
        allow_nonfinite: Whether weights that are NaN or infinite only cause a warning.

    Returns:
        The ControlNet, with `encode_hint(image)` and `residuals(x, t, context, hint)`.

    Raises:
        InputError: There is no such file, it is damaged, or it does not hold a ControlNet.
        UnsafeFileError: It is a pickle.
        BackendUnavailable: The backend cannot run here.

    Example: `net = ldmref.load_controlnet("canny.safetensors", model.backend)`.
    """
    _require_type("unet", unet, UNetConfig, type(None))
    file = open_controlnet(path, unet)
    ops = open_backend(backend, device, dtype)
    tensors = file.tensors()
    check_weights(tensors, allow_nonfinite)
    return ControlNet(ops, file.config, unflatten(tensors), file.name, file.sha256())


def random_model(
    name: str = "tiny",
    seed: int = 0,
    *,
    backend: str | Backend | None = None,
    device: str | None = None,
    dtype: str | None = None,
    speed: str | None = None,
) -> LatentDiffusion:
    """Build a model with seeded random weights, for tests and benchmarks.

    Args:
        name: A preset: `tiny`, a model for tests with 16 x 16 images, `emoji`, `sd15`, `sdxl`, ...
        seed: The seed of the weights; each tensor is independent of the others.
        backend: The backend, by name or as an object; None: as for `load`.
        device: The device of a backend given by name.
        dtype: The data type of a backend given by name.
        speed: `exact`, `fast` or `fastest`.

    Returns:
        The model. Its tokenizer knows a few words only.

    Raises:
        UsageError: There is no such preset; the hint suggests the nearest name.
        BackendUnavailable: The backend cannot run here.

    >>> random_model("tiny", backend="numpy").latent_shape(16, 16)
    (4, 8, 8)
    """
    _require_type("seed", seed, int)
    ops = open_backend(backend, device, dtype, speed=speed)
    config = preset(name)
    text = config.text_encoder
    if text.model_type in ("class", "none"):
        tokenizer = tokenizer_for(text)
    else:
        words = word_tokenizer(["a red blue green heart cat dog face with hat"], 512)
        tokenizer = PromptTokenizer(words, text.max_position_embeddings)
    return LatentDiffusion(ops, config, init(model_spec(config), int(seed)), tokenizer)


def open_backend(
    backend: str | Backend | None = None,
    device: str | None = None,
    dtype: str | None = None,
    config: str | Path | None = None,
    speed: str | None = None,
) -> Backend:
    """Open a backend; the environment and the configuration file complete the arguments."""
    if isinstance(backend, Backend):
        return get_backend(backend, device, dtype, speed)
    arguments = {"name": backend, "device": device, "dtype": dtype, "speed": speed}
    values = override_backend(
        settings(config).backend, {k: v for k, v in arguments.items() if v is not None}
    )
    name = values.pop("name", "numpy")
    return get_backend(name, **values)


def _build_tiny_autoencoder(backend: Backend, vae: Autoencoder | None) -> TinyAutoencoder | None:
    """Return TAESD from its file; None for a full autoencoder."""
    if vae is None or not isinstance(vae.config, TinyConfig):
        return None
    return TinyAutoencoder(backend, vae.config, unflatten(vae.tensors))


def _require_type(name: str, value: Any, *kinds: type) -> None:
    """Refuse an argument of another type; bool does not count as int, NumPy's integers do."""
    if isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool)):
        return
    if (int in kinds and isinstance(value, np.integer)) or (
        bool in kinds and isinstance(value, np.bool_)
    ):
        return
    expected = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
    kind = type(value).__name__
    raise UsageError(f"{name} must be of type {expected}, not {kind}", code="E-TYPE")
