"""Siblings of the same shapes: Qwen3-4B and Qwen3-VL-4B, Qwen3-8B and Qwen3-VL-8B.

Their tensors have equal names and shapes, and a family reads one of them: with the other it makes
worse images, without an error. The base of the rotary positions tells them apart, and so do the
tensors that read images and the architecture that a GGUF file states. A file that says nothing can
only be compared by a hash.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ldmref.models.text_config import TextConfig

THETA, VL_THETA = 1e6, 5e6  # the base of the positions of Qwen3 and Qwen3-VL
NAMES = {THETA: "Qwen3", VL_THETA: "Qwen3-VL"}
ARCHITECTURES = {"qwen3": THETA, "qwen3vl": VL_THETA}  # of llama.cpp


def find_sibling(names: Collection[str], metadata: Mapping[str, Any], config: TextConfig) -> str:
    """Return what a file says against a configuration that its shapes fit; "" for nothing.

    Args:
        names: The names of its tensors.
        metadata: The metadata of its header.
        config: The configuration.

    >>> from ldmref.families.qwen3.presets import QWEN3_SIZES
    >>> find_sibling(["visual.patch_embed.proj.weight"], {}, QWEN3_SIZES["qwen3-4b"])
    'it is Qwen3-VL, and Qwen3 is wanted, which has the same shapes'
    """
    wanted = float(getattr(config, "rope_theta", THETA))
    kind = str(metadata.get("general.architecture", ""))
    stated = metadata.get(f"{kind}.rope.freq_base")
    if isinstance(stated, int | float) and not math.isclose(stated, wanted, rel_tol=1e-6):
        return f"its rope_theta is {stated:g}{name_kind(stated)}, and {wanted:g} is wanted"
    found = ARCHITECTURES.get(kind)
    if any("visual." in name for name in names):
        found = VL_THETA
    if found is None or wanted not in NAMES or found == wanted:
        return ""
    return f"it is {NAMES[found]}, and {NAMES[wanted]} is wanted, which has the same shapes"


def require_theta(config: TextConfig, theta: float) -> Iterator[str]:
    """Yield the rule that a text encoder breaks whose positions have another base.

    Args:
        config: The configuration of a Qwen3.
        theta: The base of the encoder with which the family was trained.
    """
    found = float(getattr(config, "rope_theta", theta))
    if found != theta:
        yield (
            f"text_encoder.rope_theta must be {theta:g}{name_kind(theta)}, not {found:g}"
            f"{name_kind(found)}"
        )


def name_kind(theta: float) -> str:
    """Return the model with a base in brackets; "" if it is neither's."""
    return f" ({NAMES[theta]})" if theta in NAMES else ""
