"""Contact sheets and animations: one file of several images, and what it records."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, ImageSequence

from ldmref.apps.cli.combined import GAP, contact_sheet, count_columns
from ldmref.io.images.metadata import read_parameters


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def cells(sheet, side, columns, count, label):
    """Yield the images of a sheet of square images that are narrower than a column."""
    width = (sheet.shape[1] - GAP) // columns
    height = side + label + GAP
    for i in range(count):
        left = GAP + i % columns * width + (width - GAP - side) // 2
        top = GAP + i // columns * height
        yield sheet[top : top + side, left : left + side]


def test_a_sheet_holds_every_image_and_its_record(draw, ldm, work):
    draw("txt2img", "cat", "--seed", 1, "-c", 5, "-o", "a.png")
    ran = draw("txt2img", "cat", "--seed", 1, "-c", 5, "--sheet", "-o", "s.png", "--json")
    assert len(list(work.iterdir())) == 6
    for i, cell in enumerate(cells(pixels("s.png"), 16, 3, 5, 18)):
        assert (cell == pixels(f"a-{i}.png")).all(), i
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert [row["path"] for row in rows] == [f"s.png[{i}]" for i in range(1, 6)]
    record = read_parameters("s.png")
    assert [image["seed"] for image in record["ldmref"]["images"]] == [1, 2, 3, 4, 5]
    assert "parameters" not in record  # A1111 would take it for one image
    shown = ldm("info", "s.png")
    assert (
        "sheet of 5 images" in shown.out and "5: mode 'txt2img', prompt 'cat', seed 5" in shown.out
    )
    ran = ldm("run", "--from", "s.png")
    assert ran.code == 2 and "several images" in ran.err and "ldmref info s.png" in ran.err


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_names_and_formats_of_sheets(ending, draw, ldm, model_folder, work):
    (work / "out").mkdir()
    draw("txt2img", "cat", "-c", 2, "--seed", 1, "--sheet", "-o", f"out/a.{ending}")
    assert read_parameters(f"out/a.{ending}")["ldmref"]["mode"] == "sheet"
    ran = ldm("txt2img", "cat", "-c", 2, "--sheet", "-m", model_folder, "-o", f"out/a.{ending}")
    assert ran.code == 8 and "error[E-EXISTS]" in ran.err
    draw("txt2img", "-p", "cat", "-p", "dog", "--seed", 1, "--sheet", "-o", "out/", "--no-metadata")
    assert read_parameters("out/cat-sheet-1.png") == {}


def test_columns():
    assert count_columns(["cat"]) == 1 and count_columns(["cat"] * 10) == 4
    assert count_columns(["cat"] * 3 + ["dog"] * 3) == 3
    assert count_columns(["cat", "cat", "dog"]) == 2


def test_labels_are_written_and_cut():
    images = [Image.new("RGB", (16, 16), "red")] * 2
    plain = contact_sheet(images, [[], []], 2)
    named = np.asarray(contact_sheet(images, [["seed 1"], ["x" * 500]], 2))
    assert named.shape[0] == plain.height + 18
    below = named[GAP + 16 : GAP + 16 + 18].min(axis=(0, 2)) < 128
    middle = GAP + 160 + GAP // 2
    assert below[:middle].any() and below[middle:].any()
    assert not below[:GAP].any() and not below[middle - 2 : middle + 2].any()


def test_a_stopped_sheet_keeps_what_is_finished(draw, ldm, model_folder, work, monkeypatch):
    from ldmref.apps.cli.console import Console
    from ldmref.errors import NumericError

    def step(self, progress, before=0):
        if before + progress.first == 2:
            raise NumericError("NaN", code="E-NAN")

    monkeypatch.setattr(Console, "step", step)
    ran = ldm("txt2img", "cat", "-m", model_folder, "--seed", 1, "-c", 4, "--sheet", "-o", "s.png")
    assert ran.code == 7 and "2 of 4 images are saved" in ran.err
    assert len(read_parameters("s.png")["ldmref"]["images"]) == 2


FLAGS = ["a cat", "--to", "a dog", "--seed", "1,2", "--frames", 3]


@pytest.mark.parametrize(("name", "flags"), [("a.webp", ["--animate"]), ("a.gif", [])])
def test_animations(name, flags, draw, ldm, work):
    draw("interpolate", *FLAGS, "-o", "f.png")
    draw("interpolate", *FLAGS, *flags, "-o", name, "--duration", 250)
    with Image.open(name) as file:
        frames = [frame.copy() for frame in ImageSequence.Iterator(file)]
        assert file.info["loop"] == 0
    assert [frame.info["duration"] for frame in frames] == [250] * 3
    for i, frame in enumerate(frames):
        difference = np.asarray(frame.convert("RGB")).astype(int) - pixels(f"f-{i}.png")
        exact = name.endswith("webp")  # a GIF has 256 colours, dithered
        assert not difference.any() if exact else abs(difference).mean() < 16
    if exact:
        images = read_parameters(name)["ldmref"]["images"]
        assert [image["positions"] for image in images] == [[0.0], [0.5], [1.0]]
        assert "animation of 3 images" in ldm("info", name).out
        assert "several images" in ldm("run", "--from", name).err


def test_names_of_animations(draw, work):
    draw("interpolate", *FLAGS, "--animate")
    draw("interpolate", *FLAGS, "--animate", "-o", "new/")
    assert (work / "a-cat-to-a-dog-animation-1.webp").is_file()
    assert (work / "new/a-cat-to-a-dog-animation-1.webp").is_file()


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--animate", "-o", "a.png"], "E-FORMAT"),
        (["--animate", "--sheet"], "E-USAGE"),
        (["--animate", "--duration", "1"], "E-USAGE"),
        (["--animate", "-o", "gone/a.webp"], "E-FOLDER"),
    ],
)
def test_animations_refused(argv, code, ldm, model_folder, work):
    ran = ldm("interpolate", *FLAGS, *argv, "-m", model_folder)
    assert f"error[{code}]" in ran.err and ran.code in (2, 8) and not list(work.iterdir())
