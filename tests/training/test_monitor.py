"""The files that a training writes while it runs; they do not change the training."""

from __future__ import annotations

import contextlib
import json
import sys

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="training runs on the torch backend")

import ldmref  # noqa: E402
from ldmref import modes  # noqa: E402
from ldmref.datasets.folder import FolderDataset  # noqa: E402
from ldmref.errors import Cancelled, NumericError, UsageError  # noqa: E402
from ldmref.training.checkpoint import read_checkpoint, read_headers  # noqa: E402
from ldmref.training.diffusion.loss import BINS, DiffusionLoss  # noqa: E402
from ldmref.training.monitor import curves, metrics, previews  # noqa: E402
from ldmref.training.monitor import stage as monitor  # noqa: E402
from ldmref.training.monitor.metrics import append_metrics, drop_after, read_metrics  # noqa: E402
from ldmref.training.monitor.previews import GAP, LABEL, TITLE, LabelledRow, enlargement, grid  # noqa: E402
from ldmref.training.recipes.file import recipe_from_dict, to_toml  # noqa: E402
from ldmref.training.recipes.schema import ProgressConfig  # noqa: E402
from ldmref.training.training_run import train  # noqa: E402

IMAGES = {"samples.png", "reconstructions.png"}
CURVES = {"loss.png", "loss_by_timestep.png"}
STAGES = ("autoencoder", "diffusion")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


@pytest.fixture
def often(monkeypatch):
    """Drawn with every line of the metrics."""
    monkeypatch.setattr(monitor, "MAX_RENDERING", 1e9)
    return {"seconds": 1e-6, "prompts": ["red square", "grass"], "count": 2}


def bits(folder):
    """Every checkpoint and the model, byte for byte."""
    arrays = {
        (stage, name): array.tobytes()
        for stage in STAGES
        for name, array in read_checkpoint(folder / f"{stage}.safetensors")[1].items()
    }
    return arrays, (folder / "model/model.safetensors").read_bytes()


def untimed(folder):
    """Return the lines of the metrics without the rate."""
    lines = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def names(folder):
    return {path.name for path in folder.iterdir() if path.suffix == ".png"}


def test_words_beyond_the_vocabulary_are_named(recipe, images, out):
    """16 tokens, of which 4 are special."""
    (images / "green.txt").write_text(" ".join("abcdefghijkl"), "utf-8")
    lines = []
    train(recipe(1), out, log=lines.append)
    warning = "warning: words of the captions that the model does not know: k, l, red"
    assert warning in lines


# -- files ----------------------------------------------------------------------------------------


def test_a_training_leaves_metrics_and_images(recipe, out, without_matplotlib):
    """Without matplotlib, one line says so; the rest is there."""
    lines = []
    train(recipe(40, progress={"count": 3}), out, log=lines.append)
    assert sum("matplotlib" in line for line in lines) == 1
    assert names(out) == IMAGES and not list(out.glob(".*"))
    assert Image.open(out / "reconstructions.png").size == (
        LABEL + 3 * (128 + GAP),
        TITLE + 2 * 134,
    )
    reports = read_metrics(out / "metrics.jsonl")
    steps = [(stage, step) for stage in STAGES for step in range(2, 41, 2)]
    assert [(line["stage"], line["step"]) for line in reports] == steps
    assert all(line["images_per_second"] > 0 and line["loss"] > 0 for line in reports)
    assert {"psnr", "kl"} <= reports[0].keys() and not {"psnr", "kl"} & reports[-1].keys()
    assert all(line["grad_norm"] > 0 for line in reports)
    assert not any("held_out_loss" in line for line in reports)
    assert reports[0]["lr_factor"] == 1.0 and 0 < reports[-1]["lr_factor"] < 0.01


def test_curves(recipe, out):
    pytest.importorskip("matplotlib")
    train(recipe(20, progress={"count": 1}), out)
    assert names(out) == IMAGES | CURVES
    for name in CURVES:
        with Image.open(out / name) as image:
            assert image.width > 500 and len(image.convert("RGB").getcolors(10**6)) > 20


def test_without_progress_no_image_is_drawn(recipe, out):
    train(recipe(3), out)
    assert names(out) == set() and len(read_metrics(out / "metrics.jsonl")) == 6


def test_the_first_row_is_what_the_exported_model_draws(recipe, out, without_matplotlib):
    train(recipe(3, progress={"prompts": ["red square", "blue"], "count": 2}), out)
    model = ldmref.load(out / "model", backend="torch", speed="exact")
    sheet = Image.open(out / "samples.png")
    for i, prompt in enumerate(("red square", "blue")):
        images = modes.txt2img(model, prompt, seed=0, count=2, batch_size=2).images
        scale = enlargement(images[0])
        side = 128 + GAP
        assert sheet.size == (LABEL + 2 * side, TITLE + 2 * side)
        for j, image in enumerate(images):
            box = np.array([LABEL + j * side, TITLE + i * side])
            cell = np.asarray(sheet.crop((*box, *(box + 128))))
            np.testing.assert_array_equal(cell[::scale, ::scale], np.asarray(image))


