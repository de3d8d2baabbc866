"""`load` and `random_model`: from a name, a file or a folder to a model on a backend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.backends import get_backend
from ldmref.backends.base import Backend
from ldmref.config import settings
from ldmref.errors import (
    CorruptModelError,
    InputError,
    UsageError,
)
from ldmref.io.adapters.autoencoder import read_vae, swap_vae
from ldmref.io.adapters.controlnet import open_controlnet
from ldmref.io.adapters.lora import apply_loras, read_loras
from ldmref.io.compvis.single_file import averages_note, averages_of, load_compvis
from ldmref.io.diffusers.folder import load_diffusers
from ldmref.io.locate import find_model, is_native, model_config
from ldmref.io.native import SECOND_TOKENIZER, load_folder, require_finite
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.io.tokenizers import tokenizer_for
from ldmref.models.config import AutoencoderConfig, ModelConfig, UNetConfig
from ldmref.models.controlnet import ControlNet
from ldmref.models.memory import bytes_of
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import flatten, init, unflatten
from ldmref.models.presets import preset
from ldmref.models.taesd import TinyAutoencoder, TinyConfig
from ldmref.prompts.clip_vocabulary import load_tokenizer
from ldmref.prompts.tokenizer import PromptTokenizer, word_tokenizer


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
    fetch: bool = False,
    variant: str | None = None,
    ema: bool | None = None,
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
            is read from the disk for its part of a picture.
        fetch: fetch what the cache lacks, by huggingface_hub; else nothing is ever fetched.
        variant: which weights of a diffusers folder that holds several, such as `fp16`.
        ema: of a single file, True reads the averaged weights, False the last ones; None does as
            the model's makers do (`ldmref.io.compvis.ema`), and `warnings` say so.

    Raises:
        InputError: no such model, or a damaged one; an autoencoder or LoRA of another family.
        UsageError: `ema=True`, and the model holds no averages.
        BackendUnavailable: the backend cannot run here.
    """
    limit = bytes_of(max_memory)
    loras, path = read_loras(lora), find_model(name, fetch, variant)
    ops = configured_backend(backend, device, dtype, speed=speed)
    found, flat, words, digest = read_model(path, config, tokenizer, variant=variant, ema=ema)
    averaged = averages_of(TensorFile(path), found, ema) if path.is_file() else None
    notes = [averages_note(TensorFile(path), found)] if averaged is not None and ema is None else []
    swapped = None if vae is None else read_vae(vae, found.vae)
    if swapped is not None:
        found, flat = swap_vae(found, flat, swapped)
    flat = apply_loras(found, flat, loras)
    if loras or swapped or not is_native(path):  # our own folders were checked as they were read
        require_finite(flat)
    modifications: dict[str, Any] = {} if averaged is None else {"ema": averaged}
    tiny = None
    if swapped is not None:
        modifications["vae"] = swapped.record
        if isinstance(swapped.config, TinyConfig):
            tiny = TinyAutoencoder(ops, swapped.config, unflatten(swapped.tensors))
    if loras:
        modifications["loras"] = [lora.record for lora in loras]
    return LatentDiffusion(
        ops, found, unflatten(flat), words[0], digest, *words[1:], tiny=tiny, max_memory=limit,
        modifications=modifications, warnings=notes,
    )  # fmt: skip


def load_taesd(path: str | Path, backend: Backend, latent_channels: int = 4) -> TinyAutoencoder:
    """TAESD on a backend, for previews: `event.preview(decoder)`. For `path` see `read_vae`.

    Raises:
        InputError: no such file, or a full autoencoder.
    """
    found = read_vae(path, AutoencoderConfig(latent_channels=latent_channels))
    if not isinstance(found.config, TinyConfig):
        raise InputError(f"{found.name!r} is no TAESD but a full autoencoder", code="E-VAE")
    return TinyAutoencoder(backend, found.config, unflatten(found.tensors))


