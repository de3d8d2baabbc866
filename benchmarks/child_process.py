"""Programs that `compare.py` starts as separate processes.

    python -m benchmarks.child_process memory ours|theirs CASE MODEL OUTPUT
    python -P child_process.py diffusers FOLDER OUTPUT.png

`diffusers` is timed from the start of its process. It imports nothing of ldmref, and this file
imports nothing large at the top, so the time of each program includes its own imports only.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import re
import sys
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")


def memory(side: str, case_json: str, path: str, output: str) -> None:
    """Do a case's work by one side, write its output, and print `{"peak": ..., "before": ...}`.

    In bytes: `before` is the resident memory after the model is loaded, `peak` the maximum from
    then on.
    """
    import numpy as np

    from benchmarks.blocks import make_block
    from benchmarks.cases import BenchmarkCase
    from benchmarks.peers import peer_workload
    from ldmref.backends import get_backend
    from ldmref.loading import load

    case = BenchmarkCase(**json.loads(case_json))
    if side == "ours":
        make_workload = BenchmarkCase.make_workload
        backend = case.make_backend()
    else:
        make_workload = peer_workload
        backend = get_backend("numpy", "cpu", "float32", "exact")
    model: Any = (
        make_block(case.work, case.model, backend, Path(path))
        if case.is_block
        else load(path, backend=backend)
    )
    workload = make_workload(case, model, case.make_inputs(model))
    del model  # each workload keeps what it needs
    before = reset_peak()
    result = workload.run()
    workload.synchronize()
    peak = resident_bytes("VmHWM")
    if case.is_block:
        np.save(output, workload.to_numpy(result))
    else:
        result[0].save(output)
    sys.stdout.write(json.dumps({"peak": peak, "before": before}) + "\n")


def reset_peak() -> int:
    """Release freed memory, restart the kernel's peak counter, and return the resident bytes.

    Kernels without a resettable counter report the peak of the whole process.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with contextlib.suppress(OSError):
        CLEAR_REFS.write_text("5")
    return resident_bytes("VmRSS")


def resident_bytes(field: str) -> int:
    """Return the resident memory in bytes: now ("VmRSS") or at its peak ("VmHWM")."""
    with contextlib.suppress(OSError):
        match = re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text())
        if match:
            return 1024 * int(match[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def diffusers(folder: str, output: str) -> None:
    """Generate the image described by `folder` (see `compare.save_diffusers`).

    It is the peer of `ldmref txt2img` with the embedded model: the same networks, token ids, noise,
    sampler and guidance.
    """
    import importlib

    import numpy as np
    import torch
    from PIL import Image
    from transformers import CLIPTextModel

    library: Any = importlib.import_module("diffusers")
    unet = library.UNet2DConditionModel.from_pretrained(f"{folder}/unet").eval()
    vae = library.AutoencoderKL.from_pretrained(f"{folder}/vae").eval()
    text_encoder: Any = CLIPTextModel.from_pretrained(f"{folder}/text_encoder").eval()
    scheduler = library.DPMSolverMultistepScheduler.from_pretrained(f"{folder}/scheduler")
    inputs = np.load(f"{folder}/inputs.npz")
    cfg_scale = float(inputs["cfg_scale"])
    with torch.inference_mode():
        context = text_encoder(torch.from_numpy(inputs["token_ids"])).last_hidden_state
        # the embedded model adds the last token to the time embedding
        labels = context[:, -1] if unet.config.class_embed_type else None
        scheduler.set_timesteps(int(inputs["steps"]))
        x: Any = torch.from_numpy(inputs["latents"]) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            x2 = scheduler.scale_model_input(torch.cat([x, x]), t)
            uncond, cond = unet(x2, t, context, class_labels=labels).sample.chunk(2)
            x = scheduler.step(uncond + cfg_scale * (cond - uncond), t, x).prev_sample
        y = vae.decode(x / vae.config.scaling_factor).sample
    pixels = ((y[0] / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(output)


if __name__ == "__main__":
    {"memory": memory, "diffusers": diffusers}[sys.argv[1]](*sys.argv[2:])
