"""Right runs with long prompts have no fault: the error of an angle grows with the position.

The transformers have several frequencies on each axis, as published ones have: angles of frequency
1 are whole numbers, which are not rounded.
"""

from __future__ import annotations

import pytest

import ldmref
from ldmref.locate import diff_traces

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import flux2_pipelines
import flux3_pipelines
import krea2_pipelines
import qwen_image_21_pipelines as qwen
import torch
import z_image_pipelines
from diffusers import ZImageTransformer2DModel
from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21Rope
from qwen3_networks import write_vocabulary

WIDE = {"attention_head_dim": 32, "axes_dims_rope": (4, 12, 16)}
WIDER = {"attention_head_dim": 48, "axes_dims_rope": (8, 12, 12, 16)}
SIZE = {"width": 32, "height": 32, "num_inference_steps": 2}


def run_qwen(folder):
    pipe = qwen.make_pipeline()
    pipe.register_modules(transformer=qwen.make_transformer(**WIDE))
    return pipe, {"width": 64, "height": 64}


def run_z_image(folder):
    pipe = z_image_pipelines.make_pipeline(write_vocabulary(folder / "words"))
    wide = ZImageTransformer2DModel(
        in_channels=4, dim=64, n_layers=2, n_refiner_layers=2, n_heads=2, n_kv_heads=2,
        cap_feat_dim=20, axes_dims=[4, 12, 16], axes_lens=[2048, 32, 32],
    )  # fmt: skip
    for parameter in wide.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    pipe.register_modules(transformer=wide.eval())
    return pipe, {"guidance_scale": 0.0, "max_sequence_length": 1024}


def run_flux2(folder):
    pipe = flux2_pipelines.make_pipeline(write_vocabulary(folder / "words"))
    pipe.register_modules(transformer=flux2_pipelines.make_transformer(**WIDER))
    return pipe, {"guidance_scale": 1.0, "text_encoder_out_layers": flux2_pipelines.LAYERS}


def run_krea2(folder):
    (folder / "words").mkdir()
    pipe = krea2_pipelines.make_pipeline(folder / "words")
    pipe.register_modules(transformer=krea2_pipelines.make_transformer(**WIDE))
    return pipe, {"guidance_scale": 0.0}


def run_flux3(folder):
    pipe = flux3_pipelines.make_pipeline(write_vocabulary(folder / "words"))
    transformer = flux3_pipelines.make_transformer(
        in_channels=16, cond_in_channels=16, num_layers=2, num_single_layers=2,
        num_attention_heads=2, joint_attention_dim=40, flow_map=False, **WIDER,
    )  # fmt: skip
    pipe.update_components(transformer=transformer)
    flux3_pipelines.set_scale(pipe, 1.0)
    return pipe, {"text_encoder_out_layers": (1, 2), "output": "images"}


FAMILIES = {
    "qwen-image-2.1": run_qwen,
    "z-image": run_z_image,
    "flux2": run_flux2,
    "krea-2": run_krea2,
    "flux3": run_flux3,
}


def find(family, words, folder):
    """Record a run with a prompt of so many tokens; return the report."""
    pipe, options = FAMILIES[family](folder)
    if family == "flux3":
        flux3_pipelines.save_pipeline(pipe, folder / "model")
    else:
        pipe.save_pretrained(folder / "model")
    generator = torch.Generator().manual_seed(5)
    with ldmref.recording(pipe, folder / "trace") as trace:
        pipe(prompt="red " * words, generator=generator, **SIZE | options)
    return diff_traces(trace.trace, ldmref.load(folder / "model", dtype="float32"))


ROWS = [("qwen-image-2.1", 300), ("qwen-image-2.1", 600), ("qwen-image-2.1", 1000)]
ROWS += [(family, 600) for family in FAMILIES if family != "qwen-image-2.1"]


@pytest.mark.parametrize(("family", "words"), ROWS)
def test_a_right_run_with_a_long_prompt_has_no_fault(family, words, tmp_path):
    report = find(family, words, tmp_path)
    wrong = [row for row in report.rows if row.verdict in ("differs", "noisy")]
    assert not wrong and report.counts()["equal"] > 200


def test_positions_off_by_one_are_found_behind_a_long_prompt(tmp_path, monkeypatch):
    forward = QwenImage21Rope.forward

    def moved(self, shapes, mask, device):
        """Return waves of images one token further away."""
        own = forward(self, shapes, mask, device)
        turn = torch.cat([self.freqs[0][1], torch.ones(own.shape[1] - self.axes_dim[0] // 2)])
        return torch.where(mask[:, None], own * turn, own)

    monkeypatch.setattr(QwenImage21Rope, "forward", moved)
    report = find("qwen-image-2.1", 300, tmp_path)
    first = next(row for row in report.rows if row.verdict == "differs")
    assert first.layer == "transformer_blocks.0.attn.attention~1" and first.error > 0.01
