"""Where a model is, and what it is: its place and its configuration, without its weights."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from ldmref.errors import InputError, UnsafeFileError, did_you_mean
from ldmref.io import hub
from ldmref.io.compvis.single_file import find_config
from ldmref.io.diffusers.folder import read_diffusers_config
from ldmref.io.native import read_config
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.models.config import ModelConfig
from ldmref.models.presets import PRESETS

EMBEDDED = ("emoji",)
INDEXES = ("config.json", "model_index.json")


def find_model(name: str | Path, fetch: bool = False, variant: str | None = None) -> Path:
    """The file or folder of a model: an embedded one by its name, else a path.

    A name such as `stable-diffusion-v1-5/stable-diffusion-v1-5` that is no path is looked up in the
    local cache of Hugging Face (`ldmref.io.hub`), and with `fetch` fetched into it.

    Raises:
        InputError: there is no such model, or it cannot be fetched.
        UnsafeFileError: it is a pickle.
        BackendUnavailable: fetching needs a package that is not installed.
    """
    if str(name) in EMBEDDED:
        return Path(str(files("ldmref") / "assets" / str(name)))
    path = Path(name)
    if path.suffix.lower() in (".ckpt", ".pt", ".pth", ".bin", ".pkl"):
        raise UnsafeFileError(
            f"{path.name} is a pickle, and loading a pickle can run code",
            code="E-PICKLE",
            hint=f"make it safe first: ldmref convert {path.name} {path.stem}.safetensors",
        )
    if not path.exists():
        place = hub.parse(str(name))
        found = (
            None if place is None else (hub.fetch(place, variant) if fetch else hub.cached(place))
        )
        if found is not None:
            return found
        hint = did_you_mean(str(name), EMBEDDED)
        if place is not None:
            hint = f"to fetch {place.repository} from Hugging Face: fetch=True (--fetch); {hint}"
        raise InputError(f"no model {str(name)!r}", code="E-MODEL", hint=hint)
    if path.is_dir() and not any((path / index).is_file() for index in INDEXES):
        raise InputError(
            f"{path.name!r} is no model folder: it has neither of {' and '.join(INDEXES)}",
            code="E-MODEL",
        )
    return path


def model_config(
    name: str | Path, config: str | Path | None = None, ema: bool | None = None
) -> ModelConfig:
    """The configuration of a model, without reading its weights."""
    path = find_model(name)
    if path.is_file():
        return find_config(TensorFile(path), told_config(config), ema)
    if (path / "model_index.json").is_file():
        return read_diffusers_config(path)
    return read_config(path / "config.json")


def told_config(config: str | Path | None) -> ModelConfig | None:
    """A configuration by preset name, or from a folder or config.json of ldmref or diffusers."""
    if config is None or str(config) in PRESETS:
        return PRESETS.get(str(config))
    path = Path(config)
    if (path / "model_index.json").is_file():
        return read_diffusers_config(path)
    file = path if path.suffix == ".json" else path / "config.json"
    if not file.is_file():
        raise InputError(
            f"no configuration {str(config)!r}",
            code="E-CONFIG",
            hint=did_you_mean(str(config), PRESETS),
        )
    return read_config(file)


def is_native(path: Path) -> bool:
    """Whether a path is a folder of ldmref's own layout."""
    return path.is_dir() and not (path / "model_index.json").is_file()
