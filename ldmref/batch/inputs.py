"""The files that a row names: images, arrays, ControlNets and a second model.

A path is relative to the file of requests. Its content is part of the key, so a changed file makes
another image, and the same file elsewhere makes the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.declare import Check, Field, Flag
from ldmref.errors import ImageError, InputError, UsageError, short_path, short_repr
from ldmref.io.adapters.controlnet import open_controlnet
from ldmref.io.checkpoint import open_checkpoint
from ldmref.io.locate import find_model
from ldmref.models.config import ModelConfig
from ldmref.modes.control import Control, list_controls
from ldmref.modes.references import list_references
from ldmref.modes.registry import MODES
from ldmref.support.files import not_a_file, read_file

MAX_IMAGE = 200_000_000  # bytes of a file


@dataclass(frozen=True)
class RowInputs:
    """The inputs of a row.

    Args:
        values: The parameters that are not files.
        images: The path of each parameter that is an image.
        several: The paths of each parameter that is a list of images.
        controls: The ControlNets, with the paths of their nets and images.
        digests: The SHA-256 of each input, by parameter.
    """

    values: Mapping[str, Any]
    images: Mapping[str, Path] = field(default_factory=dict)
    several: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    controls: tuple[Mapping[str, Any], ...] = ()
    digests: Mapping[str, Any] = field(default_factory=dict)

    def parameters(self) -> dict[str, Any]:
        """Return the parameters for `modes.plan`, with paths."""
        controls = [Control(**control) for control in self.controls]
        more = {"control": controls} if controls else {}
        return {**self.values, **self.images, **self.several, **more}


def find_inputs(
    mode: str, values: Mapping[str, Any], folder: Path, config: ModelConfig | None = None
) -> RowInputs:
    """Find and digest the files that a row names.

    Args:
        mode: The mode of the row.
        values: Its parameters.
        folder: The folder to which paths are relative.
        config: The model, whose U-Net ControlNets of single files must fit.

    Raises:
        UsageError: An image is not a path, or a control is not an object with a net and an image.
        ImageError, InputError: A file does not exist or cannot be read.
    """
    plain: dict[str, Any] = {}
    images: dict[str, Path] = {}
    several: dict[str, tuple[Path, ...]] = {}
    digests: dict[str, Any] = {}
    controls: list[dict[str, Any]] = []
    fields = MODES[mode].parameters
    for name, value in values.items():
        declared = fields.get(name)
        if declared is None or value is None:
            plain[name] = value
        elif declared.attachment == "image":
            images[name] = locate_image(name, value, folder)
            digests[name] = digest_file(images[name])
        elif declared.attachment == "images":
            listed = list_references(name, value)
            several[name] = tuple(locate_image(name, image, folder) for image in listed)
            digests[name] = [digest_file(path) for path in several[name]]
        elif declared.attachment == "array":
            plain[name] = array = read_array(declared, value, folder)
            digests[name] = digest_array(array)
        elif declared.attachment == "model":
            plain[name] = str(locate_model(name, value, folder))
            digests[name] = digest_model(plain[name])
        elif declared.attachment == "controlnet":
            controls = [read_control(control, folder) for control in list_controls(value)]
            digests[name] = [digest_control(control, config) for control in controls]
        else:
            plain[name] = value
    return RowInputs(plain, images, several, tuple(controls), digests)


def locate_image(name: str, value: object, folder: Path) -> Path:
    """Return the path of an image.

    Raises:
        UsageError: The value is not a path.
        ImageError: There is no such file.
    """
    if not isinstance(value, str):
        raise UsageError(
            f"{name} must be the path of an image, not {short_repr(value)}",
            code="E-IMAGE",
            hint="paths are relative to the file of requests",
        )
    path = folder / value
    if problem := not_a_file(path):
        remote = "://" in value
        hint = "paths are relative to the file of requests"
        hint = "download it first: URLs are not opened" if remote else hint
        raise ImageError(f"{short_path(value)} {problem}", code="E-IMAGE-MISSING", hint=hint)
    return path


def locate_model(name: str, value: object, folder: Path) -> Path:
    """Return the path of a model: below the folder, or as `load` finds it.

    Raises:
        UsageError: The value is not a name or path.
        InputError: There is no such model.
    """
    if not isinstance(value, str) or not value:
        raise UsageError(
            f"{name} must be the path or name of a model, not {short_repr(value)}",
            code="E-GUIDE",
            hint="paths are relative to the file of requests",
        )
    below = folder / value
    return find_model(below if below.exists() else value).absolute()


def digest_model(path: str) -> str:
    """Return the SHA-256 of a model's files, which many rows may name."""
    files = [Path(path), *sorted(Path(path).rglob("*"))]
    states = [(file.stat().st_mtime_ns, file.stat().st_size) for file in files]
    return _digest_model(path, tuple(states))


@lru_cache(maxsize=4)
def _digest_model(path: str, state: tuple[tuple[int, int], ...]) -> str:
    return open_checkpoint(path).sha256


def read_array(declared: Field, value: object, folder: Path) -> np.ndarray:
    """Return an array from nested lists or a .npy file, in the form that the parameter has.

    Raises:
        UsageError, InputError: It is something else.
    """
    flag = declared.get(Flag)
    if isinstance(value, str) and flag is not None and flag.parse is not None:
        value = flag.parse(str(folder / value))
    elif isinstance(value, list):
        value = np.asarray(value) if _is_regular(value) else value
    check = declared.get(Check)
    assert check is not None
    return check.function(declared.name, value)


def _is_regular(value: list[Any]) -> bool:
    """Return whether nested lists hold numbers and have a shape."""
    try:
        return np.asarray(value).dtype.kind in "fiu"
    except ValueError:
        return False


def read_control(value: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the arguments of a `Control` with its paths below the folder.

    Raises:
        UsageError: Its net is not a path.
        ImageError: There is no such image.
    """
    net = value["net"]
    if not isinstance(net, str):
        raise UsageError(f"control.net must be a path, not {short_repr(net)}", code="E-CONTROL")
    image = value.get("image")
    if image is not None:
        image = locate_image("control.image", image, folder)
    return {**value, "net": str((folder / net).absolute()), "image": image}


def digest_control(control: Mapping[str, Any], config: ModelConfig | None) -> dict[str, Any]:
    """Return a control with the digests of its net and its image instead of their paths."""
    net = open_controlnet(control["net"], config and config.denoiser)
    image = None if control["image"] is None else digest_file(control["image"])
    files = {"net": net.sha256(), "name": net.name, "image": image}
    return {**control, **files}


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file that is not too large for an image.

    Raises:
        ImageError: It is larger, or cannot be read.
    """
    return hashlib.sha256(read_image_file(path)).hexdigest()


def digest_array(array: np.ndarray) -> str:
    """Return the SHA-256 of an array with its type and shape."""
    head = f"{array.dtype} {array.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def read_image_file(path: Path) -> bytes:
    """Return the bytes of the file of an image.

    Raises:
        ImageError: It is too large, or cannot be read.
    """
    try:
        return read_file(path, MAX_IMAGE, "E-IMAGE")
    except InputError as error:
        raise ImageError(str(error), code=error.code, hint=error.hint) from error


def read_unchanged(path: Path, digest: str) -> BytesIO:
    """Return the content of an image whose digest is known.

    Raises:
        ImageError: The file has changed.
    """
    content = read_image_file(path)
    if hashlib.sha256(content).hexdigest() != digest:
        raise ImageError(
            f"{short_path(path)} has changed since the rows were checked",
            code="E-IMAGE-CHANGED",
            hint="run the command again",
        )
    return BytesIO(content)
