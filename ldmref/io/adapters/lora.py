"""LoRA: low-rank changes of a model's matrices and convolutions, merged into them.

    W <- W + weight * (alpha / rank) * up @ down

Hu et al. 2021, arXiv:2106.09685, section 4.1. A convolution's `down` is k x k, its `up` 1 x 1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.errors import CorruptModelError, UsageError
from ldmref.io.adapters.lora_keys import WRAPPER, lora_names, unwrapped
from ldmref.io.diffusers.folder import read_json
from ldmref.io.key_report import Report
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.models.config import ModelConfig
from ldmref.models.model import model_spec
from ldmref.models.params import flatten

Change = dict[str, np.ndarray]  # `down`, `up` and perhaps `alpha`
ADAPTER = "lora_adapter_metadata"  # where diffusers records PEFT's configuration
ADAPTER_FILE = "adapter_config.json"  # where PEFT does


@dataclass(frozen=True)
class Lora:
    """The tensors of a LoRA file under its own names, and how strongly to apply them.

    `adapter`: PEFT's configuration where the file records it, such as `unet.lora_alpha`.
    """

    name: str
    tensors: Mapping[str, np.ndarray]
    weight: float = 1.0
    sha256: str = ""
    adapter: Mapping[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> dict[str, Any]:
        """What a picture's metadata tells of it."""
        return {"name": self.name, "sha256": self.sha256, "weight": self.weight}


def read_loras(loras: Sequence[str | Path | tuple[str | Path, float]]) -> list[Lora]:
    """Read LoRA files: paths, or (path, weight); a weight is any finite number, by default 1.

    Raises:
        UsageError: a weight is no finite number.
        InputError, CorruptModelError, UnsafeFileError: a file is missing, damaged, or a pickle.
    """
    found = []
    if isinstance(loras, str | Path):
        loras = [loras]
    for lora in loras:
        path, weight = lora if isinstance(lora, tuple | list) else (lora, 1.0)
        good = isinstance(weight, Real) and not isinstance(weight, bool)
        if not good or not math.isfinite(weight):
            raise UsageError(
                f"the weight of a LoRA must be a finite number, not {weight!r}",
                code="E-LORA-WEIGHT",
                hint="1 is full strength, 0 none; a negative weight turns the change around",
            )
        file = TensorFile(Path(path))
        found.append(Lora(Path(path).stem, file, float(weight), file.sha256(), _adapter(file)))
    return found


def apply_loras(
    config: ModelConfig, flat: Mapping[str, np.ndarray], loras: Sequence[Lora]
) -> dict[str, np.ndarray]:
    """The tensors of a model (our names) with the LoRAs merged in; the given ones stay as they are.

    Changed tensors are float32, or float64 where they were.

    Raises:
        KeyMismatchError: a LoRA is made for another model; lists what does not fit.
        CorruptModelError: it holds NaN or infinity, or needs something that is not supported.
    """
    merged = dict(flat)
    for lora in loras:
        for name, change in lora_changes(config, lora).items():
            wide = np.result_type(merged[name].dtype, np.float32)
            merged[name] = merge(merged[name].astype(wide), change, lora.weight)
    return merged


def merge(w: np.ndarray, change: Change, weight: float = 1.0) -> np.ndarray:
    """w + weight * (alpha / rank) * up @ down.

    w: (o, i) or (o, i, k, k); down: (r, i) or (r, i, k, k), up: (o, r) or (o, r, 1, 1);
    alpha: a number, by default r. Computed in the type of `w`.
    """
    down, up = change["down"].astype(w.dtype), change["up"].astype(w.dtype)
    rank = len(down)
    alpha = float(change["alpha"].reshape(())) if "alpha" in change else float(rank)
    delta = up.reshape(len(up), rank) @ down.reshape(rank, -1)
    return w + w.dtype.type(weight * alpha / rank) * delta.reshape(w.shape)


