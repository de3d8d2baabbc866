"""LoRA files: their tensors, and what PEFT records beside them.

PEFT records alpha, the rank and how they make a factor.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from reprlib import repr as shorten
from typing import Any

import numpy as np

from ldmref.errors import CorruptModelError, InputError, UnsafeFileError, UsageError, short_repr
from ldmref.io.adapters.lora_keys import WRAPPER
from ldmref.io.diffusers.checks import read_json
from ldmref.io.tensors.model_file import ModelFile
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.support.files import check_input_path, shown

USAGE = 'lora=["style.safetensors", ("light.safetensors", 0.5)]'
ADAPTER_FILE = "adapter_config.json"  # PEFT records its configuration here
PEFT_WEIGHTS = "adapter_model.safetensors"
DIFFUSERS_WEIGHTS = "pytorch_lora_weights.safetensors"
MAX_WEIGHT = 100.0

ADAPTER_METADATA = "lora_adapter_metadata"  # diffusers records PEFT's configuration here
MAX_ALPHA = float(np.finfo(np.float32).max)
MAX_RANK = 2**24
MAX_PATTERN = 300  # characters
MOST_REPEATS = 2  # of a pattern, so that a search takes at most cubic time
TYPES = ("LORA", "LOHA", "LOKR")  # `peft_type` of adapters that are read


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

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor; nothing of it is read."""
        shapes = getattr(self.tensors, "shapes", None)
        return np.shape(self.tensors[name]) if shapes is None else shapes[name]

    @property
    def record(self) -> dict[str, Any]:
        """The entry of the LoRA in an image's metadata."""
        return {"name": self.name, "sha256": self.sha256, "weight": self.weight}


