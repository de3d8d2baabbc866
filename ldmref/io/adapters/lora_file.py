"""LoRA files: their tensors, and what PEFT records beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from reprlib import repr as shorten
from typing import Any

import numpy as np

from ldmref.errors import CorruptModelError, UsageError, short_repr
from ldmref.io.adapters.lora_keys import WRAPPER
from ldmref.io.diffusers.checks import read_json
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.support.files import check_input_path

ADAPTER_METADATA = "lora_adapter_metadata"  # diffusers records PEFT's configuration here
USAGE = 'lora=["style.safetensors", ("light.safetensors", 0.5)]'
ADAPTER_FILE = "adapter_config.json"  # PEFT records it here
MAX_WEIGHT = 100.0


@dataclass(frozen=True)
class Lora:
    """The tensors of a LoRA file under its own names, and the weight to apply them with.

    `adapter` is PEFT's configuration if the file records it, such as `unet.lora_alpha`.
    """

    name: str
    tensors: Mapping[str, np.ndarray] = field(repr=False)
    weight: float = 1.0
    sha256: str = ""
    adapter: Mapping[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> dict[str, Any]:
        """The entry of the LoRA in an image's metadata."""
        return {"name": self.name, "sha256": self.sha256, "weight": self.weight}


def read_loras(loras: Sequence[str | Path | tuple[str | Path, float]]) -> list[Lora]:
    """Read LoRA files, in the layouts of diffusers, PEFT, kohya and others.

    Args:
        loras: Paths of safetensors files, or (path, weight); a weight is in [-100, 100], by default
            1.

    Returns:
        The tensors of each file under its own names, with its weight.

    Raises:
        UsageError: A weight is not a number in that range.
        InputError, CorruptModelError, UnsafeFileError: A file is missing, damaged, or a pickle.

    >>> import os
    >>> import tempfile
    >>> import numpy as np
    >>> from safetensors.numpy import save_file
    >>> from ldmref.io import read_loras
    >>> path = os.path.join(tempfile.mkdtemp(), "style.safetensors")
    >>> save_file({"unet.conv_in.lora_A.weight": np.ones((4, 3), np.float32)}, path)
    >>> read_loras([(path, 0.5)])[0].weight
    0.5
    """
    return [replace(lora, sha256=file.sha256()) for file, lora in _open(loras)]


def open_loras(loras: Sequence[str | Path | tuple[str | Path, float]]) -> list[Lora]:
    """Open LoRA files without their digests, for which all of a file must be read.

    Args:
        loras: As for `read_loras`.

    Raises:
        UsageError, InputError, CorruptModelError, UnsafeFileError: As for `read_loras`.
    """
    return [lora for _, lora in _open(loras)]


def _open(loras: Any) -> Iterator[tuple[TensorFile, Lora]]:
    """Yield the file of each LoRA, and the LoRA without its digest."""
    if isinstance(loras, str | os.PathLike):
        loras = [loras]
    if not isinstance(loras, Sequence) or isinstance(loras, bytes):
        kind = type(loras).__name__
        raise UsageError(f"lora must be a list of files, not {kind}", code="E-LORA", hint=USAGE)
    for lora in loras:
        if isinstance(lora, tuple | list) and len(lora) != 2:
            raise UsageError(
                f"a LoRA must be a path, or path and weight, not {shorten(lora)}",
                code="E-LORA",
                hint=USAGE,
            )
        path, weight = lora if isinstance(lora, tuple | list) else (lora, 1.0)
        path = check_input_path(path, "the path of a LoRA", "E-LORA")
        weight = check_lora_weight(weight)
        file = TensorFile(path)
        yield file, Lora(path.stem, file, weight, adapter=_adapter(file))


def check_lora_weight(weight: Any) -> float:
    """Return the weight of a LoRA: a number in [-100, 100].

    Args:
        weight: A number of Python or NumPy.

    Raises:
        UsageError: It is something else, or out of range.

    >>> check_lora_weight(1)
    1.0
    """
    is_number = isinstance(weight, Real) and not isinstance(weight, bool)
    if is_number and abs(weight) <= MAX_WEIGHT:  # type: ignore[operator]
        return float(weight)
    raise UsageError(
        f"the weight of a LoRA must be a number from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}, "
        f"not {short_repr(weight)}",
        code="E-LORA-WEIGHT",
        hint="1 is full strength, 0 no effect; a negative weight reverses the change",
    )


def lora_error(message: str) -> CorruptModelError:
    """Return the error of a LoRA that cannot be followed."""
    return CorruptModelError(message, code="E-LORA")


def _adapter(file: TensorFile) -> dict[str, Any]:
    """Return PEFT's configuration, from the metadata or the file next to one of PEFT's own."""
    beside = file.path.with_name(ADAPTER_FILE)
    if ADAPTER_METADATA not in file.metadata and beside.is_file():
        return read_json(beside) if any(WRAPPER in name for name in file) else {}
    try:
        config = json.loads(file.metadata.get(ADAPTER_METADATA, "{}"))
    except (ValueError, TypeError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise lora_error(f"{ADAPTER_METADATA} of {file.path.name} is not a JSON object")
    return config
