"""What an adapter file is, for `ldmref info`: its kind, what it fits, and its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from ldmref.io.adapters.lora_changes import compare_names, find_families
from ldmref.io.adapters.lora_file import Lora
from ldmref.io.adapters.lora_forms import find_form
from ldmref.io.adapters.lora_keys import BUNDLED
from ldmref.io.identify import ADAPTERS, EMBEDDING, LORA, identify_tensors
from ldmref.models.params import Shape
from ldmref.models.presets import preset

MOST_FITTING = 4  # presets that are named
RANK_ENDINGS = {  # of tensors whose first axis is the rank
    ".lora_down.weight", ".lora_A.weight", ".lora.down.weight", ".lora_linear_layer.down.weight",
    "_lora.down.weight", ".down.weight", ".hada_w1_b", ".lokr_w1_b", ".lokr_w2_b",
}  # fmt: skip
RECORDED = (  # metadata that says what a file was made for, as kohya and others write it
    "modelspec.architecture", "modelspec.title", "ss_base_model_version", "ss_sd_model_name",
    "ss_network_module", "ss_network_dim", "ss_network_alpha",
)  # fmt: skip
MOST_TEXT = 100  # characters of a record


def describe_adapter(
    name: str, tensors: Mapping[str, Any], shapes: Mapping[str, Shape], metadata: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Describe an adapter file by its names and shapes; None if it is none.

    Of the numbers, only each alpha is read.

    Args:
        name: The name of the file.
        tensors: Its tensors by name.
        shapes: Their shapes.
        metadata: The metadata of its header.

    Returns:
        `kind`, `use`, and for a LoRA and its kin `fits`, `changes`, `rank`, `alpha`, `words` and
        `recorded`; for learned words `vectors`. Unknown entries are left out.

    >>> describe_adapter("toy", {}, {"emb_params": (3, 768)}, {})["vectors"]
    {'emb_params': '3 x 768'}
    """
    found = identify_tensors(shapes)
    if found is None and len(shapes) == 1 and len(next(iter(shapes.values()))) in (1, 2):
        found = f"a textual inversion of the word {next(iter(shapes))!r}", EMBEDDING
    if found is None or found[1] not in (*ADAPTERS, LORA):
        return None
    kind, use = found
    facts: dict[str, Any] = {"kind": kind, "use": use}
    if use == EMBEDDING:
        facts["vectors"] = {part: " x ".join(map(str, x)) for part, x in shapes.items()}
    elif use == LORA:
        facts |= _describe_lora(Lora(name, tensors), shapes)
    recorded = {key: str(metadata[key])[:MOST_TEXT] for key in RECORDED if key in metadata}
    return facts | ({"recorded": recorded} if recorded else {})


def _describe_lora(lora: Lora, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Return what a LoRA fits and changes, and its ranks and alphas."""
    fits = find_families(lora)
    facts: dict[str, Any] = {"fits": fits[:MOST_FITTING] or "no model that ldmref knows"}
    if fits:
        named, _ = compare_names(preset(fits[0]), lora)
        facts["changes"] = dict(Counter(tensor.partition(".")[0] for tensor in named))
        facts["forms"] = dict(Counter(find_form(roles) for roles in named.values()))
    ranks = {
        shape[0]
        for name, shape in shapes.items()
        if shape and any(name.endswith(ending) for ending in RANK_ENDINGS)
    }
    alphas = [
        float(np.asarray(lora.tensors[name]).reshape(-1)[0])
        for name, shape in shapes.items()
        if name.endswith(".alpha") and np.prod(shape) == 1
    ]
    facts["rank"] = _range(ranks)
    facts["alpha"] = _range(alphas)
    words = {name.split(".")[1] for name in shapes if name.startswith(BUNDLED)}
    facts["words"] = sorted(words)
    return {key: value for key, value in facts.items() if value}


def _range(numbers: Any) -> str:
    """Return the smallest and the largest number, or the one that there is."""
    if not numbers:
        return ""
    low, high = min(numbers), max(numbers)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
