"""The fragments of CONTRIBUTING.md, put where the page says that they go, do what it says."""

from __future__ import annotations

import re
import sys
import tomllib
import types
from dataclasses import make_dataclass
from typing import Annotated, Any

import array_api_compat.numpy
import numpy as np
import pytest
from blocks import ROOT, blocks

from ldmref.backends import Backend, get_backend
from ldmref.backends.numpy import NumpyBackend
from ldmref.declare import Doc, Flag, Range, describe, get_fields
from ldmref.errors import VerifyError
from ldmref.samplers import Sampler, get_sampler, sample
from ldmref.samplers.steps import Step, euler_step

BLOCKS = blocks("CONTRIBUTING.md")


def fragment(text: str) -> str:
    """Return the block of the page that contains the text."""
    (block,) = [block for block in BLOCKS if text in block.text]
    return block.text


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/policy.md", "docs/design.md"])
def test_files_and_folders_that_a_page_names_exist(page):
    text = (ROOT / page).read_text("utf-8")
    named = re.findall(r"(?:ldmref|tests|scripts|docs|examples)/[\w/.-]*[\w/]", text)
    wrong = [name for name in named if not (ROOT / name).exists() and "my_mode" not in name]
    assert named and not wrong


def run(text: str, **names: Any) -> dict[str, Any]:
    exec(compile(fragment(text), "CONTRIBUTING.md", "exec"), names)
    return names


def my_step() -> dict[str, Any]:
    return run("def my_method", Step=Step, euler_step=euler_step)


def test_a_sampler_and_its_row():
    names = my_step()
    row = eval(f"{{{fragment(chr(34) + 'my_method' + chr(34) + ': Sampler(')}}}", names | globals())
    entry = row["my_method"]
    assert isinstance(entry, Sampler) and (entry.order, entry.nfe, entry.stochastic) == (
        1,
        1,
        False,
    )
    x = np.ones((1, 2))
    sigmas = [9.0, 3.0, 1.0, 0.0]
    ours = list(sample(lambda x, sigma: 0.5 * x, x, sigmas, get_sampler("euler").make()))
    mine = list(sample(lambda x, sigma: 0.5 * x, x, sigmas, entry.make()))
    assert len(mine) == 3
    for a, b in zip(ours, mine, strict=True):
        np.testing.assert_allclose(a.x, b.x, rtol=1e-12)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Install `my_package` with the entry points of one of the page's TOML blocks."""

    def install(text, **modules):
        groups = tomllib.loads(fragment(text))["project"]["entry-points"]
        folder = tmp_path / "my_package-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
        lines = [
            line
            for group, points in groups.items()
            for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
        ]
        (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        for name, attributes in modules.items():
            module = types.ModuleType(name.replace("__", "."))
            vars(module).update(attributes)
            monkeypatch.setitem(sys.modules, module.__name__, module)

    return install


def test_the_entry_point_of_a_sampler(package):
    mine = Sampler(my_step()["my_method"], 1, 1, False, "nobody 2026")
    package("my_method = ", my_package={}, my_package__samplers={"my_sampler": mine})
    assert get_sampler("my_method").make is mine.make


def test_a_parameter():
    names = run("sharpness: Annotated", Annotated=Annotated, Doc=Doc, Flag=Flag, Range=Range)
    hint = eval(names["__annotations__"]["sharpness"], names)
    mode = make_dataclass("Mode", [("sharpness", hint, names["sharpness"])])
    field = get_fields(mode)["sharpness"]
    assert (field.get(Range), field.get(Flag).metavar) == (Range(0, 2), "X")
    assert describe(field) == "Contrast of edges after decoding. From 0 to 2. None: unchanged."


def test_a_backend_names_what_is_missing():
    names = run("class MyBackend", Backend=Backend, array_api_compat=array_api_compat)
    backend = names["MyBackend"]()
    assert (backend.dtype, backend.name) == ("float32", "mine")
    missing = {operation.partition("(")[0] for operation in backend.missing_operations()}
    assert {"to_numpy", "conv2d", "linear"} <= missing and "asarray" not in missing


class MyBackend(NumpyBackend):
    name = "mine"


def test_the_entry_point_of_a_backend(package):
    package("mine = ", my_package={"MyBackend": MyBackend})
    assert isinstance(get_backend("mine"), MyBackend)


def test_the_test_of_a_backend():
    run("assert_conforms(MyBackend())", MyBackend=MyBackend)["test_my_backend"]()
    half_written = run("class MyBackend", Backend=Backend, array_api_compat=array_api_compat)
    with pytest.raises(VerifyError, match="lacks"):
        run("assert_conforms(MyBackend())", MyBackend=half_written["MyBackend"])[
            "test_my_backend"
        ]()
