"""What PEFT records of an adapter beside its tensors: alpha, rank and how they make a factor."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from reprlib import repr as shorten
from typing import Any

import numpy as np

from ldmref.errors import CorruptModelError

ADAPTER_METADATA = "lora_adapter_metadata"  # diffusers records PEFT's configuration here
MAX_ALPHA = float(np.finfo(np.float32).max)
MAX_RANK = 2**24
MAX_PATTERN = 300  # characters
MOST_REPEATS = 2  # of a pattern, so that a search takes at most cubic time
TYPES = ("LORA", "LOHA", "LOKR")  # `peft_type` of adapters that are read


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
