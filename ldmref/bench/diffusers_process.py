"""A picture by diffusers from process start: `python diffusers_process.py FOLDER OUT.png`.

The peer of `ldmref txt2img` with the embedded model: the same networks, ids, noise, sampler and
guidance. It imports nothing of ldmref and is run as a file, so that it pays for its own parts only.
"""

import sys
from pathlib import Path
from typing import Any


def main(folder: Path, out: str) -> None:
    """Draw the picture of `folder` (see `processes.write_diffusers`) and write it."""
    import importlib

    import numpy as np
    import torch
    from PIL import Image
    from transformers import CLIPTextModel

    diffusers: Any = importlib.import_module("diffusers")
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae").eval()
    text: Any = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    scheduler = diffusers.DPMSolverMultistepScheduler.from_pretrained(folder / "scheduler")
    given = np.load(folder / "inputs.npz")
    with torch.inference_mode():
        states = text(torch.from_numpy(given["ids"])).last_hidden_state
        # the embedded model adds the last token to the time embedding
        labels = states[:, -1] if unet.config.class_embed_type else None
        scheduler.set_timesteps(int(given["steps"]))
        x: Any = torch.from_numpy(given["latents"]) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            both = scheduler.scale_model_input(torch.cat([x, x]), t)
            without, told = unet(both, t, states, class_labels=labels).sample.chunk(2)
            x = scheduler.step(without + float(given["cfg"]) * (told - without), t, x).prev_sample
        y = vae.decode(x / vae.config.scaling_factor).sample
    array = ((y[0] / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(array).save(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