def read_loras(loras: Sequence[str | Path | tuple[str | Path, float]]) -> list[Lora]:
    """Read LoRA files, in the layouts of diffusers, PEFT, kohya and others.

    Args:
        loras: Paths of safetensors files, or of folders that PEFT or diffusers wrote; or (path,
            weight). A weight is in [-100, 100], by default 1.

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
    return hash_loras(open_loras(loras))


def open_loras(loras: Sequence[str | Path | tuple[str | Path, float]]) -> list[Lora]:
    """Open LoRA files without their digests, for which all of a file must be read.

    Args:
        loras: As for `read_loras`.

    Raises:
        UsageError, InputError, CorruptModelError, UnsafeFileError: As for `read_loras`.
    """
    return list(_open(loras))


def hash_loras(loras: Sequence[Lora]) -> list[Lora]:
    """Return opened LoRAs with the digests of their files, which are read for that."""
    return [
        replace(lora, sha256=lora.tensors.sha256()) if isinstance(lora.tensors, ModelFile) else lora
        for lora in loras
    ]


def _open(loras: object) -> Iterator[Lora]:
    """Yield each LoRA without its digest."""
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
        yield open_lora(path, weight)


def open_lora(path: Path, weight: float = 1.0) -> Lora:
    """Open a LoRA file, or the folder of one that PEFT or diffusers wrote.

    A folder gives its name to the LoRA.

    Raises:
        InputError, CorruptModelError, UnsafeFileError: As for `read_loras`.
    """
    file = TensorFile(find_weights(path) if path.is_dir() else path)
    name = path.absolute().name if path.is_dir() else path.stem
    return Lora(name, file, weight, adapter=read_adapter_config(file))


def is_adapter_folder(path: Path) -> bool:
    """Return whether a path is a folder of a LoRA alone, which PEFT or diffusers wrote."""
    names = (PEFT_WEIGHTS, DIFFUSERS_WEIGHTS, ADAPTER_FILE)
    return path.is_dir() and any((path / name).is_file() for name in names)


def find_weights(folder: Path) -> Path:
    """Return the LoRA file in a folder that PEFT or diffusers wrote.

    Raises:
        InputError: It holds none.
        UnsafeFileError: It holds a pickle instead.
    """
    for name in (PEFT_WEIGHTS, DIFFUSERS_WEIGHTS):
        if (folder / name).is_file():
            return folder / name
        pickle = (folder / name).with_suffix(".bin")
        if pickle.is_file():
            raise UnsafeFileError(
                f"{shown(pickle)} is a pickle, and loading a pickle can run code",
                code="E-PICKLE",
                hint=f"make it safe first: ldmref convert {shown(pickle)} {name}",
            )
    raise InputError(
        f"{shown(folder)!r} is a folder without a LoRA: it has neither {PEFT_WEIGHTS} nor "
        f"{DIFFUSERS_WEIGHTS}",
        code="E-LORA",
        hint="give the file, or the folder that save_pretrained or save_lora_weights wrote",
    )


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


def read_adapter_config(file: ModelFile) -> dict[str, Any]:
    """Return PEFT's configuration, from the metadata or the file next to one of PEFT's own.

    Raises:
        CorruptModelError: It is not an object.
    """
    beside = file.path.with_name(ADAPTER_FILE)
    if ADAPTER_METADATA not in file.metadata and beside.is_file():
        of_peft = file.path.name == PEFT_WEIGHTS or any(WRAPPER in name for name in file)
        return read_json(beside) if of_peft else {}
    try:
        config = json.loads(file.metadata.get(ADAPTER_METADATA, "{}"))
    except (ValueError, TypeError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise lora_error(f"{ADAPTER_METADATA} of {file.path.name} is not a JSON object")
    return config


@dataclass(frozen=True)
class LayerConfig:
    """The configuration of one layer.

    Attributes:
        alpha: None if it has none.
        rank: None if it has none; the tensors' own rank counts where they have one.
        use_rslora: Whether alpha is divided by the root of the rank (Kalajdzievski 2023,
            arXiv:2312.03732).
        use_dora: Whether the layer has a magnitude.
    """

    alpha: float | None = None
    rank: float | None = None
    use_rslora: bool = False
    use_dora: bool = False

    def scale(self, rank: int | None) -> float:
        """Return the factor of a change of this rank; None: it has no products, as some LoKr.

        >>> LayerConfig(alpha=8.0).scale(4), LayerConfig(alpha=8.0, use_rslora=True).scale(4)
        (2.0, 4.0)
        >>> LayerConfig().scale(4), LayerConfig(alpha=8.0, rank=16.0).scale(None)
        (1.0, 0.5)
        """
        over = rank if rank is not None else self.rank
        if self.alpha is None or over is None:
            return 1.0
        return self.alpha / (math.sqrt(over) if self.use_rslora else over)


def layer_config(adapter: Mapping[str, Any], tensor: str, name: str) -> LayerConfig:
    """Return the configuration of a layer.

    Args:
        adapter: PEFT's configuration, whose keys may begin with a network, as `unet.lora_alpha`.
        tensor: Our tensor.
        name: The name of a tensor of the layer in the file.

    Raises:
        CorruptModelError: It cannot be followed.
    """
    part, _, layer = tensor.rpartition(".")[0].partition(".")
    config = {k.removeprefix(f"{part}."): v for k, v in adapter.items() if k.startswith(f"{part}.")}
    config = config or {k: v for k, v in adapter.items() if "." not in k}
    kind = config.get("peft_type") or "LORA"
    if kind not in TYPES:
        raise _error(f"peft_type is {shorten(kind)}; read are {', '.join(TYPES)}")
    paths = layer, re.split(r"\.(lora|hada|lokr)_?", name)[0]
    key = "lora_alpha" if kind == "LORA" else "alpha"
    alpha = _find(config, key, "alpha_pattern", paths, MAX_ALPHA)
    rank = _find(config, "r", "rank_pattern", paths, MAX_RANK)
    rslora, dora = bool(config.get("use_rslora")), bool(config.get("use_dora"))
    return LayerConfig(alpha, rank or None, rslora, dora)


def _find(
    config: Mapping[str, Any], key: str, patterns_key: str, paths: Iterable[str], most: float
) -> float | None:
    """Return a number of a layer: that of the first pattern that matches, or of all layers."""
    value = config.get(key)
    patterns = config.get(patterns_key) or {}
    if not isinstance(patterns, dict):
        raise _error(f"{patterns_key} is {shorten(patterns)}, not an object")
    for pattern, own in patterns.items():
        if any(matches(pattern, path) for path in paths):
            value = own
            break
    if value is None:
        return None
    if type(value) not in (int, float) or not abs(value) <= most:
        raise _error(f"{key} is {shorten(value)}, not a number")
    return float(value)


def matches(pattern: str, path: str) -> bool:
    """Return whether a pattern of PEFT names a layer: all of its path, or the end after a dot.

    Patterns are regular expressions. One that could take long is refused.

    Raises:
        CorruptModelError: The pattern is not one, or is too involved.

    >>> matches("to_q", "attn1.to_q"), matches("q", "attn1.to_q"), matches("attn[12].*", "attn1.to")
    (True, False, True)
    """
    if re.fullmatch(r"[\w.]*", pattern) and "__" not in pattern:
        return f".{path}".endswith(f".{pattern}")
    involved = len(re.findall(r"[*+?{]", pattern)) > MOST_REPEATS or re.search(r"\)[*+?{]", pattern)
    if len(pattern) > MAX_PATTERN or involved:
        raise _error(f"the pattern {shorten(pattern)} is too involved")
    try:
        return re.match(rf"(.*\.)?({pattern})$", path) is not None
    except (re.error, OverflowError, RecursionError) as error:
        raise _error(f"the pattern {shorten(pattern)} is no regular expression") from error


def _error(problem: str) -> CorruptModelError:
    return CorruptModelError(f"PEFT's configuration of the adapter: {problem}", code="E-LORA")
