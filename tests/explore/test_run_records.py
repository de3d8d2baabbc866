"""A run record: the image of the mode, every state, and its file."""

from __future__ import annotations

import json
import math
import threading

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from record_files import changed_file, read_metadata

import ldmref
from ldmref import explore, modes, samplers
from ldmref.errors import Cancelled, CorruptModelError, InputError, OutputError, UsageError
from ldmref.samplers import SAMPLERS
from ldmref.trace import Selection, load_trace, record_trace

EVERY_SAMPLER = [  # rk45 chooses its own steps, of which there are many with random weights
    pytest.param(name, marks=[pytest.mark.slow] if name == "rk45" else [])
    for name in sorted(SAMPLERS)
    if not SAMPLERS[name].own_guidance  # made for flow matching
]


PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
HALF = Image.fromarray(np.repeat([[0, 255]], 16, 0).repeat(8, 1).astype(np.uint8))
PROMPT = "a red cat and a blue heart"


@pytest.fixture(scope="module")
def record(tiny):
    return explore.record_run(tiny, prompt=PROMPT, negative_prompt="dog", seed=7, steps=4)


def same_image(model, mode, **parameters):
    result = getattr(modes, mode)(model, **parameters)
    record = explore.record_run(model, mode, **parameters)
    assert record.image.tobytes() == result[0].tobytes()
    sigma = record.sigmas[-1]
    latents = record.x[-1] / math.hypot(1, sigma)
    np.testing.assert_allclose(latents, result.latents[0], rtol=1e-6)
    assert record.params == result.params_of(0)
    return record


@pytest.mark.parametrize("sampler", EVERY_SAMPLER)
def test_the_image_is_the_modes_with_every_sampler(tiny, sampler):
    n = 2 if sampler == "rk45" else 5  # a step of which is many
    record = same_image(tiny, "txt2img", prompt=PROMPT, seed=3, steps=n, sampler=sampler)
    assert record.x.shape == (n + 1, 4, 8, 8) and record.x0.shape == (n, 4, 8, 8)
    assert np.isfinite(record.x0).all() and record.attention.shape == (n, 7, 8, 8)


@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("guidance", sorted({*samplers.GUIDANCES} - {"slg"}))
def test_the_image_is_the_modes_with_every_guidance(tiny, guidance, scale):
    guide = {}
    if samplers.GUIDANCES[guidance].by_guide:
        guide["guide"] = ldmref.random_model("tiny", seed=9, backend="numpy")
    asked = {"prompt": "a cat", "seed": 3, "steps": 3, "cfg_scale": scale}
    same_image(tiny, "txt2img", guidance=guidance, **asked, **guide)


@pytest.mark.parametrize("rng", ["philox", "torch", "a1111-gpu"])
@pytest.mark.parametrize(
    "mode,parameters",
    [
        ("img2img", {"image": PHOTO, "strength": 0.6}),
        ("inpaint", {"image": PHOTO, "mask": HALF}),
        ("inpaint", {"image": PHOTO, "mask": HALF, "resample": (1, 2)}),
        ("interpolate", {"prompt_b": "a dog", "positions": [0.3]}),
    ],
    ids=["img2img", "inpaint", "repaint", "interpolate"],
)
def test_the_image_is_the_modes_in_every_mode(tiny, mode, parameters, rng):
    same_image(tiny, mode, prompt="a cat", seed=5, steps=4, rng=rng, **parameters)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_image_is_the_modes_on_torch(dtype):
    pytest.importorskip("torch")
    model = ldmref.random_model("tiny", backend="torch", dtype=dtype)
    record = same_image(model, "txt2img", prompt=PROMPT, seed=3, steps=3)
    reference = ldmref.random_model("tiny", backend="numpy", dtype="float64")
    expected = explore.record_run(reference, prompt=PROMPT, seed=3, steps=3)
    np.testing.assert_allclose(record.x0, expected.x0, atol=2e-4)
    np.testing.assert_allclose(record.attention, expected.attention, atol=1e-3)


