"""Golden traces equal what diffusers computes from the same weights, tokens and noise."""

from itertools import count

import numpy as np
import pytest

from ldmref.cases import golden_model, make_suite
from ldmref.cases.files import SuiteReader
from ldmref.cases.trace_runs import SIDE
from ldmref.trace import load_trace

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
from benchmarks.peers import peer_network  # noqa: E402

FAMILIES = ("sd15", "sd2-base", "sd2-v", "sdxl")
SCHEDULERS = {
    "ddim": (diffusers.DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}),
    "pndm": (diffusers.PNDMScheduler, {"skip_prk_steps": True, "set_alpha_to_one": False}),
    "euler": (diffusers.EulerDiscreteScheduler, {"timestep_spacing": "leading"}),
    "euler_a": (diffusers.EulerAncestralDiscreteScheduler, {"timestep_spacing": "leading"}),
}
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction"}
NOISE_SOURCES = (
    "schedulers.scheduling_euler_ancestral_discrete",
    "schedulers.scheduling_euler_discrete",
    "pipelines.stable_diffusion.pipeline_stable_diffusion_img2img",
)
RUNS = (
    "sd15.txt2img.ddim",
    "sd15.txt2img.euler_a",
    "sd15.img2img.ddim",
    "sd15.inpaint.ddim",
    "sd2-base.txt2img.pndm",
    "sd2-v.txt2img.ddim",
    "sd2-v.txt2img.euler_a",
    "sdxl.txt2img.euler",
    "sdxl.txt2img.euler_a",
)


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return make_suite(tmp_path_factory.mktemp("cases") / "sd", ("traces",), FAMILIES)


def make_scheduler(case):
    kind, options = SCHEDULERS[case.attributes["sampler"]]
    return kind(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        prediction_type=PREDICTIONS[case.attributes["prediction_type"]],
        **options,
    )


def make_pipeline(case, model):
    """Return a pipeline of Stable Diffusion 1 or 2 in float64."""
    names = ("text_encoder", "unet", "vae")
    kinds = {
        "txt2img": diffusers.StableDiffusionPipeline,
        "img2img": diffusers.StableDiffusionImg2ImgPipeline,
        "inpaint": diffusers.StableDiffusionInpaintPipeline,
    }
    return kinds[case.kind](
        **{name: peer_network(name, model).double() for name in names},
        **dict.fromkeys(("tokenizer", "safety_checker", "feature_extractor")),
        scheduler=make_scheduler(case),
        requires_safety_checker=False,
    )


def make_xl_pipeline(case, model):
    """Return a pipeline of Stable Diffusion XL in float64, without text encoders."""
    names = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    return diffusers.StableDiffusionXLPipeline(
        unet=peer_network("unet", model).double(),
        vae=peer_network("vae", model).double(),
        **dict.fromkeys(names),
        scheduler=make_scheduler(case),
        add_watermarker=False,
    )


def record(pipe):
    """Record inputs and outputs of a pipeline's networks under the names of a trace."""
    found = {}
    forward = pipe.unet.forward
    decode = pipe.vae.decode
    calls = count()

    def unet(sample, timestep, encoder_hidden_states, **options):
        name = f"unet.{next(calls):03}"
        output = forward(sample, timestep, encoder_hidden_states, **options)
        found[f"{name}//input.sample"] = sample
        found[f"{name}//input.timestep"] = timestep.double().reshape(1).expand(len(sample))
        found[f"{name}//input.encoder_hidden_states"] = encoder_hidden_states
        for key, x in (options["added_cond_kwargs"] or {}).items():
            found[f"{name}//input.{key}"] = x
        found[f"{name}//output"] = output[0]
        return output

    def vae(z, **options):
        output = decode(z, **options)
        found["vae.decode//input.latents"] = z
        found["vae.decode//output"] = output[0]
        return output

    pipe.unet.forward = unet
    pipe.vae.decode = vae
    return found


def encode_texts(pipe, case, given):
    """Return the arguments of a pipeline that stand for its prompts."""
    if case.name.startswith("sdxl"):
        context = given["unet.000//input.encoder_hidden_states"]
        pooled = given["unet.000//input.text_embeds"]
        return {
            "negative_prompt_embeds": context[:1],
            "prompt_embeds": context[1:],
            "negative_pooled_prompt_embeds": pooled[:1],
            "pooled_prompt_embeds": pooled[1:],
        }
    calls = {"prompt_embeds": "text_encoder", "negative_prompt_embeds": "text_encoder~1"}
    return {
        key: pipe.text_encoder(given[f"{call}//input.input_ids"]).last_hidden_state
        for key, call in calls.items()
    }


def generate(pipe, case, given, monkeypatch):
    """Run a pipeline on the tokens and the noise of a golden trace."""
    names = [x.name for x in case.inputs if x.name.startswith("sampler")]
    if case.kind == "img2img":
        names = ["noise"]
    unused = torch.zeros(())  # of the last step
    noises = iter([*(given[name] for name in names), unused])
    for module in NOISE_SOURCES:
        monkeypatch.setattr(f"diffusers.{module}.randn_tensor", lambda *_, **__: next(noises))
    options = {
        "num_inference_steps": case.attributes["steps"],
        "guidance_scale": case.attributes["cfg_scale"],
    }
    with torch.inference_mode():
        if case.kind != "txt2img":
            mean = pipe.vae.encode(given["vae.encode//input.image"]).latent_dist.mean
            options["image"] = mean * pipe.vae.config.scaling_factor
        if case.kind == "img2img":
            options["strength"] = case.attributes["strength"]
        else:
            options["latents"] = given["noise"]
            options["height"] = case.attributes.get("height", SIDE)
            options["width"] = case.attributes.get("width", SIDE)
        if case.kind == "inpaint":
            options["mask_image"] = given["mask"]
            options["masked_image_latents"] = torch.zeros_like(given["noise"])  # unused
        pipe.set_progress_bar_config(disable=True)
        pipe(**encode_texts(pipe, case, given), **options, output_type="np")


@pytest.mark.parametrize("name", RUNS)
def test_a_golden_trace_equals_what_diffusers_computes(suite, name, monkeypatch):
    case = suite.cases[name]
    trace = load_trace(suite.folder / case.path)
    given = {key: torch.from_numpy(np.array(x)) for key, x in trace.tensors.items()}
    given = {key: x.double() if x.is_floating_point() else x for key, x in given.items()}
    model = golden_model(name.partition(".")[0])
    make = make_xl_pipeline if name.startswith("sdxl") else make_pipeline
    pipe = make(case, model)
    found = record(pipe)
    generate(pipe, case, given, monkeypatch)
    want = SuiteReader(suite).outputs(case)
    expected = [x for x in case.outputs if x.name.startswith(("unet", "vae.decode"))]
    assert len(expected) >= 12
    for tensor in expected:
        error = np.abs(found[tensor.name].numpy() - want[tensor.name]).max()
        assert error <= tensor.tolerance["float32"][0], tensor.name