def lora_changes(config: ModelConfig, lora: Lora) -> dict[str, Change]:
    """Our tensor's name -> its change; every tensor of the file is used, and fits.

    Raises: as `apply_loras`.
    """
    known, shapes = lora_names(config), flatten(model_spec(config))
    changes: dict[str, Change] = {}
    report, stored = Report(), {}
    for name in lora.tensors:
        place = known.get(unwrapped(name))
        if place is None or place in stored:
            report.unexpected.append(name)
        else:
            report.used.append(name)
            stored[place] = name
            changes.setdefault(place.tensor, {})[place.part] = lora.tensors[name]
    for tensor, change in changes.items():
        names = {place.part: name for place, name in stored.items() if place.tensor == tensor}
        absent = [part for part in ("down", "up") if part not in change]
        report.missing.extend(f"{part} for {next(iter(names.values()))}" for part in absent)
        if not absent:
            report.misshapen.extend(_misshapen(names, change, shapes[tensor]))
    if not lora.tensors:
        raise CorruptModelError(f"the LoRA {lora.name!r} holds no tensors", code="E-LORA")
    report.require(
        f"the LoRA {lora.name!r} does not fit {config.name!r}",
        hint="it must be made for the same family; LoHa, LoKr and DoRA are not supported",
    )
    bad = [name for name, tensor in lora.tensors.items() if not np.isfinite(tensor).all()]
    if bad:
        raise CorruptModelError(
            f"the LoRA {lora.name!r} holds NaN or infinity: {', '.join(bad[:3])}",
            code="E-NONFINITE",
        )
    for tensor, change in changes.items():
        alpha = _recorded_alpha(lora.adapter, tensor, len(change["down"]))
        if alpha is not None and "alpha" not in change:
            change["alpha"] = np.asarray(alpha)
    return changes


def _misshapen(names: dict[str, str], change: Change, shape: tuple[int, ...]) -> list[str]:
    """What does not fit a tensor of that shape; a 1 x 1 convolution is a matrix, too."""
    down, up = _bare(change["down"].shape), _bare(change["up"].shape)
    rank = down[0] if down else 0
    want = {"down": _bare((rank, *shape[1:])), "up": (shape[0], rank)}
    wrong = [
        f"{names[part]} is {got}, not {want[part]}"
        for part, got in (("down", down), ("up", up))
        if got != want[part] or rank < 1
    ]
    if "alpha" in change and change["alpha"].size != 1:
        wrong.append(f"{names['alpha']} is {change['alpha'].shape}, not ()")
    return wrong


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if shape[2:] == (1, 1) else shape


def _adapter(file: TensorFile) -> dict[str, Any]:
    """PEFT's configuration: in the metadata, or beside a file of PEFT's own."""
    beside = file.path.with_name(ADAPTER_FILE)
    if ADAPTER not in file.metadata and beside.is_file() and any(WRAPPER in name for name in file):
        return read_json(beside)
    try:
        found = json.loads(file.metadata.get(ADAPTER, "{}"))
    except (ValueError, TypeError, RecursionError) as error:
        raise CorruptModelError(
            f"{ADAPTER} of {file.path.name} is no JSON", code="E-LORA"
        ) from error
    if not isinstance(found, dict):
        raise CorruptModelError(f"{ADAPTER} of {file.path.name} is no object", code="E-LORA")
    return found


def _recorded_alpha(adapter: Mapping[str, Any], tensor: str, rank: int) -> float | None:
    """alpha as PEFT's configuration gives it, or None where it says nothing.

    With `use_rslora` the factor is alpha / sqrt(rank) (Kalajdzievski 2023, arXiv:2312.03732).
    """
    part, _, layer = tensor.removesuffix(".weight").partition(".")
    facts = {k.removeprefix(f"{part}."): v for k, v in adapter.items() if k.startswith(f"{part}.")}
    if not facts:
        facts = {k: v for k, v in adapter.items() if "." not in k}
    if facts.get("use_dora"):
        raise CorruptModelError("DoRA is not supported", code="E-LORA")
    alpha = facts.get("lora_alpha")
    for pattern, value in (facts.get("alpha_pattern") or {}).items():
        if _matches(str(pattern), layer):
            alpha = value
            break
    if alpha is None:
        return None
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise CorruptModelError(f"{ADAPTER}: lora_alpha is {alpha!r}, no number", code="E-LORA")
    return float(alpha) * (math.sqrt(rank) if facts.get("use_rslora") else 1.0)


def _matches(pattern: str, layer: str) -> bool:
    """Whether PEFT applies a pattern to a layer: it is the end of its path."""
    return layer == pattern or layer.endswith("." + pattern)
