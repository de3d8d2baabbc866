"""The locator names every faulty layer or step of these ports, no other, and the cause."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from real_faults import CASES, change_class, new_scheduler
from recorded_pipelines import build, diff, names_of


def belongs(name, fault):
    return any(name == known or name.startswith(known + ".") for known in fault.names)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_every_fault_is_named_with_its_cause_and_nothing_else(case, tmp_path):
    def prepare(pipe):
        if case.scheduler:
            new_scheduler(pipe, case.scheduler, case.fields)

    pipe, model = build(case.family, tmp_path / "model", prepare)
    for fault in case.faults:
        fault.make(pipe)
    found = names_of(diff(pipe, model, tmp_path / "trace", steps=3))
    others = [name for name in found if not any(belongs(name, f) for f in case.faults)]
    assert not others
    for fault in case.faults:
        for known in fault.names:
            assert any(n == known or n.startswith(known + ".") for n in found), (known, found)
        causes = {c for name in found if belongs(name, fault) for c in found[name]}
        assert any(fault.cause in cause for cause in causes), causes


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_right_pipeline_has_no_fault(family, tmp_path):
    pipe, model = build(family, tmp_path / "model")
    report = diff(pipe, model, tmp_path / "trace", steps=2)
    assert report.equal, names_of(report)
    assert report.counts()["equal"] > 500


def test_five_cases_have_three_faults():
    assert len(CASES) == 24
    assert sum(len(case.faults) == 3 for case in CASES) == 5


SCHEDULERS = """
    EulerDiscreteScheduler DPMSolverMultistepScheduler HeunDiscreteScheduler
    EulerAncestralDiscreteScheduler UniPCMultistepScheduler LMSDiscreteScheduler DDPMScheduler
    KDPM2DiscreteScheduler DEISMultistepScheduler DDIMScheduler
""".split()


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEDULERS)
def test_steps_of_right_schedulers_have_no_fault(name, tmp_path):
    # as StableDiffusionPipeline sets it, also where it loads what `build` saves
    fields = {"clip_sample": False} if name in ("DDPMScheduler", "DDIMScheduler") else {}
    pipe, model = build("sd1", tmp_path / "model", lambda pipe: new_scheduler(pipe, name, fields))
    report = diff(pipe, model, tmp_path / "trace", steps=4)
    assert report.equal, names_of(report)
    steps = [row for row in report.rows if row.kind == "step"]
    assert len(steps) >= 4
    assert all(row.verdict == "equal" for row in steps)


@pytest.mark.parametrize("strength", [0.6, 0.8])
def test_pndm_that_begins_later_has_no_fault(strength, tmp_path):
    """diffusers lists the second timestep of PNDM twice, and img2img cuts that list."""
    import diffusers
    import numpy as np

    pipe, model = build(
        "sd1", tmp_path / "model", lambda pipe: new_scheduler(pipe, "PNDMScheduler", {})
    )
    pipe = diffusers.StableDiffusionImg2ImgPipeline(
        **pipe.components, requires_safety_checker=False
    )
    image = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
    report = diff(pipe, model, tmp_path / "trace", steps=5, image=image, strength=strength)
    assert report.equal, names_of(report)


@pytest.mark.parametrize("fault", [None, "symmetric", "noise"])
def test_an_image_that_is_encoded_and_noised_is_judged(fault, tmp_path):
    """img2img: the encoder's asymmetric padding, and the noise that is added to its latents."""
    import diffusers
    import numpy as np

    pipe, model = build("sd1", tmp_path / "model", plain_ddim)
    pipe = diffusers.StableDiffusionImg2ImgPipeline(
        **pipe.components, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    if fault == "symmetric":
        layer = pipe.vae.encoder.down_blocks[0].downsamplers[0]
        layer.padding = 1
        layer.conv.padding = (1, 1)
    elif fault == "noise":
        base = type(pipe.scheduler).add_noise
        change_class(
            pipe.scheduler,
            add_noise=lambda self, original_samples, noise, timesteps: base(
                self, noise, original_samples, timesteps
            ),
        )
    image = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
    found = names_of(diff(pipe, model, tmp_path / "trace", steps=4, image=image, strength=0.6))
    if fault is None:
        assert not found
    elif fault == "symmetric":
        assert list(found) == ["vae.encode/encoder.down_blocks.0.downsamplers.0.conv"]
        causes = next(iter(found.values()))
        assert any("symmetric padding instead of asymmetric" in cause for cause in causes)
    else:
        assert found == {"add_noise add_noise": {"image and noise are exchanged"}}


def plain_ddim(pipe):
    new_scheduler(pipe, "DDIMScheduler", {"clip_sample": False})