def test_states_and_predictions_fit_each_other(record):
    """cfg: x0 = u + s (c - u); Euler's and the first DPM++ step follow from x and x0."""
    scale = np.float32(record.meta["cfg_scale"])
    guided = record.x0_uncond + scale * (record.x0_cond - record.x0_uncond)
    np.testing.assert_allclose(record.x0, guided, atol=1e-4)


def test_a_state_is_the_euler_step_of_the_state_before(tiny):
    record = explore.record_run(tiny, prompt="a cat", seed=1, steps=4, sampler="euler")
    for i in range(4):
        ratio = record.sigmas[i + 1] / record.sigmas[i]
        euler = record.x0[i] + ratio * (record.x[i] - record.x0[i])
        np.testing.assert_allclose(record.x[i + 1], euler, atol=1e-4)


def test_the_record_holds_the_first_evaluation_of_a_step(tiny):
    record = explore.record_run(tiny, prompt="a cat", seed=1, steps=3, sampler="heun")
    denoise = ldmref.denoiser(tiny, "a cat")
    for i in range(3):
        x0 = denoise(record.x[i][None], float(record.sigmas[i]))
        np.testing.assert_allclose(record.x0[i], x0[0], atol=1e-4)


def test_the_description_is_that_of_the_schedule(tiny, record):
    meta = record.meta
    assert meta["mode"] == "txt2img" and meta["steps"] == 4
    assert meta["seed"] == 7 and meta["branch"] is None and meta["params"]["prompt"] == PROMPT
    job = modes.plan("txt2img", tiny.config, prompt=PROMPT, seed=7, steps=4).job
    schedule = samplers.make_schedule(tiny.config.scheduler, job.sampler, job.schedule, 4)
    assert record.sigmas.tolist() == schedule.sigmas.tolist()
    assert meta["timesteps"] == schedule.timesteps.tolist()
    alpha_bar = np.array(meta["alpha_bar"])
    np.testing.assert_allclose(alpha_bar, 1 / (1 + record.sigmas**2))
    np.testing.assert_allclose(meta["snr"][0], alpha_bar[0] / (1 - alpha_bar[0]))
    clean = explore.record_run(tiny, prompt="a", seed=1, sigmas=[3.0, 1.0, 0.0])
    assert clean.meta["snr"] == [1 / 9, 1.0, None] and clean.meta["schedule"] is None
    assert len(record.training_alpha_bar) == tiny.config.scheduler.num_train_timesteps


def test_predictions_that_were_not_computed(tiny):
    off = explore.record_run(tiny, prompt="a cat", seed=1, steps=3, cfg_scale=1.0)
    assert off.x0_uncond is None and np.array_equal(off.x0, off.x0_cond)
    without = explore.record_run(tiny, prompt="a cat", seed=1, steps=3, cfg_scale=0.0)
    assert without.x0_cond is None and without.attention is None and without.words == []
    inside = {"name": "interval", "low": 0.5, "high": 4.0}
    some = explore.record_run(tiny, prompt="a cat", seed=1, steps=6, guidance=inside)
    computed = (some.sigmas[:-1] > 0.5) & (some.sigmas[:-1] <= 4.0)
    assert computed.any() and not computed.all()
    assert (np.isfinite(some.x0_uncond).all(axis=(1, 2, 3)) == computed).all()


# -- the file -------------------------------------------------------------------------------------


def assert_equal_records(a, b, levels=True):
    without = {} if levels else {"levels": None}
    assert a.meta | without == b.meta | without
    assert a.image.tobytes() == b.image.tobytes()
    assert a.words == b.words
    for name in ("x", "x0", "x0_uncond", "x0_cond", "sigmas", "attention", "training_alpha_bar"):
        left, right = getattr(a, name), getattr(b, name)
        assert (left is None) == (right is None), name
        if left is not None:
            assert left.dtype == right.dtype and np.array_equal(left, right, equal_nan=True), name


