"""Resuming: what is refused, what is saved, and what an error leaves behind."""

from __future__ import annotations

import os
import stat
import threading
from importlib import import_module

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="training runs on the torch backend")

from ldmref.datasets.config import DataSummary  # noqa: E402
from ldmref.errors import Cancelled, LdmrefError, NumericError  # noqa: E402
from ldmref.training.checkpoint import CheckpointTimer, Header, read_checkpoint, read_headers  # noqa: E402
from ldmref.training.recipes.file import read_recipe, recipe_from_dict  # noqa: E402
from ldmref.training.recipes.schema import CheckpointConfig  # noqa: E402
from ldmref.training.training_run import train  # noqa: E402


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


def stop_after(stage, step):
    """Return an event, and a report that sets it."""
    cancel = threading.Event()

    def report(progress):
        if (progress.stage, progress.step) == (stage, step):
            cancel.set()

    return {"cancel": cancel, "on_progress": report}


def bits(path):
    return {name: array.tobytes() for name, array in read_checkpoint(path)[1].items()}


def refused(recipe, out, **arguments):
    with pytest.raises(LdmrefError) as caught:
        train(recipe, out, **arguments)
    assert "\n" not in str(caught.value)
    return caught.value


# -- exact ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stage", [pytest.param("autoencoder", marks=pytest.mark.slow), "diffusion"]
)
def test_10_and_10_steps_equal_20(recipe, tmp_path, stage):
    """Weights, averages and optimizers of a whole training, stopped in either stage."""
    once = tmp_path / "once"
    twice = tmp_path / "twice"
    train(recipe(20), once)
    with pytest.raises(Cancelled):
        train(recipe(20), twice, **stop_after(stage, 10))
    assert read_headers(twice)[stage].step == 10
    train(recipe(20), twice)
    for name in ("autoencoder.safetensors", "diffusion.safetensors"):
        expected = bits(once / name)
        kinds = {key.split(".")[0] for key in expected}
        assert kinds - {"progress"} == {"params", "ema", "optimizer"}
        assert bits(twice / name) == expected
    weights = [(folder / "model/model.safetensors").read_bytes() for folder in (once, twice)]
    assert weights[0] == weights[1]


def test_a_checkpoint_between_two_updates_is_never_saved(recipe, out, monkeypatch):
    """Ctrl-C within the optimizer leaves the checkpoint before, and the training exact."""
    train(recipe(6), out.with_name("once"))
    adamw = torch.optim.AdamW.step
    calls = []

    def interrupted(self, *args):
        calls.append(adamw(self, *args))
        if len(calls) == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(6, checkpoint={"steps": 2}), out)
    assert read_headers(out)["autoencoder"].step == 4
    train(recipe(6), out)
    for name in ("autoencoder.safetensors", "diffusion.safetensors"):
        assert bits(out / name) == bits(out.with_name("once") / name)


# -- changed settings -----------------------------------------------------------------------------

CHANGES = {
    "seed": ({"seed": 1}, "seed was 0, now 1"),
    "dtype": ({"dtype": "bfloat16"}, "dtype was 'float32', now 'bfloat16'"),
    "autoencoder steps": (
        {"autoencoder": {"optimizer": {"batch_size": 2, "warmup": 1}, "budget": {"steps": 4}}},
        "autoencoder.budget.steps was 3, now 4",
    ),
    "batch and objective": (
        {
            "diffusion": {
                "objective": {"caption_dropout": 0.2},
                "optimizer": {"batch_size": 3, "warmup": 1},
            }
        },
        "diffusion.objective.caption_dropout was 0.1, now 0.2; "
        "diffusion.optimizer.batch_size was 2, now 3",
    ),
    "model": (
        {"model": {"preset": "tiny"}},
        "model.vae.block_out_channels was (4, 4), now (8, 16)",
    ),
}


