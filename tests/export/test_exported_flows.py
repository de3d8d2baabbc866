"""Exported models of flow matching: their folder has all that another program needs to sample."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from graph_runs import run_graph as run

import ldmref
from ldmref import modes
from ldmref.export import export_onnx

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
STEPS = 3


@pytest.fixture(scope="module", params=["sd3-tiny", "flux-tiny"])
def model(request):
    return ldmref.random_model(request.param, backend="numpy")


def shift_times(times, schedule, tokens):
    """Levels of the flow as the pages say: s -> k s / (1 + (k - 1) s)."""
    k = schedule["shift"]
    if schedule["dynamic_shift"]:
        lengths = schedule["base_image_seq_len"], schedule["max_image_seq_len"]
        line = np.polyfit(lengths, (schedule["base_shift"], schedule["max_shift"]), 1)
        k = np.exp(np.polyval(line, tokens))
    return k * times / (1 + (k - 1) * times), k


def test_the_folder_alone_generates_ldmref_s_latents(model, tmp_path):
    """Only the manifest, the ONNX files and token ids are read; Euler's method is written here."""
    export_onnx(model, tmp_path / "m")
    manifest = json.loads((tmp_path / "m/ldmref.json").read_text())
    schedule = manifest["schedule"]
    assert schedule["prediction_type"] == "flow" and "alphas_cumprod" not in schedule

    def encode(prompt):
        out = []
        for i, tokenizer in enumerate(model.tokenizers):
            name = "text_encoder" + (f"_{i + 1}" if i else "")
            ids = tokenizer.encode([prompt])[0].astype(np.int32)
            out.append([*run(tmp_path / "m", name, input_ids=ids).values()])
        if model.config.name == "flux-tiny":
            end = model.tokenizers[0].encode([prompt])[0][0].argmax()  # of CLIP's words, the last
            return out[1][0], out[0][0][:, end]
        clip = np.concatenate([out[0][0], out[1][0]], 2)
        wide = np.pad(clip, ((0, 0), (0, 0), (0, out[2][0].shape[2] - clip.shape[2])))
        return np.concatenate([wide, out[2][0]], 1), np.concatenate([out[0][1], out[1][1]], 1)

    side = 8
    tokens = (side * manifest["latents"]["factor"] // manifest["latents"]["size_multiple"]) ** 2
    end = 1 / STEPS
    if schedule["spacing"] == "flow_table":
        _, k = shift_times(np.asarray(1.0), schedule, tokens)
        start = 1 / schedule["num_train_timesteps"]
        end = start if schedule["dynamic_shift"] else k * start / (1 + (k - 1) * start)
    levels, _ = shift_times(np.linspace(1.0, end, STEPS), schedule, tokens)
    levels = np.append(levels, 0.0)
    guided = "guidance" in manifest["networks"]["transformer"]["inputs"]
    noise = np.random.default_rng(0).standard_normal((1, 4, side, side)).astype(np.float32)
    x = noise.copy()
    scale = 3.0
    for s, after in pairwise(levels):
        velocities = []
        for prompt in ("a cat",) if guided else ("", "a cat"):
            context, pooled = encode(prompt)
            arrays = {
                "sample": x,
                "timestep": np.asarray([schedule["num_train_timesteps"] * s], np.float32),
                "encoder_hidden_states": context,
                "pooled_projections": pooled,
            }
            if guided:
                arrays["guidance"] = np.asarray([scale], np.float32)
            velocities.append(run(tmp_path / "m", "transformer", **arrays)["out_sample"])
        v = velocities[-1]
        if not guided:
            v = velocities[0] + scale * (v - velocities[0])
        x = (x + (after - s) * v).astype(np.float32)
    want = modes.txt2img(model, "a cat", steps=STEPS, cfg_scale=scale, latents=noise, seed=0)
    assert np.abs(x - want.latents).max() < 1e-4 * np.abs(want.latents).max()
