"""Find the file or folder of a model by its name."""

from __future__ import annotations

import os
from pathlib import Path

from ldmref.errors import InputError, UnsafeFileError, closest, did_you_mean
from ldmref.io import hub
from ldmref.io.diffusers.folder import INDICES, find_index
from ldmref.io.embedded import EMBEDDED, embedded_folder
from ldmref.io.kit_folder import is_kit
from ldmref.models.presets import list_presets
from ldmref.support.files import NOT_THERE, check_input_path, shown

NATIVE_INDEX = "config.json"
NATIVE_WEIGHTS = "model.safetensors"
TRAINED = "model"  # the folder of the model in the folder of a training
MODEL_ENDINGS = (".safetensors", ".gguf")
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
MAX_NAMES = 10_000  # files of a folder that are compared with a misspelt name


def find_model(name: str | Path, fetch: bool = False, variant: str | None = None) -> Path:
    """Return the file or folder of a model: an embedded one by its name, otherwise a path.

    The weights in a folder of ldmref stand for the folder, and the folder of a training for the
    `model` in it. A name such as
    `stable-diffusion-v1-5/stable-diffusion-v1-5` that is not a path is looked up in the local cache
    of Hugging Face (`ldmref.io.hub`) and, with `fetch`, downloaded into it.

    Args:
        name: The name of an embedded model, a path, or the name of a model in the cache of Hugging
            Face.
        fetch: Whether to download a model that the cache lacks.
        variant: The variant of the weights to download, such as `fp16`. None: the files without a
            variant.

    Returns:
        The path of a file or folder that exists.

    Raises:
        InputError: There is no such model, or it cannot be downloaded.
        UnsafeFileError: It is a pickle.
        BackendUnavailable: Downloading needs a package that is not installed.

    >>> from ldmref.io import find_model
    >>> find_model("emoji").name
    'emoji'
    """
    if name in EMBEDDED:
        return embedded_folder(str(name))
    path = check_input_path(name)
    if not path.name or path.parts[0] in EMBEDDED:  # `.` gets a name, and ./emoji is a folder
        path = path.absolute()
    if path.is_file() and path.suffix.lower() in PICKLES:
        raise UnsafeFileError(
            f"{path.name} is a pickle, and loading a pickle can run code",
            code="E-PICKLE",
            hint=f"make it safe first: ldmref convert {path.name} {path.stem}.safetensors",
        )
    if not path.exists():
        return _in_hub(os.fsdecode(name), fetch, variant)
    if path.name == NATIVE_WEIGHTS and is_native(path.parent):
        return path.parent
    if path.is_dir() and not is_model(path):
        if is_model(path / TRAINED):
            return path / TRAINED
        raise InputError(
            f"{shown(path)!r} is not a model folder: it has neither {NATIVE_INDEX} nor "
            f"{INDICES[0]}, and no folder {TRAINED!r} that has one",
            code="E-MODEL",
            hint="give the folder that has one of them; ldmref train writes it when a stage ends",
        )
    return path


def _in_hub(name: str, fetch: bool, variant: str | None) -> Path:
    if name in list_presets():
        raise InputError(
            f"{name!r} is a preset: networks without weights",
            code="E-MODEL",
            hint="give a file of weights, or a folder; ldmref train makes a model of a preset, "
            "and in Python ldmref.random_model fills one with random numbers",
        )
    reference = hub.parse_reference(name)
    hint = did_you_mean(name, EMBEDDED)
    if _is_file_name(name, reference):
        raise InputError(f"no such file: {name}", code="E-MODEL", hint=_similar_file(name))
    if reference is not None:
        path = hub.fetch(reference, variant) if fetch else hub.find_cached(reference)
        if path is not None:
            return path
        hint = f"to fetch {reference.repository} from Hugging Face: fetch=True (--fetch); {hint}"
    raise InputError(f"no model {name!r}", code="E-MODEL", hint=hint)


def _is_file_name(name: str, reference: hub.HubReference | None) -> bool:
    """Return whether a name means a file or a path rather than a model's name."""
    ending = Path(name).suffix.lower() in (*MODEL_ENDINGS, *PICKLES)
    if reference is not None:
        return ending and not reference.file
    return ending or name.startswith((".", "/", "~")) or name.endswith("/")


def _similar_file(name: str) -> str:
    """Return a hint at a file of nearly the same name in the folder, or to check the path."""
    path = Path(name)
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except (OSError, ValueError):
        return NOT_THERE
    close = closest(path.name, names[:MAX_NAMES])
    return f"did you mean {str(path.with_name(close))!r}?" if close else NOT_THERE


def is_model(path: Path) -> bool:
    """Return whether a path is a folder of a model: of ldmref, of diffusers, or of a kit."""
    return is_native(path) or is_diffusers(path) or is_kit(path)


def is_diffusers(path: Path) -> bool:
    """Return whether a path is a folder in diffusers' layout."""
    return find_index(path).is_file()


def is_native(path: Path) -> bool:
    """Return whether a path is a folder in ldmref's own layout."""
    return (path / NATIVE_INDEX).is_file() and not is_diffusers(path)