def load_controlnet(
    path: str | Path,
    backend: str | Backend | None = None,
    device: str | None = None,
    dtype: str | None = None,
    unet: UNetConfig | None = None,
) -> ControlNet:
    """A ControlNet on a backend, for `modes.Control`. For `path` and `unet` see `open_controlnet`.

    Raises:
        InputError, UnsafeFileError: no such file, a damaged one, or no ControlNet.
    """
    found = open_controlnet(path, unet)
    ops, flat = configured_backend(backend, device, dtype), found.tensors()
    require_finite(flat)
    return ControlNet(ops, found.config, unflatten(flat), found.name, found.sha256())


def read_model(
    name: str | Path,
    config: str | Path | None = None,
    tokenizer: str | Path | None = None,
    *,
    words: bool = True,
    variant: str | None = None,
    ema: bool | None = None,
) -> tuple[ModelConfig, dict[str, np.ndarray], list[PromptTokenizer], str]:
    """A model as host arrays: configuration, tensors by our names, tokenizers, digest of the file.

    Arguments and errors are those of `load`; without `words`, tokenizers are not looked for.
    """
    path = find_model(name)
    if ema and path.is_dir():
        raise UsageError(
            f"{path.name!r} is a folder; only single files hold averages beside the last weights",
            code="E-EMA",
            hint="a diffusers folder holds them without a variant, the last weights as non_ema",
        )
    if is_native(path):
        found, params, first, digest = load_folder(path)
        second = path / SECOND_TOKENIZER
        more = [load_tokenizer(second, first.length)] if second.is_file() else []
        return found, flatten(params), [first, *more], digest
    found = model_config(name, config, ema)
    folder = path if path.is_dir() else Path(config) if config and Path(config).is_dir() else None
    texts = _tokenizers(found, folder, tokenizer) if words else []
    if path.is_dir():
        found, flat, digest = load_diffusers(path, variant)
        return found, flat, texts, digest
    file = TensorFile(path)
    found, flat = load_compvis(file, found, ema)
    return found, flat, texts, file.sha256()


def _tokenizers(
    config: ModelConfig, folder: Path | None, told: str | Path | None
) -> list[PromptTokenizer]:
    """A tokenizer for each text encoder: told, or the folder's own, or an installed vocabulary."""
    found = [] if config.text_encoders else [tokenizer_for(config.text_encoder)]
    for i, text in enumerate(config.text_encoders):
        own = None if folder is None else folder / ("tokenizer" if i == 0 else f"tokenizer_{i + 1}")
        source = told if told is not None else own if own is not None and own.is_dir() else None
        # OpenCLIP pads with 0; in a folder, the tokenizer's own configuration says so
        pad = 0 if text.hidden_act == "gelu" and (own is None or not own.is_dir()) else None
        words = tokenizer_for(text, source, pad)
        if words.tokenizer.get_vocab_size() > text.vocab_size:
            raise CorruptModelError(
                "the tokenizer knows more tokens than the text encoder", code="E-TOKENIZER"
            )
        found.append(words)
    return found


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
    ops, config = configured_backend(backend, device, dtype, speed=speed), preset(name)
    if config.text_encoder.model_type in ("class", "none"):
        numbers = tokenizer_for(config.text_encoder)
        return LatentDiffusion(ops, config, init(model_spec(config), seed), numbers)
    words = word_tokenizer(["a red blue green heart cat dog face with hat"], 512)
    tokenizer = PromptTokenizer(words, config.text_encoder.max_position_embeddings)
    return LatentDiffusion(ops, config, init(model_spec(config), seed), tokenizer)


def configured_backend(
    backend: str | Backend | None = None,
    device: str | None = None,
    dtype: str | None = None,
    config: str | Path | None = None,
    speed: str | None = None,
) -> Backend:
    """The backend of the arguments, completed by environment and configuration file.

    Device, dtype and speed from the configuration belong to the configured backend: an argument
    that names another backend does not inherit them.
    """
    if isinstance(backend, Backend):
        return get_backend(backend, device, dtype, speed)
    found = settings(config).backend
    inherit = backend is None or backend == found.get("name", "numpy")
    return get_backend(
        backend or found.get("name", "numpy"),
        device or (found.get("device") if inherit else None),
        dtype or (found.get("dtype") if inherit else None),
        speed or (found.get("speed") if inherit else None),
    )
