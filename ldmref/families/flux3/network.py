"""The transformer of FLUX.3: each mode passes separate blocks, then all pass blocks together.

The modes are the image, reference images and the text. Black Forest Labs 2026, as in diffusers
0.42.1, models/transformers/transformer_flux3.py (no paper exists): attention and feed-forward
layer in parallel as in Dehghani et al. 2023, arXiv:2302.05442, section 2; rotary positions of Su
et al. 2021, arXiv:2104.09864, on four axes; one modulation for all blocks of a kind. Parameter
names of diffusers' Flux3Transformer2DModel.
"""

from __future__ import annotations

from typing import NamedTuple

from ldmref.backends.base import Backend
from ldmref.families.flux3.config import Flux3Config
from ldmref.families.flux3.positions import Waves, join_waves, place_image, place_text
from ldmref.families.joint_transformers import EPS, embed_numbers, normalize
from ldmref.math.arrays import Array
from ldmref.models.conditioning import CachedContext, get_hidden_states
from ldmref.models.layers import layer, linear, mask_bias, merge_heads
from ldmref.models.params import Params, Spec, numbered
from ldmref.models.specs import linear_spec, mlp_spec, normalized_attention_spec
from ldmref.models.transformer_layers import (
    cut_width,
    find_waves,
    gate_halves,
    join_cells,
    project_heads,
    split_cells,
    turn_pairs,
)

IMAGE, REFERENCES, TEXT = "image", "image_cond", "txt"  # the modes, by their parameters


class ModeTokens(NamedTuple):
    """The tokens of a mode, with their positions, modulation and mask.

    Attributes:
        states: (n, l, d).
        waves: Cosines and sines of their positions.
        early: Shift, scale and gate in the blocks of the mode, (n, 1, 3 d).
        joint: The same in the blocks of all modes.
        score_bias: What hides keys in the blocks of the mode. None: nothing does.
    """

    states: Array
    waves: Waves
    early: Array
    joint: Array
    score_bias: Array | None = None


def transformer_spec(config: Flux3Config) -> Spec:
    """Return the shapes of every parameter of the transformer."""
    d = config.width
    block: Spec = {
        "attn": normalized_attention_spec(d, config.attention_head_dim),
        "ff": {
            "linear_in": linear_spec(d, 2 * config.hidden, False),
            "linear_out": linear_spec(config.hidden, d, False),
        },
    }
    embedder = mlp_spec(config.timestep_channels, d, bias=False)
    modulations: Spec = {
        mode: {"linear": linear_spec(d, 3 * d, False)} for mode in (IMAGE, REFERENCES, TEXT)
    }
    alone = numbered([block] * config.num_layers)
    times: Spec = {"timestep_embedder": embedder}
    if config.flow_map:
        times["target_timestep_embedder"] = embedder
    return {
        **times,
        "early_stream_modulations": modulations,
        "single_stream_modulations": modulations,
        "x_embedders": {
            mode: linear_spec(config.in_channels, d, False) for mode in (IMAGE, REFERENCES)
        },
        "context_embedder": linear_spec(config.joint_attention_dim, d, False),
        "mode_blocks": {mode: alone for mode in (IMAGE, REFERENCES)},
        "txt_mode_blocks": alone,
        "single_transformer_blocks": numbered([block] * config.num_single_layers),
        "norm_out": {"linear": linear_spec(d, 2 * d, False)},
        "proj_out": linear_spec(d, config.out_channels, False),
    }


