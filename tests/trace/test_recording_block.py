"""`with ldmref.recording(program) as run`: one way to record our models and other programs."""

from __future__ import annotations

import gc
import pickle
import threading
from collections import ChainMap
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.errors import Cancelled, OutputError, UsageError
from ldmref.locate import diff_traces
from ldmref.trace import Selection, read_trace, record_trace

PARAMETERS = {"prompt": "a red cat", "seed": 1, "steps": 2}


@pytest.fixture
def model():
    return ldmref.random_model("tiny", backend="numpy")


def test_the_trace_is_that_of_record_trace(model, tmp_path):
    record_trace(modes.plan("txt2img", model, **PARAMETERS), model, tmp_path / "a")
    with ldmref.recording(model, tmp_path / "b") as run:
        image = modes.txt2img(model, **PARAMETERS)[0]
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in run.folder.iterdir())
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (run.folder / name).read_bytes(), name
    assert image.tobytes() == modes.txt2img(model, **PARAMETERS)[0].tobytes()
    assert read_trace(tmp_path / "b").manifest["params"]["prompt"] == "a red cat"


def test_without_a_folder_the_trace_is_temporary(model):
    with ldmref.recording(model, selection=Selection(calls=("unet.*",), steps=(1,))) as run:
        with pytest.raises(UsageError, match="still being recorded"):
            _ = run.trace
        modes.txt2img(model, **PARAMETERS)
    assert run.trace.calls == ["unet.001"]
    folder = run.folder
    assert folder.exists() and model.observer is None
    del run
    assert not folder.exists()


def test_an_edit_is_refused_in_a_line(tmp_path):
    """A trace follows one prompt; nothing of the edit is generated."""
    model = ldmref.random_model("sd3-tiny")
    request = {"prompt": "a cat", "image": Image.new("RGB", (16, 16)), "steps": 2, "seed": 1}
    with pytest.raises(UsageError, match="an edit follows two") as caught:
        with ldmref.recording(model):
            modes.edit(model, **request)
    assert "\n" not in str(caught.value) and caught.value.code == "E-MODE"
    with pytest.raises(UsageError, match="an edit follows two"):
        record_trace(modes.plan("edit", model, **request), model, tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_a_recording_holds_one_run(model):
    with pytest.raises(UsageError, match="holds one run"):
        with ldmref.recording(model):
            modes.txt2img(model, **PARAMETERS)
            modes.txt2img(model, **PARAMETERS)
    assert model.observer is None
    with ldmref.recording(model), pytest.raises(UsageError, match="recorded already"):
        with ldmref.recording(model):
            pass
    assert pickle.loads(pickle.dumps(model)).observer is None


def test_what_cannot_be_recorded_is_refused_in_one_line(model, tmp_path):
    with pytest.raises(UsageError, match="a str cannot be recorded"):
        with ldmref.recording("model.safetensors"):
            pass
    (tmp_path / "t").mkdir()
    with ldmref.recording(model, tmp_path / "t"):
        modes.txt2img(model, **PARAMETERS)
    with pytest.raises(OutputError), ldmref.recording(model, tmp_path / "t"):
        pass


def test_an_interrupted_run_keeps_what_was_complete(model, tmp_path):
    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), ldmref.recording(model, tmp_path / "t"):
        modes.txt2img(model, **PARAMETERS, callback=stop)
    trace = read_trace(tmp_path / "t")
    assert "unet.000" in trace.calls and "unet.001" not in trace.calls


IMAGE = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", ["tiny", "sd3-tiny", "flux-tiny"])
@pytest.mark.parametrize("iterations", [0, 2])
def test_an_inversion_is_recorded_and_judged_as_the_other_modes(name, iterations):
    model = ldmref.random_model(name)
    options = {"steps": 2, "cfg_scale": 1.5, "iterations": iterations}
    before = modes.invert(model, "a red cat", IMAGE, **options).latents
    with ldmref.recording(model) as run:
        found = modes.invert(model, "a red cat", IMAGE, **options).latents
    assert np.array_equal(found, before) and model.observer is None
    trace = run.trace
    network = model.config.denoiser.network
    plan = modes.plan("invert", model, prompt="a red cat", image=IMAGE, **options)
    calls = [call for call in trace.calls if call.startswith(f"{network}.")]
    assert len(calls) <= plan.calls and len(calls) >= plan.calls - 1  # none at the level 0
    assert {"text_encoder", "vae.encode", "schedule", "sampler.001"} <= {*trace.calls}
    last = (
        trace.tensors["sampler.001//output"] / trace.find("schedule").attributes["init_noise_sigma"]
    )
    np.testing.assert_allclose(last, found, rtol=1e-6)
    report = diff_traces(trace, model)
    assert (report.verdict, report.gaps) == ("equal", ())
    assert {row.call for row in report.rows} >= {"sampler.000", "sampler.001", calls[-1]}


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_the_plan_of_an_inversion_is_traced_as_those_of_the_other_modes(tmp_path, final):
    """At the level 0, the first step evaluates the network at the end of the step."""
    model = ldmref.random_model("tiny")
    scheduler = replace(model.config.scheduler, final_sigma=final)
    model.config = replace(model.config, scheduler=scheduler)
    plan = modes.plan("invert", model, prompt="a red cat", image=IMAGE, steps=3, iterations=1)
    seen = []
    found = record_trace(plan, model, tmp_path / "t", callback=lambda p: seen.append(p.step))
    assert isinstance(found, modes.Inversion) and seen == [0, 1, 2]
    np.testing.assert_array_equal(found.latents, plan.run(model).latents)
    trace = read_trace(tmp_path / "t")
    assert trace.manifest["params"] == found.params
    report = diff_traces(trace, model)
    assert report.verdict == "equal", report.faults