def test_a_saved_record_is_read_again(record, tmp_path):
    path = record.save(tmp_path / "run.safetensors")
    assert_equal_records(record, explore.load_record(path))
    assert path.read_bytes() == record.to_bytes()
    assert_equal_records(record, explore.load_record(record.to_bytes()))
    with pytest.raises(OutputError, match="exists"):
        record.save(path)
    record.save(path, overwrite=True)


def test_any_reader_of_safetensors_reads_it(record, tmp_path):
    content = record.to_bytes()
    tensors = safetensors.numpy.load(content)
    manifest = json.loads(read_metadata(content)["manifest"])
    assert manifest["params"] == record.params and manifest["format"] == "ldmref-trace"
    assert np.array_equal(tensors["sampler.000//input.x"][0], record.x[0])
    assert np.array_equal(tensors["image//output"][0], np.asarray(record.image))
    assert tensors["sampler.000//input.x"].dtype == np.float32
    assert tensors["schedule//output.sigmas"].dtype == np.float64
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    for entry in (value for key, value in header.items() if key != "__metadata__"):
        size = {"F64": 8, "F32": 4, "F16": 2, "U8": 1}[entry["dtype"]]
        assert entry["data_offsets"][0] % size == 0  # aligned for typed arrays


# -- a record is a trace --------------------------------------------------------------------------


def test_a_record_is_a_part_of_the_trace_of_its_run(tiny, record, tmp_path):
    """Call by call, with the same names and the same numbers."""
    plan = modes.plan("txt2img", tiny, prompt=PROMPT, negative_prompt="dog", seed=7, steps=4)
    record_trace(plan, tiny, tmp_path / "trace")
    whole = load_trace(tmp_path / "trace")
    part = load_trace(record.save(tmp_path / "run.safetensors"))
    assert {call.partition(".")[0] for call in part.calls} == {
        "schedule",
        "guidance",
        "sampler",
        "words",
        "image",
    }
    shared = [e for e in part.entries if e.call in whole.calls]
    assert len(shared) == 9
    for entry in shared:
        other = whole.find(entry.call, entry.layer)
        for side in ("inputs", "outputs"):
            for role, name in getattr(entry, side).items():
                found = whole.tensors[getattr(other, side)[role]]
                assert np.array_equal(part.tensors[name], found), (entry.call, role)
        assert entry.attributes == other.attributes
    assert part.manifest["params"] == whole.manifest["params"] | {"index": 0}


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "heun", "euler_churn", "heun_churn", "euler_a"])
def test_predictions_are_those_of_the_run(tiny, sampler, tmp_path):
    """x0 is computed again from the prediction, at the point at which it was made."""
    request = {"prompt": "a cat", "seed": 1, "steps": 4, "sampler": sampler}
    record = explore.record_run(tiny, **request)
    record_trace(modes.plan("txt2img", tiny, **request), tiny, tmp_path / "trace")
    whole = load_trace(tmp_path / "trace")
    for i in range(4):
        x0 = whole.tensors[whole.find(f"sampler.{i:03}").inputs["x0"]]
        np.testing.assert_allclose(record.x0[i], x0[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "mode,parameters",
    [
        ("txt2img", {}),
        ("txt2img", {"sampler": "heun"}),
        ("txt2img", {"sampler": "euler_a"}),
        ("txt2img", {"guidance": "apg"}),
        ("txt2img", {"guidance": {"name": "interval", "low": 0.5, "high": 4.0}}),
        ("img2img", {"image": PHOTO, "strength": 0.6}),
    ],
)
def test_a_complete_trace_is_opened_as_the_record_of_its_run(tiny, mode, parameters, tmp_path):
    request = {"prompt": PROMPT, "seed": 5, "steps": 4, **parameters}
    expected = explore.record_run(tiny, mode, attention=False, **request)
    record_trace(modes.plan(mode, tiny, **request), tiny, tmp_path / "trace")
    found = explore.load_record(tmp_path / "trace")
    assert found.image.tobytes() == expected.image.tobytes()
    for name in ("x", "x0", "x0_uncond", "x0_cond"):
        left, right = getattr(found, name), getattr(expected, name)
        assert (left is None) == (right is None), name
        if left is not None:
            np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)
    assert found.meta["timesteps"] == expected.meta["timesteps"]
    assert np.array_equal(found.sigmas, expected.sigmas)
    assert_equal_records(found, explore.load_record(found.save(tmp_path / "one.safetensors")))
    assert np.array_equal(explore.branch_run(tiny, found, 1).x, expected.x)


