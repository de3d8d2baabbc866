"""`load` and `random_model`: from a name, a file or a folder to a model on a backend."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.backends import get_backend
from ldmref.backends.base import Backend
from ldmref.errors import UsageError
from ldmref.io.adapters.autoencoder import AutoencoderFile
from ldmref.io.adapters.textual_inversion import read_words
from ldmref.io.checkpoint import Checkpoint
from ldmref.io.native import check_network, check_weights
from ldmref.io.stored_model import OpeningOptions
from ldmref.io.tokenizers import tokenizer_for
from ldmref.models.lazy_params import LazyParams
from ldmref.models.memory import check_seconds, parse_bytes
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import init, unflatten
from ldmref.models.presets import preset
from ldmref.models.taesd import TinyAutoencoder, TinyConfig
from ldmref.models.text_kind import kind_of
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.prompts.words import word_tokenizer
from ldmref.support.config import override_backend, settings

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
    text_encoders: Sequence[str | Path] = (),
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
        name: `emoji`, the embedded text-to-emoji model; a folder of ldmref or diffusers; a single
            file of the original's program (.safetensors, .gguf), also quantised; or a model in the
            local cache of Hugging Face, `owner/model` or `owner/model/file.safetensors`, optionally
            with `@revision`.
        backend: `numpy`, `torch`, `onnx`, `openvino`, `cupy`, the name of a plug-in, or a
            `Backend`. None: the environment (`LDMREF_BACKEND`), then the configuration file, then
            numpy.
        device: `cpu`, `cuda:0`, ... None: as for `backend`, finally the backend's default.
        dtype: `float64`, `float32`, `float16` or `bfloat16`, of the weights and activations. None:
            as for `backend`, finally float32.
        config: The configuration of a single file that fits no known family: the name of a preset,
            or a folder with the configuration. A diffusers folder also has the networks that the
            file lacks. None: the family is recognised by the tensors' names and shapes.
        tokenizer: The location of CLIP's vocabulary if the folder does not hold it; see
            `ldmref.prompts.read_vocabulary`; or a folder with a `tokenizer`, `tokenizer_2`, ... for
            each text encoder. None: the model's own folder, then the usual places.
        vae: Another autoencoder, or TAESD; see `ldmref.io.read_vae`. None: the model's own.
        text_encoders: Files of text encoders that the model lacks, or has others of: `clip_l`,
            `clip_g`, `t5xxl`, safetensors or GGUF. Which encoder a file is follows from its
            tensors.
        lora: LoRA, LoHa, LoKr and DoRA files, or folders of PEFT and diffusers, to merge into the
            weights: paths, or (path, weight) with a weight from -100 to 100; without one it is 1.
            Words that a file brings along are added. FLUX.1 Canny [dev] LoRA and Depth [dev] LoRA
            turn FLUX.1 [dev] into a model that reads a control image.
        speed: `exact`, `fast` or `fastest` (docs/performance.md). None: as for `backend`, finally
            the backend's default.
        max_memory: The memory that an image may take, as a number of bytes or a size such as
            "6GB". If all networks together need more, each is read from the disk when it is used,
            and one that needs more alone is read block by block. None: the environment, then the
            configuration file, then what is free on the machine where it says so (Linux), for
            models above 256 MiB on the CPU; also if `backend` is a `Backend`.
        max_seconds: The longest estimated time of a request in seconds (`plan.estimate`); longer
            requests are refused. None: the environment, then the configuration file, then no limit;
            no limit if `backend` is a `Backend`.
        fetch: Whether to download models that the cache lacks, with huggingface_hub. Nothing is
            downloaded otherwise.
        variant: The variant of the weights in a diffusers folder that has several, such as `fp16`.
            None: the files without a variant.
        ema: The weights of a training checkpoint to read: True for the averages, False for the
            last weights, None for the family's published default
            (`ldmref.io.compvis.whole_file`), with a warning.
        allow_nonfinite: Whether weights that are NaN or infinite only cause a warning. Models above
            256 MiB are checked network by network, when each is first used.
        embeddings: Textual-inversion files, whose words the prompts can then use.

    Returns:
        The model, ready for `ldmref.modes` and `ldmref.denoiser`.

    Raises:
        InputError: There is no such model, or it is damaged; or the autoencoder, LoRA or embedding
            belongs to another family.
        UsageError: An argument has the wrong type or value, `ema=True` for a model without
            averages, or a configuration or tokenizer for a model that has its own.
        BackendUnavailable: The backend cannot run here.

    >>> import ldmref
    >>> model = ldmref.load("emoji", backend="numpy")
    >>> model.config.defaults.width, model.latent_shape(128, 128)
    (128, (16, 16, 16))
    """
    require_type("fetch", fetch, bool)
    require_type("allow_nonfinite", allow_nonfinite, bool)
    require_type("ema", ema, bool, type(None))
    require_type("variant", variant, str, type(None))
    options = OpeningOptions(
        config, tokenizer, fetch, variant, ema, text_encoders, vae=vae, lora=lora
    )
    checkpoint = Checkpoint.open(name, options)
    configured = {} if isinstance(backend, Backend) else settings().limits
    return load_checkpoint(
        checkpoint,
        open_backend(backend, device, dtype, speed=speed),
        max_memory=configured.get("max_memory") if max_memory is None else max_memory,
        max_seconds=configured.get("max_seconds") if max_seconds is None else max_seconds,
        allow_nonfinite=allow_nonfinite,
        embeddings=embeddings,
    )


