"""Faults between the networks of SD3's pipeline: `ldmref diff` names each with its words."""

from __future__ import annotations

import re

import pytest

import ldmref
from ldmref.locate import diff_traces

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
from sd3_networks import make_pipeline  # noqa: E402

from ldmref.math import beta_sigmas, exponential_sigmas, karras_sigmas  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd3") / "model"
    make_pipeline("3 medium", with_t5=False).save_pretrained(folder)
    return folder


def change_class(thing, **members):
    """Give an object a subclass of its class."""
    thing.__class__ = type(type(thing).__name__, (type(thing),), members)


def change_levels(change):
    """Return a port whose levels are changed after the scheduler made them."""

    def make(pipe):
        base = type(pipe.scheduler).set_timesteps

        def set_timesteps(self, *args, **kwargs):
            base(self, *args, **kwargs)
            sigmas = change(self.sigmas[:-1])
            self.sigmas = torch.cat([sigmas, torch.zeros(1)])
            self.timesteps = sigmas * 1000

        change_class(pipe.scheduler, set_timesteps=set_timesteps)

    return make


def give_the_last_time(pipe):
    change_time(lambda t: torch.full_like(t, float(pipe.scheduler.timesteps[-1])))(pipe)


def change_step(change):
    """Return a port whose steps read the prediction in another way."""

    def make(pipe):
        base = type(pipe.scheduler).step

        def step(self, model_output, timestep, sample, **kwargs):
            return base(
                self, change(model_output, sample, timestep / 1000), timestep, sample, **kwargs
            )

        change_class(pipe.scheduler, step=step)

    return make


def change_input(name, change):
    """Return a port that gives the transformer another array."""

    def make(pipe):
        def hook(module, args, kwargs):
            return args, {**kwargs, name: change(kwargs[name])}

        pipe.transformer.register_forward_pre_hook(hook, with_kwargs=True, prepend=True)

    return make


def change_time(change):
    """Return a port that gives the transformer other times."""
    return change_input("timestep", change)


def change_text(change):
    return change_input("encoder_hidden_states", change)


def change_pooled(change):
    return change_input("pooled_projections", change)


def read_hidden_state(number):
    """Return a port that reads another hidden state of CLIP's encoders."""

    def make(pipe):
        for encoder in (pipe.text_encoder, pipe.text_encoder_2):
            encoder.register_forward_hook(lambda module, args, result: read(result))

    def read(result):
        states = list(result.hidden_states)
        states[-2] = states[number]
        result["hidden_states"] = tuple(states)
        return result

    return make


def ask_for_scale(scale):
    """Return a port that guides by a scale of its own."""
    return lambda pipe: change_class(pipe, guidance_scale=property(lambda self: scale))


def drop_setting(pipe):
    """Write a shift into the configuration that the scheduler does not read."""
    pipe.scheduler.register_to_config(shift=5.0)


def spaced(space, least, shift):
    """Return a port that spaces its levels as a diffusion model does, and then shifts them."""
    return change_levels(
        lambda s: shifted(torch.tensor(space(len(s), least, 1.0), dtype=torch.float32), shift)
    )


def normalise_channels(pipe):
    """Decode latents that were divided by a deviation of each channel (BatchNorm's, std ~ 1.77)."""
    decode = pipe.vae.decode
    std = torch.tensor([1.71, 1.77, 1.8, 1.86])[:, None, None]
    mean = torch.tensor([0.1, -0.2, 0.05, 0.3])[:, None, None]
    pipe.vae.decode = lambda z, **options: decode((z - mean) / std, **options)


def exchange(x, first, both):
    """Exchange two parts of the width."""
    return torch.cat([x[..., first:both], x[..., :first], x[..., both:]], dim=-1)


def change_scales(**settings):
    """Return a port that decodes latents with other scales."""
    return lambda pipe: pipe.vae.register_to_config(**settings)


def shifted(sigmas, by):
    return by * sigmas / (1 + (by - 1) * sigmas)


