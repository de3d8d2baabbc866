"""`train` and `fine_tune` in Python: warnings are not lost, progress reads well, errors help."""

from __future__ import annotations

import warnings
from threading import Event

import numpy as np
import pytest

pytest.importorskip("torch")
import ldmref
from ldmref.apps.cli.train import report
from ldmref.errors import Cancelled, NumericError
from ldmref.io.native import save_folder
from ldmref.training.finetune.finetuning_run import fine_tune
from ldmref.training.monitor.progress import TrainingProgress
from ldmref.training.recipes.file import recipe_from_dict
from ldmref.training.trainer import Trainer
from ldmref.training.training_run import train


@pytest.fixture
def messy(images):
    """Beside three images one of each kind that is left out."""
    (images / "broken.png").write_bytes(b"")
    (images / "photo.tif").write_bytes(b"")
    return images


@pytest.fixture
def fine_tuning(images, tmp_path):
    model = ldmref.random_model("tiny")
    save_folder(tmp_path / "base", model.config, model.params, [model.tokenizer])
    stage = {"optimizer": {"batch_size": 2, "warmup": 1}, "budget": {"steps": 1}}
    tables = {"base": str(tmp_path / "base"), "data": {"source": str(images), "size": 16}}
    return recipe_from_dict(tables | {"diffusion": stage})


@pytest.mark.parametrize("function", ["train", "fine_tune"])
def test_warnings_are_issued(messy, recipe, fine_tuning, tmp_path, function):
    """The lines are those that the command line prints."""
    calls = {"train": (train, recipe(1)), "fine_tune": (fine_tune, fine_tuning)}
    call, settings = calls[function]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(settings, tmp_path / "silent")
    issued = [str(w.message) for w in caught if w.category is UserWarning]
    assert "1 of 4 images cannot be read, skipped: broken.png" in issued
    assert "1 file is not read: photo.tif" in issued
    lines = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        call(settings, tmp_path / "said", log=lines.append)
    assert [f"warning: {line}" for line in issued] == [x for x in lines if x.startswith("warning")]
    assert "3 images of 16x16" in lines


def test_one_image_is_singular(images, recipe, tmp_path):
    for file in images.glob("*e*.*"):
        if "blue" not in file.name:
            file.unlink()
    lines = []
    train(recipe(1), tmp_path / "out", log=lines.append)
    assert "1 image of 16x16" in lines


def test_progress_reads_well(capsys):
    progress = TrainingProgress(
        "autoencoder", 20, 400, 0.43119, 17.53, 87.0, {"psnr": 23.14, "kl": 97.4}
    )
    print(progress)
    want = "autoencoder 20/400  loss 0.4312  psnr 23.14 dB, kl 97.4 nats  17.5 images/s  "
    assert capsys.readouterr().out == want + "1 min 27 s left\n"
    plain = TrainingProgress("diffusion", 1, 2, 0.5, 1.0, 3600.0 * 4)
    assert str(plain) == "diffusion 1/2  loss 0.5000  1.0 images/s  4 h 0 min left"
    report(plain)
    assert capsys.readouterr().err == f"{plain}\n"


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_a_stopped_training_names_its_stage(recipe, tmp_path, stage):
    stop = Event()

    def stop_there(progress):
        if progress.stage == stage:
            stop.set()

    with pytest.raises(Cancelled) as caught:
        train(recipe(3), tmp_path / "out", on_progress=stop_there, cancel=stop)
    assert str(caught.value) == f"{stage} stopped after step 1 of 3"


def test_the_hint_of_a_loss_that_is_not_finite_can_be_followed(recipe, tmp_path, monkeypatch):
    """A lower rate alone is refused as a changed setting; the hint says what is not."""
    settings = recipe(3)
    out = tmp_path / "out"
    step = Trainer._train_step

    def fails(self):
        if self.step == 2:
            raise self._not_finite(self.loss(self.ops, self.params, 2, self._parts()[0]), [np.nan])
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", fails)
        with pytest.raises(NumericError) as caught:
            train(settings, out)
    assert caught.value.code == "E-NAN"
    hint = caught.value.hint
    assert "lower learning rate" in hint and "--accept-changes" in hint and "-o" in hint
    tables = settings.to_dict()
    tables["autoencoder"]["optimizer"]["learning_rate"] = 1e-5
    lower = recipe_from_dict(tables)
    with pytest.raises(ValueError, match="learning_rate was"):
        train(lower, out)
    train(lower, out, accept_changes=True)
    train(lower, tmp_path / "anew")