def load_checkpoint(
    checkpoint: Checkpoint,
    backend: Backend,
    *,
    max_memory: int | str | None = None,
    max_seconds: float | None = None,
    allow_nonfinite: bool = False,
    embeddings: Sequence[str | Path] = (),
) -> LatentDiffusion:
    """Load a model that was opened, whose file or folder is not looked for again.

    Args:
        checkpoint: The opened model, from `open_checkpoint`.
        backend: The backend.
        max_memory: The memory that an image may take, as for `load`; so are the other arguments.
        max_seconds: The longest estimated time of a request in seconds.
        allow_nonfinite: Whether weights that are NaN or infinite only cause a warning.
        embeddings: Textual-inversion files.

    Returns:
        The model on the backend.

    Raises:
        InputError, UsageError: As for `load`.
    """
    limits: dict[str, Any] = {
        "max_memory": parse_bytes(max_memory),
        "max_seconds": check_seconds(max_seconds),
    }
    words = read_words(embeddings)
    checkpoint.require_networks()
    tokenizers = checkpoint.tokenizers
    config, tensors = checkpoint.read()
    small = sum(x.nbytes for x in tensors.values()) <= EAGER_BYTES
    eager = small and limits["max_memory"] is None
    warnings = [*checkpoint.warnings]
    if eager and not checkpoint.is_known:
        warnings += check_weights(tensors, allow_nonfinite)
    checkpoint.check_digests()
    check = None if eager else partial(check_network, allow_nonfinite=allow_nonfinite)
    record: dict[str, Any] = {} if checkpoint.ema is None else {"ema": checkpoint.ema}
    tiny = None
    for change in checkpoint.modifications:
        record |= change.record()
        words += change.words
        warnings += change.warnings
        tiny = change.tiny or tiny
    model = LatentDiffusion(
        backend,
        config,
        LazyParams(backend, unflatten(tensors), check),
        tokenizers[0],
        checkpoint.digest,
        *tokenizers[1:],
        tiny_autoencoder=build_tiny_autoencoder(backend, tiny),
        warnings=warnings,
        **limits,
        modifications=record,
    )
    if eager:
        model.params.read_all()
    return model.with_embeddings(words) if words else model


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
        name: A preset, one of `ldmref.models.PRESETS`: `tiny`, a model for tests with 16 x 16
            images, `emoji`, `sd15`, `sdxl`, ...
        seed: The seed of the weights, an integer; each tensor is independent of the others.
        backend: The backend, by name or as an object. None: as for `load`.
        device: The device of a backend given by name. None: as for `load`.
        dtype: The data type of a backend given by name. None: as for `load`.
        speed: `exact`, `fast` or `fastest`. None: as for `load`.

    Returns:
        The model. Its tokenizer knows a few words only.

    Raises:
        UsageError: There is no such preset; the hint suggests the nearest name.
        BackendUnavailable: The backend cannot run here.

    >>> import ldmref
    >>> model = ldmref.random_model("tiny", backend="numpy")
    >>> model.latent_shape(16, 16)  # c, h, w of a 16 x 16 image
    (4, 8, 8)
    """
    require_type("seed", seed, int)
    ops = open_backend(backend, device, dtype, speed=speed)
    config = preset(name)
    text = config.text_encoder
    if kind_of(text).reads != "text":
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


def build_tiny_autoencoder(backend: Backend, vae: AutoencoderFile | None) -> TinyAutoencoder | None:
    """Return TAESD from its file; None for a full autoencoder."""
    if vae is None or not isinstance(vae.config, TinyConfig):
        return None
    return TinyAutoencoder(backend, vae.config, unflatten(vae.tensors))


def require_type(name: str, value: object, *kinds: type) -> None:
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