def transformer(
    ops: Backend,
    p: Params,
    config: Flux3Config,
    x: Array,
    t: Array,
    context: Array | CachedContext,
    mask: Array | None = None,
    t_next: Array | None = None,
    reference_tokens: Array | None = None,
    reference_places: Array | None = None,
) -> Array:
    """Predict the velocity eps - x0 of latents x_t = (1 - t) x0 + t eps.

    A flow map predicts the mean velocity from t to t_next, along which a step leads there.

    Args:
        ops: The backend.
        p: The parameters of `transformer_spec`.
        config: The configuration.
        x: Noisy latents, (n, in_channels, h, w).
        t: The times, multiplied by 1000, (n,).
        context: Hidden states of the text, (n, l, joint_attention_dim).
        mask: 1 for hidden states that are read, those of padding in the window of the prompt
            included, and 0 for others, (n, l). None: all are read.
        t_next: The times to which the step of a flow map leads, multiplied by 1000, (n,). None: t,
            at which the mean velocity is that at t.
        reference_tokens: Latents of the reference images, (n, k, in_channels). None: there are
            none.
        reference_places: Their positions, (n, k, 4): time, row, column and number.

    Returns:
        (n, out_channels, h, w).
    """
    states = get_hidden_states(context)
    emb, clean = embed_times(ops, p, config, t, t_next, x)
    text = start_text(ops, p, config, states, mask, clean)
    image = start_image(ops, p, config, x, emb)
    references = []
    if reference_tokens is not None and reference_places is not None:
        tokens = reference_tokens, reference_places
        references.append(start_references(ops, p, config, *tokens, clean))
    text = pass_alone(ops, p.txt_mode_blocks, text, config)
    image = pass_alone(ops, p.mode_blocks[IMAGE], image, config)
    content = [image]
    for mode in references:
        content.append(pass_alone(ops, p.mode_blocks[REFERENCES], mode, config))
    h = pass_together(ops, p.single_transformer_blocks, config, text, content, mask)
    count = image.states.shape[1]
    h = norm_out(ops, p.norm_out, h[:, :count, :], emb)
    return join_cells(linear(ops, p.proj_out, h), *x.shape[2:])


def embed_times(
    ops: Backend, p: Params, config: Flux3Config, t: Array, t_next: Array | None, like: Array
) -> tuple[Array, Array]:
    """Embed the time of the image, and that of text and references, which is 0: (n, 1, d) each.

    The time to which a step leads is added to both.
    """
    width = config.timestep_channels
    emb = embed_numbers(ops, p.timestep_embedder, t, width, like)
    clean = embed_numbers(ops, p.timestep_embedder, 0 * t, width, like)
    if "target_timestep_embedder" not in p:
        return emb[:, None, :], clean[:, None, :]
    end = t if t_next is None else t_next
    target = embed_numbers(ops, p.target_timestep_embedder, end, width, like)
    return (emb + target)[:, None, :], (clean + target)[:, None, :]


@layer
def modulate(ops: Backend, p: Params, emb: Array) -> Array:
    """Return shift, scale and gate of all blocks of a kind; emb: (n, 1, d) -> (n, 1, 3 d)."""
    return linear(ops, p.linear, emb)


def start_mode(
    ops: Backend, p: Params, config: Flux3Config, mode: str, positions: Array, emb: Array
) -> ModeTokens:
    """Return a mode whose tokens are still to be embedded.

    Args:
        ops: The backend.
        p: The parameters of the transformer.
        config: The configuration.
        mode: Its name.
        positions: The positions of its tokens, (n or 1, l, 4).
        emb: The embedded time of its tokens, (n, 1, d).
    """
    active = ops.silu(emb)
    early = modulate(ops, p.early_stream_modulations[mode], active)
    joint = modulate(ops, p.single_stream_modulations[mode], active)
    waves = find_waves(positions, config.axes_dims_rope, config.rope_theta)
    return ModeTokens(emb, waves, early, joint)


def start_text(
    ops: Backend, p: Params, config: Flux3Config, states: Array, mask: Array | None, emb: Array
) -> ModeTokens:
    """Embed hidden states of the text, (n, l, joint_attention_dim)."""
    mode = start_mode(ops, p, config, TEXT, place_text(ops, states), emb)
    score_bias = None if mask is None else mask_bias(ops, mask)
    return mode._replace(states=linear(ops, p.context_embedder, states), score_bias=score_bias)


def start_image(ops: Backend, p: Params, config: Flux3Config, x: Array, emb: Array) -> ModeTokens:
    """Embed latents (n, c, h, w): a token is a cell."""
    mode = start_mode(ops, p, config, IMAGE, place_image(ops, x), emb)
    return mode._replace(states=linear(ops, p.x_embedders[IMAGE], split_cells(x)))


def start_references(
    ops: Backend, p: Params, config: Flux3Config, tokens: Array, positions: Array, emb: Array
) -> ModeTokens:
    """Embed latents of the references, (n, k, c), at positions (n, k, 4)."""
    mode = start_mode(ops, p, config, REFERENCES, positions, emb)
    return mode._replace(states=linear(ops, p.x_embedders[REFERENCES], tokens))


