"""DiffSynth-Studio 2.1.12: the transformer of Z-Image in its pipeline's loop, in PyTorch.

Error found: the timestep is rounded to the pipeline's bfloat16 before the network subtracts it
from 1000 (pipelines/z_image.py, line 156). As published it runs in bfloat16 alone, so the repaired
port, whose embedded time has the precision of its weights, runs in float32.
"""

import sys

import torch
from diffsynth.models.z_image_dit import ZImageDiT
from diffsynth.pipelines.z_image import PipelineUnit, ZImagePipeline, model_fn_z_image
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from judged import KitInputs, distance, judge

import ldmref

dtype = torch.bfloat16 if sys.argv[-1] == "as published" else torch.float32
kit = KitInputs("z-image")
net = ZImageDiT(**{k: x for k, x in kit.config("transformer").items() if not k.startswith("_")})
net.load_state_dict({name: torch.tensor(x) for name, x in kit.weights("transformer").items()})
net.to(dtype)


class KitUnit(PipelineUnit):
    """Gives a pipeline the latents and the text of a call of the kit."""

    def __init__(self, x):
        super().__init__(take_over=True)
        self.x = x

    def process(self, pipe, inputs_shared, inputs_posi, inputs_nega):
        texts = torch.tensor(self.x["encoder_hidden_states"]).to(dtype)
        masks = torch.tensor(self.x["encoder_attention_mask"]) > 0
        for inputs, row in ((inputs_nega, 0), (inputs_posi, 1)):
            inputs["prompt_embeds"] = texts[row][masks[row]]
        inputs_shared["latents"] = torch.tensor(self.x["sample"][:1]).to(dtype)
        return inputs_shared, inputs_posi, inputs_nega


class Denoiser(torch.nn.Module):
    """What a step computes of its latents, of the time of the schedule and of the text."""

    def __init__(self):
        super().__init__()
        self.dit = net

    def forward(self, sample, timestep, encoder_hidden_states, passed):
        return model_fn_z_image(
            self.dit, latents=sample, timestep=passed, prompt_embeds=encoder_hidden_states
        )


denoiser = Denoiser()
right = ZImageTransformer2DModel.from_pretrained(kit.folder / "transformer").double()
errors = {}


def step(dit, latents, timestep, prompt_embeds, progress_id, **rest):
    """Compute a prediction of the pipeline in a call of `denoiser`."""
    time = pipe.scheduler.timesteps[progress_id][None]
    y = denoiser(latents, time, prompt_embeds, timestep)
    images, texts = [latents[0, :, None].double()], [prompt_embeds.double()]
    expected = -right(images, 1.0 - time.double() / 1000.0, texts).sample[0].numpy()
    errors[f"call {len(errors)}"] = distance(y[0, :, None].float(), expected)
    return y


pipe = ZImagePipeline(device="cpu", torch_dtype=dtype)
pipe.dit, pipe.model_fn = net, step
pipe.vae_decoder = pipe.vae_output_to_image = lambda latents: latents
options = {"height": 32, "width": 48, "cfg_scale": 5.0, "sigma_shift": 6.0}
options |= {"num_inference_steps": 50, "progress_bar_cmd": lambda times: times[:3]}
names = {f"dit.{path}": path for path, _ in net.named_modules() if path}
with ldmref.recording(denoiser, call="transformer", names=names) as run:
    for call in ("transformer.000", "transformer.002"):
        pipe.units = [KitUnit(kit.call(call)[0])]
        pipe(**options)
judge("Z-Image transformer", run.trace, kit, errors)
