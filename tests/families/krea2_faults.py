"""Faults that ports of Krea 2 had in public, put into a small pipeline of diffusers."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from diffusers import Krea2Pipeline
from diffusers.models.transformers import transformer_krea2
from diffusers.pipelines.krea2 import pipeline_krea2
from torch.nn import functional as F

import ldmref

SHORT = "a red cat"
LONG = "the blue house of a dog on a table, painted by an assistant of a cat"


def record(pipe: Any, path: Any, prompts: Any = SHORT, **more: Any) -> Any:
    """Record a run of the pipeline."""
    options = {"num_inference_steps": 2, "guidance_scale": 2.0, "width": 24, "height": 16} | more
    with ldmref.recording(pipe, path) as trace:
        pipe(prompts, generator=torch.Generator().manual_seed(5), **options)
    return trace.trace


class Fault(NamedTuple):
    """A fault.

    Attributes:
        make: Puts it into a pipeline, with the patch that undoes it.
        found: The row that must be named: its call, layer and kind.
        cause: Words of its cause. "": none is known.
        options: Arguments of the run in which it shows.
    """

    make: Callable[[Any, pytest.MonkeyPatch], None]
    found: tuple[str, str, str]
    cause: str
    options: Mapping[str, Any] = {}

    @contextmanager
    def made(self, pipe: Any):
        """Put the fault into a pipeline for a while."""
        with pytest.MonkeyPatch.context() as patch:
            self.make(pipe, patch)
            yield


def count_padding(pipe: Any, patch: pytest.MonkeyPatch) -> None:
    """Positions of the text behind the padding count it: what transformers 5 does alone."""

    def forward(self, position_ids=None, **kwargs):
        return own(self, **kwargs)

    own = type(pipe.text_encoder).forward
    patch.setattr(type(pipe.text_encoder), "forward", forward)


def other_sibling(pipe: Any, patch: pytest.MonkeyPatch) -> None:
    """The base of Qwen3's positions, not Qwen3-VL's: stable-diffusion.cpp#1705."""
    rotary = pipe.text_encoder.language_model.rotary_emb
    steps = torch.arange(0, 6, 2, dtype=torch.float32) / 6
    patch.setitem(rotary._buffers, "inv_freq", 1e6**-steps)


def see_padding(pipe: Any, patch: pytest.MonkeyPatch) -> None:
    """The transformer reads padding: candle#3582, sglang#29742."""
    own = transformer_krea2.dispatch_attention_fn

    def attend(query, key, value, attn_mask=None, **kwargs):
        return own(query, key, value, attn_mask=None, **kwargs)

    patch.setattr(transformer_krea2, "dispatch_attention_fn", attend)


def plain_norms(pipe: Any, patch: pytest.MonkeyPatch) -> None:
    """Norms multiply by the weight instead of 1 + weight."""

    def forward(self, x):
        return F.rms_norm(x, (self.dim,), weight=self.weight, eps=self.eps)

    patch.setattr(transformer_krea2.Krea2RMSNorm, "forward", forward)


def tokens_unpacked(pipe: Any, patch: pytest.MonkeyPatch) -> None:
    """The shift of the times counts cells of the latents, not tokens: sglang#21041."""
    own = pipeline_krea2.calculate_shift
    patch.setattr(pipeline_krea2, "calculate_shift", lambda n, *rest: own(4 * n, *rest))


def usual_guidance(pipe: Any, patch: pytest.MonkeyPatch) -> None:
    """The scale of c + g (c - u) is that of u + s (c - u): stable-diffusion.cpp#1781."""
    rewrite_call(patch, "noise_pred + guidance_scale * (", "neg_noise_pred + guidance_scale * (")


def raw_latents(pipe: Any, patch: pytest.MonkeyPatch) -> None:
    """The decoder is given latents that are not denormalised: InvokeAI#8838."""
    rewrite_call(patch, "latents = latents / latents_std + latents_mean", "pass")


def twice_divided(pipe: Any, patch: pytest.MonkeyPatch) -> None:
    """The network gets the time over 1000, but multiplies by 1000 no more: maxdiffusion#482."""
    rewrite_call(patch, "(t / self.scheduler.config.num_train_timesteps)", "(t / 1e6)")


def rewrite_call(patch: pytest.MonkeyPatch, old: str, new: str) -> None:
    """Change a line of the pipeline's call."""
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(Krea2Pipeline.__call__)))
    assert source.count(old) == 1
    code = source[source.index("def __call__") :].replace(old, new)
    found: dict[str, Any] = {}
    exec(code, vars(pipeline_krea2), found)
    patch.setattr(Krea2Pipeline, "__call__", torch.no_grad()(found["__call__"]))


def without_gate(pipe: Any, patch: pytest.MonkeyPatch) -> None:
    """The output of attention has no gate."""
    patch.setattr(torch, "sigmoid", torch.ones_like)


FAULTS = {
    "positions count padding": Fault(
        count_padding, ("text_encoder", "layers.0.self_attn.attention", "wiring"), ""
    ),
    "the base of a sibling": Fault(
        other_sibling, ("text_encoder", "layers.0.self_attn.attention", "wiring"), ""
    ),
    "padding is seen": Fault(
        see_padding,
        ("transformer.000", "", "wiring"),
        "the padding mask is missing",
    ),
    "norms without one": Fault(
        plain_norms,
        ("transformer.000", "text_fusion.layerwise_blocks.0.norm1", "own"),
        "weight instead of 1 + weight",
    ),
    "cells as tokens": Fault(
        tokens_unpacked, ("schedule", "", "sigmas"), "shift 1.621 instead of 1.6087"
    ),
    "another guidance": Fault(usual_guidance, ("guidance.000", "", "guidance"), "scale 2"),
    "raw latents": Fault(
        raw_latents, ("vae.decode", "", "latents"), "the latents are not denormalised"
    ),
    "a time over 1000": Fault(twice_divided, ("transformer.000", "", "timestep"), ""),
    "no gate": Fault(
        without_gate, ("transformer.000", "transformer_blocks.0.attn.to_out.0", "wiring"), ""
    ),
}
RIGHT: dict[str, dict[str, Any]] = {
    "without guidance": {"guidance_scale": 0.0},
    "with guidance": {},
    "texts of unequal length": {"prompts": [SHORT, LONG]},
    "a negative prompt": {"negative_prompt": "a dog"},
    "a short text": {"max_sequence_length": 64, "num_inference_steps": 1},
    "two images of a prompt": {"num_images_per_prompt": 2},
    "another size": {"width": 16, "height": 32, "num_inference_steps": 3},
}