CASES = {
    "shifted-twice": (change_levels(lambda s: shifted(s, 3.0)), "the levels are shifted twice"),
    "not-shifted": (change_levels(lambda s: shifted(s, 1 / 3)), "shift 1 instead of shift 3"),
    "vllm-omni-5302-another-mu": (
        change_levels(lambda s: shifted(s, 1.7)), "shift 5.1 instead of 3"),
    "UniRL-251-truncated": (
        change_time(lambda t: t.floor()), "the timestep is truncated to a whole number"),
    "sd-scripts-2215-reversed": (
        change_time(lambda t: 1000 - t), "the timestep t is 1000 - t"),
    "divided-by-1000": (change_time(lambda t: t / 1000), "the timestep is scaled by 1/1000"),
    "sign": (change_step(lambda v, x, t: -v), "the sign of the prediction (flow) is reversed"),
    "read-as-x0": (
        change_step(lambda v, x, t: (x - v) / t), "the prediction is read as x0 instead of flow"),
    "diffusers-8887-shift-factor": (
        change_scales(shift_factor=0.0), "the shift factor is missing"),
    "scale-of-flux": (
        change_scales(scaling_factor=0.3611), "scaling factor 0.3611 instead of 1.5305"),
    "mflux-273-another-index": (give_the_last_time, "the timestep of the next step"),
    "miles-diffusion-89-rebuilt-levels": (
        change_levels(lambda s: (1000 * s).round() / 1000), "the levels are made of whole"),
    "diffusers-13730-level-0": (
        change_levels(lambda s: shifted(torch.linspace(1, 0, len(s)), 3.0)),
        "the last evaluation is at level 0"),
    "Hunyuan3D-8-ascending": (
        change_levels(lambda s: s.flip(0)), "the timesteps are in increasing order"),
    "TensorRT-LLM-16889-reciprocal": (
        change_scales(scaling_factor=1 / 1.5305), "multiplied by the scaling factor instead of"),
    "taesd-35-outside-of-the-autoencoder": (
        change_scales(scaling_factor=1.0, shift_factor=0.0), "scale and shift are missing"),
    "diffusers-12295-other-tokens": (
        change_text(lambda x: x.roll(1, 1)), "the tokens are one place later"),
    "diffusers-13377-guidance-off": (
        change_text(lambda x: x[1:].repeat(2, 1, 1)), "both halves are those of the prompt"),
    "exchanged-halves": (
        change_text(lambda x: x.flip(0)), "prompt and negative prompt are exchanged"),
    "no-text": (change_text(torch.zeros_like), "the text is zero"),
    "order-of-the-encoders": (
        change_text(lambda x: exchange(x, 16, 36)), "the text encoders are joined in another"),
    "no-pooled-text": (change_pooled(torch.zeros_like), "the pooled text is zero"),
    "pooled-order": (
        change_pooled(lambda x: exchange(x, 16, 24)), "the text encoders are joined in another"),
    "UniRL-371-scale-of-the-configuration": (ask_for_scale(3.0), "guidance scale 3 instead of 7"),
    "UniRL-371-shift-of-the-configuration": (drop_setting, "shift 3 instead of shift 5"),
    "stable-diffusion.cpp-1697-karras": (
        spaced(karras_sigmas, 1e-3, 1.0), "spacing karras instead of flow_table, without the"),
    "stable-diffusion.cpp-1697-exponential": (
        spaced(exponential_sigmas, 1e-3, 1.0), "spacing exponential instead of flow_table, with"),
    "stable-diffusion.cpp-1697-shifted-after": (
        spaced(beta_sigmas, 1e-3, 3.0), "spacing beta instead of flow_table, shifted afterwards"),
    "diffusers-13445-hidden-state": (
        read_hidden_state(-1), "equals hidden state 3 instead of 2: the output of"),
    "diffusers-13445-embeddings": (
        read_hidden_state(0), "equals hidden state 0 instead of 2: the output of"),
    "LightX2V-1181-normalised-channels": (
        normalise_channels, "each channel is scaled and shifted: channel 0 is 0.5848 x - 0.05848"),
    "shift-of-flux": (
        change_scales(shift_factor=0.1159), "shift factor 0.1159 instead of 0.0609"),
}  # fmt: skip


