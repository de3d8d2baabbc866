"""A small Qwen-Image 2.1 of diffusers, and its networks in float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers
from diffusers import (
    AutoencoderKLQwenImage21,
    FlowMatchEulerDiscreteScheduler,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
)
from diffusers.models import normalization
from diffusers.models.transformers import transformer_qwenimage21
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE

from ldmref.families.qwen3.tokens import MARKS, WORDS

SEEN = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
# The three parts of "Comprehend" apart, so that the system message has 14 tokens, as in Qwen's.
TEXTS = (
    "system\nuser\nassistant\n",
    "Com\npre\nhend\nhe\n",
    " and analyze the provided prompt.",
    "a red cat on a table, painted by an assistant",
    "the blue house of a dog",
)
MESSAGES = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- for part in message.content %}{{- part.text }}{%- endfor %}{{- '<|im_end|>\n' }}"
    "{%- endfor %}"
)
TRANSFORMER: dict[str, Any] = dict(
    in_channels=4, out_channels=4, num_layers=2, attention_head_dim=12, num_attention_heads=2,
    context_in_dim=20, axes_dims_rope=(4, 4, 4),
)  # fmt: skip
AUTOENCODER: dict[str, Any] = dict(
    base_dim=8,
    decoder_base_dim=12,
    z_dim=4,
    dim_mult=[1, 2, 2, 4, 4],
    num_res_blocks=2,
    temperal_downsample=[False, True, True, True],
    latents_mean=[0.5, -0.25, 0.1, 1.0],
    latents_std=[1.5, 0.75, 2.0, 1.0],
)
FLOW: dict[str, Any] = dict(
    use_dynamic_shifting=True,
    base_shift=0.5,
    max_shift=0.9,
    base_image_seq_len=256,
    max_image_seq_len=8192,
    shift_terminal=0.02,
)
TURBO_TIMES = [1.0, 0.978453, 0.95418, 0.926626, 0.89508, 0.845148, 0.704534, 0.414568]


class TextProcessor(transformers.PreTrainedTokenizerFast):
    """A processor of texts alone: that of Qwen3-VL needs torchvision for its images."""

    @property
    def tokenizer(self):
        return self

    def apply_chat_template(self, *args: Any, **options: Any) -> list[list[int]]:
        return [super().apply_chat_template(*args, **options)]


def make_processor() -> TextProcessor:
    """Return a small tokenizer of Qwen's form, in which the system message has 14 tokens."""
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=380, initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator([*TEXTS] * 8, trainer)
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False) for mark in (*MARKS, *SEEN)])
    found = TextProcessor(
        tokenizer_object=tokenizer, pad_token=MARKS[0], eos_token=MARKS[2], padding_side="right"
    )
    found.chat_template = MESSAGES
    return found


def make_text_encoder() -> transformers.Qwen3VLForConditionalGeneration:
    """Return a random language model that also reads images, whose scores are not tiny."""
    text = dict(
        vocab_size=400, hidden_size=20, intermediate_size=32, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=6, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 5e6, "mrope_section": [1, 1, 1],
                         "mrope_interleaved": True},
    )  # fmt: skip
    vision = dict(
        depth=1, hidden_size=8, intermediate_size=8, num_heads=2, out_hidden_size=20,
        deepstack_visual_indexes=[0], num_position_embeddings=16,
    )  # fmt: skip
    config = transformers.Qwen3VLConfig(text_config=text, vision_config=vision)
    encoder = transformers.Qwen3VLForConditionalGeneration(config)
    for parameter in encoder.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return encoder.eval()


def make_transformer(**changes: Any) -> QwenImage21Transformer2DModel:
    """Return a random transformer, whose scales and gates are not tiny."""
    transformer = QwenImage21Transformer2DModel(**TRANSFORMER | changes)
    for parameter in transformer.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return transformer.eval()


def make_autoencoder(**changes: Any) -> AutoencoderKLQwenImage21:
    """Return a random autoencoder of 16 pixels per cell."""
    vae = AutoencoderKLQwenImage21(**AUTOENCODER | changes)
    for parameter in vae.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return vae.eval()


def make_pipeline(
    sigmas: Sequence[float] | None = None, scheduler: dict[str, Any] | None = None
) -> QwenImage21Pipeline:
    """Return a random pipeline for small images; with flow times, it is one of Turbo."""
    torch.manual_seed(0)
    usual = {"shift": 1.0} if sigmas else FLOW
    found = QwenImage21Pipeline(
        FlowMatchEulerDiscreteScheduler(**usual if scheduler is None else scheduler),
        make_autoencoder(),
        make_text_encoder(),
        make_processor(),
        make_transformer(),
        sample_sigmas=list(sigmas) if sigmas else None,
    )
    found.set_progress_bar_config(disable=True)
    return found


@contextmanager
def transformer_in_double() -> Iterator[None]:
    """Let diffusers' transformer compute norms, angles and the time's waves in float64."""

    def norm(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)

    def waves(self, timestep):
        steps = torch.arange(self.timestep_dim // 2, dtype=torch.float64) / (self.timestep_dim // 2)
        angles = self.time_factor * timestep[:, None] * 10000.0**-steps
        return torch.cat([angles.cos(), angles.sin()], dim=-1)

    def table(self, index, dim, theta=10000):
        steps = torch.arange(0, dim, 2, dtype=torch.float64) / dim
        angles = torch.outer(index.double(), theta**-steps)
        return torch.polar(torch.ones_like(angles), angles)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normalization.RMSNorm, "forward", norm)
        patch.setattr(transformer_qwenimage21.QwenImage21TemporalTimesteps, "forward", waves)
        patch.setattr(transformer_qwenimage21.QwenImage21Rope, "rope_params", table)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        yield


def renew_positions(transformer: QwenImage21Transformer2DModel) -> None:
    """Let a transformer make its table of positions again, in float64."""
    rope = transformer.pos_embed
    with transformer_in_double():
        transformer.pos_embed = type(rope)(rope.theta, rope.axes_dim)