def test_a_trace_that_cannot_be_explored_says_why(tiny, tmp_path):
    plan = modes.plan("txt2img", tiny, prompt="a cat", seed=5, steps=2)
    two = modes.plan("txt2img", tiny, prompt="a cat", seed=5, steps=2, count=2)
    cases = {
        "holds no steps of a sampler": (plan, Selection(calls=("unet.*",))),
        "does not hold the finished image": (plan, Selection(calls=("schedule", "sampler.*"))),
        "is a run of 2 images": (two, Selection(calls=("schedule", "sampler.*", "vae.*"))),
    }
    for i, (message, (planned, selection)) in enumerate(cases.items()):
        folder = tmp_path / str(i)
        record_trace(planned, tiny, folder, selection=selection)
        with pytest.raises(UsageError, match=message) as caught:
            explore.load_record(folder)
        assert caught.value.code == "E-RECORD" and "\n" not in str(caught.value)


def test_later_evaluations_of_a_step_are_counted_and_not_kept(tiny):
    record = explore.record_run(tiny, prompt="a cat", seed=1, steps=3, sampler="heun")
    kept = [call for call in record.trace.calls if call.startswith("guidance")]
    assert kept == ["guidance.000", "guidance.002", "guidance.004"]
    step = record.trace.find("sampler.001")
    assert step.attributes["evaluations"] == ["guidance.002", "guidance.003"]


def test_a_record_holds_its_numbers_once(record):
    """The states and predictions; names and manifest are 20 kB of a small file."""
    arrays = (record.x, record.x0_uncond, record.x0_cond, record.attention)
    numbers = sum(array.nbytes for array in arrays) + record.x0.nbytes
    assert len(record.to_bytes()) < numbers + np.asarray(record.image).nbytes + 32_000
    kept = record.trace.find("sampler.001").inputs.keys()
    assert kept == {"x", "sigma", "sigma_next", "prediction"}


# -- damaged files and inputs ---------------------------------------------------------------------


def test_inputs_are_kept_exactly(tiny, tmp_path):
    record = explore.record_run(
        tiny, "inpaint", prompt="a cat", image=PHOTO, mask=HALF, seed=1, steps=2
    )
    read = explore.load_record(record.save(tmp_path / "run.safetensors"))
    assert read.inputs["image"].tobytes() == PHOTO.tobytes()
    assert read.inputs["mask"].tobytes() == HALF.tobytes()
    noise = np.random.default_rng(0).standard_normal((1, 4, 8, 8), np.float32)
    given = explore.record_run(tiny, prompt="a cat", latents=noise, steps=2)
    again = explore.load_record(given.to_bytes())
    assert np.array_equal(again.inputs["latents"], noise)


def test_what_is_not_a_record_is_refused(record, tmp_path):
    content = record.to_bytes()
    other = safetensors.numpy.save({"x": np.zeros(2, np.float32)})
    step = "sampler.001//input.x"
    prediction = "guidance.001//input.cond"
    cases = {
        "damaged": content[:-1],
        "not a safetensors": b"PK\x03\x04" * 20,
        "do not have the names of a trace": other,
        "this ldmref reads 1": changed_file(record, manifest={"version": 2}),
        "'sampler.001//input.prediction' is missing": changed_file(
            record, without=["guidance.001//output"]
        ),
        "'cond' of guidance.001 has the shape": changed_file(record, {prediction: np.zeros(3)}),
        "the maps of words have": changed_file(
            record, {"words.001//output": record.attention[:1, :-1]}
        ),
        "'image' has the shape": changed_file(record, {"image//output": np.zeros((4, 4), "u1")}),
        "holds 'sampler.000//input.x' as U32": changed_file(
            record, {"sampler.000//input.x": record.x[:1].astype(np.uint32)}
        ),
        "does not record its parameters": changed_file(record, manifest={"params": {}}),
        "its preview": changed_file(record, manifest={"preview": {"matrix": [[1.0]]}}),
    }
    assert step not in safetensors.numpy.load(content)  # it is the end of the step before
    for message, wrong in cases.items():
        with pytest.raises(CorruptModelError, match=message) as caught:
            explore.load_record(wrong)
        assert caught.value.code == "E-RECORD" and caught.value.exit_code == 3
    with pytest.raises(InputError):
        explore.load_record(tmp_path / "none.safetensors")


