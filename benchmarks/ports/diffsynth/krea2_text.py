"""DiffSynth-Studio 2.1.12: the text encoder of Krea 2 as the pipeline calls it, in PyTorch.

Error found: it is called without positions although padding is in the middle, so the tokens after
the padding have shifted ones (pipelines/krea2.py, line 167).
"""

from types import SimpleNamespace

import torch
from diffsynth.models.krea2_text_encoder import Krea2TextEncoder
from diffsynth.pipelines.krea2 import Krea2Unit_PromptEmbedder
from judged import KitInputs, distance, judge
from transformers import BatchEncoding, Qwen3VLForConditionalGeneration

import ldmref

PUBLISHED = (2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35)  # layers that are read
SUFFIX = 13  # the kit's tokens after the prompt

kit = KitInputs("krea-2")
layers = tuple(kit.config("text_encoder")["text_config"]["text_encoder_out_layers"])
encode = Krea2Unit_PromptEmbedder.encode_prompt
constants = tuple(layers if one == PUBLISHED else one for one in encode.__code__.co_consts)
encode.__code__ = encode.__code__.replace(co_consts=constants)


class Encoder(Krea2TextEncoder):
    """The port's encoder, of the kit's size, whose result is that of ldmref."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        folder = kit.folder / "text_encoder"
        self.model = Qwen3VLForConditionalGeneration.from_pretrained(folder).float()

    def forward(self, input_ids, attention_mask, **rest):
        self.states = super().forward(input_ids, attention_mask, **rest)
        return torch.cat([self.states[layer] for layer in layers], dim=-1)

    def read_states(self, **inputs):
        """Return all hidden states, as the port's encoder does."""
        self(**inputs)
        return self.states


def rename(path):
    """Return transformers' name of a layer of the language model."""
    _, found, layer = path.partition("language_model.")
    return layer if found else None


encoder = Encoder()
errors = {}
with torch.no_grad(), ldmref.recording(encoder, call="text_encoder", names=rename) as run:
    for call in ("text_encoder", "text_encoder~1"):
        x, expected = kit.call(call)
        ids, mask = (torch.tensor(x[role]) for role in ("input_ids", "attention_mask"))
        parts = [slice(-SUFFIX, None), slice(None, -SUFFIX)]
        known = [
            BatchEncoding({"input_ids": ids[:, p], "attention_mask": mask[:, p]}) for p in parts
        ]
        pipe = SimpleNamespace(
            tokenizer=lambda text, *_, known=known, **__: known.pop(0), device="cpu",
            load_models_to_device=lambda names: None, text_encoder=encoder.read_states,
        )  # fmt: skip
        states, kept = encode(None, pipe, [""])
        right = expected[:, -kept.shape[1] :]
        errors[call] = distance(states.flatten(2)[kept], right[kept.numpy()])
judge("Krea 2 text encoder", run.trace, kit, errors)
