"""`ldmref trace` and `ldmref train --trace`."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldmref.modes import run
from ldmref.trace import read_trace


@pytest.fixture
def trace(ldm, model_folder):
    return lambda *args: ldm("trace", *args, "-m", model_folder)


def test_it_records_float64_and_is_shown(trace, ldm):
    ran = trace("a cat", "--seed", "3", "--steps", "2", "-o", "t", "--json")
    assert ran.code == 0, ran.err
    printed = json.loads(ran.out)
    assert "t  seed 3  12 calls" in ran.err
    found = read_trace("t")
    assert printed["bytes"] == sum(path.stat().st_size for path in Path("t").iterdir())
    assert (printed["calls"], printed["tensors"]) == (len(found.calls), len(found.tensors))
    assert found.manifest["dtype"] == "float64"
    assert found.manifest["backend"]["speed"] == "exact"
    shown = ldm("trace", "show", "t")
    assert shown.code == 0 and shown.out.startswith("text_encoder")
    rows = ldm("trace", "show", "t", "--calls", "unet.001", "--layers", "conv_in", "--json").out
    tensors = [json.loads(line) for line in rows.splitlines()]
    [output] = [row for row in tensors if (row["layer"], row["role"]) == ("conv_in", "output")]
    values = found.read_outputs(found.find("unet.001", "conv_in"))["output"]
    assert output["shape"] == list(values.shape) and output["dtype"] == "F64"
    assert output["mean"] == pytest.approx(values.mean()) and output["nan"] == 0
    assert output["least"] == values.min() and output["greatest"] == values.max()


def test_another_backend_and_mode(trace, work):
    Image.new("RGB", (16, 16), "teal").save("in.png")
    ran = trace(
        "img2img", "a cat", "-i", "in.png", "--steps", "3", "--dtype", "float32", "-o", "t", "-q"
    )
    assert ran == (0, "", "")
    assert read_trace("t").manifest["dtype"] == "float32"
    assert "vae.encode" in read_trace("t").calls


def test_an_inversion_is_traced_and_judged(trace, ldm, model_folder):
    Image.new("RGB", (16, 16), "teal").save("in.png")
    ran = trace("invert", "a cat", "-i", "in.png", "--steps", "2", "--iterations", "1", "-o", "t")
    assert ran.code == 0 and "t  seed 0  " in ran.err, ran.err
    found = read_trace("t")
    assert found.manifest["params"]["mode"] == "invert" and found.manifest["complete"]
    assert found.find("sampler.001").attributes["iterations"] == 1
    judged = ldm("diff", "t", "-m", model_folder)
    assert judged.code == 0 and "agree" in judged.out, judged


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--max-size", "1kB"], "E-TRACE-SIZE", "--layers GLOB"),
        (["--max-size", "much"], "E-MAX-SIZE", "6GB"),
        (["--layers", "nothing*"], "E-TRACE-SELECTION", "no layer"),
        (["--only-steps", "5"], "E-TRACE-SELECTION", "steps 0 to 1"),
        (["--only-steps", "1-"], "E-USAGE", "0,10-12"),
        (["--width", "17"], "E-SIZE", ""),
    ],
)
def test_refusals_write_nothing(trace, work, flags, code, words):
    ran = trace("a cat", "--steps", "2", "-o", "t", *flags)
    assert ran.code != 0 and code in ran.err and words in ran.err, ran.err
    assert not (work / "t").exists()


def test_an_existing_trace_is_kept(trace):
    assert trace("a cat", "--steps", "2", "-o", "t", "-q").code == 0
    ran = trace("a dog", "--steps", "2", "-o", "t", "-q")
    assert ran.code == 8 and "E-EXISTS" in ran.err and "--overwrite" in ran.err
    assert trace("a dog", "--steps", "1", "-o", "t", "-q", "--overwrite").code == 0
    assert read_trace("t").manifest["params"]["prompt"] == "a dog"
    assert "unet.001" not in read_trace("t").calls


def test_ctrl_c_leaves_complete_calls(trace, monkeypatch):
    original = run.notify

    def interrupt(callback, progress):
        if progress.step == 0:
            signal.raise_signal(signal.SIGINT)
        original(callback, progress)

    monkeypatch.setattr(run, "notify", interrupt)
    ran = trace("a cat", "--steps", "3", "-o", "t")
    assert ran.code == 130 and "E-CANCELLED" in ran.err
    found = read_trace("t")
    assert found.calls[-1] == "sampler.000" and found.manifest["complete"] is False


def test_names_in_files_are_enough_for_show(trace, ldm, work):
    assert trace("a cat", "--steps", "1", "-o", "t", "-q").code == 0
    (work / "t" / "trace.json").unlink()
    assert "unet.000" in ldm("trace", "show", "t").out
    ran = ldm("trace", "show", "t", "--layers", "nothing")
    assert "E-TRACE-SELECTION" in ran.err
    assert ldm("trace", "show", "none").code != 0


def test_a_training_is_traced(ldm, work):
    pytest.importorskip("torch")
    (work / "data").mkdir()
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (20, 30), colour).save(work / "data" / f"{colour}.png")
    small = ["--preset", "tiny", "--autoencoder-steps", "2", "--batch", "2"]
    argv = ["train", "--data", "data", "-o", "out", "--steps", "2", *small]
    ran = ldm(*argv, "--trace", "t", "--trace-steps", "1")
    assert ran.code == 0 and "trace of 1 steps" in ran.err, ran.err
    found = read_trace("t")
    assert np.isfinite(found.read_outputs(found.find("train.001"))["losses"]).all()
    assert "batch_size = 2" in found.manifest["params"]["recipe"]
    for flags in (["--trace", "u", "--trace-steps", "2"], ["--trace-steps", "1"]):
        ran = ldm(*argv, *flags)
        assert ran.code == 2 and "--trace-steps" in ran.err
        assert not (work / "u").exists()