def test_a_grid_has_its_rows_where_they_belong():
    red, blue = (Image.new("RGB", (200, 150), colour) for colour in ("red", "blue"))
    sheet = grid("a title", [LabelledRow("", [red, blue]), LabelledRow("a label " * 50, [blue])])
    assert sheet.size == (LABEL + 2 * (200 + GAP), TITLE + 2 * (150 + GAP))
    assert (
        sheet.getpixel((LABEL, TITLE)) == (255, 0, 0) == sheet.getpixel((LABEL + 199, TITLE + 149))
    )
    assert sheet.getpixel((LABEL + 200 + GAP, TITLE)) == (0, 0, 255)
    assert sheet.getpixel((LABEL, TITLE + 150 + GAP)) == (0, 0, 255)
    assert sheet.getpixel((LABEL + 200 + GAP, TITLE + 150 + GAP)) == (232, 232, 232)


def test_reconstructions_show_the_corrupted_input(tables, out, without_matplotlib):
    objective = {"corruption": "masking", "kl_weight": 0.0}
    stage = tables(2)["autoencoder"] | {"objective": objective}
    recipe = tables(autoencoder=stage, stages=["autoencoder"], progress={"seconds": 60})
    train(recipe_from_dict(recipe), out)
    assert Image.open(out / "reconstructions.png").height == TITLE + 3 * (128 + GAP)


# -- nothing changes the training -----------------------------------------------------------------


def test_images_do_not_change_the_weights(recipe, out, often, without_matplotlib):
    train(recipe(6), out.with_name("none"))
    train(recipe(6, progress=often), out)
    assert names(out) == IMAGES
    assert bits(out) == bits(out.with_name("none"))
    assert untimed(out) == untimed(out.with_name("none"))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_a_resumed_training_leaves_the_same_weights_and_lines(
    recipe, out, often, without_matplotlib, monkeypatch, stage
):
    """Interrupted between two lines, of three steps each."""
    once = out.with_name("once")
    train(recipe(60, progress=often), once)
    path, call = {
        "autoencoder": ("ldmref.training.autoencoder.terms.squared_error", 8),
        "diffusion": ("ldmref.training.diffusion.loss.q_sample", 8),
    }[stage]
    module = sys.modules[path.rpartition(".")[0]]
    name = path.rpartition(".")[2]
    formula = getattr(module, name)
    calls = []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return formula(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, interrupted)
        patch.setattr(monitor.StageMonitor, "render_if_due", lambda self: None)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(60, progress=often), out)
    assert read_headers(out)[stage].step == 7
    with open(out / "metrics.jsonl", "a") as file:  # what a kill after later steps leaves
        file.write('{"stage": "' + stage + '", "step": 9, "loss": 1.0}\n{"stage": "autoen')
    train(recipe(60, progress=often), out)
    assert bits(out) == bits(once) and untimed(out) == untimed(once)
    assert len(untimed(out)) == 40


def test_the_progress_table_may_change_on_resuming(recipe, out, often, without_matplotlib):
    train(recipe(2), out)
    stage = {"optimizer": {"batch_size": 2, "warmup": 1}, "budget": {"steps": 3}}
    train(recipe(2, diffusion=stage, progress=often), out)
    assert "samples.png" in names(out)


def test_a_checkpoint_from_before_there_were_metrics_is_resumed(
    recipe, out, monkeypatch, without_matplotlib
):
    with monkeypatch.context() as patch:
        patch.setattr(monitor.StageMonitor, "state", lambda self: {})
        train(recipe(2), out)
    (out / "metrics.jsonl").unlink()
    stage = {"optimizer": {"batch_size": 2, "warmup": 1}, "budget": {"steps": 3}}
    train(recipe(2, diffusion=stage), out)
    assert [line["step"] for line in read_metrics(out / "metrics.jsonl")] == [3]


# -- what goes wrong ------------------------------------------------------------------------------


