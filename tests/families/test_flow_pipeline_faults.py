"""Faults between the networks of SD3's pipeline: `ldmref diff` names each with its words."""

from __future__ import annotations

import re

import pytest

import ldmref
from ldmref.locate import diff_traces

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
from sd3_networks import make_pipeline  # noqa: E402


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
        change_scales(scaling_factor=1.0, shift_factor=0.0), "latents = 1 x + "),
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
    "shift-of-flux": (
        change_scales(shift_factor=0.1159), "shift factor 0.1159 instead of 0.0609"),
}  # fmt: skip


def judge(pipe, folder, trace):
    with ldmref.recording(pipe, trace) as recorded:
        pipe("a red cat", generator=torch.Generator().manual_seed(5), num_inference_steps=3)
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