def test_auto_is_what_it_was_on_the_machine_that_began(recipe, out, monkeypatch):
    monkeypatch.setattr("ldmref.training.setup.multiplies_bfloat16", lambda device: True)
    train(recipe(2, dtype="auto"), out)
    assert {header.recipe.dtype for header in read_headers(out).values()} == {"bfloat16"}
    assert read_recipe(out / "recipe.toml").dtype == "bfloat16"
    train(recipe(3, dtype="auto", autoencoder=recipe(2).to_dict()["autoencoder"]), out)
    monkeypatch.setattr("ldmref.training.setup.multiplies_bfloat16", lambda device: False)
    error = refused(recipe(2, dtype="auto"), out)
    assert error.code == "E-RESUME-CHANGED"
    assert "dtype was 'bfloat16', now 'float32'" in str(error)


@pytest.mark.parametrize("changes", CHANGES)
def test_changed_settings_are_refused_with_both_values(recipe, out, changes):
    train(recipe(), out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    tables, expected = CHANGES[changes]
    error = refused(recipe(**tables), out)
    assert error.code == "E-RESUME-CHANGED" and error.exit_code == 2 and expected in str(error)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_another_size_and_other_images_are_refused_together(recipe, images, out, tmp_path):
    train(recipe(), out)
    Image.new("RGB", (9, 9)).save(tmp_path / "black.png")
    error = refused(recipe(data={"source": str(tmp_path), "size": 32}), out)
    assert error.code == "E-RESUME-CHANGED" and "data.size was 16, now 32" in str(error)
    assert f"{str(images)!r} with 3 images" in str(error)


def test_an_image_more_is_refused_and_a_moved_folder_is_not(recipe, images, out):
    train(recipe(2), out)
    moved = images.rename(images.with_name("moved"))
    train(recipe(2, data={"source": str(moved)}), out)
    Image.new("RGB", (9, 9)).save(moved / "black.png")
    error = refused(recipe(2, data={"source": str(moved)}), out)
    assert error.code == "E-RESUME-CHANGED"
    assert "with 3 images" in str(error) and "with 4 images" in str(error)


def test_budget_and_checkpoints_may_change(recipe, out):
    train(recipe(), out)
    stage = {"optimizer": {"batch_size": 2, "warmup": 1}, "budget": {"steps": 5}}
    train(recipe(diffusion=stage, checkpoint={"seconds": 1, "steps": 2}), out)
    assert read_headers(out)["diffusion"].step == 5


def test_the_second_stage_may_change_until_it_has_begun(recipe, out):
    with pytest.raises(Cancelled):
        train(recipe(), out, **stop_after("autoencoder", 2))
    stage = {"optimizer": {"batch_size": 3, "warmup": 1}, "budget": {"steps": 2}}
    train(recipe(diffusion=stage), out)


def test_accepted_changes_are_made_and_recorded(recipe, out):
    train(recipe(), out)
    lines = []
    train(
        recipe(data=recipe().to_dict()["data"] | {"size": 32}),
        out,
        accept_changes=True,
        log=lines.append,
    )
    assert any("data.size was 16, now 32" in line for line in lines)
    assert {header.agreed.recipe.data.size for header in read_headers(out).values()} == {32}
    assert read_recipe(out / "recipe.toml").data.size == 32
    assert refused(recipe(), out).code == "E-RESUME-CHANGED"


def test_the_recipe_of_a_finished_stage_stays_as_it_was(recipe, images, out):
    """Accepted settings are recorded beside those that the weights were trained with."""
    first = recipe()
    train(first, out)
    before = read_headers(out)
    tables = recipe().to_dict()
    rate = {"optimizer": tables["autoencoder"]["optimizer"] | {"learning_rate": 0.5}}
    changed = recipe(
        data=tables["data"] | {"size": 32}, autoencoder=tables["autoencoder"] | rate, seed=5
    )
    Image.new("RGB", (9, 9)).save(images / "black.png")
    weights = bits(out / "autoencoder.safetensors")
    train(changed, out, accept_changes=True)
    assert bits(out / "autoencoder.safetensors") == weights
    for stage, header in read_headers(out).items():
        assert header.recipe == first and header.data == before[stage].data, stage
        assert header.accepted is not None
        assert header.accepted.recipe == changed and header.accepted.data.images == 4
        assert header.history == () and header.step == before[stage].step
    train(changed, out)  # agrees with what was accepted
    train(first, out, accept_changes=True)
    assert {header.recipe for header in read_headers(out).values()} == {first}


def test_the_history_of_a_stage_has_every_recipe_and_its_steps(recipe, out):
    """Steps 1 and 2 with one rate, 3 and 4 with another, 5 and 6 with a third."""

    def settings(steps, rate):
        optimizer = {"batch_size": 2, "warmup": 1, "learning_rate": rate}
        return recipe(2, diffusion={"optimizer": optimizer, "budget": {"steps": steps}})

    rates = (1e-3, 2e-3, 3e-3)
    for i, rate in enumerate(rates):
        train(settings(2 * i + 2, rate), out, accept_changes=True)
    header = read_headers(out)["diffusion"]
    assert header.step == 6 and header.accepted is None
    assert header.recipe == settings(6, rates[2])
    assert [entry["steps"] for entry in header.history] == [2, 4]
    for entry, want in zip(
        header.history, (settings(2, rates[0]), settings(4, rates[1])), strict=True
    ):
        assert recipe_from_dict(entry["recipe"]) == want
        assert entry["data"]["sha256"] == header.data.sha256
    assert read_headers(out)["autoencoder"].recipe == settings(2, rates[0])


def test_without_changes_there_is_no_history(recipe, out):
    with pytest.raises(Cancelled):
        train(recipe(4), out, **stop_after("diffusion", 2))
    train(recipe(4), out)
    for header in read_headers(out).values():
        assert header.history == () and header.accepted is None


@pytest.mark.parametrize("key", ["history", "accepted"])
@pytest.mark.parametrize("value", ["5", "[", '{"recipe": 5}', "true"])
def test_a_damaged_history_is_refused(recipe, key, value):
    header = Header(1, recipe(), DataSummary(3, "ab"), "{}")
    with pytest.raises((LdmrefError, KeyError, ValueError, TypeError)):
        Header.from_metadata(header.to_metadata() | {key: value})


@pytest.mark.skipif(os.name != "posix", reason="file names of any bytes")
@pytest.mark.parametrize("wrong", ["output", "data"])
def test_a_path_that_cannot_be_recorded_is_refused(recipe, images, tmp_path, wrong):
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    if wrong == "data":
        images.rename(odd)
    data = {"source": str(odd if wrong == "data" else images)}
    error = refused(recipe(data=data), odd if wrong == "output" else tmp_path / "out")
    assert error.code == "E-FOLDER" and "caf\\udce9" in str(error)


def test_accepted_changes_do_not_fit_another_network(recipe, out):
    train(recipe(), out)
    assert refused(recipe(model={"preset": "tiny"}), out, accept_changes=True).code == "E-RESUME"


@pytest.mark.parametrize("damage", [b"", b"{}", b"\x80" * 99])
def test_damaged_checkpoints_are_refused(recipe, out, damage):
    train(recipe(), out)
    (out / "diffusion.safetensors").write_bytes(damage)
    assert refused(recipe(), out).code == "E-RESUME"


def test_a_checkpoint_cut_off_is_refused(recipe, out):
    train(recipe(), out)
    path = out / "autoencoder.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert refused(recipe(), out).code == "E-RESUME"


# -- when and how checkpoints are saved -----------------------------------------------------------


def test_checkpoints_by_step_and_by_time(monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    by_step = CheckpointTimer(CheckpointConfig(seconds=0, steps=10))
    assert by_step.due(1)
    by_step.saved(1.0)
    assert [step for step in range(2, 31) if by_step.due(step)] == [10, 20, 30]
    now = 1e9  # never by time
    assert not by_step.due(31) and by_step.due(40)
    now = 0.0
    by_time = CheckpointTimer(CheckpointConfig(seconds=30))
    by_time.saved(1.0)
    now = 29.9
    assert not by_time.due(2)
    now = 30.0
    assert by_time.due(3)
    by_time.saved(6.0)  # 5 % of 120 s
    now = 149.9
    assert not by_time.due(4)
    now = 150.0
    assert by_time.due(5)


def test_the_first_step_is_saved(recipe, out):
    """A kill within the first seconds also does not lose everything."""
    seen = {}

    def report(progress):
        seen[progress.step] = {k: header.step for k, header in read_headers(out).items()}

    train(recipe(3), out, on_progress=report)
    assert seen[2] == {"autoencoder": 3, "diffusion": 1}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_are_readable_as_the_umask_says(recipe, out, umask, mode):
    previous = os.umask(umask)
    try:
        train(recipe(1), out)
    finally:
        os.umask(previous)
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) == 8
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {mode}
    assert stat.S_IMODE((out / "model").stat().st_mode) == 0o777 & ~umask


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_a_loss_that_is_not_finite_stops(recipe, out, monkeypatch, stage):
    """The step is named; the checkpoint before it stays, and training can go on from there."""
    formulas = {
        "autoencoder": "autoencoder.terms.squared_error",
        "diffusion": "diffusion.loss.q_sample",
    }
    path = f"ldmref.training.{formulas[stage]}"
    module, _, name = path.rpartition(".")
    formula = getattr(import_module(module), name)
    calls = []

    def poisoned(*arguments):
        calls.append(1)
        return formula(*arguments) * (np.nan if len(calls) == 4 else 1.0)

    config = {"checkpoint": {"steps": 2}}
    with monkeypatch.context() as patch:
        patch.setattr(path, poisoned)
        error = refused(recipe(6, **config), out)
    assert isinstance(error, NumericError) and error.code == "E-NAN" and "step 4" in str(error)
    assert read_headers(out)[stage].step == 2
    train(recipe(6, **config), out)


@pytest.mark.parametrize("failing", [1, 3])
def test_a_full_disk(recipe, out, monkeypatch, failing):
    """No temporary file is left, and the checkpoint before is kept."""
    from ldmref.io.tensors import writer

    calls = []
    atomic = writer.atomic_write

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            self.file.write(bytes(data)[: len(data) // 2])
            raise OSError(28, "No space left on device")

    from contextlib import contextmanager

    @contextmanager
    def limited(path, **arguments):
        with atomic(path, **arguments) as file:
            calls.append(path)
            yield Full(file) if len(calls) == failing else file

    with monkeypatch.context() as patch:
        patch.setattr(writer, "atomic_write", limited)
        error = refused(recipe(4, checkpoint={"steps": 1}), out)
    assert error.exit_code == 8 and error.code == "E-WRITE"
    files = {path.name for path in out.iterdir()}
    kept = {"autoencoder.safetensors"} if failing > 1 else set()
    assert files == {"recipe.toml", "metrics.jsonl"} | kept
    if kept:
        assert read_headers(out)["autoencoder"].step == failing - 1
    train(recipe(4), out)


def test_two_trainings_do_not_share_a_folder(recipe, out):
    codes = []

    def report(progress):
        codes.append(refused(recipe(), out).code)

    train(recipe(1), out, on_progress=report)
    assert set(codes) == {"E-IN-USE"}


def test_leftovers_of_a_kill_are_removed(recipe, out):
    out.mkdir()
    (out / ".autoencoder.safetensors.0123abcd.part").write_bytes(b"x" * 9)
    (out / ".model.0123abcd.part").mkdir()
    (out / ".model.0123abcd.part" / "config.json").write_text("{}")
    (out / "notes.txt").write_text("mine")
    train(recipe(1), out)
    names = {"recipe.toml", "autoencoder.safetensors", "diffusion.safetensors", "model"}
    names.add("metrics.jsonl")
    latents = {path.name for path in out.glob("latents-*.npy")}
    assert len(latents) == 1
    assert {path.name for path in out.iterdir()} == names | latents | {"notes.txt"}