def test_a_full_disk_warns_and_the_training_goes_on(recipe, out, monkeypatch, without_matplotlib):
    @contextlib.contextmanager
    def full(path, **arguments):
        with write(path, **arguments) as file:
            file.write(b"x")
            raise OSError(28, "No space left on device")
        yield

    class Half:
        def __init__(self, path, mode):
            self.file = open(path, mode)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def write(self, data):
            self.file.write(data[: len(data) // 2])
            raise OSError(28, "No space left on device")

    write = monitor.atomic_write
    lines = []
    with monkeypatch.context() as patch:
        patch.setattr(monitor, "atomic_write", full)
        patch.setattr(metrics, "open", Half, raising=False)
        train(recipe(3, progress={"count": 1}), out, log=lines.append)
    warnings = [line for line in lines if "No space left" in line]
    assert len(warnings) == 3 and all("\n" not in line for line in warnings)
    assert names(out) == set() and (out / "metrics.jsonl").read_bytes() == b""
    assert not list(out.glob(".*")) and (out / "model/model.safetensors").exists()


def test_another_error_is_not_swallowed(recipe, out, monkeypatch, without_matplotlib):
    def broken(*arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(previews, "grid", broken)
    with pytest.raises(ZeroDivisionError):
        train(recipe(2, progress={"count": 1}), out)
    assert read_headers(out)["autoencoder"].step == 2


def test_samples_that_are_not_finite_are_a_warning(recipe, out, monkeypatch, without_matplotlib):
    def nonfinite(*arguments, **parameters):
        raise NumericError("the latents are not finite", code="E-NAN")

    monkeypatch.setattr(previews.modes, "txt2img", nonfinite)
    lines = []
    train(recipe(2, progress={"count": 1}), out, log=lines.append)
    assert names(out) == {"reconstructions.png"}
    assert sum("samples.png is not written" in line for line in lines) == 1


def test_a_stop_while_drawing_stops_the_training(recipe, out, often, monkeypatch):
    def stopped(*arguments, **parameters):
        parameters["cancel"].set()
        raise Cancelled("stopped", code="E-CANCELLED")

    import threading

    monkeypatch.setattr(previews.modes, "txt2img", stopped)
    with pytest.raises(Cancelled, match="after step 1 of 4"):
        train(recipe(4, progress=often), out, cancel=threading.Event())
    assert read_headers(out)["diffusion"].step == 1


def test_prompts_that_the_model_cannot_draw_are_refused_before_anything_is_trained(recipe, out):
    refused = recipe(
        diffusion=recipe().to_dict()["diffusion"] | {"objective": {"condition": "none"}},
        progress={"prompts": ["a cat"]},
    )
    with pytest.raises(UsageError) as caught:
        train(refused, out)
    assert caught.value.code == "E-PROMPT" and not read_headers(out)


# -- pieces ---------------------------------------------------------------------------------------


def test_lines_are_appended_read_and_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    drop_after(path, "diffusion", 0)
    assert not path.exists()
    for stage, step in (("autoencoder", 1), ("autoencoder", 2), ("diffusion", 1), ("diffusion", 2)):
        append_metrics(path, {"stage": stage, "step": step, "loss": 0.5, "psnr": float("inf")})
    text = path.read_bytes()
    assert [json.loads(line)["psnr"] for line in text.splitlines()] == [None] * 4
    path.write_bytes(text + b'{"stage": "diffusion", "step": 3, "loss": 1}')  # no end of line
    assert len(read_metrics(path)) == 4
    drop_after(path, "diffusion", 1)
    assert [(x["stage"], x["step"]) for x in read_metrics(path)] == [
        ("autoencoder", 1),
        ("autoencoder", 2),
        ("diffusion", 1),
    ]
    assert path.read_bytes() == b"".join(text.splitlines(keepends=True)[:3])


def test_losses_are_summed_by_timestep(recipe):
    r = recipe()
    loss = DiffusionLoss(r.model, r.diffusion.objective, ldmref.backends.get_backend("torch"))
    t = torch.tensor([0, 49, 50, 999, 999])
    sums = loss.by_timestep(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]), t).numpy()
    assert sums.shape == (2, BINS) and sums.sum(1).tolist() == [31.0, 5.0]
    assert sums[:, 0].tolist() == [3.0, 2.0] and sums[:, 1].tolist() == [4.0, 1.0]
    assert sums[:, -1].tolist() == [24.0, 2.0]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_parts_of_a_batch_sum_to_the_same(tables, out, accumulation):
    stage = {
        "optimizer": {"batch_size": 4, "accumulation": accumulation, "warmup": 1},
        "budget": {"steps": 1},
    }
    train(recipe_from_dict(tables(1, diffusion=stage)), out)
    sums = read_checkpoint(out / "diffusion.safetensors")[1]["progress.by_timestep"]
    assert sums[1].sum() == 4
    loss = read_metrics(out / "metrics.jsonl")[-1]["loss"]
    assert sums[0].sum() / 4 == pytest.approx(loss, rel=1e-5)


def test_the_running_mean():
    y = np.array([1.0, 2.0, 6.0, 3.0])
    np.testing.assert_allclose(curves.running_mean(y, 1), [1.5, 3.0, 11 / 3, 4.5])
    np.testing.assert_allclose(curves.running_mean(y, 0), y)


def test_prompts_are_those_of_the_recipe_or_describe_the_data(recipe, images):
    data = FolderDataset(images, 16)
    config = recipe().model
    assert previews.sample_prompts(config, ProgressConfig(prompts=("x",)), data, 0) == ("x",)
    prompts = previews.sample_prompts(config, ProgressConfig(), data, 0)
    assert len(prompts) == 3 and set(prompts) <= {"red square", "blue square", "grass", "lawn"}
    assert prompts == previews.sample_prompts(config, ProgressConfig(), data, 0)


def test_the_table_in_a_recipe():
    recipe = recipe_from_dict({"progress": {"prompts": ["a", 'b "c"'], "seconds": 5}})
    assert recipe.progress == ProgressConfig(5.0, ("a", 'b "c"')) and '["a", "b' in to_toml(recipe)
    for wrong in ("a cat", [1], ["a"] * 17):
        with pytest.raises(UsageError) as caught:
            recipe_from_dict({"progress": {"prompts": wrong}})
        assert caught.value.code == "E-RECIPE"
