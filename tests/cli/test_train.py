"""`ldmref train` end to end on four images, stopped and resumed."""

from __future__ import annotations

import signal

import pytest
from PIL import Image

from ldmref.apps.cli import train

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
    ran = ldm("txt2img", "red heart", "-m", "out", "--seed", "1", "-o", "same.png")
    assert ran.code == 0, ran.err
    assert (work / "same.png").read_bytes() == (work / "red-heart-1.png").read_bytes()


@pytest.mark.parametrize("name", ["sd3-tiny", "flux-tiny"])
def test_a_preset_of_any_family_is_trained(ldm, data, work, name):
    flags = ["--preset", name, *SHORT[2:], "--no-plots"]
    ran = ldm("train", "--data", data, "-o", "out", "--steps", "2", *flags)
    assert ran.code == 0, ran.err
    ran = ldm("txt2img", "red heart", "-m", "out/model", "--seed", "1")
    assert ran.code == 0 and ran.err.splitlines()[-1].startswith("red-heart-1.png  seed 1  16x16")
    wrong = ldm("train", "--data", data, "-o", "out", "--preset", f"{name}s")
    assert wrong.code == 2 and f"did you mean '{name}'" in wrong.err


def test_the_images_at_the_end_are_announced(ldm, data, work):
    """They may take longer than the training, after "0.0 s left"."""
    ran = ldm("train", "--data", data, "--steps", "2", *SHORT, "-o", "out")
    assert ran.code == 0 and (work / "out" / "samples.png").exists()
    lines = ran.err.splitlines()
    last = max(i for i, line in enumerate(lines) if line.startswith("diffusion 2/2"))
    rows = [f"making samples.png: row {i} of 4 (--no-plots leaves it out)" for i in range(1, 5)]
    assert lines[last + 1 : last + 5] == rows, ran.err
    assert sum("making reconstructions.png" in line for line in lines) == 1


def test_the_images_at_the_end_can_be_left_out(ldm, data, work):
    ran = ldm("train", "--data", data, "--steps", "2", *SHORT, "-o", "out", "--no-plots")
    assert ran.code == 0 and "making" not in ran.err
    assert not list((work / "out").glob("*.png")) and (work / "out" / "metrics.jsonl").exists()
    assert (work / "out" / "model" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
    ],
)
def test_stopped_and_resumed(ldm, data, work, monkeypatch, number, code):
    def report(progress):
        if progress.stage == "diffusion" and progress.step == 2:
            signal.raise_signal(number)
        original(progress)

    argv = ["train", "--data", data, "-o", "out", "--steps", "4", *SHORT]
    original = train.report
    with monkeypatch.context() as patch:
        patch.setattr(train, "report", report)
        ran = ldm(*argv)
    assert ran.code == code and "error[E-CANCELLED]: diffusion stopped after step 2 of 4" in ran.err
    ran = ldm(*argv)
    assert ran.code == 0 and "autoencoder" not in ran.err and "diffusion 3/4" in ran.err


RECIPE = """
[data]
source = "data"
[model]
preset = "tiny"
[autoencoder]
optimizer = { batch_size = 2 }
budget = { steps = 3 }
[diffusion]
optimizer = { batch_size = 2 }
budget = { steps = 3 }
"""


def test_recipe(ldm, data, work):
    """The folder is named after the recipe; what it records trains the same again."""
    (work / "mine.toml").write_text(RECIPE)
    ran = ldm("train", "mine.toml", "--steps", "2", "--checkpoint-seconds", "0")
    assert ran.code == 0 and "ldmref txt2img -m runs/mine/model" in ran.err, ran.err
    assert "diffusion 2/2" in ran.err
    ran = ldm("train", "runs/mine/recipe.toml", "-o", "runs/mine")
    assert ran.code == 0 and "autoencoder" not in ran.err and "diffusion" not in ran.err
    ran = ldm("train", "runs/mine/recipe.toml", "-o", "again")
    weights = "model/model.safetensors"
    assert (work / "again" / weights).read_bytes() == (work / "runs/mine" / weights).read_bytes()


