"""A port of Z-Image's blocks and steps in C: what a kit says of the right one and of wrong ones."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ldmref.passport import check_dump, make_kit
from ldmref.trace import load_trace

SOURCE = Path(__file__).parents[2] / "examples" / "port_in_c" / "z_image.c"
WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
COMPILER = shutil.which("cc")
BLOCKS = ("transformer.000/layers.0", "transformer.000/layers.1")
SCALE = "the scale 1/sqrt(d) is missing"
HALVES = "halves of a head are rotated instead of neighbouring channels"
pytestmark = pytest.mark.skipif(COMPILER is None, reason="NOT TESTED: there is no C compiler here")


@pytest.fixture(scope="module")
def z_image(tmp_path_factory):
    """Return the kit of Z-Image."""
    return make_kit("z-image", tmp_path_factory.mktemp("kits") / "z-image")


def check_port(kit, folder, *switches):
    """Compile the port with switches, run it, and return the verdict of its dump."""
    program = folder / "z_image"
    build = [COMPILER, "-O2", *WARNINGS, *switches, "-o", program, SOURCE, "-lm"]
    subprocess.run(build, check=True)
    subprocess.run([program, kit.folder, folder / "port"], check=True)
    return check_dump(load_trace(folder / "port.json"), kit)


def test_the_right_port_differs_nowhere(z_image, tmp_path):
    verdict = check_port(z_image, tmp_path)
    assert verdict.message == "incomplete: 40 of 275 nodes in float32"
    rows = {row.name: row.verdict for row in verdict.report.rows}
    left = {name for name, found in rows.items() if found != "equal"}
    # Only the kit has the inputs of the network and of the steps.
    assert left == {"transformer.000", "sampler.000", "sampler.001"}
    assert {*BLOCKS} <= rows.keys() and not verdict.report.gaps


@pytest.mark.parametrize(
    ("switch", "layers", "cause"),
    [
        ("-DWRONG_SCALE", ("attention.attention",), SCALE),
        ("-DHALF_SPLIT_ROTARY", ("attention.rotate", "attention.rotate~1"), HALVES),
    ],
)
def test_a_wrong_port_gets_its_cause(z_image, tmp_path, switch, layers, cause):
    verdict = check_port(z_image, tmp_path, switch)
    assert verdict.verdict == "differs"
    causes = {row.name: row.cause for row in verdict.report.faults}
    assert causes == {f"{block}.{layer}": cause for block in BLOCKS for layer in layers}
