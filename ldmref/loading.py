"""`load` and `random_model`: from a name or a folder to a model on a backend."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from ldmref.backends import get_backend
from ldmref.backends.base import Backend
from ldmref.config import settings
from ldmref.errors import InputError, UnsafeFileError, did_you_mean
from ldmref.io.model import load_folder, read_config
from ldmref.models.config import ModelConfig, preset
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import init
from ldmref.models.tokenizer import PromptTokenizer, word_tokenizer

EMBEDDED = ("emoji",)


def find_model(name: str | Path) -> Path:
    """The folder of a model: an embedded one by its name, or a path.

    Raises:
        InputError: there is no such model, or it is no model folder.
    """
    if str(name) in EMBEDDED:
        return Path(str(files("ldmref") / "assets" / str(name)))
    path = Path(name)
    if path.suffix.lower() in (".ckpt", ".pt", ".pth", ".bin", ".pkl"):
        raise UnsafeFileError(
            f"{path.name} is a pickle, and loading a pickle can run code",
            code="E-PICKLE",
            hint="ask for a safetensors version",
        )
    if not path.exists():
        raise InputError(
            f"no model {str(name)!r}", code="E-MODEL", hint=did_you_mean(str(name), EMBEDDED)
        )
    if not path.is_dir():
        raise InputError(
            f"{path.name!r} is no model folder",
            code="E-MODEL",
            hint="this version loads folders with config.json, model.safetensors, tokenizer.json",
        )
    return path


def model_config(name: str | Path) -> ModelConfig:
    """The configuration of a model, without its weights."""
    config = find_model(name) / "config.json"
    if not config.is_file():
        raise InputError(
            f"{str(name)!r} is no model folder: config.json is missing", code="E-MODEL"
        )
    return read_config(config)


def load(
    name: str | Path = "emoji",
    *,
    backend: str | Backend | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> LatentDiffusion:
    """Load a model.

    Args:
        name: `emoji`, the embedded text-to-emoji model, or the path of a model folder.
        backend: `numpy`, `torch`, `cupy`, a plug-in's name, or a `Backend`.
        device: `cpu`, `cuda:0`, ...
        dtype: `float64`, `float32`, `float16` or `bfloat16`.
            None for these three: environment, configuration file, then numpy, cpu, float32.

    Raises:
        InputError: no such model, or a damaged one.
        BackendUnavailable: the backend cannot run here.
    """
    ops = configured_backend(backend, device, dtype)
    config, params, tokenizer, digest = load_folder(find_model(name))
    return LatentDiffusion(ops, config, params, tokenizer, digest)


def random_model(
    name: str = "tiny",
    seed: int = 0,
    *,
    backend: str | Backend | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> LatentDiffusion:
    """A model of preset `tiny`, `emoji` or `sd15` with seeded random weights, for tests."""
    ops, config = configured_backend(backend, device, dtype), preset(name)
    words = word_tokenizer(["a red blue green heart cat dog face with hat"], 512)
    tokenizer = PromptTokenizer(words, config.text_encoder.max_position_embeddings)
    return LatentDiffusion(ops, config, init(model_spec(config), seed), tokenizer)


def configured_backend(
    backend: str | Backend | None = None,
    device: str | None = None,
    dtype: str | None = None,
    config: str | Path | None = None,
) -> Backend:
    """The backend of the arguments, completed by environment and configuration file.

    A device or dtype from the configuration belongs to the configured backend: an argument that
    names another backend does not inherit them.
    """
    if isinstance(backend, Backend):
        return get_backend(backend, device, dtype)
    found = settings(config).backend
    inherit = backend is None or backend == found.get("name", "numpy")
    return get_backend(
        backend or found.get("name", "numpy"),
        device or (found.get("device") if inherit else None),
        dtype or (found.get("dtype") if inherit else None),
    )
