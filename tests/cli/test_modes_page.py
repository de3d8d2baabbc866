"""docs/modes.md runs as it is written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
from PIL import Image
from small_models import save_controlnet

import ldmref
from ldmref.apps.cli.main import main
from ldmref.modes.registry import MODES

PAGE = Path(__file__).parents[2] / "docs" / "modes.md"


def same(a, b):
    return bool((np.asarray(Image.open(a)) == np.asarray(Image.open(b))).all())


def test_the_page_runs(
    work, material, model_folder, enlarger, painter, flow_folder, control_folder, monkeypatch, capfd
):
    """Every command and every Python block of the page, in its order, on random models."""
    save_controlnet(work / "canny")
    (work / "bsr-sr").symlink_to(enlarger)
    (work / "semantic").symlink_to(painter)
    (work / "sd35-medium").symlink_to(flow_folder)
    (work / "flux-canny").symlink_to(control_folder)
    Image.open("a.png").save("edges.png")
    Image.new("RGB", (40, 30), "green").save("photo.png")
    mask = Image.new("L", (40, 30))
    mask.paste(255, (10, 10, 20, 20))
    mask.save("photo-mask.png")
    monkeypatch.setenv("LDMREF_MODEL", str(model_folder))
    load = ldmref.load
    monkeypatch.setattr(ldmref, "load", lambda name=model_folder, **told: load(name, **told))

    commands = []
    names = {}
    for kind, block in re.findall(r"```(sh|python)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        if kind == "python":
            exec(compile(block, str(PAGE), "exec"), names)  # the project's own page
            continue
        for line in block.splitlines():
            program, *argv = shlex.split(line)
            capfd.readouterr()
            assert program == "ldmref" and main(argv) == 0, (line, capfd.readouterr().err)
            printed = capfd.readouterr().err.splitlines()  # the page is about a larger model
            printed = [text for text in printed if "on which the model was trained" not in text]
            assert "warning" not in "\n".join(printed), line
            commands.append(argv[0])
    assert set(commands) == {*MODES, "run"}
    for drawn in (
        "heart",
        "filled",
        "controlled",
        "edited-0",
        "large",
        "from-noise",
        "held",
        "canny",
    ):
        again = {"heart": "again", "edited-0": "edited-again"}.get(drawn, f"{drawn}-again")
        assert same(f"{drawn}.png", f"{again}.png"), drawn
    assert same("frame-1.png", "frame-again.png")
    assert len(names["finished"]) == 0 and len(names["shown"]) == 2
