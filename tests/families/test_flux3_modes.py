"""FLUX.3 in every mode: where the steps of its flow map lead, and what such a model refuses."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.apps.server.native import describe_model
from ldmref.cases import golden_model
from ldmref.errors import UsageError
from ldmref.families.flux3.references import find_canvas, prepare_reference
from ldmref.families.flux3.text import find_windows
from ldmref.models import preset
from ldmref.models.family import with_text_length
from ldmref.samplers import SAMPLERS, make_schedule

SIZE = {"width": 16, "height": 16}
PROMPT = "a red cat"


@pytest.fixture(scope="module")
def distilled():
    return golden_model("flux3-klein")


@pytest.fixture(scope="module")
def image():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def read_times(trace):
    """Return the times and the ends of all calls of the transformer."""
    calls = [call for call in trace.calls if call.startswith("transformer.")]
    entries = [trace.find(call, "") for call in calls]
    return [
        [float(trace.tensors[entry.inputs[role]].ravel()[0]) for entry in entries]
        for role in ("timestep", "target_timestep")
    ]


def list_requests(image):
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (0, 0, 8, 16))
    changed = {"image": image, "strength": 0.5, "steps": 6}
    return {
        "txt2img": SIZE | {"steps": 3},
        "img2img": changed,
        "inpaint": changed | {"mask": mask},
    }


@pytest.mark.parametrize("mode", ["txt2img", "img2img", "inpaint"])
def test_each_step_reads_where_it_leads(distilled, image, mode, tmp_path):
    """Also where a run begins at the level of its strength; the last step leads to 0."""
    request = list_requests(image)[mode]
    with ldmref.recording(distilled, tmp_path / "trace") as trace:
        getattr(modes, mode)(distilled, PROMPT, seed=1, **request)
    times, ends = read_times(trace.trace)
    levels = [*dict.fromkeys(times), 0.0]
    assert len(levels) > 2
    following = dict(pairwise(levels))
    assert ends == [following[time] for time in times]
    euler = SAMPLERS["euler"]
    whole = make_schedule(distilled.config.scheduler, euler, None, request["steps"]).timesteps
    begin = 1000.0 * request.get("strength", 1.0)
    assert times[0] == begin and len({*times}) == len(whole)


def test_an_edit_between_equal_prompts_changes_nothing(distilled, image):
    """Both maps lead to the same level."""
    found = modes.edit(distilled, "a dog", image, "a dog", steps=4, seed=1).latents
    known = distilled.encode_image(np.asarray(image).transpose(2, 0, 1)[None] / 127.5 - 1.0)
    assert np.abs(found - known).max() < 1e-5


def test_outside_of_a_run_the_velocity_is_that_at_a_time(distilled):
    """Any step may then use the model."""
    x = np.random.default_rng(0).standard_normal((1, 16, 4, 4)).astype(np.float32)
    denoise = ldmref.denoiser(distilled, PROMPT)
    context = modes.text.encode_conditioning(distilled, [PROMPT], (16, 16))
    t = np.asarray([500.0], np.float32)
    velocity = distilled.predict(x, t, context)
    assert np.abs(denoise(x, 0.5) - (x - 0.5 * velocity)).max() < 1e-5
    more = {**context.more, "t_next": np.asarray([100.0], np.float32)}
    other = distilled.predict(x, t, context._replace(more=more))
    assert np.abs(other - velocity).max() > 1e-3


REFUSED = {
    "cfg_scale": ({"cfg_scale": 3.0}, "takes no cfg_scale=3"),
    "negative": ({"negative_prompt": "blur"}, "takes no negative_prompt"),
    "guidance": ({"guidance": "rescale"}, "takes no guidance=rescale"),
    "sampler": ({"sampler": "heun"}, "sampler 'heun' is no flow map"),
    "second": ({"sampler": "euler_cfgpp"}, "sampler 'euler_cfgpp' is no flow map"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_guides_or_divides_steps_is_refused(distilled, case):
    request, message = REFUSED[case]
    with pytest.raises(UsageError, match=message) as caught:
        modes.plan("txt2img", distilled, prompt=PROMPT, **request)
    assert caught.value.hint and "\n" not in str(caught.value)


def test_ways_up_to_noise_are_refused(distilled, image):
    with pytest.raises(UsageError, match="from noise to images alone"):
        modes.plan("invert", distilled, prompt=PROMPT, image=image)
    edit = {"prompt": PROMPT, "image": image, "source_prompt": "a dog"}
    with pytest.raises(UsageError, match="from noise to images alone"):
        modes.plan("edit", distilled, method="rf_inversion", **edit)
    with pytest.raises(UsageError, match="takes no source_cfg_scale=2"):
        modes.plan("edit", distilled, source_cfg_scale=2.0, **edit)


@pytest.mark.parametrize("sampler", sorted(n for n, s in SAMPLERS.items() if s.jumps))
def test_samplers_that_jump_are_taken(distilled, sampler):
    made = modes.txt2img(distilled, PROMPT, seed=1, steps=2, sampler=sampler, **SIZE)
    assert np.isfinite(made.latents).all()


def test_the_server_offers_what_the_model_can(distilled):
    assert "invert" not in describe_model("small", distilled)["modes"]
    base = ldmref.random_model("flux3-tiny")
    assert {"img2img", "inpaint", "invert"} <= {*describe_model("base", base)["modes"]}


@pytest.mark.parametrize(
    ("name", "steps", "levels"),
    [
        ("flux3-klein", 16, {1: 0.99047, 8: 0.87390, 15: 0.31601}),
        ("flux3-klein-base", 50, {1: 0.99706, 25: 0.87390, 49: 0.12390}),
    ],
)
def test_noise_levels(name, steps, levels):
    """a t / (1 + (a - 1) t) with a = 6.93."""
    config = preset(name)
    assert config.defaults.steps == steps
    sigmas = make_schedule(config.scheduler, SAMPLERS["euler"], None, steps).sigmas
    assert {i: round(float(sigmas[i]), 5) for i in levels} == levels


def test_windows_of_prompts():
    mask = np.arange(200)[None, None] < np.asarray([[[1]], [[80]], [[81]], [[170]]])
    assert find_windows(mask.astype(np.int64)).sum(axis=2).ravel().tolist() == [80, 80, 160, 200]


@pytest.mark.parametrize(
    ("size", "scaled", "canvas"),
    [
        ((1024, 768), (1024, 768), (1024, 768)),
        ((37, 21), (37, 21), (64, 64)),
        ((1001, 999), (1001, 999), (1008, 1008)),
        ((9000, 20), (4096, 9), (4096, 64)),
    ],
)
def test_canvas_of_a_single_reference(size, scaled, canvas):
    assert find_canvas(*size) == (scaled, canvas)
    columns, rows = find_canvas(4096, 4095)[1]
    assert columns * rows <= 4 * 1024**2


@pytest.mark.parametrize("size", [(37, 21), (15, 70), (64, 90), (1500, 1100), (2500, 1800)])
@pytest.mark.parametrize("count", [1, 2])
def test_references_are_prepared_as_in_diffusers(size, count):
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    from diffusers.modular_pipelines.flux3.image_processor import Flux3ImageProcessor

    small = np.random.default_rng(1).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    photo = Image.fromarray(small).resize(size)
    mode = "fill" if count == 1 else "crop"
    if count == 2 and min(size) < 16:
        return  # diffusers crops such an image to nothing
    theirs, _ = Flux3ImageProcessor().preprocess(photo, resize_mode=mode)
    ours = np.asarray(prepare_reference(photo, count)).transpose(2, 0, 1) / 127.5 - 1.0
    assert np.abs(ours - theirs[0].numpy()).max() < 1e-6


def test_the_longest_prompt_of_flux3():
    """The makers' 4096 tokens; diffusers' pipeline has 8192 by default."""
    config = preset("flux3-klein")
    assert config.text_encoder.max_position_embeddings == 4096
    assert with_text_length(config, 8192).text_encoder.max_position_embeddings == 8192
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    from diffusers.modular_pipelines.flux3.encoders import Flux3TextEncoderStep

    [theirs] = [x for x in Flux3TextEncoderStep().inputs if x.name == "max_sequence_length"]
    assert theirs.default == 8192