def test_the_trace_of_an_inversion_can_be_stopped(tmp_path):
    model = ldmref.random_model("tiny")
    plan = modes.plan("invert", model, prompt="a", image=IMAGE, steps=3)
    stop = threading.Event()
    with pytest.raises(Cancelled) as stopped:
        record_trace(plan, model, tmp_path / "t", callback=lambda p: stop.set(), cancel=stop)
    assert isinstance(stopped.value.partial, modes.Inversion)
    assert [c for c in read_trace(tmp_path / "t").calls if c.kind == "sampler"] == ["sampler.000"]


@pytest.mark.parametrize("iterations", [0, 2])
def test_a_wrong_step_of_an_inversion_is_found(iterations):
    model = ldmref.random_model("tiny")
    with ldmref.recording(model) as run:
        modes.invert(model, "a", IMAGE, steps=2, iterations=iterations)
    trace = run.trace
    name = "sampler.001//output"
    changed = ChainMap({name: 1.0001 * trace.tensors[name]}, trace.tensors)
    report = diff_traces(replace(trace, tensors=changed), model)
    assert [row.call for row in report.faults] == ["sampler.001"]


def test_a_block_without_a_run_says_so(model):
    with pytest.warns(UserWarning, match="nothing was recorded"), ldmref.recording(model):
        model.encode_text(["a red cat"])


def test_a_module_and_a_pipeline_are_recorded_in_the_same_way(tmp_path):
    torch = pytest.importorskip("torch")
    layer = torch.nn.Sequential(torch.nn.Linear(4, 3))
    x = torch.ones(2, 4)
    with ldmref.recording(layer, names={"0": "proj_in"}, call="mine") as run:
        expected = layer(x).detach().numpy()
    np.testing.assert_array_equal(run.trace.tensors["mine.000/proj_in/output"], expected)
    from small_pipelines import pipeline

    pipe = pipeline("sd1")
    with ldmref.recording(pipe, tmp_path / "t") as run:
        pipe("a", num_inference_steps=1, height=16, width=16, output_type="latent")
    assert {"unet.000", "schedule", "sampler.000"} <= {*run.trace.calls}


def test_a_method_that_an_object_has_itself_is_recorded_and_given_back(tmp_path):
    """A port that changes `vae.decode` of one object would not be recorded otherwise."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from small_pipelines import pipeline

    pipe = pipeline("sd1")
    plain = pipe.vae.decode
    pipe.vae.decode = lambda z, **options: plain(0.5 * z, **options)
    own = pipe.vae.decode
    with ldmref.recording(pipe, tmp_path / "trace") as found:
        pipe("a", num_inference_steps=1, height=16, width=16, output_type="latent")
        pipe.vae.decode(torch.ones(1, 4, 8, 8))
    z, inner = (
        found.trace.tensors[f"vae.decode/{name}"]
        for name in ("/input.latents", "post_quant_conv/input")
    )
    assert np.array_equal(inner, 0.5 * np.asarray(z))
    assert vars(pipe.vae)["decode"] is own and "encode" not in vars(pipe.vae)


def test_a_trace_in_a_temporary_folder_outlives_its_recording():
    model = ldmref.random_model("tiny")

    def record():
        with ldmref.recording(model) as run:
            modes.txt2img(model, "a", steps=1, seed=1)
        return run.trace, run.folder

    trace, folder = record()
    gc.collect()
    assert folder.is_dir() and trace.tensors["unet.000//output"].shape[0] == 2
    assert len(trace.tensors) == len([*trace.tensors])
    del trace
    gc.collect()
    assert not folder.exists()
