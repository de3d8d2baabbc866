"""`ldmref train` end to end on four pictures, stopped and resumed."""

from __future__ import annotations

import signal

import pytest
from PIL import Image

from ldmref.cli import train as train_module

pytest.importorskip("torch")
SHORT = ["--preset", "tiny", "--autoencoder-steps", "3", "--batch", "2", "--autoencoder-batch", "2"]


@pytest.fixture
def data(work):
    folder = work / "data"
    folder.mkdir()
    for colour in ("red", "green", "blue", "yellow"):
        Image.new("RGB", (20, 30), colour).save(folder / f"{colour}_heart.png")
    return folder


def test_train_and_draw(ldm, data, work):
    ran = ldm("train", "--data", data, "-o", "out", "--steps", "3", *SHORT)
    assert ran.code == 0, ran.err
    assert "diffusion 3/3  loss" in ran.err and "ldmref txt2img -m out/model" in ran.err
    ran = ldm("txt2img", "red heart", "-m", "out/model", "--seed", "1")
    assert ran.code == 0 and ran.err.startswith("red-heart-1.png  seed 1  16x16")


def test_stopped_and_resumed(ldm, data, work, monkeypatch):
    class Interrupted(train_module.Reporter):
        def __call__(self, stage, progress):
            if stage == "diffusion" and progress.step == 2:
                signal.raise_signal(signal.SIGINT)
            super().__call__(stage, progress)

    argv = ["train", "--data", data, "-o", "out", "--steps", "4", *SHORT]
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "Reporter", Interrupted)
        ran = ldm(*argv)
    assert ran.code == 130 and "error[E-CANCELLED]: stopped after step 2" in ran.err
    ran = ldm(*argv)
    assert ran.code == 0 and "autoencoder" not in ran.err and "diffusion 3/4" in ran.err


def test_size(ldm, data, work):
    ran = ldm("train", "--data", data, "-o", "out", "--steps", "1", "--size", "32", *SHORT)
    assert ran.code == 0, ran.err
    assert "4 pictures of 32x32" in ran.err
    assert "32x32" in ldm("txt2img", "cat", "-m", "out/model").err


def test_output_is_a_file(ldm, data, work):
    (work / "out").write_text("")
    ran = ldm("train", "--data", data, "-o", "out", "--steps", "1", *SHORT)
    assert ran.code == 8 and "error[E-WRITE]" in ran.err