def pass_alone(ops: Backend, blocks: Params, mode: ModeTokens, config: Flux3Config) -> ModeTokens:
    """Apply the blocks of a mode, whose tokens read each other alone."""
    x = mode.states
    for block in blocks.items_in_order():
        x = mode_block(
            ops, block, x, mode.early, *mode.waves, mode.score_bias, config.num_attention_heads
        )
    return mode._replace(states=x)


def pass_together(
    ops: Backend,
    blocks: Params,
    config: Flux3Config,
    text: ModeTokens,
    content: list[ModeTokens],
    mask: Array | None,
) -> Array:
    """Apply the blocks of all modes, and return the tokens of the content, (n, l, d)."""
    xp = ops.xp
    waves = join_waves(ops, [mode.waves for mode in (text, *content)])
    x = xp.concat([mode.states for mode in content], axis=1)
    modulation = content[0].joint
    if len(content) > 1:
        rows = [ops.broadcast_like(mode.joint, mode.states[:, :, :1]) for mode in content]
        modulation = xp.concat(rows, axis=1)
    score_bias = None
    if mask is not None:
        kept = xp.astype(mask, x.dtype, copy=False)
        score_bias = mask_bias(ops, xp.concat([kept, xp.ones_like(x[:, :, 0])], axis=1))
    h = text.states
    heads = config.num_attention_heads
    for block in blocks.items_in_order():
        h, x = single_block(ops, block, x, h, modulation, text.joint, *waves, score_bias, heads)
    return x


@layer
def mode_block(
    ops: Backend,
    p: Params,
    x: Array,
    modulation: Array,
    cos: Array,
    sin: Array,
    score_bias: Array | None,
    num_heads: int,
) -> Array:
    """Apply attention and the feed-forward layer side by side to tokens of a mode, (n, l, d)."""
    h, gate = shift_and_scale(ops, x, modulation)
    return x + gate * (attend(ops, p.attn, h, cos, sin, score_bias, num_heads) + mix(ops, p.ff, h))


@layer
def single_block(
    ops: Backend,
    p: Params,
    x: Array,
    context: Array,
    modulation: Array,
    text_modulation: Array,
    cos: Array,
    sin: Array,
    score_bias: Array | None,
    num_heads: int,
) -> tuple[Array, Array]:
    """Apply attention and the feed-forward layer side by side to text (n, m, d) and content.

    The content is the image and the references, (n, l, d). Returns the text and the content.
    """
    length = context.shape[1]
    h, gate = shift_and_scale(ops, x, modulation)
    text, text_gate = shift_and_scale(ops, context, text_modulation)
    h = ops.xp.concat([text, h], axis=1)
    h = attend(ops, p.attn, h, cos, sin, score_bias, num_heads) + mix(ops, p.ff, h)
    return context + text_gate * h[:, :length, :], x + gate * h[:, length:, :]


def shift_and_scale(ops: Backend, x: Array, modulation: Array) -> tuple[Array, Array]:
    """Normalise tokens (n, l, d), scale and shift them; also return the gate.

    `modulation` holds shift, scale and gate, (n, 1, 3 d) or (n, l, 3 d).
    """
    shift, scale, gate = cut_width(modulation, 3)
    return normalize(ops, x) * (1.0 + scale) + shift, gate


@layer
def attend(
    ops: Backend,
    p: Params,
    x: Array,
    cos: Array,
    sin: Array,
    score_bias: Array | None,
    num_heads: int,
) -> Array:
    """Let tokens (n, l, d) read each other."""
    q, k, v = project_heads(ops, p, x, num_heads, EPS)
    q, k = (ops.call_function("rotate", turn_pairs, part, cos, sin) for part in (q, k))
    mixed = ops.attention(q, k, v, bias=score_bias)
    return linear(ops, p.to_out["0"], merge_heads(ops, mixed))


@layer
def mix(ops: Backend, p: Params, x: Array) -> Array:
    """Compute W_out (silu(a) * b), with a and b the halves of W_in x; x: (n, l, d) -> the same."""
    return linear(ops, p.linear_out, gate_halves(ops, linear(ops, p.linear_in, x)))


@layer
def norm_out(ops: Backend, p: Params, x: Array, emb: Array) -> Array:
    """Normalise tokens (n, l, d), scale and shift them as a time says; emb: (n, 1 or l, d)."""
    scale, shift = cut_width(linear(ops, p.linear, ops.silu(emb)), 2)  # in diffusers' order
    return normalize(ops, x) * (1.0 + scale) + shift