def judge(pipe, folder, trace, **arguments):
    arguments = {"num_inference_steps": 3} | arguments
    with ldmref.recording(pipe, trace) as recorded:
        pipe("a red cat", generator=torch.Generator().manual_seed(5), **arguments)
    report = diff_traces(recorded.trace, ldmref.load(folder, dtype="float32"))
    return {(re.sub(r"[.~]\d+$", "", row.call), row.kind): row.cause for row in report.faults}


def test_the_right_pipeline_has_no_fault(folder, tmp_path):
    assert not judge(make_pipeline("3 medium", with_t5=False), folder, tmp_path / "trace")


@pytest.mark.parametrize(("make", "words"), CASES.values(), ids=CASES)
def test_a_fault_between_the_networks_is_named(folder, tmp_path, make, words):
    pipe = make_pipeline("3 medium", with_t5=False)
    make(pipe)
    found = judge(pipe, folder, tmp_path / "trace")
    assert found and any(words in cause for cause in found.values()), found


def test_another_end_of_sd3_is_reasonable_and_not_sd3(folder, tmp_path):
    """diffusers#13243; three levels would also be those of another spacing."""
    pipe = make_pipeline("3 medium", with_t5=False)
    change_levels(lambda s: shifted(torch.linspace(1, 1e-3, len(s)), 3.0))(pipe)
    with ldmref.recording(pipe, tmp_path / "trace") as recorded:
        pipe("a cat", generator=torch.Generator().manual_seed(5), num_inference_steps=4)
    report = diff_traces(recorded.trace, ldmref.load(folder, dtype="float32"))
    marked = [row for row in report.faults if row.reasonable]
    assert {row.kind for row in marked} == {"sigmas", "timesteps"}
    assert all("huggingface/diffusers#13243" in row.reasonable for row in marked)
    assert {row.cause for row in marked} == {
        "the end of the levels is shifted once instead of twice"
    }


def change_noise(change):
    """Return a port whose scheduler adds noise to the latents of an image in another way.

    Args:
        change: Function `change(scale_noise, sample, noise, timestep)`.
    """

    def make(pipe):
        base = type(pipe.scheduler).scale_noise

        def scale_noise(self, sample, timestep=None, noise=None):
            return change(
                lambda x, eps: base(self, x, timestep, eps), sample, noise, timestep / 1000
            )

        change_class(pipe.scheduler, scale_noise=scale_noise)

    return make


STD = (1.71, 1.77, 1.8, 1.86)
NOISES = {
    "InvokeAI-9556-divided": (
        lambda mix, x, eps, t: mix(x, eps / 1.77), "the noise is multiplied by 0.565"),
    "InvokeAI-9556-divided-by-channel": (
        lambda mix, x, eps, t: mix(x, (eps - 0.2) / torch.tensor(STD)[:, None, None]),
        "the noise is multiplied by 0.5376 to 0.5848 by channel; "),
    "exchanged": (lambda mix, x, eps, t: mix(eps, x), "image and noise are exchanged"),
    "not-added": (lambda mix, x, eps, t: x, "the noise is not added"),
    "as-sigma": (lambda mix, x, eps, t: x + t * eps, "x0 is not multiplied by 1 - sigma"),
    "as-diffusion": (
        lambda mix, x, eps, t: (1 - t**2) ** 0.5 * x + t * eps, "added variance-preserving"),
    "diffusers-8887-not-scaled": (
        lambda mix, x, eps, t: mix(x / 1.5305, eps), "the image is multiplied by 0.6534"),
}  # fmt: skip


@pytest.mark.parametrize("change", [None, *NOISES.values()], ids=["right", *NOISES])
def test_noise_that_is_added_to_an_image_is_judged(folder, tmp_path, change):
    pipe = make_pipeline("3 medium", with_t5=False)
    if change is not None:
        change_noise(change[0])(pipe)
    pipe = diffusers.StableDiffusion3Img2ImgPipeline(**pipe.components)
    pipe.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    options = {"image": image, "strength": 0.6, "num_inference_steps": 4}
    found = judge(pipe, folder, tmp_path / "trace", **options)
    if change is None:
        assert not found
    else:
        assert found.keys() == {("add_noise", "add_noise")}
        assert change[1] in found["add_noise", "add_noise"]
