"""What an adapter file is, for `ldmref info`: its kind, what it fits, and its numbers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from ldmref.io.adapters.autoencoder import list_autoencoder_owners
from ldmref.io.adapters.lora_changes import compare_names, find_families
from ldmref.io.adapters.lora_file import Lora, read_adapter_config
from ldmref.io.adapters.lora_forms import find_form
from ldmref.io.adapters.lora_keys import BUNDLED
from ldmref.io.identify import ADAPTERS, EMBEDDING, LORA, VAE, identify_tensors
from ldmref.io.tensors.model_file import ModelFile
from ldmref.io.tensors.wrappers import unwrap_file
from ldmref.models.autoencoder_kind import autoencoder_of
from ldmref.models.presets import preset

MOST_FITTING = 4  # presets that are named
# Of tensors whose first axis is the rank
RANK_ENDINGS = """
    .lora_down.weight .lora_A.weight .lora.down.weight .lora_linear_layer.down.weight
    _lora.down.weight .down.weight .hada_w1_b .lokr_w1_b .lokr_w2_b
""".split()
# Metadata that says what a file was made for, as kohya and others write it
RECORDED = """
    modelspec.architecture modelspec.title ss_base_model_version ss_sd_model_name
    ss_network_module ss_network_dim ss_network_alpha
""".split()
PEFT_FIELDS = ("peft_type", "r", "lora_alpha", "alpha", "use_rslora", "use_dora")
MOST_TEXT = 100  # characters of a record


def describe_adapter(file: ModelFile) -> dict[str, Any] | None:
    """Describe an adapter file by its names and shapes; None if it is none.

    Of the numbers, only each alpha is read.

    Args:
        file: The file.

    Returns:
        `kind`, `use`, and for a LoRA and its kin `fits`, `changes`, `forms`, `rank`, `alpha`,
        `words`, and what PEFT and the metadata record; for learned words `vectors`. Unknown
        entries are left out.

    Raises:
        CorruptModelError: What PEFT records is not an object.
    """
    file = unwrap_file(file)
    shapes = file.shapes
    found = identify_tensors(shapes)
    owners = list_autoencoder_owners(file) if found is None or found[1] == VAE else {}
    if owners:
        title = autoencoder_of(next(iter(owners.values()))).title
        return {"kind": f"an autoencoder: {title}", "use": VAE, "fits": [*owners][:MOST_FITTING]}
    if found is None and len(shapes) == 1 and len(next(iter(shapes.values()))) in (1, 2):
        found = f"a textual inversion of the word {next(iter(shapes))!r}", EMBEDDING
    if found is None or found[1] not in (*ADAPTERS, LORA):
        return None
    kind, use = found
    description: dict[str, Any] = {"kind": kind, "use": use}
    if use == EMBEDDING:
        description["vectors"] = {part: " x ".join(map(str, x)) for part, x in shapes.items()}
    elif use == LORA:
        description |= _describe_lora(file)
    recorded = {
        key: str(file.metadata[key])[:MOST_TEXT] for key in RECORDED if key in file.metadata
    }
    return description | ({"recorded": recorded} if recorded else {})


def _describe_lora(file: ModelFile) -> dict[str, Any]:
    """Return what a LoRA fits and changes, and its ranks and alphas."""
    shapes = file.shapes
    lora = Lora(file.path.stem, file, adapter=read_adapter_config(file))
    fits = find_families(lora)
    description: dict[str, Any] = {"fits": fits[:MOST_FITTING] or "no model that ldmref knows"}
    if fits:
        named, _ = compare_names(preset(fits[0]), lora)
        description["changes"] = dict(Counter(tensor.partition(".")[0] for tensor in named))
        description["forms"] = dict(Counter(find_form(roles) for roles in named.values()))
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
    description["rank"] = _range(ranks)
    description["alpha"] = _range(alphas)
    words = {name.split(".")[1] for name in shapes if name.startswith(BUNDLED)}
    description["words"] = sorted(words)
    peft = {key.rpartition(".")[2]: value for key, value in lora.adapter.items()}
    description["peft"] = {key: peft[key] for key in PEFT_FIELDS if peft.get(key)}
    return {key: value for key, value in description.items() if value}


def _range(numbers: Any) -> str:
    """Return the smallest and the largest number, or the one that there is."""
    if not numbers:
        return ""
    low, high = min(numbers), max(numbers)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
