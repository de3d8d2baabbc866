"""A trace that is too large, or a selection that matches nothing, ends soon and leaves nothing."""

from __future__ import annotations

import shutil

import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.errors import OutputError, ResourceError, UsageError
from ldmref.trace import Selection, TraceEntry, TraceWriter, read_trace, record_trace

TEAL = Image.new("RGB", (16, 16), "teal")


@pytest.fixture(scope="module")
def model():
    return ldmref.random_model("tiny", backend="numpy")


@pytest.fixture
def steps():
    """The callback of a run, and the steps that it saw."""
    seen = []
    return (lambda progress: seen.append(progress.step)), seen


def size_of(folder):
    """Bytes of the files, which hold each tensor once."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def test_a_trace_that_will_be_too_large_ends_after_its_first_step(model, tmp_path, steps):
    plan = modes.plan("txt2img", model, prompt="a cat", seed=3, steps=6)
    record_trace(plan, model, tmp_path / "whole")
    callback, seen = steps
    limit = size_of(tmp_path / "whole") // 2
    with pytest.raises(ResourceError, match="more than") as caught:
        record_trace(plan, model, tmp_path / "t", max_bytes=limit, callback=callback)
    assert caught.value.code == "E-TRACE-SIZE" and "--layers" in caught.value.hint
    assert not seen and not (tmp_path / "t").exists()


def test_the_size_of_what_comes_after_the_steps_counts(model, tmp_path):
    """The decoder is not foreseen: the call that would exceed the limit is refused."""
    plan = modes.plan("txt2img", model, prompt="a cat", seed=3, steps=1)
    selection = Selection(calls=("vae.decode", "unet.*"), layers=("decoder.*",))
    record_trace(plan, model, tmp_path / "whole", selection=selection)
    with pytest.raises(ResourceError, match="more than"):
        record_trace(plan, model, tmp_path / "t", selection=selection, max_bytes=20_000)
    assert not (tmp_path / "t").exists()
    assert size_of(tmp_path / "whole") > 20_000


def test_a_limit_that_suffices_changes_nothing(model, tmp_path):
    plan = modes.plan("txt2img", model, prompt="a cat", seed=3, steps=2, count=2, batch_size=1)
    record_trace(plan, model, tmp_path / "a")
    stored = sum(path.stat().st_size for path in (tmp_path / "a").glob("*.safetensors"))
    record_trace(plan, model, tmp_path / "b", max_bytes=stored)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_full_disk_is_noticed_after_the_first_step(model, tmp_path, monkeypatch, steps):
    usage = shutil.disk_usage(tmp_path)._replace(free=2**28 + 2_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    plan = modes.plan("txt2img", model, prompt="a cat", steps=20)
    callback, seen = steps
    with pytest.raises(ResourceError, match="are free") as caught:
        record_trace(plan, model, tmp_path / "t", callback=callback)
    assert caught.value.code == "E-TRACE-SIZE" and not seen


@pytest.mark.parametrize(
    ("selection", "word", "near"),
    [
        (Selection(layers=("nothing*",)), "no layer", ""),
        (Selection(layers=("mid_block.*", "down_blokcs.0.resnets.0.conv1")), "no layer", "down_bl"),
        (Selection(calls=("unett.000",)), "no call", "unet.000"),
        (Selection(steps=(2,)), "steps 0 to 1", ""),
        (Selection(layers=("nothing*",), steps=(1,)), "no layer", ""),
    ],
)
def test_a_selection_that_matches_nothing_is_refused(model, tmp_path, steps, selection, word, near):
    plan = modes.plan("txt2img", model, prompt="a cat", steps=2)
    callback, seen = steps
    with pytest.raises(UsageError, match=word) as caught:
        record_trace(plan, model, tmp_path / "t", selection=selection, callback=callback)
    assert caught.value.code == "E-TRACE-SELECTION" and near in (caught.value.hint or "")
    assert seen == [0] * (1 in selection.steps) and not (tmp_path / "t").exists()


def test_what_no_step_has_is_known_at_the_end(model, tmp_path):
    """A name that the decoder could have, and has not."""
    plan = modes.plan("txt2img", model, prompt="a cat", steps=1)
    for selection in (
        Selection(layers=("decoder.conv_in.silu",)),
        Selection(calls=("unet.007",)),
    ):
        with pytest.raises(UsageError, match="of this run matches"):
            record_trace(plan, model, tmp_path / "t", selection=selection)
        assert not (tmp_path / "t").exists()


def test_steps_are_those_of_the_run(model, tmp_path):
    plan = modes.plan("img2img", model, prompt="a cat", image=TEAL, steps=4, strength=0.5)
    with pytest.raises(UsageError, match="steps 2 to 3"):
        record_trace(plan, model, tmp_path / "t", selection=Selection(steps=(1,)))


@pytest.mark.parametrize(
    "selection",
    [
        Selection(layers=("decoder.*",)),
        Selection(layers=("decoder.mid_block.attentions.0.add", "time_proj")),
        Selection(calls=("vae.decode",)),
        Selection(calls=("unet.001",)),
        Selection(("*attn*",), ("unet.*",), (1,)),
        Selection.states(),
        Selection(("nothing*", "mid_block.*"), ("unett.*", "unet.*"), optional=True),
    ],
)
def test_what_matches_is_recorded(model, tmp_path, selection):
    plan = modes.plan("txt2img", model, prompt="a cat", steps=2)
    record_trace(plan, model, tmp_path / "t", selection=selection)
    manifest = read_trace(tmp_path / "t").manifest
    assert manifest["complete"] and "optional" not in manifest["selection"]


def test_a_folder_with_other_files_is_refused_and_stays(model, tmp_path):
    folder = tmp_path / "t"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    plan = modes.plan("txt2img", model, prompt="a cat", steps=2)
    with pytest.raises(OutputError, match="is not empty, and holds no trace"):
        record_trace(plan, model, folder, max_bytes=1000)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_writer_counts_what_it_stores(tmp_path):
    import numpy as np

    writer = TraceWriter(tmp_path / "t", {}, max_bytes=40)
    name = "unet.000/conv_in/output"
    entry = TraceEntry("unet.000", "conv_in", outputs={"output": name})
    writer.write_call("unet.000", [entry], {name: np.ones(10, np.float32)})
    assert writer.size == 40
    with pytest.raises(ResourceError, match="at least 80 bytes, more than 40 bytes"):
        writer.write_call("unet.001", [entry], {name: np.ones(10, np.float32)})
