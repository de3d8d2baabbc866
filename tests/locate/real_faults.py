"""Ports with faults from real bugs: copies of small diffusers pipelines, each changed.

Every row of `CASES` says where the fault comes from, which layers or steps must be blamed, and with
which words. Five have three faults at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import diffusers
import torch
from torch.nn import functional as F
from transformers.activations import NewGELUActivation

MID = "mid_block.attentions.0.transformer_blocks.0"


class Fault(NamedTuple):
    """A fault: how it is made, which names it has, and the words of its cause ("": any)."""

    make: Callable[[Any], None]
    names: tuple[str, ...]
    cause: str


class Case(NamedTuple):
    """A port: the family of its pipeline, its scheduler, its faults, and their source."""

    name: str
    family: str
    faults: tuple[Fault, ...]
    source: str
    scheduler: str = ""
    fields: dict[str, Any] = {}  # noqa: RUF012


def change_class(thing: Any, **members: Any) -> None:
    """Give an object a subclass of its class."""
    thing.__class__ = type(type(thing).__name__, (type(thing),), members)


def pad_token(pipe: Any) -> None:
    pipe.tokenizer_2.pad_token = "<|endoftext|>"


def project_twice(pipe: Any) -> None:
    once = pipe.unet.time_proj.forward
    pipe.unet.time_proj.forward = lambda t: once(once(t)[:, 0])


def next_timestep(pipe: Any) -> None:
    """DDIM to the next timestep of the schedule, whatever the spacing."""

    def step(self, model_output, timestep, sample, **_):
        later = self.timesteps[self.timesteps < timestep]
        following = later[0] if len(later) else -1
        a = self.alphas_cumprod[timestep]
        b = self.alphas_cumprod[following] if following >= 0 else self.final_alpha_cumprod
        x0 = (sample - (1 - a) ** 0.5 * model_output) / a**0.5
        return (b**0.5 * x0 + (1 - b) ** 0.5 * model_output,)

    change_class(pipe.scheduler, step=step)


def tanh_gelu(pipe: Any) -> None:
    layers = getattr(pipe.text_encoder, "text_model", pipe.text_encoder).encoder.layers
    layers[0].mlp.activation_fn = NewGELUActivation()


class HeadsFirst:
    """An attention processor that splits heads without transposing: (heads, l), not (l, heads)."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        n, length, _ = hidden_states.shape
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (x.reshape(n, attn.heads, x.shape[1], -1) for x in (q, k, v))
        weights = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1)
        merged = (weights @ v).reshape(n, length, -1)
        return attn.to_out[0](merged)


def head_layout(pipe: Any) -> None:
    pipe.unet.get_submodule(f"{MID}.attn1").processor = HeadsFirst()


