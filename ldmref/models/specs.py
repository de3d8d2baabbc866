"""The shapes of the parameters of each layer; names are those of diffusers."""

from __future__ import annotations

from collections.abc import Sequence

from ldmref.models.params import Spec, numbered


def linear_spec(d_in: int, d_out: int, bias: bool = True) -> Spec:
    """Return the shapes: weight (d_out, d_in), bias (d_out,)."""
    spec: Spec = {"weight": (d_out, d_in)}
    return spec | {"bias": (d_out,)} if bias else spec


def conv_spec(c_in: int, c_out: int, kernel: int = 3) -> Spec:
    """Return the shapes: weight (c_out, c_in, k, k), bias (c_out,)."""
    return {"weight": (c_out, c_in, kernel, kernel), "bias": (c_out,)}


def norm_spec(c: int) -> Spec:
    """Return the shapes: weight (c,), bias (c,)."""
    return {"weight": (c,), "bias": (c,)}


def resnet_block_spec(c_in: int, c_out: int, d_emb: int | None, scale_shift: bool = False) -> Spec:
    """Return the shapes of norm1, conv1, norm2, conv2 and, if needed, two more layers.

    These are time_emb_proj with `d_emb` and conv_shortcut if c_in != c_out. With `scale_shift`,
    time_emb_proj returns the scale and then the shift of norm2.
    """
    spec: Spec = {
        "norm1": norm_spec(c_in),
        "conv1": conv_spec(c_in, c_out),
        "norm2": norm_spec(c_out),
        "conv2": conv_spec(c_out, c_out),
    }
    if d_emb is not None:
        spec["time_emb_proj"] = linear_spec(d_emb, 2 * c_out if scale_shift else c_out)
    if c_in != c_out:
        spec["conv_shortcut"] = conv_spec(c_in, c_out, 1)
    return spec


def attention_spec(d: int, d_context: int | None = None, bias: bool = False) -> Spec:
    """Return the shapes of to_q, to_k, to_v and to_out.0."""
    d_context = d_context or d
    return {
        "to_q": linear_spec(d, d, bias),
        "to_k": linear_spec(d_context, d, bias),
        "to_v": linear_spec(d_context, d, bias),
        "to_out": {"0": linear_spec(d, d)},
    }


def normalized_attention_spec(d: int, head: int) -> Spec:
    """Return the shapes of attention without biases, whose queries and keys are normalised.

    `head` is the width of a head.
    """
    square = linear_spec(d, d, False)
    projections: Spec = {name: square for name in ("to_q", "to_k", "to_v")}
    norms: Spec = {name: {"weight": (head,)} for name in ("norm_q", "norm_k")}
    return {**projections, **norms, "to_out": {"0": square}}


def mlp_spec(d_in: int, d: int, bias: bool = True) -> Spec:
    """Return the shapes of `layers.mlp`, from width `d_in` to d, and of others with its names."""
    return {"linear_1": linear_spec(d_in, d, bias), "linear_2": linear_spec(d, d, bias)}


def swiglu_spec(d: int, hidden: int, names: Sequence[str]) -> Spec:
    """Return the shapes of a feed-forward layer with a gate, without biases.

    SwiGLU of Shazeer 2020, arXiv:2002.05202, section 2: W_down (silu(W_gate x) * W_up x).

    Args:
        d: The width of the tokens.
        hidden: The width behind the gate.
        names: Those of gate, up and down.
    """
    gate, up, down = names
    widen = linear_spec(d, hidden, False)
    return {gate: widen, up: widen, down: linear_spec(hidden, d, False)}


def attention_block_spec(c: int) -> Spec:
    """Return the shapes of group_norm, to_q, to_k, to_v and to_out.0, with biases."""
    return {"group_norm": norm_spec(c)} | attention_spec(c, bias=True)


def transformer_spec(c: int, d_context: int, layers: int, linear_projection: bool) -> Spec:
    """Return the shapes of a spatial transformer.

    Its parts are norm, proj_in, transformer_blocks and proj_out.
    """
    projection = linear_spec(c, c) if linear_projection else conv_spec(c, c, 1)
    block = {
        "norm1": norm_spec(c),
        "attn1": attention_spec(c),
        "norm2": norm_spec(c),
        "attn2": attention_spec(c, d_context),
        "norm3": norm_spec(c),
        "ff": {"net": {"0": {"proj": linear_spec(c, 8 * c)}, "2": linear_spec(4 * c, c)}},
    }
    return {
        "norm": norm_spec(c),
        "proj_in": projection,
        "transformer_blocks": numbered([block] * layers),
        "proj_out": projection,
    }
