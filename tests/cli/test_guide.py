"""`--guide`: the weaker model of autoguidance on the command line, its record, and its replay."""

from __future__ import annotations

import json

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.apps.cli.main import main
from ldmref.io.images.metadata import read_parameters
from ldmref.io.native import save_folder

ASKED = ["-p", "a red cat", "--seed", "3", "--steps", "2"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of a model and of two that may guide it."""
    base = tmp_path_factory.mktemp("guides")
    for seed, name in enumerate(("model", "weak", "other")):
        model = ldmref.random_model("tiny", seed, backend="numpy")
        save_folder(base / name, model.config, model.params, [model.tokenizer], np.float32)
    return base


@pytest.fixture(scope="module")
def image(folders):
    """An image that `ldmref txt2img` generated with a guide."""
    path = folders / "a.png"
    guided = ["--guidance", "autoguidance:weight=2.5", "--guide", str(folders / "weak")]
    assert main(["txt2img", *ASKED, "-m", str(folders / "model"), *guided, "-o", str(path)]) == 0
    return path


def test_the_image_records_the_guide(folders, image):
    record = read_parameters(image)["ldmref"]
    weak = ldmref.load(folders / "weak")
    assert record["guide"] == {"name": "tiny", "sha256": weak.sha256} and weak.sha256
    assert record["guidance"] == {"name": "autoguidance", "weight": 2.5}
    model = ldmref.load(folders / "model")
    asked = {"seed": 3, "steps": 2, "guidance": record["guidance"]}
    found = modes.txt2img(model, "a red cat", guide=folders / "weak", **asked)
    assert {**found.params, "index": 0} == record | {"index": 0}


def test_run_repeats_it_with_the_same_guide_only(folders, image, capsys):
    replay = ["run", "--from", str(image), "-m", str(folders / "model"), "--overwrite", "-o"]
    again = folders / "again.png"
    assert main([*replay, str(again)]) == 2
    refused = capsys.readouterr().err
    assert "second, weaker model that it does not record" in refused
    assert "--guide MODEL" in refused
    assert main([*replay, str(again), "--guide", str(folders / "weak")]) == 0
    assert "another" not in capsys.readouterr().err
    assert again.read_bytes() == image.read_bytes()
    assert main([*replay, str(again), "--guide", str(folders / "other")]) == 0
    assert "generated with another --guide" in capsys.readouterr().err
    assert main([*replay, str(again), "--guidance", "cfg"]) == 0
    assert "--guide" not in capsys.readouterr().err
    assert "guide" not in read_parameters(again)["ldmref"]


@pytest.mark.parametrize(("flags", "text"), [
    (["--guidance", "autoguidance"], "needs a second, weaker model"),
    (["--guide", "emoji"], "a guide is for guidance 'autoguidance', not for 'cfg'"),
    (["--guidance", "autoguidance", "--guide", "emoji"], "the guide 'emoji' does not fit 'tiny'"),
    (["--guidance", "autoguidance", "--guide", "no/such"], "no model 'no/such'"),
    (["--guidance", "autoguidance:weight=-1", "--guide", "emoji"], "autoguidance.weight must be"),
])  # fmt: skip
def test_what_is_wrong_is_one_line(folders, flags, text, capsys):
    code = main(["txt2img", *ASKED, "-m", str(folders / "model"), *flags, "-o", "x.png"])
    lines = capsys.readouterr().err.strip().splitlines()
    assert code in (2, 3) and text in lines[0]
    assert len(lines) <= 2 and all(line.startswith("hint:") for line in lines[1:])


def test_a_trace_is_judged_with_the_guide(folders, tmp_path, capsys):
    weak = ["--guide", str(folders / "weak")]
    guided = ["--guidance", "autoguidance", *weak]
    model = ["-m", str(folders / "model")]
    trace = str(tmp_path / "trace")
    assert main(["trace", *ASKED, *model, *guided, "-o", trace]) == 0
    capsys.readouterr()
    assert main(["diff", trace, *model, *weak, "--json", "-q"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"] == "equal"
    assert main(["diff", trace, *model, "-q"]) == 10
    assert "no weaker model was given" in capsys.readouterr().out