class SwappedInputs:
    """An attention processor with q and k exchanged."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        n, length, d = hidden_states.shape
        parts = (attn.to_k, attn.to_q, attn.to_v)
        q, k, v = (p(hidden_states).view(n, length, attn.heads, -1).mT.mT for p in parts)
        y = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)))
        return attn.to_out[0](y.transpose(1, 2).reshape(n, length, d))


def swapped_inputs(pipe: Any) -> None:
    pipe.unet.get_submodule(f"{MID}.attn1").processor = SwappedInputs()


def no_sizes(pipe: Any) -> None:
    change_class(pipe, _get_add_time_ids=lambda self, *_, **__: torch.zeros(1, 6))


def negative_v(pipe: Any) -> None:
    base = type(pipe.scheduler).step
    change_class(
        pipe.scheduler,
        step=lambda self, model_output, timestep, sample, **kwargs: base(
            self, -model_output, timestep, sample, **kwargs
        ),
    )


def one_sided_padding(pipe: Any) -> None:
    layer = pipe.unet.down_blocks[0].downsamplers[0]
    layer.padding = 0
    layer.conv.padding = (0, 0)


def half_table(pipe: Any) -> None:
    pipe.scheduler.alphas_cumprod = pipe.scheduler.alphas_cumprod.half().float()


def group_norm_eps(pipe: Any) -> None:
    pipe.unet.down_blocks[0].resnets[0].norm2.eps = 1e-6


class Shifted:
    """A divisor that also adds a shift."""

    def __init__(self, scale: float, shift: float):
        self.scale, self.shift = scale, shift

    def __rtruediv__(self, x):
        return x / self.scale + self.shift


def shift_factor(pipe: Any) -> None:
    pipe.vae.register_to_config(scaling_factor=Shifted(0.18215, 0.1159))


def scaling_factor(pipe: Any) -> None:
    pipe.vae.register_to_config(scaling_factor=0.13025)


def clip_skip(pipe: Any) -> None:
    del getattr(pipe.text_encoder, "text_model", pipe.text_encoder).encoder.layers[-1]


def swapped_weights(pipe: Any) -> None:
    attention = pipe.unet.get_submodule(f"{MID}.attn1")
    attention.to_q, attention.to_k = attention.to_k, attention.to_q


def guidance_times_1000(pipe: Any) -> None:
    change_class(pipe, guidance_scale=property(lambda self: 1000 * self._guidance_scale))


def no_guidance(pipe: Any) -> None:
    change_class(pipe, guidance_scale=property(lambda self: 1.0))


def last_sigma(pipe: Any) -> None:
    base = type(pipe.scheduler).set_timesteps

    def set_timesteps(self, *args, **kwargs):
        base(self, *args, **kwargs)
        self.sigmas[-1] = 0.0292

    change_class(pipe.scheduler, set_timesteps=set_timesteps)


def head_dim(pipe: Any) -> None:
    pipe.unet.get_submodule(f"{MID}.attn2").heads = 8


def bilinear(pipe: Any) -> None:
    layer = pipe.unet.up_blocks[0].upsamplers[0]
    layer.forward = lambda x, *_, **__: layer.conv(
        F.interpolate(x, scale_factor=2.0, mode="bilinear")
    )


def skip_order(pipe: Any) -> None:
    def roll(module, args, kwargs):
        return (torch.roll(args[0], 16, dims=1), *args[1:]), kwargs

    pipe.unet.up_blocks[1].resnets[1].register_forward_pre_hook(roll, with_kwargs=True)


def sine_first(pipe: Any) -> None:
    pipe.unet.time_proj.flip_sin_to_cos = False


def replicate(pipe: Any) -> None:
    layer = pipe.unet.up_blocks[1].resnets[1].conv1
    layer.padding_mode = "replicate"
    layer._reversed_padding_repeated_twice = [1, 1, 1, 1]


def layer_norm_eps(pipe: Any) -> None:
    pipe.unet.get_submodule(f"{MID}.norm3").eps = 1e-2


def decoder_norm_eps(pipe: Any) -> None:
    pipe.vae.decoder.conv_norm_out.eps = 1e-4


def missing_bias(pipe: Any) -> None:
    torch.nn.init.normal_(pipe.unet.get_submodule(f"{MID}.ff.net.2").bias)
    pipe.unet.get_submodule(f"{MID}.ff.net.2").bias = None


def swapped_gate(pipe: Any) -> None:
    proj = pipe.unet.get_submodule(f"{MID}.ff.net.0.proj")
    with torch.no_grad():
        for part in (proj.weight, proj.bias):
            part.copy_(torch.roll(part, len(part) // 2, 0))


def other_skip(pipe: Any) -> None:
    """Read the skip connections of a block from the other end."""
    block = pipe.unet.up_blocks[1]
    inner = block.forward

    def forward(hidden_states, res_hidden_states_tuple, *args, **kwargs):
        return inner(hidden_states, res_hidden_states_tuple[::-1], *args, **kwargs)

    block.forward = forward


def later_positions(pipe: Any) -> None:
    table = pipe.text_encoder.get_submodule(text_part(pipe, "embeddings.position_embedding"))
    change_class(
        table,
        forward=lambda self, ids: F.embedding(
            (ids + 1).clip(max=len(self.weight) - 1), self.weight
        ),
    )


def text_part(pipe: Any, name: str) -> str:
    return f"text_model.{name}" if hasattr(pipe.text_encoder, "text_model") else name


def gelu_of_value(pipe: Any) -> None:
    layer = pipe.unet.get_submodule(f"{MID}.ff.net.0")

    def forward(hidden_states):
        value, gate = layer.proj(hidden_states).chunk(2, dim=-1)
        return F.gelu(value) * gate

    layer.forward = forward


def padding_mask(pipe: Any) -> None:
    """Hide the padding from the text, as diffusers does for some models."""
    pipe.text_encoder.config.use_attention_mask = True


PAD_TOKEN = Fault(pad_token, ("tokens_2 ids", "text_encoder_2 tokens"), "padded with id")
TWICE = Fault(project_twice, ("unet/time_proj",), "projected twice")
PREVIOUS = Fault(next_timestep, ("sampler step",), "previous timestep")
TANH = Fault(tanh_gelu, ("text_encoder/text_model.encoder.layers.0.mlp",), "tanh GELU")
HEADS = Fault(head_layout, (f"unet/{MID}.attn1",), "heads permuted")
NO_SIZES = Fault(no_sizes, ("unet micro-conditioning",), "micro-conditioning")
SIGN = Fault(negative_v, ("sampler x0",), "sign of the prediction")
PADDING = Fault(one_sided_padding, ("unet/down_blocks.0.downsamplers.0",), "asymmetric padding")
HALF = Fault(
    half_table,
    ("schedule alphas_cumprod", "sampler x0", "sampler step"),
    "alphas_cumprod in float16",
)
EPS = Fault(group_norm_eps, ("unet/down_blocks.0.resnets.0.norm2",), "eps 1e-06 instead of 1e-05")
SHIFT = Fault(shift_factor, ("vae.decode latents",), "shift factor 0.1159")
SCALE = Fault(scaling_factor, ("vae.decode latents",), "scaling factor 0.13025")
CLIP_SKIP = Fault(
    clip_skip,
    ("text_encoder/text_model.final_layer_norm",),
    "equals the output of text_model.encoder.layers.1",
)
WEIGHTS = Fault(
    swapped_weights, (f"unet/{MID}.attn1.to_q", f"unet/{MID}.attn1.to_k"), "has the weights of"
)
QK = Fault(swapped_inputs, (f"unet/{MID}.attn1",), "")
TIMES_1000 = Fault(guidance_times_1000, ("guidance guidance",), "times 1000")
DROPPED = Fault(no_guidance, ("guidance guidance",), "guidance is dropped")
LAST_SIGMA = Fault(
    last_sigma, ("schedule sigmas", "sampler sigma_next", "sampler step"), "last sigma"
)
HEAD_DIM = Fault(head_dim, (f"unet/{MID}.attn2",), "8 heads")
BILINEAR = Fault(bilinear, ("unet/up_blocks.0.upsamplers.0",), "bilinear")
SKIP_ORDER = Fault(skip_order, ("unet/up_blocks.1.resnets.1",), "concatenated in the other order")
SINE = Fault(sine_first, ("unet/time_proj",), "[sin, cos]")
REPLICATE = Fault(replicate, ("unet/up_blocks.1.resnets.1.conv1",), "padding mode replicate")
NORM3 = Fault(layer_norm_eps, (f"unet/{MID}.norm3",), "eps 0.01 instead of 1e-05")
DECODER = Fault(decoder_norm_eps, ("vae.decode/decoder.conv_norm_out",), "eps 0.0001")
OTHER_SKIP = Fault(
    other_skip,
    ("unet/up_blocks.1.resnets.0", "unet/up_blocks.1.resnets.1"),
    "the skip connection is the output of",
)
POSITIONS = Fault(
    later_positions, ("text_encoder/text_model.embeddings",), "positions are larger by one"
)
VALUE = Fault(gelu_of_value, (f"unet/{MID}.ff.net.0",), "GELU is applied to the value")
MASKED = Fault(
    padding_mask,
    tuple(f"text_encoder/text_model.encoder.layers.{i}.self_attn" for i in range(3)),
    "a padding mask that should not be there",
)
GATE = Fault(swapped_gate, (f"unet/{MID}.ff.net.0.proj",), "halves of the output are swapped")

LINSPACE = {"timestep_spacing": "linspace", "clip_sample": False}
CASES = (
    Case("pad token of CLIP-G", "sdxl", (PAD_TOKEN,), "ComfyUI#9849"),
    Case("timestep projected twice", "sd1", (TWICE,), "maxdiffusion#482"),
    Case(
        "previous DDIM timestep", "sd1", (PREVIOUS,), "diffusers#11347", "DDIMScheduler", LINSPACE
    ),
    Case("missing gelu_new", "sd2", (TANH,), "stable-diffusion-webui-forge#1817"),
    Case("head layout", "sd1", (HEADS,), "FastVideo#1321"),
    Case("micro-conditioning", "sdxl", (NO_SIZES,), "diffusers#8876"),
    Case("sign of v", "sd2", (SIGN,), "antirez/h3.c#34"),
    Case("asymmetric padding", "sd1", (PADDING,), "field list: VAE asymmetric padding"),
    Case("alphas_cumprod in float16", "sd2", (HALF,), "diffusers#3005"),
    Case("GroupNorm eps", "sd1", (EPS,), "CompVis: 1e-6 and 1e-5 in one U-Net"),
    Case("shift factor", "sd1", (SHIFT,), "autoencoders with a shift_factor"),
    Case("clip skip", "sd1", (CLIP_SKIP,), "A1111's clip skip"),
    Case("swapped q and k", "sd1", (WEIGHTS,), "FastVideo#1321"),
    Case("guidance times 1000", "sd1", (TIMES_1000,), "sglang#22059"),
    Case("last sigma", "sd1", (LAST_SIGMA,), "apple/coreai-models#190", "EulerDiscreteScheduler"),
    Case("skip of another layer", "sd1", (OTHER_SKIP,), "lists read from the wrong end"),
    Case("positions from 1", "sd1", (POSITIONS,), "fairseq counts positions after the padding"),
    Case("GELU of the value", "sd1", (VALUE,), "order of value and gate in GEGLU"),
    Case("padding mask", "sd2", (MASKED,), "use_attention_mask of diffusers"),
    Case("three in the U-Net", "sd1", (EPS, NORM3, REPLICATE), "the trial of three faults"),
    Case("three on the host", "sd2", (DROPPED, SIGN, SCALE), "sglang#22059 (dropped), h3.c#34"),
    Case("three of attention", "sd2", (HEAD_DIM, TANH, GATE), "diffusers#2011"),
    Case("three of resampling", "sd1", (BILINEAR, PADDING, SINE), "flip_sin_to_cos"),
    Case("three networks", "sd1", (CLIP_SKIP, SKIP_ORDER, DECODER), "order of skip connections"),
)


def new_scheduler(pipe: Any, name: str, fields: dict[str, Any]) -> None:
    """Replace the scheduler of a pipeline."""
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **fields)