def test_the_first_stage_alone(ldm, data, work):
    (work / "first.toml").write_text('stages = ["autoencoder"]\n' + RECIPE)
    ran = ldm("train", "first.toml")
    assert ran.code == 0 and "autoencoder 3/3  loss" in ran.err and "  psnr " in ran.err
    assert "--vae runs/first/autoencoder" in ran.err and not (work / "runs/first/model").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--seed", "7"], "seed was 0, now 7"),
        pytest.param(["--size", "32"], "data.size was 16, now 32", marks=pytest.mark.slow),
        pytest.param(
            ["--lr", "0.5"],
            "diffusion.optimizer.learning_rate was 0.001, now 0.5",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--batch", "3"],
            "diffusion.optimizer.batch_size was 2, now 3",
            marks=pytest.mark.slow,
        ),
        (["--data", "other"], "other' with 1 image"),
    ],
)
def test_changed_settings(ldm, data, work, change, message):
    argv = ["train", "--data", data, "-o", "out", "--steps", "3", *SHORT]
    assert ldm(*argv).code == 0
    (work / "other").mkdir()
    Image.new("RGB", (9, 9)).save(work / "other/black.png")
    changed = list(argv)
    flag, value = change
    if flag in changed:
        changed[changed.index(flag) + 1] = value
    else:
        changed += change
    ran = ldm(*changed)
    assert ran.code == 2 and "error[E-RESUME-CHANGED]" in ran.err and message in ran.err
    assert "--accept-changes" in ran.err and "hint:" in ran.err
    ran = ldm(*changed, "--accept-changes")
    assert ran.code == 0 and "changed: " in ran.err and ldm(*argv).code == 2


@pytest.mark.parametrize(("rank", "said"), [("0", True), ("1", False)])
def test_of_several_processes_the_first_says_that_the_model_is_ready(
    ldm, data, work, monkeypatch, rank, said
):
    monkeypatch.setattr("ldmref.training.training_run.train", lambda recipe, folder, **rest: folder)
    monkeypatch.setenv("RANK", rank)
    ran = ldm("train", "--data", data, "-o", "out", *SHORT)
    assert ran.code == 0 and ("the model is ready" in ran.err) == said


def test_mistakes_in_a_recipe_are_one_line(ldm, work):
    (work / "bad.toml").write_text("[data]\nsouce = 1\n")
    ran = ldm("train", "bad.toml")
    assert ran.code == 2 and "error[E-RECIPE]" in ran.err and "did you mean 'source'" in ran.err
    assert len(ran.err.splitlines()) == 2 and not (work / "runs").exists()
    assert ldm("train", "gone.toml").code == 3


@pytest.mark.parametrize("command", [("train", "images"), ("finetune",), ("finetune", "full")])
def test_a_recipe_for_any_images_wants_to_know_which(ldm, work, command):
    ran = ldm(*command)
    assert ran.code == 2 and "option --data is missing" in ran.err and "hint:" in ran.err
    assert not (work / "runs").exists()


def test_the_recipe_for_a_folder_of_images(ldm, data, work):
    steps = ("--autoencoder-steps", "1", "--steps", "1", "--autoencoder-batch", "2", "--batch", "2")
    ran = ldm("train", "images", "--data", data, *steps)
    assert ran.code == 0, ran.err
    assert "4 images of 64x64" in ran.err and "-m runs/images/model" in ran.err


def test_broken_images_are_named(ldm, data, work):
    (data / "broken.png").write_text("x")
    ran = ldm("train", "--data", data, "-o", "out", "--steps", "1", *SHORT)
    assert ran.code == 0 and "1 of 5 images" in ran.err and "broken.png" in ran.err


def test_nothing_is_left_of_a_training_that_cannot_begin(ldm, data, work):
    (data / "metadata.jsonl").write_text("nonsense")
    ran = ldm("train", "--data", data, "-o", "out", *SHORT)
    assert ran.code == 3 and "error[E-DATA]" in ran.err and not (work / "out").exists()


def test_size(ldm, data, work):
    ran = ldm("train", "--data", data, "-o", "out", "--steps", "1", "--size", "32", *SHORT)
    assert ran.code == 0, ran.err
    assert "4 images of 32x32" in ran.err
    assert "32x32" in ldm("txt2img", "cat", "-m", "out/model").err


def test_output_is_a_file(ldm, data, work):
    (work / "out").write_text("")
    ran = ldm("train", "--data", data, "-o", "out", "--steps", "1", *SHORT)
    assert ran.code == 8 and "error[E-WRITE]" in ran.err
