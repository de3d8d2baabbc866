"""`load` and `random_model`: from a name, a file or a folder to a model on a backend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.backends import get_backend
from ldmref.backends.base import Backend
from ldmref.config import settings
from ldmref.errors import InputError, UsageError
from ldmref.io.adapters.autoencoder import Autoencoder, read_vae, swap_vae
from ldmref.io.adapters.controlnet import open_controlnet
from ldmref.io.adapters.lora import apply_loras, read_loras
from ldmref.io.compvis.single_file import averages_note, averages_of, load_compvis
from ldmref.io.diffusers.folder import load_diffusers
from ldmref.io.locate import find_model, is_native, model_config
from ldmref.io.native import load_folder, require_finite
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.io.tokenizers import tokenizer_for
from ldmref.models.config import AutoencoderConfig, ModelConfig, UNetConfig
from ldmref.models.controlnet import ControlNet
from ldmref.models.memory import bytes_of, seconds_of
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import init, unflatten
from ldmref.models.presets import preset
from ldmref.models.taesd import TinyAutoencoder, TinyConfig
from ldmref.prompts.tokenizer import PromptTokenizer, word_tokenizer

StateDict = dict[str, np.ndarray]  # dotted name -> tensor


def load(
    name: str | Path = "emoji", *, backend: str | Backend | None = None, device: str | None = None,
    dtype: str | None = None, config: str | Path | None = None,
    tokenizer: str | Path | None = None, vae: str | Path | None = None,
    lora: Sequence[str | Path | tuple[str | Path, float]] = (), speed: str | None = None,
    max_memory: int | str | None = None, max_seconds: float | None = None, fetch: bool = False,
    variant: str | None = None, ema: bool | None = None,
) -> LatentDiffusion:  # fmt: skip
    """Load a model.

    Args:
        name: `emoji`, the embedded text-to-emoji model; a folder of ldmref or diffusers; a CompVis
            single file (.safetensors); or `owner/model`, `owner/model/file.safetensors`, with
            `@revision` or without, in the local cache of Hugging Face.
        backend: `numpy`, `torch`, `cupy`, a plug-in's name, or a `Backend`.
        device: `cpu`, `cuda:0`, ...
        dtype: `float64`, `float32`, `float16` or `bfloat16`.
            None for these three: environment, configuration file, then numpy, cpu, float32.
        speed: `exact`, `fast` or `fastest` (docs/performance.md); None: as the three.
        config: for single files that do not say all about themselves: a preset's name, or a folder
            with the configuration.
        tokenizer: where CLIP's vocabulary is, if not in the folder; see
            `ldmref.prompts.clip_vocabulary.read_vocabulary`.
        vae: another autoencoder, or TAESD; see `ldmref.io.adapters.autoencoder.read_vae`.
        lora: LoRA files, merged into the weights: paths, or (path, weight).
        max_memory: bytes, or a size such as "6GB": with less than all networks take together, each
            is read from the disk for its part of a picture.
        max_seconds: a request that is estimated to take longer is refused (`plan.estimate`).
            None for these two: environment and configuration file, unless `backend` is a `Backend`.
        fetch: fetch what the cache lacks, by huggingface_hub; else nothing is ever fetched.
        variant: which weights of a diffusers folder that holds several, such as `fp16`.
        ema: of a single file, True reads the averaged weights, False the last ones; None does as
            the model's makers do (`ldmref.io.compvis.ema`), and `warnings` say so.

    Raises:
        InputError: no such model, or a damaged one; an autoencoder or LoRA of another family.
        UsageError: `ema=True`, and the model holds no averages.
        BackendUnavailable: the backend cannot run here.
    """
    configured = {} if isinstance(backend, Backend) else settings().limits
    limits: dict[str, Any] = {
        "max_memory": bytes_of(max_memory or configured.get("max_memory")),
        "max_seconds": seconds_of(
            configured.get("max_seconds") if max_seconds is None else max_seconds
        ),
    }
    loras, path = read_loras(lora), find_model(name, fetch, variant)
    ops = configured_backend(backend, device, dtype, speed=speed)
    loaded, state_dict, tokenizers, sha256 = read_model(
        path, config, tokenizer, variant=variant, ema=ema
    )
    averaged, warnings = None, []
    if path.is_file():
        averaged = averages_of(TensorFile(path), loaded, ema)
        if averaged is not None and ema is None:
            warnings.append(averages_note(TensorFile(path), loaded))
    replacement = None if vae is None else read_vae(vae, loaded.vae)
    if replacement is not None:
        loaded, state_dict = swap_vae(loaded, state_dict, replacement)
    state_dict = apply_loras(loaded, state_dict, loras)
    if loras or replacement or not is_native(path):  # a native folder is checked when it is read
        require_finite(state_dict)
    modifications: dict[str, Any] = {
        "ema": averaged,
        "vae": replacement and replacement.record,
        "loras": [lora.record for lora in loras] or None,
    }
    return LatentDiffusion(
        ops, loaded, unflatten(state_dict), tokenizers[0], sha256, *tokenizers[1:],
        tiny=_tiny_autoencoder(ops, replacement), warnings=warnings, **limits,
        modifications={k: v for k, v in modifications.items() if v is not None},
    )  # fmt: skip


def _tiny_autoencoder(backend: Backend, vae: Autoencoder | None) -> TinyAutoencoder | None:
    """TAESD from its file; None for a full autoencoder."""
    if vae is None or not isinstance(vae.config, TinyConfig):
        return None
    return TinyAutoencoder(backend, vae.config, unflatten(vae.tensors))


def load_taesd(path: str | Path, backend: Backend, latent_channels: int = 4) -> TinyAutoencoder:
    """TAESD on a backend, for previews: `event.preview(decoder)`. For `path` see `read_vae`.

    Raises:
        InputError: no such file, or a full autoencoder.
    """
    vae = read_vae(path, AutoencoderConfig(latent_channels=latent_channels))
    tiny = _tiny_autoencoder(backend, vae)
    if tiny is None:
        raise InputError(f"{vae.name!r} is no TAESD but a full autoencoder", code="E-VAE")
    return tiny


def load_controlnet(
    path: str | Path, backend: str | Backend | None = None, device: str | None = None,
    dtype: str | None = None, unet: UNetConfig | None = None,
) -> ControlNet:  # fmt: skip
    """A ControlNet on a backend, for `modes.Control`. For `path` and `unet` see `open_controlnet`.

    Raises:
        InputError, UnsafeFileError: no such file, a damaged one, or no ControlNet.
    """
    file = open_controlnet(path, unet)
    ops, tensors = configured_backend(backend, device, dtype), file.tensors()
    require_finite(tensors)
    return ControlNet(ops, file.config, unflatten(tensors), file.name, file.sha256())


def read_model(
    name: str | Path, config: str | Path | None = None, tokenizer: str | Path | None = None, *,
    with_tokenizers: bool = True, variant: str | None = None, ema: bool | None = None,
) -> tuple[ModelConfig, StateDict, list[PromptTokenizer], str]:  # fmt: skip
    """A model as host arrays: configuration, tensors by our names, tokenizers, digest of the file.

    Arguments and errors are those of `load`; without `with_tokenizers`, those of other layouts
    than our own are not searched for.
    """
    path = find_model(name)
    if ema and path.is_dir():
        message = (
            f"{path.name!r} is a folder; only single files hold averages beside the last weights"
        )
        hint = "a diffusers folder holds them without a variant, the last weights as non_ema"
        raise UsageError(message, code="E-EMA", hint=hint)
    if is_native(path):
        return load_folder(path)
    loaded = model_config(name, config, ema)
    folder = path if path.is_dir() else Path(config) if config and Path(config).is_dir() else None
    tokenizers = _tokenizers(loaded, folder, tokenizer) if with_tokenizers else []
    if path.is_dir():
        loaded, state_dict, sha256 = load_diffusers(path, variant)
        return loaded, state_dict, tokenizers, sha256
    file = TensorFile(path)
    loaded, state_dict = load_compvis(file, loaded, ema)
    return loaded, state_dict, tokenizers, file.sha256()


def _tokenizers(
    config: ModelConfig, folder: Path | None, source: str | Path | None
) -> list[PromptTokenizer]:
    """A tokenizer per text encoder: from `source`, else `folder`, else an installed vocabulary."""
    if not config.text_encoders:
        return [tokenizer_for(config.text_encoder)]
    tokenizers = []
    for text, name in zip(config.text_encoders, ("tokenizer", "tokenizer_2"), strict=False):
        own = folder / name if folder is not None and (folder / name).is_dir() else None
        # OpenCLIP pads with 0; a folder's tokenizer configuration names its own padding
        pad = 0 if text.hidden_act == "gelu" and own is None else None
        tokenizers.append(tokenizer_for(text, source if source is not None else own, pad))
    return tokenizers


def random_model(
    name: str = "tiny", seed: int = 0, *, backend: str | Backend | None = None,
    device: str | None = None, dtype: str | None = None, speed: str | None = None,
) -> LatentDiffusion:  # fmt: skip
    """A model of any preset, such as `tiny` or `sd15`, with seeded random weights, for tests."""
    ops, config = configured_backend(backend, device, dtype, speed=speed), preset(name)
    text = config.text_encoder
    if text.model_type in ("class", "none"):
        tokenizer = tokenizer_for(text)
    else:
        words = word_tokenizer(["a red blue green heart cat dog face with hat"], 512)
        tokenizer = PromptTokenizer(words, text.max_position_embeddings)
    return LatentDiffusion(ops, config, init(model_spec(config), seed), tokenizer)


def configured_backend(
    backend: str | Backend | None = None, device: str | None = None, dtype: str | None = None,
    config: str | Path | None = None, speed: str | None = None,
) -> Backend:  # fmt: skip
    """The backend of the arguments, completed by environment and configuration file.

    Device, dtype and speed from the configuration belong to the configured backend: an argument
    that names another backend does not inherit them.
    """
    if isinstance(backend, Backend):
        return get_backend(backend, device, dtype, speed)
    configured = settings(config).backend
    name = configured.get("name", "numpy")
    if backend not in (None, name):
        configured = {}
    return get_backend(
        backend or name,
        device or configured.get("device"),
        dtype or configured.get("dtype"),
        speed or configured.get("speed"),
    )
