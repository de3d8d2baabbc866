"""The weaker model of autoguidance in a row: a path, whose content is in the key."""

from __future__ import annotations

import io
import json
import shutil

import numpy as np
import pytest
from batches import save_tiny_model
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.apps.cli.main import main
from ldmref.batch import tasks
from ldmref.batch.planning import plan_row, plan_rows
from ldmref.batch.rows import BatchRow, RowFailure
from ldmref.io.native import save_folder

ASKED = {"prompt": "red cat", "steps": 2, "seed": 1, "guidance": "autoguidance"}


@pytest.fixture
def folder(tmp_path):
    """A folder with two models that may guide preset `tiny`."""
    tiny = ldmref.load(save_tiny_model(tmp_path / "tiny"))
    for seed, name in enumerate(("weak", "other"), 1):
        model = ldmref.random_model("tiny", seed, backend="numpy")
        save_folder(tmp_path / name, tiny.config, model.params, [tiny.tokenizer], np.float32)
    return tmp_path


def row_of(**values):
    return BatchRow(1, None, "txt2img", ASKED | values)


def test_the_content_of_the_guide_is_in_the_digest(folder):
    config = ldmref.load(folder / "tiny").config

    def digest(guide):
        return plan_row(row_of(guide=guide), config, folder).digest

    first = digest("weak")
    assert digest("other") != first
    shutil.copytree(folder / "weak", folder / "elsewhere" / "copy")
    assert digest("elsewhere/copy") == first
    for file in (folder / "other").iterdir():
        shutil.copy(file, folder / "weak" / file.name)
    assert digest("weak") == digest("other")
    alone = plan_row(BatchRow(1, None, "txt2img", {**ASKED, "guidance": None}), config, folder)
    assert "guide" not in alone.request


def test_a_row_is_that_of_python_and_loads_the_guide_once(folder, monkeypatch):
    model = ldmref.load(folder / "tiny")
    loads = []
    monkeypatch.setattr(tasks, "load", lambda *a, **k: loads.append(a) or ldmref.load(*a, **k))
    tasks.load_guide.cache_clear()
    for seed in (1, 2):
        planned = plan_row(row_of(guide="weak", seed=seed), model.config, folder)
        outcome = tasks.generate_task(model, tasks.make_task(planned))
        assert outcome.error is None
        (image,) = outcome.images
        want = modes.txt2img(model, guide=folder / "weak", **ASKED | {"seed": seed})
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(image.png))), want.images[0])
        assert image.params["guide"] == want.params["guide"]
    assert len(loads) == 1
    tasks.load_guide.cache_clear()


@pytest.mark.parametrize(
    ("value", "code"),
    [("no/such", "E-MODEL"), (3, "E-GUIDE"), ("", "E-GUIDE"), ("emoji", "E-GUIDE")],
)
def test_a_wrong_guide_is_one_failure(folder, value, code):
    config = ldmref.load(folder / "tiny").config
    (failure,) = plan_rows([row_of(guide=value)], config, folder)
    assert isinstance(failure, RowFailure) and failure.code == code
    assert "\n" not in failure.message


def test_the_command_takes_paths_relative_to_the_file(folder, capsys):
    rows = [ASKED | {"guide": "weak"}, ASKED | {"guide": "other"}, ASKED | {"guide": "weak"}]
    file = folder / "requests.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = folder / "out"
    assert main(["batch", str(file), "-m", str(folder / "tiny"), "-o", str(out)]) == 0
    assert len(list(out.rglob("*.png"))) == 2
