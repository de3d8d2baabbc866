"""Every number of a call of diffusers' pipelines means at 0 and 1 what it means there."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ldmref.compat.diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

TASKS = {
    "": StableDiffusionPipeline,
    "Img2Img": StableDiffusionImg2ImgPipeline,
    "Inpaint": StableDiffusionInpaintPipeline,
}
REFUSED = "refused"
ROWS = {  # the value -> whether both give the same image, or ours refuses what fails there
    "clip_skip": {0: True, 1: True},
    "eta": {0: True, 1: True},
    "guidance_rescale": {0: True, 1: True},
    "guidance_scale": {0: True, 1: True},
    "height": {0: True, 1: REFUSED},
    "num_images_per_prompt": {0: REFUSED, 1: True},
    "num_inference_steps": {0: REFUSED, 1: True},
    "padding_mask_crop": {0: True, 1: True},
    "strength": {0: REFUSED, 1: True},
    "width": {0: True, 1: REFUSED},
}
# Arguments that are no numbers, or whose default alone is supported
OTHERS = {
    "callback_on_step_end",
    "callback_on_step_end_tensor_inputs",
    "callback",
    "callback_steps",
    "cross_attention_kwargs",
    "generator",
    "image",
    "ip_adapter_image",
    "ip_adapter_image_embeds",
    "latents",
    "mask_image",
    "masked_image_latents",
    "negative_prompt",
    "negative_prompt_embeds",
    "output_type",
    "prompt",
    "prompt_embeds",
    "return_dict",
    "sigmas",
    "timesteps",
}
CASES = [  # each name in the first task that has it
    (next(task for task, cls in TASKS.items() if name in cls.parameters), name, value)
    for name in ROWS
    for value in (0, 1)
]


def test_every_argument_has_a_row():
    for cls in TASKS.values():
        assert {*cls.parameters} - OTHERS - {*ROWS} == set()


@pytest.mark.parametrize(("task", "name", "value"), CASES)
def test_0_and_1_are_those_of_diffusers(pair, photo, mask, task, name, value):
    theirs, ours = pair(task)
    text = theirs.text_encoder  # of transformers 5, which lost a level that diffusers expects
    text.text_model = SimpleNamespace(final_layer_norm=text.final_layer_norm)
    asked = {"num_inference_steps": 3, "guidance_scale": 4.0}
    asked |= {"image": photo} if task else {}
    asked |= {"mask_image": mask} if task == "Inpaint" else {}
    asked |= {"height": 16, "width": 32} if task != "Img2Img" else {"strength": 1.0}
    asked |= {name: value}
    if ROWS[name][value] == REFUSED:
        with pytest.raises(Exception, match=r"."):
            ours("red cat", **asked)
        return
    want, got = (
        pipe("red cat", generator=torch.Generator("cpu").manual_seed(3), **asked).images[0]
        for pipe in (theirs, ours)
    )
    assert want.size == got.size
    assert abs(np.asarray(want).astype(int) - np.asarray(got)).max() <= 2
