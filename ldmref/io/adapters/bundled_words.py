"""Learned words that a LoRA file brings along, as A1111 and OneTrainer write them.

A tensor is named `bundle_emb.WORD.PART`, where the part is that of a textual-inversion file.
Sources: AUTOMATIC1111/stable-diffusion-webui (extensions-builtin/Lora/networks.py), OneTrainer
(modules/modelSaver/stableDiffusion/StableDiffusionLoRASaver.py and its neighbours).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ldmref.io.adapters.lora_file import Lora
from ldmref.io.adapters.lora_keys import BUNDLED
from ldmref.models.config import ModelConfig
from ldmref.models.text_kind import kind_of
from ldmref.prompts.textual_inversion import Embedding

SINGLE = ("emb_params", "clip_l", "clip_h", "string_to_param.*")
DOUBLE = ("clip_l", "clip_g")


def bundled_words(config: ModelConfig, loras: Sequence[Lora]) -> tuple[list[Embedding], list[str]]:
    """Return the words of LoRA files that a model can use, and a warning for each other.

    Args:
        config: The configuration of the model.
        loras: From `read_loras`.

    Raises:
        CorruptModelError: The vectors of a word are not finite numbers (k, d).
    """
    words: list[Embedding] = []
    warnings = []
    learn = all(kind_of(text).learns_words for text in config.text_encoders)
    parts = {1: SINGLE, 2: DOUBLE}.get(len(config.text_encoders), ()) if learn else ()
    for lora in loras:
        found: dict[str, dict[str, str]] = {}
        for name in lora.tensors:
            if name.startswith(BUNDLED):
                word, _, part = name.removeprefix(BUNDLED).partition(".")
                found.setdefault(word, {})[part] = name
        for word, tensors in found.items():
            used = [part for part in parts if part in tensors]
            needed = parts if parts == DOUBLE else used[:1]
            if not needed or {*tensors} != {*needed}:
                held = ", ".join(sorted(tensors))
                warnings.append(
                    f"the word {word!r} of the LoRA {lora.name!r} is left out: "
                    f"this model cannot use its vectors ({held})"
                )
                continue
            for part in needed:
                vectors = np.atleast_2d(np.array(lora.tensors[tensors[part]], np.float32))
                words.append(Embedding(word, vectors, part if parts == DOUBLE else ""))
    return words, warnings