# -- refusals, progress, cancel -------------------------------------------------------------------


def test_a_record_is_of_one_image(tiny):
    for several in ({"seed": [1, 2], "count": 2}, {"count": 2}, {"prompt": ["a", "b"]}):
        with pytest.raises(UsageError, match="one image, not 2"):
            explore.record_run(tiny, **{"prompt": "a cat", **several})
    with pytest.raises(UsageError, match="generates no image"):
        explore.record_run(tiny, "invert", prompt="a", image=PHOTO)
    with pytest.raises(UsageError, match="no parameter 'promt'"):
        explore.record_run(tiny, promt="a cat")
    with pytest.raises(UsageError, match="callback must be a function"):
        explore.record_run(tiny, prompt="a", callback=3)


def test_progress_and_cancel(tiny):
    seen = []
    stop = threading.Event()

    def watch(progress):
        seen.append((progress.step, progress.steps))
        if progress.step == 1:
            stop.set()

    with pytest.raises(Cancelled):
        explore.record_run(tiny, prompt="a", steps=4, callback=watch, cancel=stop)
    assert seen == [(0, 4), (1, 4)]


def test_levels_of_a_file_are_checked(record):
    """A file of another program may say where its steps are; it must be two pairs of numbers."""
    entries = json.loads(read_metadata(record.to_bytes())["manifest"])["entries"]
    step = next(entry for entry in entries if entry["call"] == "sampler.001")
    good = step["attributes"]["levels"]
    for wrong in ("flow", [1, 2], {}, good | {"signal": [0.5]}, good | {"noise": ["a", 1]}):
        step["attributes"]["levels"] = wrong
        with pytest.raises(CorruptModelError, match=r"the levels of sampler\.001 are"):
            explore.load_record(changed_file(record, manifest={"entries": entries}))


# -- a recorded run may be observed ---------------------------------------------------------------


class Log(modes.RunObserver):
    """Notes what it sees."""

    def __init__(self):
        self.seen = []

    def started(self, trajectory):
        self.seen.append("started")
        return trajectory

    def stepped(self, step):
        self.seen.append(step.interval.i)
        return step.x_next

    def finished(self, latents):
        self.seen.append(latents.shape)

    def decoded(self, images):
        self.seen.append(len(images))


def test_an_observer_of_a_recorded_run_changes_no_byte(tiny, record):
    asked = {"prompt": PROMPT, "negative_prompt": "dog", "seed": 7, "steps": 4}
    observer = Log()
    observed = explore.record_run(tiny, observer=observer, **asked)
    assert observer.seen == ["started", 0, 1, 2, 3, (1, 4, 8, 8), 1]
    assert observed.to_bytes() == record.to_bytes()


def test_a_branch_is_observed_from_the_first_step_of_its_trunk(tiny):
    trunk = {"mode": "txt2img", "prompt": PROMPT, "seed": 7, "steps": 3}
    observer = Log()
    branch = explore.branch_run(tiny, trunk, 2, observer=observer, prompt="a dog")
    assert observer.seen == ["started", 0, 1, "started", 2, (1, 4, 8, 8), 1]
    plain = explore.branch_run(tiny, trunk, 2, prompt="a dog")
    assert branch.to_bytes() == plain.to_bytes()
