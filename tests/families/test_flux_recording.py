"""Live pipelines of Flux.1, whose latents are tokens: right runs are right, faults are named."""

from __future__ import annotations

import numpy as np
import pytest

import ldmref
from ldmref.locate import diff_traces

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
from flux_networks import make_pipeline  # noqa: E402
from sd3_networks import make_pipeline as make_sd3  # noqa: E402

PROMPT = "a red cat"
SIZE = {"width": 24, "height": 16}


@pytest.fixture(scope="module", params=[True, False], ids=["dev", "schnell"])
def made(request, tmp_path_factory):
    """(diffusers' pipeline, our model of the same weights)."""
    pipe = make_pipeline(request.param)
    folder = tmp_path_factory.mktemp("flux") / "model"
    pipe.save_pretrained(folder)
    return pipe, ldmref.load(folder, dtype="float32")


DEV = pytest.mark.parametrize("made", [True], indirect=True, ids=["dev"])


def record(pipe, folder, **options):
    """Return the trace of a run."""
    options = {"num_inference_steps": 2, **SIZE} | options
    with ldmref.recording(pipe, folder) as found:
        pipe(PROMPT, generator=torch.Generator().manual_seed(5), **options)
    return found.trace


def wrong(report):
    return [(row.call, row.layer or row.kind) for row in report.rows if row.verdict == "differs"]


def test_a_right_run_is_right(made, tmp_path):
    """With a schedule that depends on the tokens, and with guidance by a second prediction."""
    pipe, model = made
    guided = pipe.transformer.config.guidance_embeds
    options = {} if guided else {"true_cfg_scale": 3.0, "negative_prompt": "dog"}
    options["num_inference_steps"] = 2 if guided else 1
    trace = record(pipe, tmp_path / "trace", guidance_scale=2.5, **options)
    report = diff_traces(trace, model)
    assert report.equal, (wrong(report), report.gaps)
    assert report.counts()["equal"] > 250
    shapes = {name: x.shape for name, x in trace.tensors.items()}
    for name in ("initial//output", "transformer.000//input.sample", "transformer.001//output",
                 "sampler.000//input.model_output", "sampler.000//output"):  # fmt: skip
        assert shapes[name] == (1, 4, 8, 12), name
    assert trace.tensors["transformer.000//input.timestep"] == pytest.approx(1000.0)
    assert trace.manifest["params"]["prompt"] == PROMPT
    assert trace.manifest["params"].get("negative_prompt") == (None if guided else "dog")


@DEV
@pytest.mark.parametrize(
    "options",
    [
        {"num_images_per_prompt": 2},
        {"sigmas": [1.0, 0.7, 0.2], "num_inference_steps": 3},
        {"width": 16, "height": 48, "num_inference_steps": 1},
    ],
    ids=["two images", "own levels", "another size"],
)
def test_other_right_runs(made, tmp_path, options):
    report = diff_traces(record(made[0], tmp_path / "trace", **options), made[1])
    assert not wrong(report) and report.counts()["equal"] > 100


@DEV
def test_an_image_to_image_run(made, tmp_path):
    pipe, model = made
    other = diffusers.FluxImg2ImgPipeline(**pipe.components)
    other.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    trace = record(other, tmp_path / "trace", image=image, strength=0.6, num_inference_steps=4)
    assert trace.tensors["initial//output"].shape == (1, 4, 8, 12)
    report = diff_traces(trace, model)
    assert not wrong(report)
    assert [row.verdict for row in report.rows if row.kind == "add_noise"] == ["equal"]


@DEV
def test_a_run_that_keeps_a_part_of_an_image(made, tmp_path):
    """The kept part is noised again after each step, and put back."""
    pipe, model = made
    other = diffusers.FluxInpaintPipeline(**pipe.components)
    other.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 16, 24)
    mask[..., :8] = 1.0
    options = {"image": image, "mask_image": mask, "strength": 0.75, "num_inference_steps": 4}
    report = diff_traces(record(other, tmp_path / "trace", **options), model)
    assert not wrong(report)
    assert [row.verdict for row in report.rows if row.kind == "add_noise"].count("equal") >= 3


@DEV
def test_two_runs_in_one_block(made, tmp_path):
    """The second prompt is not the negative prompt of the first."""
    pipe = made[0]
    with ldmref.recording(pipe, tmp_path / "trace") as found:
        for prompt in (PROMPT, "a dog"):
            pipe(prompt, num_inference_steps=1, output_type="latent", **SIZE)
    params = found.trace.manifest["params"]
    assert params["prompt"] == "a dog" and "negative_prompt" not in params


@DEV
@pytest.mark.parametrize(
    ("layer", "change"),
    [
        ("transformer_blocks.1.ff_context", lambda x: x * 1.01),
        ("transformer_blocks.0.attn.to_add_out", lambda x: -x),
        ("single_transformer_blocks.1.proj_mlp", lambda x: x + 0.1),
        ("time_text_embed.guidance_embedder.linear_2", lambda x: x + 0.1),
        ("proj_out", lambda x: 0.9 * x),
    ],
)
def test_a_wrong_layer_is_named(made, tmp_path, layer, change):
    pipe, model = made
    module = pipe.transformer.get_submodule(layer)
    hook = module.register_forward_hook(lambda module, args, output: change(output))
    try:
        trace = record(pipe, tmp_path / "trace", num_inference_steps=1)
    finally:
        hook.remove()
    report = diff_traces(trace, model)
    assert {row.layer for row in report.rows if row.verdict == "differs"} == {layer}


@DEV
def test_a_time_that_is_multiplied_twice_is_named(made, tmp_path):
    """The pipeline divides by 1000 what its transformer multiplies again."""
    pipe, model = made
    hook = pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: (args, kwargs | {"timestep": 1000 * kwargs["timestep"]}),
        with_kwargs=True,
    )
    try:
        trace = record(pipe, tmp_path / "trace", num_inference_steps=1)
    finally:
        hook.remove()
    causes = {row.cause for row in diff_traces(trace, model).rows if row.verdict == "differs"}
    assert causes == {"the timestep is scaled by 1000"}


def test_a_schedule_of_ones_own_levels_is_shifted(tmp_path):
    """By the scheduler, also where the shift is constant."""
    pipe = make_sd3("3 medium")
    pipe.save_pretrained(tmp_path / "model")
    own = [1.0, 0.6, 0.1]
    trace = record(pipe, tmp_path / "trace", sigmas=own, num_inference_steps=3)
    assert np.allclose(trace.tensors["schedule//input.sigmas"], own)
    report = diff_traces(trace, ldmref.load(tmp_path / "model", dtype="float32"))
    assert not wrong(report)
