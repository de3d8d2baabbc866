"""`load` and `random_model`: from a name, a file or a folder to a model on a backend."""

from __future__ import annotations

from collections.abc import Sequence
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
from ldmref.io.compvis.single_file import describe_ema, load_compvis, select_ema
from ldmref.io.diffusers.folder import load_diffusers
from ldmref.io.embedded import require_published
from ldmref.io.locate import find_model, is_native, read_model_config
from ldmref.io.native import check_weights, load_folder, require_digests
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.io.tokenizers import tokenizer_for
from ldmref.models.config import AutoencoderConfig, ModelConfig, UNetConfig
from ldmref.models.controlnet import ControlNet
from ldmref.models.memory import check_seconds, parse_bytes
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import init, unflatten
from ldmref.models.presets import preset
from ldmref.models.taesd import TinyAutoencoder, TinyConfig
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.prompts.words import word_tokenizer

StateDict = dict[str, np.ndarray]  # dotted name -> tensor
EAGER_BYTES = 256 * 2**20  # bytes of weights that are brought to the backend when they are loaded
BUILT_IN_TOKENIZERS = ("class", "none")  # text encoders whose tokenizer needs no files


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
            is read from the disk for its part of an image.
        max_seconds: a request that is estimated to take longer is refused (`plan.estimate`).
            None for these two: environment and configuration file, unless `backend` is a `Backend`.
        fetch: fetch what the cache lacks, by huggingface_hub; else nothing is ever fetched.
        variant: which weights of a diffusers folder that holds several, such as `fp16`.
        ema: of a single file, True reads the averaged weights, False the last ones; None does as
            the model's makers do (`ldmref.io.compvis.ema`), and `warnings` say so.
        allow_nonfinite: warn of weights that are NaN or infinite, which are otherwise refused.
        embeddings: files of textual inversion, whose words the prompts can use.

    Raises:
        InputError: no such model, or a damaged one; an autoencoder, LoRA or embedding of another
            family.
        UsageError: `ema=True`, and the model holds no averages; a configuration or tokenizer for
            a model that has its own.
        BackendUnavailable: the backend cannot run here.
    """
    _require_type("fetch", fetch, bool)
    _require_type("allow_nonfinite", allow_nonfinite, bool)
    _require_type("ema", ema, bool, type(None))
    _require_type("variant", variant, str, type(None))
    configured = {} if isinstance(backend, Backend) else settings().limits
    seconds = configured.get("max_seconds") if max_seconds is None else max_seconds
    limits: dict[str, Any] = {
        "max_memory": parse_bytes(
            configured.get("max_memory") if max_memory is None else max_memory
        ),
        "max_seconds": check_seconds(seconds),
    }
    loras = read_loras(lora)
    words = read_words(embeddings)
    path = find_model(name, fetch, variant)
    ops = open_backend(backend, device, dtype, speed=speed)
    loaded, state_dict, tokenizers, sha256 = read_model(
        path, config, tokenizer, variant=variant, ema=ema
    )
    averaged = None
    warnings = []
    if path.is_file():
        averaged = select_ema(TensorFile(path), loaded, ema)
        if averaged is not None and ema is None:
            warnings.append(describe_ema(TensorFile(path), loaded))
    replacement = None if vae is None else read_vae(vae, loaded.vae)
    if replacement is not None:
        loaded, state_dict = swap_vae(loaded, state_dict, replacement)
    state_dict = apply_loras(loaded, state_dict, loras)
    warnings += check_model(path, state_dict, sha256, allow_nonfinite)
    modifications: dict[str, Any] = {
        "ema": averaged,
        "vae": replacement and replacement.record,
        "loras": [lora.record for lora in loras] or None,
    }
    model = LatentDiffusion(
        ops,
        loaded,
        unflatten(state_dict),
        tokenizers[0],
        sha256,
        *tokenizers[1:],
        tiny=_tiny_autoencoder(ops, replacement),
        warnings=warnings,
        **limits,
        modifications={k: v for k, v in modifications.items() if v is not None},
    )
    if limits["max_memory"] is None and sum(x.nbytes for x in state_dict.values()) <= EAGER_BYTES:
        model.params.read_all()
    return model.with_embeddings(words) if words else model


def check_model(
    path: Path, tensors: StateDict, sha256: str, allow_nonfinite: bool = False
) -> list[str]:
    """Check the weights as `check_weights` does, and the files of a folder of ldmref as
    `require_digests` does; returns warnings."""
    warnings = check_weights(tensors, allow_nonfinite)
    if is_native(path):
        require_digests(path, sha256)
    return warnings


def _require_type(name: str, value: Any, *kinds: type) -> None:
    """Refuse an argument of another type; a truth value is not a number, NumPy's integers are."""
    if isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool)):
        return
    if (int in kinds and isinstance(value, np.integer)) or (
        bool in kinds and isinstance(value, np.bool_)
    ):
        return
    expected = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
    kind = type(value).__name__
    raise UsageError(f"{name} must be of type {expected}, not {kind}", code="E-TYPE")


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
    _require_type("backend", backend, Backend)
    _require_type("latent_channels", latent_channels, int)
    vae = read_vae(path, AutoencoderConfig(latent_channels=int(latent_channels)))
    check_weights(vae.tensors)
    tiny = _tiny_autoencoder(backend, vae)
    if tiny is None:
        raise InputError(f"{vae.name!r} is no TAESD but a full autoencoder", code="E-VAE")
    return tiny


