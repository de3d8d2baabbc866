"""A run record: the image of the mode, every state, and its file."""

from __future__ import annotations

import json
import math
import threading

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import ldmref
from ldmref import explore, modes, samplers
from ldmref.errors import Cancelled, CorruptModelError, InputError, OutputError, UsageError
from ldmref.samplers import SAMPLERS

EVERY_SAMPLER = [  # rk45 chooses its own steps, of which there are many with random weights
    pytest.param(name, marks=[pytest.mark.slow] if name == "rk45" else [])
    for name in sorted(SAMPLERS)
]


PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
HALF = Image.fromarray(np.repeat([[0, 255]], 16, 0).repeat(8, 1).astype(np.uint8))
PROMPT = "a red cat and a blue heart"


@pytest.fixture(scope="module")
def tiny():
    return ldmref.random_model("tiny", backend="numpy")


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


GUIDANCES = ["cfg", "rescale", "threshold", "interval", "perp_neg", "pag", "apg"]


@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("guidance", GUIDANCES)
def test_the_image_is_the_modes_with_every_guidance(tiny, guidance, scale):
    same_image(tiny, "txt2img", prompt="a cat", seed=3, steps=3, guidance=guidance, cfg_scale=scale)


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
    assert meta["format"] == "ldmref-run 1" and meta["mode"] == "txt2img" and meta["steps"] == 4
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


def assert_equal_records(a, b):
    assert a.meta == b.meta and a.image.tobytes() == b.image.tobytes()
    assert a.words == b.words
    for name in ("x", "x0", "x0_uncond", "x0_cond", "sigmas", "attention", "training_alpha_bar"):
        left, right = getattr(a, name), getattr(b, name)
        assert (left is None) == (right is None), name
        assert left is None or (left.dtype == right.dtype and np.array_equal(left, right)), name


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
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    meta = json.loads(header["__metadata__"]["ldmref"])
    assert meta == record.meta
    assert {"x", "x0", "x0_uncond", "x0_cond", "sigmas", "attention", "image"} <= {*tensors}
    assert tensors["x"].dtype == np.float32 and tensors["sigmas"].dtype == np.float64
    for entry in (value for key, value in header.items() if key != "__metadata__"):
        size = {"F64": 8, "F32": 4, "F16": 2, "U8": 1}[entry["dtype"]]
        assert entry["data_offsets"][0] % size == 0  # aligned for typed arrays


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


def damaged(record, **changes):
    tensors = {**record._tensors(), **changes}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return safetensors.numpy.save(kept, {"ldmref": json.dumps(record.meta)})


def test_what_is_not_a_record_is_refused(record, tmp_path):
    content = record.to_bytes()
    other = safetensors.numpy.save({"x": np.zeros(2, np.float32)})
    newer = json.dumps(record.meta | {"format": "ldmref-run 2"})
    cases = {
        "damaged": content[:-1],
        "not a safetensors": b"PK\x03\x04" * 20,
        "lacks 'ldmref'": other,
        "this version reads": safetensors.numpy.save(record._tensors(), {"ldmref": newer}),
        "'x0' is missing": damaged(record, x0=None),
        "'x' has the shape": damaged(record, x=record.x[:-1]),
        "'attention' has the shape": damaged(record, attention=record.attention[:, :-1]),
        "'image' has the shape": damaged(record, image=np.zeros((4, 4), np.uint8)),
    }
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
