"""LoRA: low-rank changes of a model's matrices and convolutions, merged into them.

    W <- W + weight * (alpha / rank) * up @ down

Hu et al. 2021, arXiv:2106.09685, section 4.1. A convolution's `down` is k x k, its `up` 1 x 1.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from reprlib import repr as shorten
from typing import Any

import numpy as np

from ldmref.errors import CorruptModelError, UsageError, short_repr
from ldmref.io.adapters.lora_keys import WRAPPER, lora_names, unwrapped
from ldmref.io.diffusers.checks import read_json
from ldmref.io.key_report import compare
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.math.layers import low_rank_update
from ldmref.models.config import ModelConfig
from ldmref.models.model import model_spec
from ldmref.models.params import Shape, flatten
from ldmref.support.files import check_input_path

Change = dict[str, np.ndarray]  # role -> tensor: `down`, `up` and optionally `alpha`
ADAPTER_METADATA = "lora_adapter_metadata"  # diffusers records PEFT's configuration here
USAGE = 'lora=["style.safetensors", ("light.safetensors", 0.5)]'
ADAPTER_FILE = "adapter_config.json"  # PEFT records it here
MAX_ALPHA = float(np.finfo(np.float32).max)
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
    result = []
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
        number = isinstance(weight, Real) and not isinstance(weight, bool)
        if not number or not abs(weight) <= MAX_WEIGHT:
            message = (
                f"the weight of a LoRA must be a number from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}, "
                f"not {short_repr(weight)}"
            )
            hint = "1 is full strength, 0 no effect; a negative weight reverses the change"
            raise UsageError(message, code="E-LORA-WEIGHT", hint=hint)
        file = TensorFile(path)
        result.append(Lora(path.stem, file, float(weight), file.sha256(), _adapter(file)))
    return result


def apply_loras(
    config: ModelConfig, flat: Mapping[str, np.ndarray], loras: Sequence[Lora]
) -> dict[str, np.ndarray]:
    r"""Return the tensors of a model with the LoRAs merged in.

    .. math:: W' = W + w\,\frac{\alpha}{r}\,\mathrm{up}\,\mathrm{down}

    with w the weight of the LoRA, r its rank and alpha from the file, by default r.

    The inputs are not changed. Changed tensors are float32, or float64 if they were.

    Args:
        config: The configuration of the model.
        flat: The tensors of the model by our names, such as those of `open_checkpoint`, each of its
            shape (o, i) or (o, i, k, k).
        loras: From `read_loras`; they are added in this order.

    Returns:
        All tensors of the model by name, in the shapes of `flat`.

    Raises:
        KeyMismatchError: A LoRA belongs to another model; the message lists what does not fit.
        CorruptModelError: It holds NaN or infinity, or needs something that is not supported.

    >>> from ldmref.io import apply_loras, open_checkpoint, read_loras
    >>> checkpoint = open_checkpoint("sd15")  # doctest: +SKIP
    >>> loras = read_loras(["style.safetensors"])  # doctest: +SKIP
    >>> tensors = apply_loras(checkpoint.config, checkpoint.tensors, loras)  # doctest: +SKIP
    """
    merged = dict(flat)
    for lora in loras:
        for name, change in lora_changes(config, lora).items():
            wide = np.result_type(merged[name].dtype, np.float32)
            base = merged[name].astype(wide)
            with np.errstate(over="ignore", invalid="ignore"):
                merged[name] = merge(base, change, lora.weight)
            if not np.isfinite(merged[name]).all() and np.isfinite(base).all():
                message = (
                    f"the LoRA {lora.name!r} with weight {lora.weight:g} makes {name} infinite"
                )
                hint = "its alpha or its numbers are too large"
                raise CorruptModelError(message, code="E-NONFINITE", hint=hint)
    return merged


def merge(w: np.ndarray, change: Change, weight: float = 1.0) -> np.ndarray:
    """Compute w + weight * (alpha / rank) * up @ down, in the type of `w`.

    w: (o, i) or (o, i, k, k); down: (r, i) or (r, i, k, k); up: (o, r) or (o, r, 1, 1);
    alpha: a number, by default r.
    """
    down = change["down"].astype(w.dtype)
    up = change["up"].astype(w.dtype)
    rank = len(down)
    alpha = float(change["alpha"].reshape(())) if "alpha" in change else float(rank)
    return low_rank_update(w, down, up, weight * alpha / rank)


def match_tensors(config: ModelConfig, lora: Lora) -> dict[str, dict[str, str]]:
    """Return, for each of our tensors that a LoRA changes, its names in the file by role.

    Names and shapes are compared; no numbers are read.

    Raises:
        KeyMismatchError: A tensor of the file is not used, or has another shape.
        CorruptModelError: The file holds no tensors.
    """
    if not lora.tensors:
        raise _error(f"the LoRA {lora.name!r} holds no tensors")
    known = lora_names(config)
    shapes = flatten(model_spec(config))
    names: dict[str, dict[str, str]] = {}  # our tensor -> role -> name in the file
    for name in lora.tensors:
        target = known.get(unwrapped(name))
        if target is not None:  # a second name of one target is unexpected
            names.setdefault(target.tensor, {}).setdefault(target.role, name)
    have = {name: _bare(tensor.shape) for name, tensor in lora.tensors.items()}
    want = {}
    for tensor, roles in names.items():
        want |= _wanted(roles, have, shapes[tensor])
    hint = "it must be made for the same family; LoHa, LoKr and DoRA are not supported"
    compare(have, want).require(f"the LoRA {lora.name!r} does not fit {config.name!r}", hint)
    return names


def lora_changes(config: ModelConfig, lora: Lora) -> dict[str, Change]:
    """Return the change of each of our tensors; every tensor of the file is used, and fits.

    Raises:
        KeyMismatchError, CorruptModelError: As for `apply_loras`.
    """
    names = match_tensors(config, lora)
    tensors = dict(lora.tensors)
    bad = [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]
    if bad:
        what = f"the LoRA {lora.name!r} holds NaN or infinity: {', '.join(bad[:3])}"
        raise CorruptModelError(what, code="E-NONFINITE")
    changes = {}
    for tensor, roles in names.items():
        change = changes[tensor] = {role: tensors[name] for role, name in roles.items()}
        alpha = _recorded_alpha(lora.adapter, tensor, len(change["down"]))
        if alpha is not None and "alpha" not in change:
            change["alpha"] = np.asarray(alpha)
    return changes


def _error(message: str) -> CorruptModelError:
    return CorruptModelError(message, code="E-LORA")


def _wanted(roles: Mapping[str, str], have: Mapping[str, Shape], shape: Shape) -> dict[str, Shape]:
    """Return names and shapes that the change of a tensor needs; `down` determines the rank."""
    absent = [role for role in ("down", "up") if role not in roles]
    if absent:
        first = next(iter(roles.values()))
        present = {name: have[name] for name in roles.values()}
        return present | {f"{role} for {first}": () for role in absent}
    rank = max((1, *have[roles["down"]][:1]))
    want = {"down": _bare((rank, *shape[1:])), "up": (shape[0], rank)}
    alpha = have[roles["alpha"]] if "alpha" in roles else ()
    want["alpha"] = alpha if math.prod(alpha) == 1 else ()
    return {name: want[role] for role, name in roles.items()}


def _bare(shape: Shape) -> Shape:
    """Return the shape of a 1 x 1 convolution as a matrix."""
    return shape[:2] if shape[2:] == (1, 1) else shape


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
        raise _error(f"{ADAPTER_METADATA} of {file.path.name} is not a JSON object")
    return config


def _recorded_alpha(adapter: Mapping[str, Any], tensor: str, rank: int) -> float | None:
    """Return alpha in PEFT's configuration; None if it has none.

    With `use_rslora` the factor is alpha / sqrt(rank) (Kalajdzievski 2023, arXiv:2312.03732).
    """
    part, _, layer = tensor.removesuffix(".weight").partition(".")
    config = {k.removeprefix(f"{part}."): v for k, v in adapter.items() if k.startswith(f"{part}.")}
    config = config or {k: v for k, v in adapter.items() if "." not in k}
    if config.get("use_dora"):
        raise _error("DoRA is not supported")
    alpha = config.get("lora_alpha")
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise _error(f"{ADAPTER_METADATA}: alpha_pattern is {shorten(patterns)}, not an object")
    for pattern, value in patterns.items():
        if f".{layer}".endswith(f".{pattern}"):  # PEFT matches the end of a path
            alpha = value
            break
    if alpha is None:
        return None
    if type(alpha) not in (int, float) or not abs(alpha) <= MAX_ALPHA:
        raise _error(f"{ADAPTER_METADATA}: lora_alpha is {shorten(alpha)}, not a number")
    return float(alpha) * (math.sqrt(rank) if config.get("use_rslora") else 1.0)
