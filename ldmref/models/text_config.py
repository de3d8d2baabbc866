"""The configuration of a text encoder, with the field names of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ldmref.declare import Range
from ldmref.models.denoiser_config import Eps, Width, WidthOrZero

MOST_TOKENS = 40960  # of a prompt: the context of Qwen3, the longest of all text encoders
# That every transformer of text reads
LAYER_FIELDS = """
    model_type vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads
    max_position_embeddings layer_norm_eps skipped_layers
""".split()


@dataclass(frozen=True)
class TextConfig:
    """The text encoder: token ids (n, l) to hidden states (n, l, hidden_size).

    A kind of another package may have fields of its own, in a class that inherits from this one.

    Args:
        model_type: The kind of the encoder, a name that `ldmref.models.find_text_encoder` finds:
            `clip`, CLIP's text transformer; `t5`, the encoder of T5 1.1; `ldmbert`, the
            transformer encoder of the latent diffusion paper; `class`, an embedding table with a
            row per class, whose last row is the null class; `label`, class numbers that the
            denoiser itself embeds, the last for the null class; `none`, an unconditional model; or
            a kind of another package.
        vocab_size: Number of tokens, or of classes with the null class.
        hidden_size: Width of the hidden states.
        intermediate_size: Width of the feed-forward layers.
        num_hidden_layers: Number of transformer layers.
        num_attention_heads: Number of attention heads.
        head_dim: Width of a head of `t5` or `ldmbert`; 0: hidden_size / num_attention_heads.
        max_position_embeddings: Number of tokens l that the encoder reads at once.
        class_names: The prompts that name the classes of `class`; their numbers also work.
        hidden_act: Activation of the feed-forward layers, `gelu` or `quick_gelu`; `gelu_new`, the
            tanh form of GELU, in `t5`.
        layer_norm_eps: Number added to the variance in LayerNorm, in [0, 1].
        projection_dim: Width of the pooled output; 0: no pooled output.
        eos_token_id: The token to pool; 2: the token with the largest id (old files).
        skipped_layers: Number of final layers left out of the hidden states: 1 in SDXL.
        final_norm: Whether the final norm is applied to the hidden states: not in SDXL.
        use_attention_mask: Whether the tokens of a prompt do not attend to padding: not in Stable
            Diffusion and Flux.1.
        relative_attention_num_buckets: Number of buckets of distances between tokens of `t5`.
        relative_attention_max_distance: The distance from which `t5` uses the last bucket.

    >>> from ldmref.models import TextConfig
    >>> TextConfig().max_position_embeddings
    77
    """

    model_type: str = "clip"
    vocab_size: Annotated[int, Range(1, 10_000_000)] = 49408
    hidden_size: Width = 768
    intermediate_size: Width = 3072
    num_hidden_layers: Annotated[int, Range(1, 256)] = 12
    num_attention_heads: Width = 12
    head_dim: WidthOrZero = 0
    max_position_embeddings: Width = 77
    class_names: tuple[str, ...] = ()
    hidden_act: Literal["gelu", "quick_gelu", "gelu_new"] = "quick_gelu"
    layer_norm_eps: Eps = 1e-5
    projection_dim: WidthOrZero = 0
    eos_token_id: Annotated[int, Range(0, 10_000_000)] = 49407
    skipped_layers: Annotated[int, Range(0, 255)] = 0
    final_norm: bool = True
    use_attention_mask: bool = False
    relative_attention_num_buckets: Annotated[int, Range(4, 65536)] = 32
    relative_attention_max_distance: Annotated[int, Range(2, 1_000_000)] = 128

    @property
    def later_layers(self) -> int:
        """The number of layers after the hidden states that the denoiser reads."""
        return self.skipped_layers
