"""Qwen3 of transformers for tests: a small vocabulary, and networks in float64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen3 import modeling_qwen3
from transformers.models.qwen3_vl import modeling_qwen3_vl

from ldmref.families.qwen3.tokens import MARKS, WORDS

SMALL = dict(
    vocab_size=400, hidden_size=20, intermediate_size=32, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, head_dim=6,
)  # fmt: skip


def write_vocabulary(path: Path, words: str = "", size: int = 340) -> Path:
    """Write a small vocabulary of Qwen's form as transformers does; return its folder.

    Of `words` it has whole ones, if its `size` is large enough.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = ["user\na red cat on a table, painted by an assistant\n", "the blue house of a dog"]
    tokenizer.train_from_iterator([*texts * 4, words], trainer)
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=MARKS[0], eos_token=MARKS[2], padding_side="right"
    )
    fast.chat_template = (  # that of Qwen3, of one message and without tools
        "{%- for message in messages %}"
        "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
        "{%- endfor %}{{- '<|im_start|>assistant\n' }}"
        "{%- if enable_thinking is defined and enable_thinking is false %}"
        "{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    )
    fast.save_pretrained(path)
    return path


def make_encoder(
    theta: float = 1e6, layers: tuple[int, ...] = (), **changes: Any
) -> transformers.Qwen3ForCausalLM:
    """Return a random language model of a small size, whose scores are not tiny.

    Its configuration says which `layers` a pipeline reads, if they are not the usual ones.
    """
    rope = {"rope_type": "default", "rope_theta": theta}
    config = transformers.Qwen3Config(
        **SMALL | changes, tie_word_embeddings=True, rope_parameters=rope
    )
    if layers:
        config.text_encoder_out_layers = [*layers]
    encoder = transformers.Qwen3ForCausalLM(config)
    for parameter in encoder.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return encoder.eval()


@contextmanager
def encoder_in_double(head_dim: int, theta: float = 1e6) -> Iterator[None]:
    """Let transformers' Qwen3 compute norms and angles in float64."""

    def norm(self, x):
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * x * scale

    def rotary(self, x, position_ids):
        steps = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
        angles = position_ids[..., None].double() / theta**steps
        both = torch.cat([angles, angles], dim=-1)
        return both.cos(), both.sin()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_qwen3.Qwen3RMSNorm, "forward", norm)
        patch.setattr(modeling_qwen3.Qwen3RotaryEmbedding, "forward", rotary)
        yield


@contextmanager
def vl_in_double() -> Iterator[None]:
    """Let the text part of transformers' Qwen3-VL compute norms and angles in float64."""

    def norm(self, x):
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * x * scale

    def rotary(self, x, position_ids):
        config = self.config
        head_dim, theta = config.head_dim, config.rope_parameters["rope_theta"]
        steps = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
        angles = position_ids.expand(3, -1, -1)[..., None].double() / theta**steps
        return tuple(self.recomposition_frequencies(part) for part in (angles.cos(), angles.sin()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_qwen3_vl.Qwen3VLTextRMSNorm, "forward", norm)
        patch.setattr(modeling_qwen3_vl.Qwen3VLTextRotaryEmbedding, "forward", rotary)
        yield