def load_controlnet(
    path: str | Path,
    backend: str | Backend | None = None,
    device: str | None = None,
    dtype: str | None = None,
    unet: UNetConfig | None = None,
    allow_nonfinite: bool = False,
) -> ControlNet:
    """A ControlNet on a backend, for `modes.Control`. For `path` and `unet` see `open_controlnet`,
    for the other arguments `load`.

    Raises:
        InputError, UnsafeFileError: no such file, a damaged one, or no ControlNet.
    """
    _require_type("unet", unet, UNetConfig, type(None))
    file = open_controlnet(path, unet)
    ops = open_backend(backend, device, dtype)
    tensors = file.tensors()
    check_weights(tensors, allow_nonfinite)
    return ControlNet(ops, file.config, unflatten(tensors), file.name, file.sha256())


def read_model(
    name: str | Path,
    config: str | Path | None = None,
    tokenizer: str | Path | None = None,
    *,
    with_tokenizers: bool = True,
    variant: str | None = None,
    ema: bool | None = None,
) -> tuple[ModelConfig, StateDict, list[PromptTokenizer], str]:
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
    loaded = read_model_config(path, config, ema)
    if tokenizer is not None and (
        is_native(path) or loaded.text_encoder.model_type in BUILT_IN_TOKENIZERS
    ):
        message = f"{path.name!r} has a tokenizer of its own"
        hint = "leave out tokenizer= (--tokenizer)"
        raise UsageError(message, code="E-TOKENIZER", hint=hint)
    if is_native(path):
        model = load_folder(path)
        require_published(path, model[-1])
        return model
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
    name: str = "tiny",
    seed: int = 0,
    *,
    backend: str | Backend | None = None,
    device: str | None = None,
    dtype: str | None = None,
    speed: str | None = None,
) -> LatentDiffusion:
    """A model of any preset, such as `tiny` or `sd15`, with seeded random weights, for tests."""
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
    """The backend of the arguments, completed by environment and configuration file."""
    if isinstance(backend, Backend):
        return get_backend(backend, device, dtype, speed)
    arguments = {"name": backend, "device": device, "dtype": dtype, "speed": speed}
    values = override_backend(
        settings(config).backend, {k: v for k, v in arguments.items() if v is not None}
    )
    name = values.pop("name", "numpy")
    return get_backend(name, **values)
