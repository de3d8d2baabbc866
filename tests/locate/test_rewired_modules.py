"""Faults that no table of causes has, in networks of diffusers: what reads or does something else.

No cause of any row may be another one, and whatever is recorded of a network, none may be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from rewired_modules import Fault, judge

BLOCK = r"(single_transformer_|transformer_|layerwise_|refiner_)?(blocks|layers|refiner)\.\d+"
Z, KREA, SD3 = "z-image-tiny", "krea-2-tiny", "sd3-tiny"
FLUX, FLUX2, FLUX3 = "flux-tiny", "flux2-tiny", "flux3-tiny"
QWEN, QWEN3, UNET = "qwen-image-2.1-tiny", "z-image-tiny/text_encoder", "tiny"
Z_ATTENTION = "transformer_z_image.ZSingleStreamAttnProcessor.__call__"
Z_BLOCK = "transformer_z_image.ZImageTransformerBlock.forward"
KREA_ATTENTION = "transformer_krea2.Krea2AttnProcessor.__call__"
KREA_BLOCK = "transformer_krea2.Krea2TransformerBlock.forward"
SD3_BLOCK = "attention.JointTransformerBlock.forward"
FLUX_BLOCK = "transformer_flux.FluxTransformerBlock.forward"
FLUX_SINGLE = "transformer_flux.FluxSingleTransformerBlock.forward"
FLUX2_ATTENTION = "transformer_flux2.Flux2AttnProcessor.__call__"
FLUX2_SINGLE = "transformer_flux2.Flux2ParallelSelfAttnProcessor.__call__"
FLUX2_BLOCK = "transformer_flux2.Flux2TransformerBlock.forward"
QWEN_PROJECTIONS = "transformer_qwenimage21._qwenimage21_prepare_qkv"
QWEN_BLOCK = "transformer_qwenimage21.QwenImage21TransformerBlock.forward"
FLUX3_ATTENTION = "transformer_flux3.Flux3AttnProcessor.__call__"
FLUX3_MODE = "transformer_flux3.Flux3ModeTransformerBlock.forward"
FLUX3_SINGLE = "transformer_flux3.Flux3SingleTransformerBlock.forward"
QWEN3_ATTENTION = "modeling_qwen3.Qwen3Attention.forward"
QWEN3_BLOCK = "modeling_qwen3.Qwen3DecoderLayer.forward"
UNET_BLOCK = "attention.BasicTransformerBlock.forward"
UNET_RESNET = "resnet.ResnetBlock2D.forward"
TURN = "apply_rotary_emb({}, image_rotary_emb, sequence_dim=1)"
TURNED_KEYS = f"key = {TURN.format('key')}"
QWEN_TURN = "apply_rotary_emb_qwen({}, rotary_emb, use_real=False)"
QWEN3_TURN = "apply_rotary_pos_emb(query_states, key_states, cos, sin)"
NO_NORMS = (("attn.norm_q(query)", "query"), ("attn.norm_k(key)", "key"))
TURNED_BEFORE = (
    *NO_NORMS,
    *((TURN.format(x), f"attn.norm_{x[0]}({TURN.format(x)})") for x in ("query", "key")),
)
VALUES_TURNED = ((TURNED_KEYS, f"{TURNED_KEYS}; value = {TURN.format('value')}"),)
VALUES_NORMALIZED = (
    ("key = attn.norm_k(key)", "key = attn.norm_k(key); value = attn.norm_k.forward(value)"),
)
ROTATED, NORMALIZED = "the values are rotated too", "the values are normalized too"
BEFORE_NORM = "the rotation is applied before the norm"
STREAM = "the MLP reads the stream without the attention"
SCALED = "the scale is applied before the norm"
AFTER_SUM = "the gate is applied after the sum"
ATTENTIONS = ("norm_q", "norm_k", "attention")
FAULTS = {
    "z-norm-after-rotation": Fault(
        Z, Z_ATTENTION,
        (*NO_NORMS, *((f"= apply_rotary_emb({x}, freqs_cis)",
                       f"= attn.norm_{x[0]}(apply_rotary_emb({x}, freqs_cis))")
                      for x in ("query", "key"))),
        ATTENTIONS, BEFORE_NORM,
    ),
    "z-values-rotated": Fault(
        Z, Z_ATTENTION,
        (("key = apply_rotary_emb(key, freqs_cis)",
          "key, value = (apply_rotary_emb(x, freqs_cis) for x in (key, value))"),),
        ("attention",), ROTATED,
    ),
    "z-gate-after-sum": Fault(
        Z, Z_BLOCK,
        (("x + gate_msa * self.attention_norm2(attn_out)",
          "gate_msa * (x + self.attention_norm2(attn_out))"),),
        ("ffn_norm1",), AFTER_SUM,
    ),
    "z-norm-after-sum": Fault(
        Z, Z_BLOCK,
        (("x = x + self.attention_norm2(attn_out)", "x = self.attention_norm2(x + attn_out)"),),
        ("attention_norm2", "ffn_norm1"), "the norm is applied after the residual sum",
    ),
    "z-mlp-without-attention": Fault(
        Z, Z_BLOCK,
        (("self.ffn_norm1(x) * scale_mlp",
          "self.ffn_norm1(x - gate_msa * self.attention_norm2.forward(attn_out)) * scale_mlp"),),
        ("ffn_norm1",), STREAM,
    ),
    "z-scale-before-norm": Fault(
        Z, Z_BLOCK,
        (("self.attention_norm1(x) * scale_msa", "self.attention_norm1(x * scale_msa)"),),
        ("attention_norm1", "attention"), SCALED,
    ),
    "z-residual-of-mlp": Fault(
        Z, Z_BLOCK, (("x = x + gate_mlp *", "x = gate_mlp *"),),
        ("noise_refiner", "layers"), "the residual is missing",
    ),
    "krea-gate-after-projection": Fault(
        KREA, KREA_ATTENTION,
        (("hidden_states = hidden_states * torch.sigmoid(gate)", "pass"),
         ("return attn.to_out[0](hidden_states)",
          "return attn.to_out[0](hidden_states) * torch.sigmoid(gate)")),
        ("attn", "to_out"), "the gate is applied after the output projection",
    ),
    "krea-norm-after-rotation": Fault(
        KREA, KREA_ATTENTION,
        (*NO_NORMS, ("num_key_value_groups =",
                     "query, key = attn.norm_q(query), attn.norm_k(key); num_key_value_groups =")),
        ATTENTIONS, BEFORE_NORM,
    ),
    "krea-values-rotated": Fault(KREA, KREA_ATTENTION, VALUES_TURNED, ("attention",), ROTATED),
    "krea-values-normalized": Fault(
        KREA, KREA_ATTENTION, VALUES_NORMALIZED, ("attention",), NORMALIZED
    ),
    "krea-mlp-without-attention": Fault(
        KREA, KREA_BLOCK,
        (("self.norm2(hidden_states)", "self.norm2(hidden_states - pregate * attn_out)"),),
        ("norm2",), STREAM,
    ),
    "krea-scale-and-shift-of-the-last-norm": Fault(
        KREA, "transformer_krea2.Krea2FinalLayer.forward",
        (("scale, shift = modulation", "shift, scale = modulation"),),
        ("final_layer.linear",),
        "the scale of final_layer.linear and the shift of final_layer.linear are exchanged",
    ),
    "krea-scale-before-norm": Fault(
        KREA, KREA_BLOCK,
        (("(1.0 + postscale) * self.norm2(hidden_states)",
          "self.norm2((1.0 + postscale) * hidden_states)"),),
        ("norm2", "ff"), SCALED,
    ),
    "krea-activation-after-product": Fault(
        KREA, "transformer_krea2.Krea2SwiGLU.forward",
        (("F.silu(self.gate(hidden_states)) * self.up(hidden_states)",
          "F.silu(self.gate(hidden_states) * self.up(hidden_states))"),),
        ("silu", "down"), "the activation is applied after the product",
    ),
    "krea-image-from-the-front": Fault(
        KREA, "transformer_krea2.Krea2Transformer2DModel.forward",
        (("hidden_states[:, text_seq_len:]", "hidden_states[:, :-text_seq_len]"),),
        ("final_layer",), "the image is taken from the front of the sequence",
    ),
    "sd3-mlp-without-attention": Fault(
        SD3, SD3_BLOCK,
        (("self.norm2(hidden_states)", "self.norm2(hidden_states - attn_output)"),),
        ("layer_norm",), STREAM,
    ),
    "sd3-residual-of-mlp": Fault(
        SD3, SD3_BLOCK,
        (("hidden_states = hidden_states + ff_output", "hidden_states = ff_output"),),
        ("transformer_blocks",), "the residual is missing",
    ),
    "sd3-residual-of-the-texts-mlp": Fault(
        SD3, SD3_BLOCK,
        (("encoder_hidden_states = encoder_hidden_states + c_gate_mlp",
          "encoder_hidden_states = c_gate_mlp"),),
        ("transformer_blocks",), "the residual is missing",
    ),
    "sd3-gate-after-sum": Fault(
        SD3, SD3_BLOCK,
        (("attn_output = gate_msa.unsqueeze(1) * attn_output", "pass"),
         ("hidden_states = hidden_states + attn_output\n",
          "hidden_states = gate_msa.unsqueeze(1) * (hidden_states + attn_output)\n")),
        ("layer_norm",), AFTER_SUM,
    ),
    "sd3-scale-before-norm": Fault(
        SD3, SD3_BLOCK,
        (("self.norm2(hidden_states)", "self.norm2(hidden_states * (1 + scale_mlp[:, None]))"),
         ("norm_hidden_states * (1 + scale_mlp[:, None]) + ", "norm_hidden_states + ")),
        ("layer_norm", "ff"), SCALED,
    ),
    "flux-values-rotated": Fault(
        FLUX, "transformer_flux.FluxAttnProcessor.__call__", VALUES_TURNED, ("attention",), ROTATED
    ),
    "flux-mlp-without-attention": Fault(
        FLUX, FLUX_BLOCK,
        (("self.norm2(hidden_states)", "self.norm2(hidden_states - attn_output)"),),
        ("layer_norm",), STREAM,
    ),
    "flux-scale-after-shift": Fault(
        FLUX, FLUX_BLOCK,
        (("norm_hidden_states * (1 + scale_mlp[:, None]) + shift_mlp[:, None]",
          "(norm_hidden_states + shift_mlp[:, None]) * (1 + scale_mlp[:, None])"),),
        ("ff",), "the scale is applied after the shift",
    ),
    "flux-gate-after-sum": Fault(
        FLUX, FLUX_SINGLE,
        (("hidden_states = gate * self.proj_out(hidden_states)",
          "hidden_states = self.proj_out(hidden_states)"),
         ("hidden_states = residual + hidden_states",
          "hidden_states = gate * (residual + hidden_states)")),
        ("single_transformer_blocks",), AFTER_SUM,
    ),
    "flux-streams-split-in-the-other-order": Fault(
        FLUX, FLUX_SINGLE,
        (("hidden_states[:, :text_seq_len], hidden_states[:, text_seq_len:]",
          "hidden_states[:, -text_seq_len:], hidden_states[:, :-text_seq_len]"),),
        ("single_transformer_blocks",), "the (text|image) is taken from the (front|end) of",
    ),
    "flux2-image-from-the-front": Fault(
        FLUX2, "transformer_flux2.Flux2Transformer2DModel.forward",
        (("hidden_states = hidden_states[:, num_txt_tokens:, ...]",
          "hidden_states = hidden_states[:, :-num_txt_tokens, ...]"),),
        ("norm_out",), "the image is taken from the front of the sequence",
    ),
    "flux2-values-rotated": Fault(FLUX2, FLUX2_ATTENTION, VALUES_TURNED, ("attention",), ROTATED),
    "flux2-values-normalized": Fault(
        FLUX2, FLUX2_ATTENTION, VALUES_NORMALIZED, ("attention",), NORMALIZED
    ),
    "flux2-norm-after-rotation": Fault(
        FLUX2, FLUX2_SINGLE, TURNED_BEFORE, ATTENTIONS, BEFORE_NORM
    ),
    "flux2-mlp-without-attention": Fault(
        FLUX2, FLUX2_BLOCK,
        (("self.norm2(hidden_states)", "self.norm2(hidden_states - attn_output)"),),
        ("norm2",), STREAM,
    ),
    "flux2-scale-before-norm": Fault(
        FLUX2, FLUX2_BLOCK,
        (("self.norm1(hidden_states)", "self.norm1((1 + scale_msa) * hidden_states)"),
         ("(1 + scale_msa) * norm_hidden_states", "norm_hidden_states")),
        ("norm1", "attn"), SCALED,
    ),
    "qwen-norm-after-rotation": Fault(
        QWEN, QWEN_PROJECTIONS,
        tuple(
            change
            for x in ("query", "key")
            for change in (
                (f"{x} = attn.norm_{x[0]}({x}).to(value.dtype)", "pass"),
                (f"{x} = {QWEN_TURN.format(x)}", f"{x} = attn.norm_{x[0]}({QWEN_TURN.format(x)})"),
            )
        ),
        ATTENTIONS, BEFORE_NORM,
    ),
    "qwen-values-rotated": Fault(
        QWEN, QWEN_PROJECTIONS,
        ((f"key = {QWEN_TURN.format('key')}",
          f"key = {QWEN_TURN.format('key')}; value = {QWEN_TURN.format('value')}"),),
        ("attention",), ROTATED,
    ),
    "qwen-values-normalized": Fault(
        QWEN, QWEN_PROJECTIONS,
        (("key = attn.norm_k(key).to(value.dtype)",
          "key = attn.norm_k(key); value = attn.norm_k.forward(value)"),),
        ("attention",), NORMALIZED,
    ),
    "qwen-mlp-without-attention": Fault(
        QWEN, QWEN_BLOCK,
        (("self.img_norm2(hidden_states)",
          "self.img_norm2(hidden_states - img_gate1.tanh() * attn_output)"),),
        ("img_norm2",), STREAM,
    ),
    "qwen-gate-after-sum": Fault(
        QWEN, QWEN_BLOCK,
        (("hidden_states + img_gate1.tanh() * attn_output",
          "img_gate1.tanh() * (hidden_states + attn_output)"),),
        ("img_norm2",), AFTER_SUM,
    ),
    "qwen-scale-before-norm": Fault(
        QWEN, QWEN_BLOCK,
        (("self._modulate(self.img_norm2(hidden_states), mod2, target_token_mask)",
          "self._modulate(hidden_states, mod2, target_token_mask)"),
         ("self.img_mlp(img_modulated2)", "self.img_mlp(self.img_norm2(img_modulated2))")),
        ("img_norm2", "img_mlp", "gate_layer", "proj"), SCALED,
    ),
    "qwen-residual-of-mlp": Fault(
        QWEN, QWEN_BLOCK,
        (("hidden_states = hidden_states + img_gate2.tanh()", "hidden_states = img_gate2.tanh()"),),
        ("transformer_blocks",), "the residual is missing",
    ),
    "qwen-residual-is-normalized": Fault(
        QWEN, QWEN_BLOCK,
        (("hidden_states = hidden_states + img_gate1.tanh()",
          "hidden_states = self.img_norm1.forward(hidden_states) + img_gate1.tanh()"),),
        ("img_norm2",), r"the residual is the output of transformer_blocks\.\d\.img_norm1 instead",
    ),
    "qwen-activation-after-product": Fault(
        QWEN, "transformer_qwenimage21.QwenImage21SwiGLUFeedForward.forward",
        (("self.activation_fn(self.gate_layer(hidden_states)) * self.proj(hidden_states)",
          "self.activation_fn(self.gate_layer(hidden_states) * self.proj(hidden_states))"),),
        ("silu", "activation_fn", "out"), "the activation is applied after the product",
    ),
    "flux3-norm-after-rotation": Fault(
        FLUX3, FLUX3_ATTENTION,
        (("attn.norm_q(query.float())", "query"), ("attn.norm_k(key.float())", "key"),
         *TURNED_BEFORE[2:]),
        ATTENTIONS, BEFORE_NORM,
    ),
    "flux3-values-rotated": Fault(FLUX3, FLUX3_ATTENTION, VALUES_TURNED, ("attention",), ROTATED),
    "flux3-values-normalized": Fault(
        FLUX3, FLUX3_ATTENTION,
        (("key = attn.norm_k(key.float())",
          "key = attn.norm_k(key.float()); value = attn.norm_k.forward(value)"),),
        ("attention",), NORMALIZED,
    ),
    "flux3-gate-after-sum": Fault(
        FLUX3, FLUX3_MODE,
        (("hidden_states + mod_gate * (attn_output + ff_output)",
          "mod_gate * (hidden_states + attn_output + ff_output)"),),
        ("mode_blocks.image", "txt_mode_blocks"), AFTER_SUM,
    ),
    "flux3-mlp-reads-the-attention": Fault(
        FLUX3, FLUX3_MODE, (("self.ff(norm_hidden_states)", "self.ff(attn_output)"),),
        ("ff", "ff.linear_in"), r".* reads the output of \S*attn\S* instead",
    ),
    "flux3-scale-before-norm": Fault(
        FLUX3, FLUX3_SINGLE,
        (("self.norm(hidden_states)", "self.norm((1 + mod_scale) * hidden_states)"),
         ("(1 + mod_scale) * norm_hidden_states", "norm_hidden_states")),
        ("norm", "attn", "ff"), SCALED,
    ),
    "flux3-scale-after-shift": Fault(
        FLUX3, FLUX3_MODE,
        (("(1 + mod_scale) * norm_hidden_states + mod_shift",
          "(1 + mod_scale) * (norm_hidden_states + mod_shift)"),),
        ("attn", "ff", "attn.to_q", "ff.linear_in"), "the scale is applied after the shift",
    ),
    "flux3-outputs-exchanged": Fault(
        FLUX3, FLUX3_SINGLE,
        (("context_output, content_output = torch.split",
          "content_output, context_output = torch.split"),
         ("[encoder_hidden_states.shape[1], hidden_states.shape[1]]",
          "[hidden_states.shape[1], encoder_hidden_states.shape[1]]")),
        ("single_transformer_blocks", "norm"),
        "the (text|image) is taken from the (front|end) of",
    ),
    "flux3-residual-is-normalized": Fault(
        FLUX3, FLUX3_SINGLE,
        (("hidden_states = hidden_states + mod_gate * content_output",
          "hidden_states = self.norm.forward(hidden_states) + mod_gate * content_output"),),
        ("single_transformer_blocks", "norm"), r"the residual is the output of \S*norm\S* instead",
    ),
    "flux3-residual-of-the-text": Fault(
        FLUX3, FLUX3_SINGLE,
        (("encoder_hidden_states = encoder_hidden_states + c_mod_gate",
          "encoder_hidden_states = c_mod_gate"),),
        ("single_transformer_blocks", "norm"), "the residual is missing",
    ),
    "qwen3-norm-after-rotation": Fault(
        QWEN3, QWEN3_ATTENTION,
        (("self.q_norm(self.q_proj(hidden_states).view(hidden_shape))",
          "self.q_proj(hidden_states).view(hidden_shape)"),
         ("self.k_norm(self.k_proj(hidden_states).view(hidden_shape))",
          "self.k_proj(hidden_states).view(hidden_shape)"),
         (QWEN3_TURN,
          f"{QWEN3_TURN}; "
          "query_states, key_states = self.q_norm(query_states), self.k_norm(key_states)")),
        ("q_norm", "k_norm", "attention"), BEFORE_NORM,
    ),
    "qwen3-values-rotated": Fault(
        QWEN3, QWEN3_ATTENTION,
        ((QWEN3_TURN,
          f"{QWEN3_TURN}; "
          "value_states = apply_rotary_pos_emb(value_states, value_states, cos, sin)[0]"),),
        ("attention",), ROTATED,
    ),
    "qwen3-values-normalized": Fault(
        QWEN3, QWEN3_ATTENTION,
        (("self.v_proj(hidden_states).view(hidden_shape)",
          "self.k_norm.forward(self.v_proj(hidden_states).view(hidden_shape))"),),
        ("attention",), NORMALIZED,
    ),
    "qwen3-mlp-without-attention": Fault(
        QWEN3, QWEN3_BLOCK,
        (("self.post_attention_layernorm(hidden_states)", "self.post_attention_layernorm(before)"),
         ("hidden_states = self.input_layernorm(hidden_states)",
          "before = hidden_states; hidden_states = self.input_layernorm(hidden_states)")),
        ("post_attention_layernorm",), STREAM,
    ),
    "qwen3-residual-is-normalized": Fault(
        QWEN3, QWEN3_BLOCK,
        (("hidden_states = self.input_layernorm(hidden_states)",
          "residual = hidden_states = self.input_layernorm(hidden_states)"),),
        ("post_attention_layernorm",), r"the residual is the output of \S*input_layernorm instead",
    ),
    "qwen3-residual-of-mlp": Fault(
        QWEN3, QWEN3_BLOCK,
        (("hidden_states = residual + hidden_states\n    return", "return"),),
        ("layers", "input_layernorm", "norm"), "the residual is missing",
    ),
    "qwen3-activation-after-product": Fault(
        QWEN3, "modeling_qwen3.Qwen3MLP.forward",
        (("self.act_fn(self.gate_proj(x)) * self.up_proj(x)",
          "self.act_fn(self.gate_proj(x) * self.up_proj(x))"),),
        ("silu", "act_fn", "down_proj"), "the activation is applied after the product",
    ),
    "unet-mlp-without-attention": Fault(
        UNET, UNET_BLOCK,
        (("self.norm3(hidden_states)", "self.norm3(hidden_states - attn_output)"),),
        ("norm3",), STREAM,
    ),
    "unet-cross-attention-without-attention": Fault(
        UNET, UNET_BLOCK,
        (("self.norm2(hidden_states)", "self.norm2(hidden_states - attn_output)"),),
        ("norm2",), "the attention reads the stream without the attention",
    ),
    "unet-residual-is-normalized": Fault(
        UNET, UNET_BLOCK,
        (("hidden_states = attn_output + hidden_states",
          "hidden_states = attn_output + norm_hidden_states"),),
        ("norm2", "norm3", "add"), r"the residual is the output of \S*norm\d instead",
    ),
    "unet-residual-of-mlp": Fault(
        UNET, UNET_BLOCK,
        (("hidden_states = ff_output + hidden_states", "hidden_states = ff_output"),),
        ("transformer_blocks", "proj_out"), "the residual is missing",
    ),
    "unet-activation-after-product": Fault(
        UNET, "activations.GEGLU.forward",
        (("hidden_states * self.gelu(gate)", "self.gelu(hidden_states * gate)"),),
        ("ff.net", "gelu"), "the activation is applied after the product",
    ),
    "unet-time-after-norm": Fault(
        UNET, UNET_RESNET,
        (("hidden_states = hidden_states + temb", "pass"),
         ("hidden_states = self.norm2(hidden_states)",
          "hidden_states = self.norm2(hidden_states) + temb")),
        ("norm2", "conv2", "nonlinearity", "silu"),
        r"the output of \S*time_emb_proj is added after \S*norm2",
    ),
    "unet-shortcut-of-the-norm": Fault(
        UNET, UNET_RESNET,
        (("self.conv_shortcut(input_tensor)",
          "self.conv_shortcut(self.norm1.forward(input_tensor))"),),
        ("conv_shortcut",), r"equals the output of \S*norm1",
    ),
    "unet-activation-before-norm": Fault(
        UNET, UNET_RESNET,
        (("hidden_states = self.nonlinearity(hidden_states)", "pass"),
         *((f"self.norm{i}(hidden_states)", f"self.norm{i}(self.nonlinearity(hidden_states))")
           for i in (1, 2))),
        ("norm1", "norm2", "conv1", "conv2", "nonlinearity", "silu"),
        "the activation is applied before the norm",
    ),
}  # fmt: skip
DEFAULT = ("z-norm-after-rotation", "z-values-rotated")  # the others in `make full`
# What makers' programs have as modules, whose norms and blocks are often functions.
PROJECTIONS = r"(.*\.)?(to_\w+(\.0)?|add_\w+|proj\w*|net\.(0\.proj|2)|linear\w*|\w*embedder)/.*"
JOINED = ("to_q", "to_k", "to_v", "proj_mlp")
# Faults of such programs: most of a network is one part then.
OF_PROJECTIONS = {
    "flux-residual-of-the-texts-attention": Fault(
        FLUX,
        FLUX_BLOCK,
        (
            (
                "encoder_hidden_states = encoder_hidden_states + context_attn_output",
                "encoder_hidden_states = context_attn_output",
            ),
        ),
        (*JOINED, "add_q_proj", "add_k_proj", "add_v_proj", "ff_context.net.0.proj"),
        "the residual is missing|the output of context_embedder is not added",
    ),
    "flux-residual-of-the-images-mlp": Fault(
        FLUX,
        FLUX_BLOCK,
        (("hidden_states = hidden_states + ff_output", "hidden_states = ff_output"),),
        (*JOINED, "ff.net.0.proj", "proj_out"),
        "the residual is missing",
    ),
}


def cases() -> Iterator[Any]:
    for name in FAULTS:
        yield pytest.param(name, marks=() if name in DEFAULT else pytest.mark.full)


@pytest.mark.parametrize("name", [*cases()])
def test_what_reads_or_does_something_else_is_said_and_nothing_else(name):
    fault = FAULTS[name]
    report = judge(fault.family, fault)
    found = {(re.sub(r"(\.\d+|~\d+)+$", "", row.layer), row.cause) for row in report.faults}
    assert found, str(report)
    assert all(layer.endswith(fault.layers) for layer, _ in found), str(report)
    assert all(re.match(fault.words, cause) for _, cause in found), str(report)


@pytest.mark.full
@pytest.mark.parametrize("name", OF_PROJECTIONS)
def test_faults_are_explained_where_projections_alone_are_recorded(name):
    fault = OF_PROJECTIONS[name]
    report = judge(fault.family, fault, PROJECTIONS)
    assert report.faults, str(report)
    assert all(row.layer.endswith(fault.layers) for row in report.faults), str(report)
    assert all(re.match(fault.words, row.cause) for row in report.faults), str(report)


@pytest.mark.full
@pytest.mark.parametrize("family", sorted({fault.family for fault in FAULTS.values()}))
def test_a_network_without_a_fault_is_equal(family):
    report = judge(family)
    assert report.equal, str(report)
